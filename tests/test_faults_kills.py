"""Runs that are killed, or start together"""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time

import h5py
import numpy as np
import pytest
import torch

from satlib import batches, configuration, files
from satlib.captioner import Caption
from satlib.configuration import Config
from satlib.dataset import create_input_files
from satlib.fit import fit
from satlib.maps import save
from satlib.model import load_checkpoint
from satlib.scenes import write_scenes

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
SIZES = {"attention_dim": 4, "embed_dim": 4, "decoder_dim": 4, "batch_size": 8}
KINDS = ["drawing", "data", "cache", "training", "export"]


class Eyes(torch.nn.Linear):
    """An encoder that takes a hundredth of a second for a batch."""

    def begin(self, images):
        time.sleep(0.01)
        return super().forward(images.flatten(2).transpose(1, 2).float())

    def fingerprint(self):
        return "eyes"


def work(kind, world, folder, size=4):
    """Do one kind of work from the beginning to the end, or from where it was."""
    if kind == "drawing":
        write_scenes(folder / "scenes", 12)
    elif kind == "data":
        what = "world", world / "captions.csv", world / "Images", folder
        create_input_files(*what, min_freq=0, image_size=32, splits=world)
    elif kind == "cache":
        torch.manual_seed(0)
        (images,) = world.glob("data/TRAIN_IMAGES*")
        batches.cache_features(Eyes(3, 5), images, folder / "cells.hdf5", 2)
    elif kind == "training":
        configuration.ROOT = folder / "satlib"
        paths = {"captions": world / "captions.csv", "images": world / "Images"}
        paths = {name: str(path) for name, path in (paths | {"splits": world}).items()}
        choices = {"min_freq": 0, "image_size": 32, "stage": 2, "epochs": 3}
        choices |= {"max_images": 12} | SIZES | {"decoder_dim": size}
        fit(Config(dataset="world", **paths, **choices))
    else:
        caption = Caption(["a", "dog"], np.eye(2)[:, :, None] * np.ones(2), -1.0, [-0.5] * 2, [[], []], [0.5] * 2, True)  # fmt: skip # noqa: E501
        for ending in "gif", "html":
            save(caption, np.zeros((40, 40, 3), np.uint8), folder / f"map.{ending}")


def result(kind, folder):
    """What a finished work has left, so that it can be compared."""
    if kind == "cache":
        with h5py.File(folder / "cells.hdf5") as file:
            return file["cells"][:].tobytes()
    if kind != "training":
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")}
    found = {}
    for path in folder.glob("data/runs/*/*/*.pt"):
        checkpoint = load_checkpoint(path)
        weights = {k: v.tolist() for k, v in checkpoint["decoder"].items()}
        scores = [(r["loss"], r["bleu4"]) for r in checkpoint["history"]]
        found[path.name, len(weights["init_h.bias"])] = weights, scores
    return found


def litter(folder):
    """What should not be there any more."""
    return [p.name for p in folder.rglob("*") if p.suffix in (".part", ".lock", ".old")]


def child(kind, world, folder, size, pipe):
    """Work in a process of its own; tell when it begins, and how it ended."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    torch.set_num_threads(1)
    pipe.send("begun")
    try:
        work(kind, world, folder, size)
        pipe.send("done")
    except (OSError, ValueError) as error:
        pipe.send(str(error))


@pytest.fixture(scope="module")
def begin():
    """A function that begins a work in a process; return process and pipe."""
    context = multiprocessing.get_context("forkserver")
    preload = ["pytest", "satlib.fit", "satlib.maps", "satlib.speed"]
    context.set_forkserver_preload(preload)

    def begun(*what):
        ours, theirs = context.Pipe()
        process = context.Process(target=child, args=(*what, theirs))
        process.start()
        theirs.close()
        assert ours.recv() == "begun"
        return process, ours

    return begun


def end(process, pipe):
    """How a process ended: "done", or its error."""
    try:
        return pipe.recv()
    except EOFError:
        return "killed"
    finally:
        process.join()


@pytest.fixture(scope="module")
def place(world, begin, tmp_path_factory):
    """A world, and what each work gives that nobody disturbs, and how long it takes."""
    folder = tmp_path_factory.mktemp("kills") / "world"
    shutil.copytree(world, folder)
    what = "world", folder / "captions.csv", folder / "Images", folder / "data"
    create_input_files(*what, min_freq=0, image_size=32, splits=folder)
    whole, seconds = {}, {}
    for kind in KINDS:
        path = folder.parent / f"whole {kind}"
        path.mkdir()
        run, start = begin(kind, folder, path, 4), time.monotonic()
        assert end(*run) == "done"
        whole[kind], seconds[kind] = result(kind, path), time.monotonic() - start
    return folder, whole, seconds


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_killed(place, begin, tmp_path, tried, monkeypatch, kind, number):
    """A run that is killed at some moment: done again, it is right, and tidy."""
    world, whole, seconds = place
    monkeypatch.setattr(configuration, "ROOT", configuration.ROOT)
    wait = seconds[kind] * random.Random(f"28 {kind} {number}").uniform(0, 1)
    for attempt in range(9):  # earlier, where it was done before it was killed
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process, pipe = begin(kind, world, folder, 4)
        time.sleep(wait * 0.6**attempt)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        if end(process, pipe) == "killed":
            break
    else:
        raise AssertionError("it was never killed in time")
    work(kind, world, folder)
    assert result(kind, folder) == whole[kind]
    assert not litter(folder)
    tried["kills"] += 1


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_started_together(place, begin, tmp_path, tried, monkeypatch, kind, number):
    """Two runs that start together or nearly so: both end, or one is refused."""
    world, whole, seconds = place
    monkeypatch.setattr(configuration, "ROOT", configuration.ROOT)
    dice = random.Random(f"29 {kind} {number}")
    sizes = 4, 4 + (kind == "training" and number % 2)  # equal choices, and others
    runs = [begin(kind, world, tmp_path, sizes[0])]
    time.sleep(seconds[kind] * dice.uniform(0, 1) * (number > 0))
    runs.append(begin(kind, world, tmp_path, sizes[1]))
    ends = [end(*run) for run in runs]
    assert "done" in ends, ends
    assert all(e == "done" or "another run" in e for e in ends), ends
    if sizes[0] != sizes[1]:
        assert ends == ["done", "done"], ends
    work(kind, world, tmp_path)
    found = result(kind, tmp_path)
    if sizes[0] != sizes[1]:
        found = {key: value for key, value in found.items() if key[1] == 4}
    assert found == whole[kind]
    assert not litter(tmp_path)
    tried["double starts"] += 1


def test_two_containers(begin, place, tmp_path, monkeypatch):
    """A run in a container that cannot see the other's processes: not harmed by it."""
    world, whole, _ = place
    monkeypatch.setattr(files, "MACHINE", "0123abcd")
    files._name_of.cache_clear()
    process, pipe = begin("cache", world, tmp_path, 4)
    work("cache", world, tmp_path)
    assert end(process, pipe) == "done"
    assert result("cache", tmp_path) == whole["cache"] and not litter(tmp_path)
    files._name_of.cache_clear()
