"""Every choice of a configuration does what it says, and nothing else."""

import json
import re
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest
import torch
from PIL import Image
from torch.utils.data import dataloader

from satlib import fit as fit_module
from satlib import validation
from satlib.captioner import load_captioner
from satlib.configuration import Config
from satlib.fit import fit, keeper
from satlib.learner import Learner
from satlib.model import save_checkpoint
from satlib.training import attention_penalty

SMALL = {"attention_dim": 16, "embed_dim": 12, "decoder_dim": 24, "batch_size": 4}
SMALL |= {"min_freq": 0, "image_size": 64, "max_images": 8, "epochs": 2}
TRIED = {  # where each choice is tried: here, or in the file of tests named
    "test_configuration": ["dataset", "captions", "images", "encoder"],
    "test_fit": ["fine_tune", "length_power", "self_critical_epochs", "concept_epochs"]
    + ["matmul_precision", "weights", "captioner"],
    "nowhere but in train.md": ["beam_size"],
}


def load_checkpoint(path):
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """Train with choices; the same choices give the same run."""
    kept = {}

    def train(**choices):
        key = tuple(choices.items())
        if key not in kept:
            usual = {"captions": world / "captions.csv", "images": world / "Images"}
            usual |= {"splits": world, "output": tmp_path_factory.mktemp("run")}
            chosen = SMALL | usual | choices
            paths = ("captions", "images", "splits", "output")
            texts = {k: str(chosen[k]) for k in paths if chosen[k] is not None}
            kept[key] = fit(Config(**{"dataset": "world"} | chosen | texts))
        return kept[key]

    return train


def losses(run):
    """What training depends on, and nothing that the clock says."""
    names = "lesson", "learning_rate", "train_loss", "train_top5", "loss", "bleu4"
    return [tuple(row[name] for name in names) for row in run.history]


def file_of(run, kind):
    (path,) = run.folder.glob(f"{kind}_*.hdf5")
    return path


def shape_of(run, kind="TRAIN_IMAGES", name="images"):
    with h5py.File(file_of(run, kind)) as file:
        return file[name].shape


def weights(run):
    return load_checkpoint(run.folder / "last.pt")["decoder"]


def test_every_choice_is_tried():
    source = Path(__file__).read_text(encoding="utf-8").partition("def test_")[2]
    elsewhere = sum(TRIED.values(), [])
    for choice in fields(Config):
        here = re.search(rf"\b{choice.name}=|\"{choice.name}\":", source)
        assert here or choice.name in elsewhere, choice.name


def test_equal_choices_give_equal_runs(trained, tmp_path):
    assert losses(trained()) == losses(trained(output=tmp_path))


def test_the_seed_changes_the_run_and_repeats_it(trained, tmp_path):
    runs = [trained(seed=3, output=tmp_path / name) for name in "ab"]
    assert losses(runs[0]) == losses(runs[1]) != losses(trained())
    a, b = map(weights, runs)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_seed_draws_the_first_weights(trained):
    """They hardly move at this rate; the same images in one batch, in any order."""
    still = {"decoder_lr": 1e-9, "batch_size": 8, "epochs": 1}
    a, b = (weights(trained(seed=seed, **still)) for seed in (3, 4))
    for name in ("embedding.weight", "fc.weight", "init_h.weight", "f_beta.bias"):
        assert (a[name] - b[name]).abs().max() > 1e-3, name


def test_the_seed_divides_the_photographs_where_no_list_does(trained):
    def files(run):
        (path,) = run.folder.glob("TRAIN_REFERENCES_*.json")
        return re.findall(r"\d{3}\.png", path.read_text())

    first, other = (files(trained(splits=None, seed=n, epochs=1)) for n in (28, 29))
    assert len(first) == len(other) == 8 and first != other
    assert files(trained()) == [f"{n:03}.png" for n in range(8)]  # the list's order


def test_the_output_is_where_the_run_lies(trained, tmp_path):
    run = trained(output=tmp_path / "there", epochs=1)
    assert run.folder == tmp_path / "there" and run.best.exists()


def test_how_many_images(trained):
    assert shape_of(trained(max_images=5, epochs=1)) == (5, 3, 64, 64)
    assert shape_of(trained(max_images=None, epochs=1)) == (24, 3, 64, 64)


def test_how_many_scenes(trained, tmp_path):
    run = trained(
        scenes=20, dataset="scenes", captions=None, images=None, splits=None,
        max_images=None, image_size=64, stage=5, epochs=1,
    )  # fmt: skip
    assert shape_of(run)[0] == 16


def test_how_frequent_a_word_must_be(trained):
    """In the captions of 8 images: 3 red, 3 green, 2 blue; 8 times `here`."""
    words = load_checkpoint(trained(min_freq=5, epochs=1).best)["word_map"]
    assert "blue" not in words and {"red", "green", "here"} <= set(words)
    words = load_checkpoint(trained(min_freq=6, epochs=1).best)["word_map"]
    assert not {"red", "green", "blue"} & set(words) and "here" in words
    assert "blue" in load_checkpoint(trained().best)["word_map"]


def test_how_many_rows_of_an_image_and_how_long(trained):
    run = trained(caps_per_img=2, max_length=9, epochs=1)
    (path,) = run.folder.glob("TRAIN_CAPTIONS_*.json")
    rows = json.loads(path.read_text())
    assert len(rows) == 16 and {len(row) for row in rows} == {9}
    captioner = load_captioner(run.best)
    assert captioner.max_length == 7
    captions = captioner.caption([Image.new("RGB", (64, 64))], beam_size=1)
    assert len(captions[0].words) <= 7


def test_captions_are_as_long_as_a_row_when_they_are_scored(trained, monkeypatch):
    asked, search = [], validation.greedy_search

    def recorded(decoder, cells, word_map, most):
        asked.append(most)
        return search(decoder, cells, word_map, most)

    monkeypatch.setattr(validation, "greedy_search", recorded)
    trained(max_length=8, epochs=1)
    assert {*asked} == {6}


def test_what_is_a_token(trained, world, tmp_path):
    text = (world / "captions.csv").read_text().replace("is all", "は赤い")
    (tmp_path / "captions.csv").write_text(text, encoding="utf-8")
    run = trained(tokens="characters", captions=tmp_path / "captions.csv", epochs=1)
    assert {*"は赤い", "picture"} <= {*load_checkpoint(run.best)["word_map"]}


def test_what_happens_with_a_broken_photograph(trained, world, tmp_path):
    images = tmp_path / "Images"
    images.mkdir()
    for path in (world / "Images").iterdir():
        Image.open(path).save(images / path.name)
    (images / "002.png").write_text("broken")
    run = trained(on_error="skip", images=images, epochs=1)
    assert shape_of(run)[0] == 7
    with pytest.raises(ValueError, match=r"002\.png"):
        trained(on_error="raise", images=images, epochs=1)


def test_the_size_of_the_images(trained):
    run = trained(image_size=96, epochs=1)
    assert shape_of(run) == (8, 3, 96, 96)
    assert load_captioner(run.best).image_size == 96


def test_the_stage_and_the_stride_of_the_encoder(trained):
    """Cells of 32 or 16 pixels in the last grid, and of 16 in stage 5."""
    runs = [trained(), trained(stage=5, epochs=1), trained(output_stride=16, epochs=1)]
    runs.append(trained(output_stride=16, look_stage=5, epochs=1))
    shapes = [shape_of(run, "TRAIN_CELLS", "cells") for run in runs]
    assert shapes == [(8, 4, 1280), (8, 16, 112), (8, 16, 1280), (8, 16, 1392)]
    encoders = [load_captioner(run.best).encoder for run in runs]
    assert [e.encoder_dim for e in encoders] == [1280, 112, 1280, 1392]
    assert [e.pool.shape[1] for e in encoders] == [4, 16, 16, 16]
    assert weights(runs[-1])["attention.encoder_att.weight"].shape[1] == 112


def test_the_sizes_of_the_decoder(trained):
    run = trained(attention_dim=5, embed_dim=6, decoder_dim=7, epochs=1)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights(run).items()}
    assert shapes["attention.encoder_att.weight"] == (5, 1280)
    assert shapes["attention.decoder_att.weight"] == (5, 7)
    assert shapes["embedding.weight"][1] == 6
    assert shapes["decode_step.weight_ih"] == (28, 6 + 1280)
    assert shapes["f_beta.weight"] == (1280, 7)


def test_dropout_is_the_decoders(trained):
    runs = trained(dropout=0.0), trained(), trained(dropout=0.9)
    found = [load_captioner(run.best).decoder.dropout.p for run in runs]
    assert found == [0.0, 0.5, 0.9]
    first = [run.history[0]["train_loss"] for run in runs]
    assert len(set(first)) == 3
    assert runs[0].history[-1]["train_loss"] < runs[2].history[-1]["train_loss"]


def test_how_many_epochs(trained):
    assert [len(trained(epochs=n).history) for n in (1, 3)] == [1, 3]


def test_the_number_of_images_in_a_batch(trained, capsys):
    trained(batch_size=3, epochs=1)
    assert "epoch 1 of 1 [3/3]" in capsys.readouterr().out
    trained(batch_size=8, epochs=1)
    assert "epoch 1 of 1 [1/1]" in capsys.readouterr().out


def test_the_learning_rate_of_the_decoder(trained):
    """Adam's first step moves every weight with a gradient by the rate."""
    still, moved = (
        weights(trained(decoder_lr=rate, batch_size=8, epochs=1))
        for rate in (1e-9, 2e-3)
    )
    steps = {name: (moved[name] - still[name]).abs().max().item() for name in moved}
    steps.pop("attention.full_att.bias")  # no map depends on it
    assert all(step == pytest.approx(2e-3, rel=0.02) for step in steps.values())
    assert trained(decoder_lr=1e-9, batch_size=8, epochs=1).history[0][
        "learning_rate"
    ] == pytest.approx(1e-9)


def test_the_learning_rate_of_the_encoder(trained):
    choices = {"fine_tune": True, "batch_size": 8, "epochs": 1}
    plain = load_captioner(trained(epochs=1).best).encoder.state_dict()
    for rate in (1e-5, 1e-3):
        run = trained(encoder_lr=rate, **choices)
        tuned = load_captioner(run.best).encoder.state_dict()
        step = max((tuned[name] - plain[name]).abs().max().item() for name in plain)
        assert step == pytest.approx(rate, rel=0.02)
        assert run.history[0]["learning_rate"] == Config.decoder_lr


def test_the_learning_rate_of_the_reward(trained):
    choices = {"self_critical_epochs": 1, "batch_size": 8, "epochs": 1}
    before = weights(trained(batch_size=8, epochs=1))
    for rate in (1e-5, 1e-3):
        run = trained(self_critical_lr=rate, **choices)
        assert run.history[1]["learning_rate"] == rate
        after = weights(run)
        step = max((after[name] - before[name]).abs().max().item() for name in before)
        assert step == pytest.approx(rate, rel=0.05)


SHADES = Image.linear_gradient("L").rotate(30).convert("RGB")


@torch.no_grad()
def penalty(run):
    """The penalty of the maps of a caption, as in training."""
    captioner = load_captioner(run.folder / "last.pt")
    cells = captioner.look([SHADES])
    ids = captioner.word_map
    row = [ids[w] for w in ("<start>", "it", "is", "red", "here", "<end>")]
    decoded = captioner.decoder(cells, torch.tensor([row]), torch.tensor([len(row)]))
    return attention_penalty(decoded.alphas).item()


def test_the_weight_of_the_attention_penalty(trained):
    """Where it weighs more, each region gets nearer to one look in all."""
    choices = {"stage": 5, "decoder_lr": 0.03, "epochs": 6}
    free, bound = (trained(alpha_c=weight, **choices) for weight in (0.0, 300.0))
    assert penalty(bound) < penalty(free)
    assert free.history[0]["train_loss"] != bound.history[0]["train_loss"]


def test_gradients_are_clipped_at_the_value_chosen(trained):
    usual, wide = trained(), trained(grad_clip=1e6)
    assert losses(usual) == losses(wide)  # none was as large as 5
    assert losses(trained(grad_clip=1e-6)) != losses(usual)


CONSTANT = {"decoder_lr": 1e-9, "epochs": 7, "max_images": 2}  # it never gets better


def test_the_rate_decays_after_epochs_without_progress(trained):
    def rates(**choices):
        run = trained(**CONSTANT | choices)
        return [row["learning_rate"] / 1e-9 for row in run.history]

    assert rates(decay_after=2, decay_factor=0.5) == pytest.approx(
        [1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    )
    assert rates(decay_after=3, decay_factor=0.1) == pytest.approx(
        [1, 1, 1, 1, 0.1, 0.1, 0.1]
    )


def test_it_stops_after_epochs_without_progress(trained):
    assert len(trained(stop_after=3, **CONSTANT).history) == 4
    assert len(trained(stop_after=5, **CONSTANT).history) == 6


def test_mirrored_images_are_for_an_encoder_that_learns(trained):
    assert losses(trained(augment=True)) == losses(trained())  # its cells are kept
    learns = {"fine_tune": True, "epochs": 1}
    mirrored, plain = trained(augment=True, **learns), trained(augment=False, **learns)
    assert mirrored.history[0]["train_loss"] != plain.history[0]["train_loss"]


def test_processes_that_load_give_the_same(trained, monkeypatch):
    begun, start = [], dataloader._MultiProcessingDataLoaderIter.__init__

    def counted(self, loader):
        begun.append(loader.num_workers)
        start(self, loader)

    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter, "__init__", counted)
    assert losses(trained(workers=2, epochs=1)) == losses(trained())[:1]
    assert begun == [2, 2]  # to train, and to validate


class Interruption(Exception):  # noqa: N818
    """Ends a run from within."""


@pytest.mark.parametrize("lesson", ["words", "concepts"])
def test_an_epoch_that_was_interrupted_goes_on(trained, tmp_path, monkeypatch, lesson):
    """Twelve iterations; kept after three and six, and interrupted there."""
    many = {"batch_size": 2, "max_images": None, "epochs": 1, "keep_minutes": 0.0}
    many |= {"concept_epochs": 1} if lesson == "concepts" else {}
    settings = Learner.settings
    lines = lambda self: settings(self) | {"print_freq": 3}  # noqa: E731
    monkeypatch.setattr(Learner, "settings", lines)
    whole, kept = trained(**many), []

    def save(path, checkpoint):
        save_checkpoint(path, checkpoint)
        kept.append(checkpoint["begun"])
        if len(kept) == 2:
            raise Interruption

    with monkeypatch.context() as interrupting, pytest.raises(Interruption):
        interrupting.setattr(fit_module, "save_checkpoint", save)
        trained(**many, output=tmp_path)
    assert [begun["iteration"] for begun in kept] == [3, 6]
    again = trained(**many, output=tmp_path, workers=0)
    assert again.history[0]["lesson"] == lesson
    for row, other in zip(again.history, whole.history, strict=True):
        times = "seconds", "train_batch_time", "train_data_time"
        assert all(row[name] == other[name] for name in row.keys() - times)
    a, b = weights(again), weights(whole)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_so_many_minutes_lie_between_what_is_kept(monkeypatch):
    now, kept = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(fit_module, "_save", lambda *what: kept.append(what[-1]))
    learner = SimpleNamespace(config=Config(keep_minutes=2.0))
    keep = keeper(learner, {}, None)
    for now[0] in (160.0, 219.0, 220.0, 230.0, 339.0, 350.0):
        keep(now[0])
    assert kept == [220.0, 350.0]
