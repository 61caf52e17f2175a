"""What is particular to a CUDA device; half of it runs on a CPU as well."""

from dataclasses import asdict, replace
from unittest import mock

import pytest
import torch

from satlib import benchmark as race
from satlib import learner as learner_module
from satlib.beam_search import beam_search
from satlib.configuration import Config
from satlib.decoder import Decoder
from satlib.fit import fit
from satlib.model import load_checkpoint
from satlib.training import caption_loss, mixed_precision, train

SMALL = race.Sizes(3, 2, 14, 12, 7, 6, 8, vocab_size=20, shortest=2, longest=6)
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)]


def loss_and_gradients(decoder, batch, device, context):
    decoder, batch = decoder.to(device), [part.to(device) for part in batch]
    with context:
        loss, _ = caption_loss(decoder(*batch))
    gradients = torch.autograd.grad(loss, list(decoder.parameters()))
    return [tensor.float().cpu() for tensor in (loss, *gradients)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", [Decoder, race.FastDecoder])
def test_mixed_precision_gives_nearly_the_same_gradients(form, device):
    decoder, *batch = race.example(SMALL)
    decoder = race.with_layers_of(decoder, form).eval()
    half = torch.autocast(device, torch.bfloat16)
    exact = torch.autocast(device, enabled=False)
    expected = loss_and_gradients(decoder, batch, "cpu", exact)
    found = loss_and_gradients(decoder, batch, device, half)
    assert found[0].item() == pytest.approx(expected[0].item(), rel=0.01)
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        assert (ours - theirs).norm() <= 0.05 * theirs.norm() + 1e-3


@NEEDS_CUDA
def test_cuda_gives_the_same_loss_and_gradients():
    decoder, *batch = race.example(SMALL)
    exact = torch.autocast("cpu", enabled=False)
    expected = loss_and_gradients(decoder.eval(), batch, "cpu", exact)
    found = loss_and_gradients(decoder, batch, "cuda", exact)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@NEEDS_CUDA
def test_cuda_finds_the_same_captions():
    decoder, cells, word_map = race.search_example(replace(SMALL, vocab_size=30))
    expected = beam_search(decoder, cells, word_map, 4, 9)
    found = beam_search(decoder.cuda(), cells.cuda(), word_map, 4, 9)
    for ours, theirs in zip(found, expected, strict=True):
        assert [h.words for h in ours] == [h.words for h in theirs]
        assert [h.alphas.device.type for h in ours] == ["cpu"] * len(ours)


@pytest.mark.parametrize("device", DEVICES)
def test_an_epoch_learns_in_float32_weights(device):
    decoder, *batch = race.example(SMALL)
    optimizer = race.adam(decoder.to(device))
    optimizer.param_groups[0]["lr"] = 0.01
    losses = [
        train([batch] * 5, None, decoder, None, optimizer, epoch)["loss"]
        for epoch in (1, 2)
    ]
    assert losses[1] < losses[0] < 3.5
    assert all(p.dtype == torch.float32 for p in decoder.parameters())


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("able", [True, False])
def test_only_a_cuda_device_that_can_has_mixed_precision(monkeypatch, kind, able):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: able)
    monkeypatch.setattr(torch, "autocast", lambda *given, enabled: (*given, enabled))
    expected = kind, torch.bfloat16, able and kind == "cuda"
    assert mixed_precision(torch.device(kind)) == expected


@NEEDS_CUDA
@pytest.mark.parametrize("devices", ["cpu cuda", "cuda cpu"])
def test_a_run_goes_on_on_another_device(world, tmp_path, devices):
    choices = {"attention_dim": 8, "embed_dim": 8, "decoder_dim": 8, "image_size": 64}
    paths = {"captions": world / "captions.csv", "images": world / "Images"}
    paths |= {"splits": world, "output": tmp_path}
    paths = {name: str(path) for name, path in paths.items()}
    config = Config(dataset="world", min_freq=0, **paths, **choices)
    for epochs, device in enumerate(map(torch.device, devices.split()), 1):
        with mock.patch.object(learner_module, "choose_device", lambda: device):  # noqa: B023
            run = fit(replace(config, epochs=epochs))
        assert len(run.history) == epochs
        assert run.history[-1]["loss"] < 5
    assert load_checkpoint(run.folder / "last.pt")["config"] == asdict(run.config)
