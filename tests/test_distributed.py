"""Several processes: the result of one, to each its share, and none that dies harms."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stdout
from functools import partial

import h5py
import numpy as np
import psutil
import pytest
import torch
import yaml

from satlib import scale
from satlib.configuration import Config
from satlib.fit import fit, main
from satlib.scale import Shares, group, share, total

SMALL = {"decoder_dim": 16, "attention_dim": 16, "embed_dim": 16, "min_freq": 0}
SMALL |= {"image_size": 64, "dropout": 0.0, "alpha_c": 1.0}


def work(rank, count, port, do, *args):
    """Be process number `rank` of `count`, as torchrun would have it."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count}
    os.environ |= {name: str(value) for name, value in (address | place).items()}
    torch.set_num_threads(1)
    with group():
        do(*args)


def together(count, do, *args):
    """Do something in `count` processes that make a group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["satlib.fit"])
    given = [(rank, count, port, do, *args) for rank in range(count)]
    processes = [context.Process(target=work, args=each) for each in given]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count


@pytest.fixture
def member(monkeypatch):
    """A function that makes this process believe that it is one of several."""

    def believe(rank, count):
        monkeypatch.setattr(scale, "rank", lambda: rank)
        monkeypatch.setattr(scale, "processes", lambda: count)

    return believe


def see_different_runs():
    """Compare what is the same, and then what is not."""
    scale.check_alike("runs", "the same")
    with pytest.raises(ValueError, match="different runs: is it one for all?"):
        scale.check_alike("runs", "a digest" if scale.rank() else None)


def test_processes_that_see_different_runs_say_so():
    scale.check_alike("runs", "a digest")
    together(2, see_different_runs)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("items", [0, 1, 2, 7, 8, 100])
def test_shares_are_neighbours_and_leave_nothing_out(member, items, count):
    shares = []
    for rank in range(count):
        member(rank, count)
        shares.append(share(range(items)))
    assert [item for own in shares for item in own] == [*range(items)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("done", [0, 1, 3])
def test_every_mini_batch_is_shared(member, done):
    """Ten images in batches of four: of the last, of two, one of three has no share."""
    whole = [[*range(4)], [*range(4, 8)], [8, 9]]
    found, idle = [], []
    for rank in range(3):
        member(rank, 3)
        batches = Shares(range(10), 4, done)
        assert len(batches) == 3
        found.append([*batches])
        idle.append([batches.is_idle(number) for number in (1, 2, 3)])
    assert idle == [[False, False, True], [False] * 3, [False] * 3]
    for number, batch in enumerate(whole[done:], done + 1):
        parts = [own[number - 1 - done] for own in found]
        assert all(parts)
        given = [
            p for p, resting in zip(parts, idle, strict=True) if not resting[number - 1]
        ]
        assert [item for own in given for item in own] == batch


def test_a_process_that_is_alone_shares_with_nobody():
    with group():
        assert share([1, 2]) == [1, 2] and total(3, 4.5) == (3, 4.5)
    assert not torch.distributed.is_initialized()


def test_a_part_of_another_file_is_noticed(tmp_path, member):
    """An index whose first part was replaced, before the group was killed."""
    path = tmp_path / "cells.hdf5"
    for rank in range(2):
        member(rank, 2)
        with h5py.File(scale.part_of(path), "w") as part:
            part["cells"], part.attrs["key"] = np.ones((3, 2)), "an encoder"
    scale.join_parts(path, "cells")
    member(0, 2)
    with h5py.File(path) as index:
        scale.check_parts(index["cells"])
    with h5py.File(scale.part_of(path), "a") as part:
        part.attrs["key"] = "another encoder"
    with h5py.File(path) as index, pytest.raises(OSError, match="not the part"):
        scale.check_parts(index["cells"])


@pytest.mark.parametrize("text", ["- epochs\n", "epochs", "epochs: [3"])
def test_a_file_without_parameters_is_named(tmp_path, text):
    path = tmp_path / "parameters.yaml"
    path.write_text(text)
    with pytest.raises((ValueError, yaml.YAMLError), match="parameters.yaml"):
        main(["-f", str(path)])


def choices_of(folder, world, **choices):
    """Return the choices of a small model that learns the tiny world, in `folder`."""
    data = {"captions": str(world / "captions.csv"), "images": str(world / "Images")}
    data |= {"dataset": "world", "splits": str(world), "output": str(folder)}
    return data | SMALL | choices


def a_run(folder, world, **choices):
    """Fit a small model on the tiny world."""
    fit(Config(**choices_of(folder, world, **choices)))


def history(folder):
    """Return the rows of a run's log without what tells times."""
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in r.items() if "time" not in k and k != "seconds"} for r in rows
    ]


def flat(weights):
    """Return all weights as one vector, but for one of no effect, which is noise."""
    del weights["attention.full_att.bias"]
    return torch.cat([weight.flatten() for weight in weights.values()])


@pytest.mark.parametrize("count", [2, 3])
def test_processes_have_the_losses_scores_and_weights_of_one(tmp_path, world, count):
    """24 images in batches of 11: of the last batch, of two, one of three has none."""
    choices = {"concept_epochs": 1, "epochs": 2, "batch_size": 11, "encoder_lr": 1e-5}
    a_run(tmp_path / "one", world, **choices)
    together(count, partial(a_run, tmp_path / "all", world, **choices))
    one, all_ = history(tmp_path / "one"), history(tmp_path / "all")
    assert [row["lesson"] for row in one] == ["concepts", "words", "words"]
    for row, other in zip(one, all_, strict=True):
        assert [*other] == [*row] and other["lesson"] == row.pop("lesson")
        for name, value in row.items():
            near = 0 if name.startswith("bleu4") else 2e-5
            assert other[name] == pytest.approx(value, rel=near, abs=0), name
    one, all_ = (torch.load(tmp_path / n / "last.pt") for n in ("one", "all"))
    assert len(all_["random_states"]) == count
    one, other = (flat(each["decoder"]) for each in (one, all_))
    assert (one - other).norm() < 1e-3 * one.norm()


def test_processes_share_what_weights_repeat(tmp_path, world):
    choices = {"weights": [1.5], "epochs": 2, "batch_size": 7}
    a_run(tmp_path / "one", world, **choices)
    together(2, partial(a_run, tmp_path / "all", world, **choices))
    one, all_ = history(tmp_path / "one"), history(tmp_path / "all")
    assert [row["images"] for row in one] == [36, 36]
    for row, other in zip(one, all_, strict=True):
        assert row.pop("lesson") == other.pop("lesson")
        assert other == pytest.approx(row, rel=2e-5)


def a_told_run(folder, world, **choices):
    """Fit, and let each process write what it tells into a file of its own."""
    told = folder.with_suffix(f".{scale.rank()}")
    with open(told, "w", encoding="utf-8") as file, redirect_stdout(file):
        a_run(folder, world, **choices)


def means_told(path):
    """Return the means in brackets, but for times, of the line of two mini-batches."""
    lines = path.read_text(encoding="utf-8").splitlines()
    (line,) = [line.split() for line in lines if "[2/2]" in line]
    return line[5], line[8]


def test_most_processes_may_have_no_share(tmp_path, world):
    """Two images for training, two for validation, one in a batch, for five."""
    choices = {"epochs": 1, "batch_size": 1, "max_images": 2}
    a_told_run(tmp_path / "one", world, **choices)
    together(5, partial(a_told_run, tmp_path / "all", world, **choices))
    (one,), (all_,) = history(tmp_path / "one"), history(tmp_path / "all")
    assert one.pop("lesson") == all_.pop("lesson")
    assert all_ == pytest.approx(one, rel=2e-5)
    assert means_told(tmp_path / "all.0") == means_told(tmp_path / "one.0")
    assert "epoch" not in (tmp_path / "all.4").read_text(encoding="utf-8")


def arrays(folder):
    """Return every dataset of the HDF5 files of a folder, but those of parts."""
    found = {}
    for path in folder.glob("*.hdf5"):
        if "-of-" not in path.name:
            with h5py.File(path) as file:
                found[path.name] = {name: rows[()] for name, rows in file.items()}
                found[path.name] |= file.attrs
    return found


def same(found, expected):
    """Check that arrays are equal; cells to the rounding of their half precision."""
    if getattr(expected, "dtype", None) == np.float16:
        np.testing.assert_allclose(found, expected, atol=0.01)
    else:
        np.testing.assert_array_equal(found, expected)


def test_each_process_writes_its_part_of_the_data(tmp_path, world, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    a_run(one, world, epochs=1)
    together(2, partial(a_run, two, world, epochs=1))
    parts = sorted(path.name for path in two.glob("*-of-*"))
    assert len(parts) == 2 * len(arrays(one)) == 2 * 5
    for name, found in arrays(one).items():
        for key, value in found.items():
            same(arrays(two)[name][key], value)
    texts = [p.name for p in one.glob("*.json") if not p.name.startswith("examples")]
    assert all((one / n).read_bytes() == (two / n).read_bytes() for n in texts)

    moved = two.rename(tmp_path / "moved")
    a_run(moved, world, epochs=1)  # which one process alone finds done
    assert sorted(path.name for path in moved.glob("*-of-*")) == parts
    (moved / next(name for name in parts if name.startswith("TRAIN_IMAGES"))).unlink()
    (moved / next(name for name in parts if name.startswith("VAL_CELLS"))).unlink()
    half = moved / f"{next(moved.glob('VAL_CELLS*.1-of-2.hdf5')).name}.x.part"
    half.touch()  # of a process that was killed
    capsys.readouterr()
    a_run(moved, world, epochs=2)
    told = capsys.readouterr().out
    assert "TRAIN_IMAGES_world_5_cap_per_img_0_min_word_freq.hdf5 damaged" in told
    assert "VAL_CELLS" in told and "computed anew" in told and not half.exists()
    assert {p.name for p in moved.glob("*-of-*")} == {
        n for n in parts if "TRAIN_CELLS" in n
    }
    for name, found in arrays(one).items():
        for key, value in found.items():
            same(arrays(moved)[name][key], value)


def test_the_reward_is_learnt_together(tmp_path, world):
    choices = {"epochs": 1, "self_critical_epochs": 1, "fine_tune": True}
    together(2, partial(a_run, tmp_path, world, **choices))
    assert [row["lesson"] for row in history(tmp_path)] == ["words", "reward"]


def children(process):
    """Wait for both processes that a torchrun has started; return their numbers."""
    own = psutil.Process(process.pid)
    while len(found := own.children()) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    return [child.pid for child in found]


def test_a_killed_process_changes_nothing(tmp_path, world):
    """Killed in the second epoch or soon after: the group begins again, ends equal."""
    choices = {"epochs": 8, "batch_size": 2, "dropout": 0.5, "keep_minutes": 0}
    together(2, partial(a_run, tmp_path / "whole", world, **choices))
    parameters = tmp_path / "parameters.yaml"
    choices = choices_of(tmp_path / "killed", world, **choices)
    parameters.write_text(yaml.safe_dump(choices))
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run += ["--nproc-per-node=2", "--max-restarts=1", "-m", "satlib.fit"]
    run = subprocess.Popen([*run, "-f", str(parameters)], stderr=subprocess.PIPE)
    while not (tmp_path / "killed" / "last.pt").exists():
        assert run.poll() is None
        time.sleep(0.01)
    os.kill(children(run)[1], signal.SIGKILL)
    told = run.communicate()[1].decode()
    assert "exitcode: -9" in told and run.returncode == 0, told
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    whole, other = (torch.load(tmp_path / n / "last.pt") for n in ("whole", "killed"))
    for name, weights in whole["decoder"].items():
        assert torch.equal(other["decoder"][name], weights)
