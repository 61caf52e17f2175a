"""Meters, loss, clipping, decay, and one epoch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

from satlib.decoder import Decoder
from satlib.training import (
    AverageMeter,
    Iterations,
    accuracy,
    adjust_learning_rate,
    attention_penalty,
    caption_loss,
    clip_gradient,
    encode,
    train,
)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 50)), min_size=1))
def test_average_meter_is_the_weighted_mean(items):
    meter = AverageMeter()
    for value, n in items:
        meter.update(value, n)
    mean = sum(v * n for v, n in items) / sum(n for _, n in items)
    assert math.isclose(meter.avg, mean, abs_tol=1e-6)
    assert meter.val == items[-1][0]


def test_top_k_accuracy_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.3], [0.7, 0.2, 0.6, 0.4]])
    targets = torch.tensor([2, 1])
    assert [accuracy(scores, targets, k) for k in (1, 2, 3, 4)] == [0, 50, 50, 100]
    assert accuracy(scores, targets) == 100  # fewer words than five


def test_penalty_is_zero_if_every_region_gets_one():
    alphas = torch.full((2, 4, 4), 0.25)
    assert attention_penalty(alphas) == 0
    assert attention_penalty(2 * alphas) == 1


def test_clipping_bounds_every_entry():
    layer = nn.Linear(3, 3)
    layer.weight.grad = torch.linspace(-9, 9, 9).view(3, 3)
    clip_gradient(torch.optim.SGD(layer.parameters(), lr=1), 5.0)
    assert layer.weight.grad.abs().max() == 5
    assert layer.weight.grad[1, 1] == 0


def test_decay_reaches_every_group():
    a, b = nn.Linear(1, 1), nn.Linear(1, 1)
    groups = [{"params": a.parameters()}, {"params": b.parameters(), "lr": 0.1}]
    optimizer = torch.optim.Adam(groups, lr=1.0)
    adjust_learning_rate(optimizer, 0.8)
    assert [g["lr"] for g in optimizer.param_groups] == [0.8, pytest.approx(0.08)]
    with pytest.raises(ValueError, match="shrink_factor"):
        adjust_learning_rate(optimizer, 1.5)


def a_loader():
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([[5, 1, 2, 6, 0], [5, 3, 6, 0, 0]])
    cells = torch.randn(2, 4, 10, generator=generator)
    return [(cells, rows, torch.tensor([4, 3]))] * 8


def test_an_epoch_lowers_the_loss_and_prints_its_meters(capsys):
    torch.manual_seed(0)
    decoder = Decoder(8, 8, 16, 7, encoder_dim=10, dropout=0.0)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.01)
    epochs = [
        train(a_loader(), None, decoder, None, optimizer, epoch, print_freq=4)
        for epoch in (1, 2, 3)
    ]
    assert epochs[2]["loss"] < epochs[1]["loss"] < epochs[0]["loss"]
    assert set(epochs[0]) == {"loss", "top5", "batch_time", "data_time"}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[0].startswith("epoch 1 [4/8]  loss ")


def test_reported_loss_is_the_cross_entropy_per_word():
    decoder = Decoder(8, 8, 16, 7, encoder_dim=10).eval()
    decoded = decoder(*a_loader()[0])
    loss, word_loss = caption_loss(decoded, alpha_c=2.0)
    expected = F.cross_entropy(decoded.scores, decoded.targets)
    assert torch.equal(word_loss, expected)
    penalty = 2 * attention_penalty(decoded.alphas)
    torch.testing.assert_close(loss, expected + penalty)


class Tail(nn.Linear):
    finish = nn.Linear.forward


def test_both_optimisers_move_their_weights():
    torch.manual_seed(0)
    encoder, decoder = Tail(10, 10), Decoder(8, 8, 16, 7, encoder_dim=10)
    before = encoder.weight.clone(), decoder.fc.weight.clone()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (encoder, decoder)]
    train(a_loader(), encoder, decoder, *optimizers, epoch=1)
    assert not torch.equal(before[0], encoder.weight)
    assert not torch.equal(before[1], decoder.fc.weight)


def test_an_iteration_clips_steps_and_tells():
    """A slope of 30, cut to 2: each step of rate 0.1 goes 0.2 down."""
    weight, places = nn.Parameter(torch.zeros(1)), []
    optimizers = [None, torch.optim.SGD([weight], lr=0.1)]
    iterations = Iterations(
        [(torch.tensor([30.0]),)] * 4, optimizers, 1, grad_clip=2.0,
        after_step=lambda: places.append(weight.item()),
    )  # fmt: skip
    for (slope,) in iterations:
        iterations.learn((slope * weight).sum())
    assert places == pytest.approx([-0.2, -0.4, -0.6, -0.8])


def test_iterations_count_what_they_are_told(capsys):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    iterations = Iterations([[torch.zeros(1)]] * 3, [optimizer], 5, print_freq=2)
    told = iter([(1, 4.0, 50.0), (3, 8.0, 10.0), (4, 1.0, 0.0)])
    for _ in iterations:
        n, loss, top5 = next(told)
        iterations.count(n, loss=loss, top5=top5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "epoch 5 [2/3]  loss 8.000 (7.000)  top5 10.000 (20.000)"
    )
    assert lines[1].startswith("epoch 5 [3/3]  loss 1.000 (4.000)  top5 0.000 (10.000)")
    means = iterations.means()
    assert [*means] == ["loss", "top5", "batch_time", "data_time"]
    assert means["loss"] == 4 and means["top5"] == 10
    assert means["batch_time"] >= means["data_time"] > 0


@pytest.mark.parametrize("batch", [torch.ones(2, 4, 10).half(), torch.ones(2, 4, 10)])
def test_cells_are_finished_by_the_encoder_and_images_are_encoded(batch):
    encoder = Tail(10, 10)
    assert torch.equal(encode(encoder, batch), encoder(batch.float()))
    assert torch.equal(encode(None, batch), batch.float())
    images, whole = torch.ones(2, 3, 8, 8, dtype=torch.uint8), lambda x: x + 1
    assert torch.equal(encode(whole, images), images + 1)
