"""Meters, loss, clipping, decay, and one epoch."""

import itertools
import math
import time

import pytest
import torch
from conftest import Pixels
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
    multiplying,
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
    assert meter.count == sum(n for _, n in items)
    meter.reset()
    assert meter.val == meter.sum == meter.count == meter.avg == 0
    meter.update(2.5)
    assert (meter.avg, meter.count) == (2.5, 1)


def test_a_meter_of_nothing_is_zero():
    meter = AverageMeter()
    meter.update(3.0, 0)
    assert meter.avg == 0 and meter.val == 3.0


def test_top_k_accuracy_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.3], [0.7, 0.2, 0.6, 0.4]])
    targets = torch.tensor([2, 1])
    assert [accuracy(scores, targets, k) for k in (1, 2, 3, 4)] == [0, 50, 50, 100]
    assert accuracy(scores, targets) == 100  # fewer words than five
    assert accuracy(scores[:0], targets[:0]) == 0
    wide = torch.arange(20.0).repeat(4, 1)
    targets = torch.tensor([19, 15, 14, 0])  # the five best are 15 to 19
    assert accuracy(wide, targets) == 50 and accuracy(wide, targets, 6) == 75


def test_a_precision_is_put_back_after_an_error_as_well():
    with pytest.raises(KeyError), multiplying("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
        raise KeyError
    assert torch.get_float32_matmul_precision() == "highest"


def test_penalty_is_zero_if_every_region_gets_one():
    alphas = torch.full((2, 4, 4), 0.25)
    assert attention_penalty(alphas) == 0
    assert attention_penalty(2 * alphas) == 1


def test_penalty_by_hand():
    """Sums over time, mean over captions and regions, of unequal captions."""
    alphas = torch.tensor([[[0.5, 0.5], [0.2, 0.8]], [[0.9, 0.1], [0.0, 0.0]]])
    expected = (0.3**2 + 0.3**2 + 0.1**2 + 0.9**2) / 4
    assert attention_penalty(alphas).item() == pytest.approx(expected)


def test_clipping_bounds_every_entry():
    layer = nn.Linear(3, 3)
    layer.weight.grad = torch.linspace(-9, 9, 9).view(3, 3)
    clip_gradient(torch.optim.SGD(layer.parameters(), lr=1), 5.0)
    assert layer.weight.grad.max() == 5 and layer.weight.grad.min() == -5
    assert layer.weight.grad[1].tolist() == [-2.25, 0, 2.25]
    assert layer.bias.grad is None


def test_decay_reaches_every_group():
    a, b = nn.Linear(1, 1), nn.Linear(1, 1)
    groups = [{"params": a.parameters()}, {"params": b.parameters(), "lr": 0.1}]
    optimizer = torch.optim.Adam(groups, lr=1.0)
    adjust_learning_rate(optimizer, 0.8)
    assert [g["lr"] for g in optimizer.param_groups] == [0.8, pytest.approx(0.08)]
    for factor in (1.5, 1, 0, -0.1):
        with pytest.raises(ValueError, match="shrink_factor"):
            adjust_learning_rate(optimizer, factor)
    assert optimizer.param_groups[0]["lr"] == 0.8


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
    word_loss, penalty = caption_loss(decoded, alpha_c=2.0)
    expected = F.cross_entropy(decoded.scores, decoded.targets)
    assert torch.equal(word_loss, expected)
    assert torch.equal(penalty, 2 * attention_penalty(decoded.alphas))


def unequal_loader():
    """Batches of 5 and of 9 words to predict, the first of one image, unshuffled."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.tensor([[5, 1, 2, 6, 0, 0], [5, 3, 6, 0, 0, 0]])
    more = torch.tensor([[5, 4, 3, 2, 1, 6], [5, 2, 2, 6, 0, 0], [5, 6, 0, 0, 0, 0]])
    cells = torch.randn(4, 4, 10, generator=generator)
    first = cells[:1], rows, torch.tensor([4, 3])
    return [first, (cells[1:], more, torch.tensor([6, 4, 2]))]


def a_decoder(**options):
    torch.manual_seed(0)
    return Decoder(8, 8, 16, 7, encoder_dim=10, **{"dropout": 0.0} | options)


@pytest.mark.parametrize("grad_clip", [1e-3, 5.0, 1e9])
def test_an_epoch_clips_its_gradients(grad_clip):
    """With plain descent of rate 1, a step is the clipped gradient."""
    batch, decoder = unequal_loader()[1], a_decoder()
    sum(caption_loss(decoder(*batch), 30.0)).backward()
    true = {name: p.grad.clone() for name, p in decoder.named_parameters()}
    decoder.zero_grad()
    before = {name: p.detach().clone() for name, p in decoder.named_parameters()}
    optimizer = torch.optim.SGD(decoder.parameters(), lr=1.0)
    train([batch], None, decoder, None, optimizer, 1, alpha_c=30.0, grad_clip=grad_clip)
    for name, p in decoder.named_parameters():
        expected = before[name] - true[name].clamp(-grad_clip, grad_clip)
        torch.testing.assert_close(p.detach(), expected, atol=1e-6, rtol=1e-5)
    assert grad_clip > 1 or max(g.abs().max() for g in true.values()) > 2 * grad_clip


def test_what_an_epoch_measures():
    """Loss per word and top-5 of words, weighed by the words of each batch."""
    decoder = a_decoder()
    optimizer = torch.optim.SGD(decoder.parameters(), lr=0.0)
    found = train(unequal_loader(), None, decoder, None, optimizer, 1, alpha_c=9.0)
    losses, hits = [], []
    with torch.no_grad():
        for cells, rows, lengths in unequal_loader():
            for j, (row, n) in enumerate(zip(rows, lengths.tolist(), strict=True)):
                image = cells[j * len(cells) // len(rows)]
                scores = decoder(image[None], row[None, :n], torch.tensor([n])).scores
                targets = row[1:n]
                losses += F.cross_entropy(scores, targets, reduction="none").tolist()
                best = scores.argsort(1, descending=True)[:, :5]
                hits += [
                    w in b for w, b in zip(targets.tolist(), best.tolist(), strict=True)
                ]
    assert len(losses) == 14
    assert found["loss"] == pytest.approx(sum(losses) / 14, rel=1e-5)
    assert found["top5"] == pytest.approx(100 * sum(hits) / 14, rel=1e-5)
    assert 0 < sum(hits) < 14


def test_times_are_those_of_a_batch(monkeypatch, capsys):
    """By a clock that tells 1 second at a look, a batch takes these looks."""
    now, told = [0.0], []

    def loader():
        for batch in unequal_loader():
            now[0] += 3  # to load
            yield batch

    class Loader:
        __len__ = lambda self: 2  # noqa: E731
        __iter__ = lambda self: loader()  # noqa: E731

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    decoder, calls = a_decoder(), []
    optimizer = torch.optim.SGD(decoder.parameters(), lr=0.0)

    def after_step():
        calls.append(now[0])
        now[0] += 10  # to compute

    found = train(
        Loader(), None, decoder, None, optimizer, 7, print_freq=1, after_step=after_step
    )
    assert (found["data_time"], found["batch_time"]) == (3, 13)
    assert calls == [3, 16]
    told = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in told] == [
        "epoch 7 [1/2]",
        "epoch 7 [2/2]",
    ]
    assert told[1].endswith("batch_time 13.000 (13.000)  data_time 3.000 (3.000)")


def test_lines_come_as_often_as_asked_and_at_the_end(capsys):
    decoder = a_decoder()
    optimizer = torch.optim.SGD(decoder.parameters(), lr=0.0)
    train(a_loader()[:7], None, decoder, None, optimizer, 2, print_freq=3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        f"epoch 2 [{n}/7]" for n in (3, 6, 7)
    ]
    assert [part.split()[0] for part in lines[0].split("  ")[1:]] == [
        *("loss", "top5", "batch_time", "data_time")
    ]


def test_the_penalty_counts_as_much_as_alpha_c_says():
    """Where the loss is the penalty nearly alone, the maps even out."""

    def after(alpha_c):
        decoder = a_decoder()
        with torch.no_grad():
            decoder.attention.full_att.weight.mul_(20)
        optimizer = torch.optim.Adam(decoder.parameters(), lr=0.01)
        train(unequal_loader() * 10, None, decoder, None, optimizer, 1, alpha_c)
        return attention_penalty(decoder(*unequal_loader()[1]).alphas).item()

    assert after(100.0) < after(1.0) < after(0.0)


def test_dropout_is_on_while_training():
    decoder, seen = a_decoder(dropout=0.5).eval(), []
    decoder.dropout.register_forward_hook(lambda m, i, o: seen.append((o == 0).any()))
    optimizer = torch.optim.SGD(decoder.parameters(), lr=0.0)
    train(unequal_loader(), None, decoder, None, optimizer, 1)
    assert decoder.training and all(seen) and seen


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
    assert train(a_loader(), None, decoder, None, optimizers[1], epoch=2)["loss"] > 0


def test_images_and_cached_halves_train_alike():
    images = torch.randint(0, 256, (2, 3, 2, 2), generator=torch.Generator()).byte()
    cached = images.flatten(2).transpose(1, 2).float() / 255
    found = []
    for inputs in (images, cached):
        torch.manual_seed(0)
        encoder, decoder = Pixels(3, 10), a_decoder()
        optimizers = [
            torch.optim.SGD(m.parameters(), lr=0.1) for m in (encoder, decoder)
        ]
        batch = inputs, *a_loader()[0][1:]
        found.append(train([batch] * 3, encoder, decoder, *optimizers, 1)["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_cells_of_half_precision_are_taken():
    cells, *rest = a_loader()[0]
    decoder = a_decoder()
    optimizer = torch.optim.SGD(decoder.parameters(), lr=0.1)
    found = train([(cells.half(), *rest)], None, decoder, None, optimizer, 1)
    assert found["loss"] > 0


def test_each_step_starts_from_fresh_gradients():
    """Two equal batches with rate 0 leave the gradient of one."""
    batch, decoder = unequal_loader()[1], a_decoder()
    optimizer = torch.optim.SGD(decoder.parameters(), lr=0.0)
    grads = []
    for count in (1, 2):
        train([batch] * count, None, decoder, None, optimizer, 1, grad_clip=1e9)
        grads.append(decoder.fc.weight.grad.clone())
    torch.testing.assert_close(grads[1], grads[0])


def test_an_iteration_clips_steps_and_tells():
    """A slope of 30, cut to 2: each step of rate 0.1 goes 0.2 down."""
    weight, places = nn.Parameter(torch.zeros(1)), []
    optimizers = [None, torch.optim.SGD([weight], lr=0.1)]
    iterations = Iterations(
        [(torch.tensor([30.0]),)] * 4, optimizers, 1, grad_clip=2.0,
        after_step=lambda: places.append(weight.item()),
    )  # fmt: skip
    for (slope,) in iterations:
        iterations.learn(((slope * weight).sum(), 1))
    assert places == pytest.approx([-0.2, -0.4, -0.6, -0.8])


def test_a_line_says_of_how_many_epochs_and_how_long_it_will_take(monkeypatch, capsys):
    clock = itertools.count(0, 2.0)  # seconds; read three times in an iteration
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    told = {"epochs": 10, "outlook": lambda *done: f"left: {done}"}
    batches = [[torch.zeros(1)]] * 3
    for _ in Iterations(batches, [optimizer], 4, print_freq=2, **told):
        pass
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "epoch 4 of 10 [2/3]",
        "epoch 4 of 10 [3/3]",
    ]
    assert [line.split("  ")[-1] for line in lines] == [
        "left: (4.0, 2, 3)",
        "left: (4.0, 3, 3)",
    ]


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
