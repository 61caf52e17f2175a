"""Numbers that are none"""

from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from satlib import concepts, self_critical, training, validation
from satlib.batches import CaptionDataset, batches
from satlib.dataset import Files
from satlib.fit import epochs_since_best, fit
from satlib.learner import Learner
from satlib.training import Iterations, check_number


@pytest.fixture
def run(copied):
    """A run of one epoch, to be continued: (configuration, folder)."""
    config, folder = copied
    return replace(config, epochs=3), folder


def kept(folder):
    return {name: (folder / name).read_bytes() for name in ("last.pt", "best.pt")}


def poison(folder, split, row, value):
    """Put a number that is none into a photograph's cells; return its name."""
    (path,) = folder.glob(f"{split}_CELLS*.hdf5")
    with h5py.File(path, "r+") as file:
        file["cells"][row, 3, 5] = value
    (path,) = folder.glob(f"{split}_REFERENCES*.json")
    files = Files(folder, path.stem.removeprefix(f"{split}_REFERENCES_"))
    return files.read("references", split)[row]["file"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("split", ["TRAIN", "VAL"])
def test_the_loss_of_a_photograph(run, split, value):
    """A photograph whose loss is no number: named, and the last checkpoint stays."""
    config, folder = run
    before, name = kept(folder), poison(folder, split, 2, value)
    where = (
        "epoch 2: (the loss|a gradient)"
        if split == "TRAIN"
        else "epoch 2, validation: the loss"
    )
    with pytest.raises(ValueError, match=rf"{where} is no number in batch \d.*{name}"):
        fit(config)
    assert kept(folder) == before
    poison(folder, split, 2, 0.5)
    assert len(fit(config).history) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_the_names_are_those_of_the_batch(run, workers):
    """A batch of a shuffled epoch, drawn by worker processes: its images are named."""
    _, folder = run
    (path,) = folder.glob("TRAIN_REFERENCES*.json")
    files = Files(folder, path.stem.removeprefix("TRAIN_REFERENCES_"))
    loader = batches(CaptionDataset(files, "TRAIN"), 5, seed=3, workers=workers)
    pictures = [torch.stack([loader.dataset[i][0] for i in range(24)])]
    entries = files.read("references", "TRAIN")
    for number, (images, _, _) in enumerate(loader, 1):
        names = loader.names(number)
        found = [(pictures[0] == image).flatten(1).all(1).nonzero() for image in images]
        assert len(names) == len(images)
        for name, rows in zip(names, found, strict=True):
            assert name in {entries[row]["file"] for row in rows.flatten().tolist()}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gradient(value):
    """A loss that is a number with a gradient that is none: no step is taken."""
    weight = torch.nn.Parameter(torch.ones(3))
    iterations = Iterations([[torch.ones(3)]] * 2, [torch.optim.Adam([weight])], 4)

    class Steep(torch.autograd.Function):
        """A number whose slope is none."""

        @staticmethod
        def forward(_, x):
            return x.sum()

        @staticmethod
        def backward(_, slope):
            return slope * torch.full((3,), value)

    for _ in iterations:
        with pytest.raises(
            ValueError, match="epoch 4: (the loss|a gradient).*in batch 1"
        ):
            iterations.learn((Steep.apply(weight), 3))
        break
    assert torch.equal(weight.detach(), torch.ones(3))


def test_weights_after_the_last_batch(run, monkeypatch):
    """Weights that become NaN in the last step of an epoch: the run stops there."""
    config, folder = run
    before, learn, steps = kept(folder), Iterations.learn, []

    def spoiling(self, *parts):
        learn(self, *parts)
        steps.append(True)
        if len(steps) == len(self.loader):
            with torch.no_grad():
                self.optimizers[0].param_groups[0]["params"][0].fill_(torch.nan)

    monkeypatch.setattr(Iterations, "learn", spoiling)
    with pytest.raises(ValueError, match=r"epoch 2: a weight .* in batch 6.*\.png"):
        fit(config)
    assert kept(folder) == before


def test_averaged_weights(run, monkeypatch):
    """An average of weights that becomes NaN: found by the validation, nothing kept."""
    config, folder = run
    before, follow = kept(folder), Learner.follow

    def spoiling(self):
        follow(self)
        self.averaged()[1].fc.bias.data.fill_(torch.nan)

    monkeypatch.setattr(Learner, "follow", spoiling)
    with pytest.raises(
        ValueError, match="validation: the loss is no number in batch 1"
    ):
        fit(config)
    assert kept(folder) == before


LESSONS = {
    "words": (training, "caption_loss", {"epochs": 3}),
    "the validation": (validation, "caption_loss", {"epochs": 3}),
    "concepts": (concepts, "concept_loss", {"concept_epochs": 1, "max_images": 6}),
    "reward": (self_critical, "reward_loss", {"epochs": 1, "self_critical_epochs": 1}),
}


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_lesson(run, tmp_path, monkeypatch, lesson):
    """A loss that is NaN in any lesson: the run stops with epoch, batch and names."""
    (module, name, choices), (config, _) = LESSONS[lesson], run
    if lesson == "concepts":
        choices = choices | {"output": str(tmp_path / "concepts")}
    loss = getattr(module, name)

    def spoilt(*what):
        found = loss(*what)
        many = isinstance(found, tuple)
        return tuple(f * torch.nan for f in found) if many else found * torch.nan

    monkeypatch.setattr(module, name, spoilt)
    with pytest.raises(ValueError, match=r"no number in batch 1, .*\d\.png"):
        fit(replace(config, **choices))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_score_that_is_none(place):
    """A score that is NaN in a history: never the best, wherever it stands."""
    scores = [0.1, 0.3, 0.2]
    scores[place] = float("nan")
    history = [{"lesson": "words", "bleu4": score} for score in scores]
    best = max((s for s in scores if s == s), default=None)
    assert epochs_since_best(history) == 2 - scores.index(best)


@pytest.mark.parametrize("loader", [[1], SimpleNamespace()])
def test_a_loader_without_names(loader):
    """A loss that is NaN with a loader of one's own: refused without names."""
    check_number(torch.tensor(1.0), "the loss", loader, 1)
    with pytest.raises(ValueError, match="the loss is no number in batch 1"):
        check_number(torch.tensor(torch.nan), "the loss", loader, 1)
