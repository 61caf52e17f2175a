"""What a run keeps: averaged weights, of the epoch that was best."""

import json

import pytest
import torch

from satlib.batches import CaptionDataset, batches
from satlib.captioner import load_captioner
from satlib.configuration import Config
from satlib.dataset import Files
from satlib.fit import fit
from satlib.learner import moving_average
from satlib.validation import validate


def load_checkpoint(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def a_config(world, output, **choices):
    paths = {"captions": world / "captions.csv", "images": world / "Images"}
    paths |= {"splits": world, "output": output}
    paths = {name: str(path) for name, path in paths.items()}
    return Config(dataset="world", **paths, min_freq=0, image_size=64, **choices)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    choices = {"attention_dim": 16, "embed_dim": 16, "decoder_dim": 32, "batch_size": 4}
    choices |= {"epochs": 10, "decoder_lr": 0.03}
    return fit(a_config(world, tmp_path_factory.mktemp("run"), **choices))


def test_the_best_checkpoint_is_of_the_best_epoch(run):
    scores = [row["bleu4"] for row in run.history]
    best, last = (load_checkpoint(run.folder / f"{n}.pt") for n in ("best", "last"))
    assert scores[0] < max(scores) and best["epoch"] < last["epoch"] == 10
    assert best["epoch"] == 1 + scores.index(max(scores))
    assert best["best_bleu4"] == last["best_bleu4"] == max(scores)
    assert len(best["history"]) == best["epoch"] and last["history"] == run.history
    assert run.best == run.folder / "best.pt"
    assert [row["epoch"] for row in run.history] == [*range(1, 11)]


@pytest.mark.parametrize("name", ["best", "last"])
def test_the_weights_kept_are_those_that_were_validated(run, name):
    """They are averages: those of the last step score otherwise."""
    checkpoint = load_checkpoint(run.folder / f"{name}.pt")
    row = run.history[checkpoint["epoch"] - 1]
    captioner = load_captioner(run.folder / f"{name}.pt")
    (path,) = run.folder.glob("VAL_REFERENCES_*.json")
    (cells,) = run.folder.glob("VAL_CELLS_*.hdf5")
    base = path.stem.removeprefix("VAL_REFERENCES_")
    references = [entry["captions"] for entry in json.loads(path.read_text())]
    dataset = CaptionDataset(Files(run.folder, base), "VAL", cells)

    def measured(decoder):
        loader = batches(dataset, 4)
        word_map = captioner.word_map
        return validate(loader, captioner.encoder, decoder, word_map, references)

    found = measured(captioner.decoder)
    assert found == pytest.approx({key: row[key] for key in found}, rel=1e-4)
    raw = {
        key.removeprefix("decoder."): value
        for key, value in checkpoint["learner"].items()
        if key.startswith("decoder.")
    }
    captioner.decoder.load_state_dict(raw)
    assert abs(measured(captioner.decoder)["loss"] - row["loss"]) > 1e-4


def test_every_row_of_the_history_tells_what_it_should(run):
    for row in run.history:
        assert set(row) == {
            *("epoch", "lesson", "learning_rate", "seconds", "loss", "top5", "bleu4"),
            *("bleu4_teacher_forced", "train_loss", "train_top5"),
            *("train_batch_time", "train_data_time", "images"),
        }
        assert row["lesson"] == "words" and row["learning_rate"] == 0.03
        assert row["images"] == 24
        assert row["seconds"] >= row["train_batch_time"] >= row["train_data_time"] >= 0
        assert 0 <= row["train_top5"] <= 100 and row["train_loss"] > 0


def test_training_goes_down_and_validation_follows(run):
    first, last = run.history[0], run.history[-1]
    assert last["train_loss"] < first["train_loss"] / 2
    assert last["loss"] < first["loss"] / 2
    assert last["train_top5"] > first["train_top5"] and last["top5"] > 95
    assert last["bleu4"] > 0.5 > first["bleu4"]


def test_a_captioner_has_the_weights_of_its_checkpoint(run):
    checkpoint = load_checkpoint(run.best)
    captioner = load_captioner(run.best)
    for name, tensor in captioner.decoder.state_dict().items():
        assert torch.equal(tensor.cpu(), checkpoint["decoder"][name]), name
    assert captioner.word_map == checkpoint["word_map"]
    assert captioner.image_size == 64 and captioner.length_power == 0.7


def test_images_are_not_mirrored_to_validate(world, tmp_path):
    choices = {"epochs": 1, "max_images": 4, "fine_tune": True, "augment": True}
    run = fit(a_config(world, tmp_path, **choices))
    captioner = load_captioner(run.best)
    (path,) = tmp_path.glob("VAL_REFERENCES_*.json")
    references = [entry["captions"] for entry in json.loads(path.read_text())]
    base = path.stem.removeprefix("VAL_REFERENCES_")
    loader = batches(CaptionDataset(Files(tmp_path, base), "VAL"), 8)
    model = captioner.encoder, captioner.decoder, captioner.word_map
    found = validate(loader, *model, references)
    assert found["loss"] == pytest.approx(run.history[0]["loss"], rel=2e-4)


def test_each_epoch_meets_the_images_in_another_order(world, tmp_path, monkeypatch):
    met, get = [], CaptionDataset.__getitem__

    def recorded(self, index):
        met.append(index)
        return get(self, index)

    monkeypatch.setattr(CaptionDataset, "__getitem__", recorded)
    fit(a_config(world, tmp_path, epochs=2))
    epochs = met[:28], met[32:60]  # 24 to train, 4 to validate, then 4 examples
    assert all(sorted(epoch[:24]) == [*range(24)] for epoch in epochs)
    assert all(epoch[24:] == [*range(4)] for epoch in epochs)
    assert epochs[0][:24] != epochs[1][:24] != [*range(24)] != epochs[0][:24]


@pytest.mark.parametrize(
    ("count", "share"),
    [(1, 9 / 11), (90, 0.09), (890, 0.01), (4490, 0.002), (10**6, 0.002)],
)
def test_the_average_moves_less_and_less_but_never_stops(count, share):
    found = moving_average(torch.tensor([1.0]), torch.tensor([3.0]), count)
    assert found.item() == pytest.approx(1 + 2 * share, rel=1e-5)
