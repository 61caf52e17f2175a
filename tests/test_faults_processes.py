"""Two runs, or two names, for one file"""

import json
import os
import platform
import shutil
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from satlib import batches, configuration, files
from satlib import fit as fit_module
from satlib.batches import CaptionDataset, cache_features, is_cached
from satlib.configuration import Config
from satlib.dataset import Files, create_input_files
from satlib.files import LOCK, MACHINE, hold, make_folder, owner, tidy
from satlib.fit import fit
from satlib.scenes import load_scenes, write_scenes

fcntl = pytest.importorskip("fcntl")
SIZES = {"attention_dim": 8, "embed_dim": 8, "decoder_dim": 8, "batch_size": 4}


def a_config(world, **choices):
    paths = {"captions": world / "captions.csv", "images": world / "Images"}
    paths = {name: str(path) for name, path in (paths | {"splits": world}).items()}
    usual = {"min_freq": 0, "image_size": 64, "stage": 5, "epochs": 1} | SIZES
    return Config(dataset="world", **paths | usual | choices)


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """A folder that holds a world and a run on it: (its path, the run's folder)."""
    folder = tmp_path_factory.mktemp("processes") / "all"
    shutil.copytree(world, folder)
    fit(a_config(folder, output=str(folder / "run")))
    return folder


@pytest.fixture
def place(finished, tmp_path):
    """A copy of that folder, to be spoilt."""
    shutil.copytree(finished, tmp_path / "all")
    return tmp_path / "all"


def state_of(folder):
    """What a folder holds, and when it was changed."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in paths}


class Other:
    """Another run that holds a folder until it is told to end: a thread, not ours."""

    def __init__(self, folder, brief=False):
        self.folder, self.brief = folder, brief

    def __enter__(self):
        self.begun, self.done = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        assert self.begun.wait(10)
        return self

    def run(self):
        with hold(self.folder, self.brief):
            self.begun.set()
            self.done.wait(20)

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def test_a_folder_that_is_held(tmp_path):
    """A folder that another run holds: refused at once, and nothing changes."""
    with Other(tmp_path / "run"):
        before, start = state_of(tmp_path), time.monotonic()
        with pytest.raises(OSError, match="another run .* writes here"):
            hold(tmp_path / "run").__enter__()
        assert time.monotonic() - start < 1 and state_of(tmp_path) == before
    with hold(tmp_path / "run"), hold(tmp_path / "run", brief=True):
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    assert not [*(tmp_path / "run").iterdir()]


def test_a_folder_that_is_held_for_a_while(tmp_path, capsys):
    """A folder that another run holds briefly: said, and waited for."""
    with ExitStack() as stack:
        other = stack.enter_context(Other(tmp_path, brief=True))
        threading.Timer(0.3, other.done.set).start()
        with hold(tmp_path):
            assert not other.thread.is_alive() or other.done.is_set()
    assert "another run" in capsys.readouterr().out


def lock_of(folder, **changes):
    """Write a lock as another process would; return its path."""
    lock = folder / LOCK
    lock.touch()
    content = {"owner": owner(), "thread": -1, "machine": platform.node()}
    content |= {"brief": False, "inode": lock.stat().st_ino} | changes
    lock.write_text(json.dumps(content))
    return lock


MINE = owner().split("-")
STALE = {
    "of a dead process": {"owner": f"{MACHINE}-{2**22 + 1}-1"},
    "of a number that another process has by now": {"owner": f"{MACHINE}-{MINE[1]}-1"},
    "of the first process": {"owner": f"{MACHINE}-1-77777"},
    "copied with its folder": {"inode": -1},
    "of another machine that is silent": {"owner": "0123abcd-1-1"},
    "of a machine of the same name": {"owner": f"0123abcd-{MINE[1]}-{MINE[2]}"},
}


@pytest.mark.parametrize("what", STALE)
def test_a_lock_of_nobody(tmp_path, monkeypatch, what):
    """A lock whose holder is no more, or was never here: taken over, nothing blocks."""
    if "machine" in what or "copied" in what:  # else it is known at once
        monkeypatch.setattr(files, "PATIENCE", 0.2)
    lock_of(tmp_path, **STALE[what])
    start = time.monotonic()
    with hold(tmp_path):
        assert time.monotonic() - start < 10
    assert not [*tmp_path.iterdir()]
    lock_of(tmp_path, **STALE[what])
    tidy(tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"owner": 3}', "\0\0", "ä" * 99])
def test_a_damaged_lock(tmp_path, text):
    """A lock that is empty or damaged, as of a process killed at once: taken over."""
    (tmp_path / LOCK).write_text(text)
    with hold(tmp_path):
        pass
    assert not [*tmp_path.iterdir()]


def test_another_machine_at_work(tmp_path, monkeypatch):
    """A lock that a process of another machine touches: respected."""
    monkeypatch.setattr(files, "PATIENCE", 2)
    lock, done = lock_of(tmp_path, owner="0123abcd-1-1"), threading.Event()

    def touch():
        while not done.wait(0.1):
            os.utime(lock)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(OSError, match="another run"):
            hold(tmp_path).__enter__()
    finally:
        done.set()
        thread.join()


def test_a_process_that_tells_nothing(tmp_path, monkeypatch):
    """A lock of a process that the system hides from us: judged by its beat."""
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    monkeypatch.setattr(files, "begun", lambda pid: "")
    lock_of(tmp_path)
    with hold(tmp_path):
        pass


def test_the_holder_touches_its_lock(tmp_path, monkeypatch):
    """A run of hours on one machine: those on others see that it is alive."""
    monkeypatch.setattr(files, "BEAT", 0.02)
    with hold(tmp_path):
        before = (tmp_path / LOCK).stat().st_mtime_ns
        time.sleep(0.2)
        assert (tmp_path / LOCK).stat().st_mtime_ns != before


def test_many_who_take_over_at_once(tmp_path, monkeypatch):
    """Eight runs that find a dead one's lock at the same time: one after another."""
    lock_of(tmp_path, owner=f"{MACHINE}-{2**22 + 1}-1")
    inside, most, ended, lives = [], [], [], files._lives

    def slowly(*what):  # so that all of them have judged before one acts
        found = lives(*what)
        time.sleep(0.01)
        return found

    monkeypatch.setattr(files, "_lives", slowly)
    monkeypatch.setattr(files, "BEAT", 0.02)
    monkeypatch.setattr(files, "PATIENCE", 0.5)

    def run():
        with hold(tmp_path, brief=True):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.005)
            inside.pop()
        ended.append(1)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 8 and max(most) == 1 and not [*tmp_path.iterdir()]


def test_a_lock_that_vanishes_while_it_is_judged(tmp_path, monkeypatch):
    """A lock that another run takes away while it is judged: as if it had not been."""
    gone, holder = tmp_path / LOCK, {"owner": files.owner(), "inode": 1}
    monkeypatch.setattr(Path, "exists", lambda path: True)
    assert not files._lives(gone, holder)


def test_a_zombie_is_dead(monkeypatch):
    """A killed process whose parent has not heard of it yet: counts as dead."""
    assert files.begun(os.getpid()) == MINE[2]
    monkeypatch.setattr(psutil.Process, "status", lambda self: psutil.STATUS_ZOMBIE)
    assert files.begun(os.getpid()) is None


SPELLINGS = {
    "as it is": lambda run: str(run),
    "with a slash": lambda run: f"{run}/",
    "from here": lambda run: os.path.relpath(run),
    "with dots": lambda run: f"{run}/../{run.name}",
    "by a symbolic link": lambda run: linked(run),
}


def linked(run):
    link = run.parent / "link"
    link.symlink_to(run)
    return str(link)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("resume", [True, False])
def test_two_runs_in_one_folder(place, monkeypatch, spelling, resume):
    """A second run in a folder, however its path is spelt: refused, nothing changes."""
    monkeypatch.chdir(place)
    run = place / "run"
    config = a_config(place, output=SPELLINGS[spelling](run), epochs=2)
    with Other(run):
        before = state_of(run)
        with pytest.raises(OSError, match="another run"):
            fit(config, resume=resume)
        assert state_of(run) == before
    assert len(fit(config, resume=resume).history) == 2


@pytest.mark.parametrize("resume", [True, False])
def test_nothing_is_read_in_vain(place, monkeypatch, resume):
    """A run that cannot be, as another is there, or of other choices: told at once."""
    monkeypatch.setattr(fit_module, "plan_data", None)  # which may take minutes
    config = a_config(place, output=str(place / "run"), decoder_dim=9)
    with Other(place / "run"), pytest.raises(OSError, match="another run"):
        fit(config, resume=resume)
    if resume:
        with pytest.raises(ValueError, match="decoder_dim=8, not 9"):
            fit(config)


OTHERS = {
    "another size": {"decoder_dim": 9},
    "another seed": {"seed": 3},
    "other data": {"max_images": 3},
    "another image size": {"image_size": 32},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_run_that_may_not_go_on(place, what):
    """A run of other choices in the folder: refused by name, not a byte has changed."""
    before = state_of(place)
    name, value = next(iter(OTHERS[what].items()))
    with pytest.raises(ValueError, match=rf"\.pt is of a run with {name}=.*{value}"):
        fit(a_config(place, output=str(place / "run"), **OTHERS[what]))
    assert state_of(place) == before


def replace_photograph(place, split="train", same_time=True):
    """Replace a photograph by another one of equal size and time; return its name."""
    name = (place / f"{split}.txt").read_text().split()[0]
    path = place / "Images" / name
    data, stat = bytearray(path.read_bytes()), path.stat()
    with Image.open(path) as image:
        other = np.asarray(image)[::-1, ::-1].copy()
    Image.fromarray(other).save(path)
    data = path.read_bytes().ljust(stat.st_size, b"\0")[: stat.st_size]
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    return name


def test_a_photograph_of_equal_size(place):
    """A photograph replaced by one of equal size and time: noticed, nothing changes."""
    replace_photograph(place)
    before = state_of(place / "run")
    with pytest.raises(ValueError, match="other data: images changed"):
        fit(a_config(place, output=str(place / "run"), epochs=2))
    assert state_of(place / "run") == before
    options = {"min_freq": 0, "image_size": 64, "splits": place}
    what = "world", place / "captions.csv", place / "Images", place / "run"
    (image,) = place.glob("run/TRAIN_IMAGES*")
    first = image.read_bytes()
    create_input_files(*what, **options)
    assert image.read_bytes() != first


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_a_folder_that_moves(place, tmp_path, how):
    """A folder that was moved or copied, photographs and all: its run goes on there."""
    how(place, tmp_path / "elsewhere")
    place = tmp_path / "elsewhere"
    run = fit(a_config(place, output=str(place / "run"), epochs=2))
    assert [row["epoch"] for row in run.history] == [1, 2]
    assert run.folder == place / "run"


def test_photographs_spelt_otherwise(place, monkeypatch, tmp_path):
    """The same photographs by another path, without `output`: the run is found."""
    monkeypatch.setattr(configuration, "ROOT", tmp_path / "satlib")
    first = fit(a_config(place))
    monkeypatch.chdir(place)
    paths = {"captions": "captions.csv", "images": "./Images/", "splits": "."}
    again = fit(replace(a_config(place), **paths, epochs=2))
    assert again.folder == first.folder and len(again.history) == 2
    replace_photograph(place)
    other = fit(replace(a_config(place), **paths))
    assert other.folder.parent != first.folder.parent


def damage(path, how):
    data = path.read_bytes()
    new = {"emptied": b"", "cut": data[: len(data) // 2], "garbled": b"\xff" * 99}
    if how == "gone":
        path.unlink()
    elif how == "a folder":
        path.unlink()
        path.mkdir()
        path.rmdir()
    else:
        path.write_bytes(new[how])


def same(one, other):
    """Tell whether two folders hold the same files, whatever their times."""
    return [
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")}
        for folder in (one, other)
    ].count({p.relative_to(one): p.read_bytes() for p in one.rglob("*.*")}) == 2


PARTS = ["IMAGES", "CAPTIONS", "CAPLENS", "REFERENCES", "WORDMAP", "MANIFEST"]


@pytest.mark.parametrize("how", ["emptied", "cut", "garbled", "gone"])
@pytest.mark.parametrize("part", PARTS)
def test_damaged_data(world, tmp_path, capsys, part, how):
    """A data file that was emptied, cut, garbled or deleted: named and made again."""
    what = "world", world / "captions.csv", world / "Images"
    options = {"min_freq": 0, "image_size": 32, "splits": world}
    for name in "a", "b":
        create_input_files(*what, tmp_path / name, **options)
    path = next(iter(sorted((tmp_path / "b").glob(f"*{part}*"))))
    damage(path, how)
    capsys.readouterr()
    create_input_files(*what, tmp_path / "b", **options)
    told = capsys.readouterr().out
    assert path.name in told or (part, how) == ("MANIFEST", "gone")
    assert same(tmp_path / "a", tmp_path / "b")


def test_data_of_two_runs_mixed(world, tmp_path, capsys):
    """The images of one split in the place of another's: noticed, made again."""
    what = "world", world / "captions.csv", world / "Images", tmp_path / "a"
    options = {"min_freq": 0, "image_size": 32, "splits": world}
    files = Files(tmp_path / "a", create_input_files(*what, **options))
    whole = files.path("images", "val").read_bytes()
    shutil.copy(files.path("images", "test"), files.path("images", "val"))
    create_input_files(*what, **options)
    assert files.path("images", "val").name in capsys.readouterr().out
    assert files.path("images", "val").read_bytes() == whole


def test_data_under_a_run(place):
    """Data files asked for anew with other settings where a run is at work: refused."""
    what = "world", place / "captions.csv", place / "Images", place / "run"
    with Other(place / "run"):
        before = state_of(place)
        with pytest.raises(OSError, match="another run"):
            create_input_files(*what, min_freq=0, image_size=32, splits=place)
        assert state_of(place) == before
        fit(a_config(place, output=str(place / "run2")))  # what is fresh can be read


class Eyes(torch.nn.Linear):
    """An encoder that needs no time, and counts the images that it sees."""

    seen = 0

    def begin(self, images):
        self.seen += len(images)
        return super().forward(images.flatten(2).transpose(1, 2).float())

    def fingerprint(self):
        return "eyes"


@pytest.fixture
def pictures(tmp_path):
    """A file of twenty images."""
    path = tmp_path / "images.hdf5"
    with h5py.File(path, "w") as file:
        values = np.random.default_rng(0).integers(0, 255, (20, 3, 4, 4))
        file["images"] = values.astype("u1")
        file.attrs["sha256"] = "x"
    return path


def cells_of(path):
    with h5py.File(path) as file:
        return file["cells"][:]


def spoil(path, how):
    with h5py.File(path, "r+") as file:
        if how == "unfinished":
            file["done"][()] = 7
        elif how == "too far":
            file["done"][()] = 99
        elif how == "of another encoder":
            file.attrs["key"] = "other"
        elif how == "without a key":
            del file.attrs["key"]
        elif how == "without cells":
            del file["cells"]
        else:
            cells = file["cells"][: 7 if how == "too few rows" else None]
            del file["cells"]
            file["cells"] = cells.astype("f4" if how == "of another type" else "f2")


BAD = ["emptied", "cut", "garbled", "unfinished", "too far", "of another encoder"]
BAD += ["without a key", "without cells", "too few rows", "of another type"]


@pytest.mark.parametrize("how", BAD)
@pytest.mark.parametrize("name", ["cells.hdf5", "cells.hdf5.part", "cells.hdf5.x.part"])
def test_a_damaged_cache(tmp_path, pictures, capsys, how, name):
    """A feature cache, or the half of one, that is damaged or foreign: made again."""
    torch.manual_seed(0)
    eyes, target = Eyes(3, 5), tmp_path / "cells.hdf5"
    whole = cells_of(cache_features(eyes, pictures, target, 4))
    target.rename(tmp_path / name)
    path = tmp_path / name
    damage(path, how) if how in ("emptied", "cut", "garbled") else spoil(path, how)
    assert not is_cached(eyes, pictures, target)
    capsys.readouterr()
    cache_features(eyes, pictures, target, 4)
    assert (cells_of(target) == whole).all()
    assert (name != target.name) or target.name in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"images.hdf5", "cells.hdf5"}


def test_the_half_of_a_dead_process(tmp_path, pictures):
    """The halves that dead processes left of a cache: the fullest is gone on with."""
    eyes, target = Eyes(3, 5), tmp_path / "cells.hdf5"
    whole = cells_of(cache_features(eyes, pictures, target, 4))
    for done in 8, 16, 4:
        half = tmp_path / f"cells.hdf5.{MACHINE}-{2**22 + done}-1.part"
        shutil.copy(target, half)
        with h5py.File(half, "r+") as file:
            file["done"][()] = done
            file["cells"][done:] = 0
    target.unlink()
    eyes.seen = 0
    cache_features(eyes, pictures, target, 4)
    assert eyes.seen == 4 and (cells_of(target) == whole).all()
    assert {p.name for p in tmp_path.iterdir()} == {"images.hdf5", "cells.hdf5"}


def test_a_half_with_two_names(tmp_path, pictures):
    """The half of a cache that has a second name in a copied folder: not written to."""
    eyes, target = Eyes(3, 5), tmp_path / "cells.hdf5"
    cache_features(eyes, pictures, target, 4)
    half, twin = (
        tmp_path / f"cells.hdf5.{MACHINE}-{2**22 + 1}-1.part",
        tmp_path / "twin",
    )
    target.rename(half)
    with h5py.File(half, "r+") as file:
        file["done"][()] = 8
        file["cells"][8:] = 0
    os.link(half, twin)
    before = twin.read_bytes()
    cache_features(eyes, pictures, target, 4)
    assert twin.read_bytes() == before and is_cached(eyes, pictures, target)


def test_file_systems_without_locks(world, tmp_path, monkeypatch):
    """A file system whose locks fail, or that are held by others: not asked for."""
    what = "world", world / "captions.csv", world / "Images", tmp_path
    base = create_input_files(*what, min_freq=0, image_size=32, splits=world)
    images = Files(tmp_path, base).path("images", "TRAIN")

    class Sighted(Eyes):
        """Sees squares."""

    cells = cache_features(Sighted(3, 5), images, tmp_path / "cells.hdf5")
    with ExitStack() as stack:
        for path in (images, cells):
            file = stack.enter_context(open(path, "rb"))
            fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="lock"):
            h5py.File(cells, locking=True)
        assert is_cached(Sighted(3, 5), images, cells)
        assert CaptionDataset(Files(tmp_path, base), "TRAIN", cells)[0][0].shape[1] == 5
        assert CaptionDataset(Files(tmp_path, base), "TRAIN")[0][0].shape == (3, 32, 32)
        create_input_files(*what, min_freq=0, image_size=32, splits=world)
    for module in (files, batches, fit_module):
        assert "fcntl" not in Path(module.__file__).read_text()


@pytest.mark.parametrize("how", ["emptied", "cut", "garbled", "gone"])
@pytest.mark.parametrize(
    "name",
    ["scenes.json", "captions.txt", "train.txt", "images/scene_00001.png"]
    + ["masks/scene_00002.png"],
)
def test_damaged_scenes(tmp_path, capsys, name, how):
    """A file of a folder of scenes emptied, cut, garbled or deleted: drawn again."""
    for folder in "a", "b":
        write_scenes(tmp_path / folder, 3)
    damage(tmp_path / "b" / name, how)
    if (name, how) == ("scenes.json", "gone"):  # then it is anybody's folder
        with pytest.raises(ValueError, match="not empty"):
            write_scenes(tmp_path / "b", 3)
        return
    capsys.readouterr()
    write_scenes(tmp_path / "b", 3)
    told = capsys.readouterr().out
    assert "drawn again" in told or "damaged" in told
    assert same(tmp_path / "a", tmp_path / "b")
    assert len(load_scenes(tmp_path / "b")) == 3


def test_an_interrupted_drawing_with_a_damaged_picture(tmp_path):
    """A picture that was damaged while the drawing was interrupted: drawn again."""
    for folder in "a", "b":
        write_scenes(tmp_path / folder, 3)
    manifest = tmp_path / "b" / "scenes.json"
    found = json.loads(manifest.read_text())
    del found["written"]
    manifest.write_text(json.dumps(found | {"complete": False}))
    damage(tmp_path / "b" / "images" / "scene_00001.png", "cut")
    write_scenes(tmp_path / "b", 3)
    assert same(tmp_path / "a", tmp_path / "b")


EMPTY = {"train": "TRAIN", "val": "VAL"}


@pytest.mark.filterwarnings("ignore:no image for")
@pytest.mark.parametrize("split", EMPTY)
def test_an_empty_split(world, tmp_path, split):
    """An empty training or validation split: refused before anything is written."""
    lists = tmp_path / "lists"
    lists.mkdir()
    for name in {"train", "val", "test"} - {split}:
        shutil.copy(world / f"{name}.txt", lists)
    config = a_config(world, output=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=f"the {EMPTY[split]} split is empty"):
        fit(replace(config, splits=str(lists)))
    assert not (tmp_path / "run").exists()


def test_a_split_whose_photographs_are_all_broken(place):
    """A validation split of broken photographs, which are skipped: refused at once."""
    for name in (place / "val.txt").read_text().split():
        (place / "Images" / name).write_bytes(b"broken")
    config = a_config(place, output=str(place / "new"), on_error="skip")
    with pytest.raises(ValueError, match="the VAL split is empty"):
        fit(config)
    assert not [*place.glob("new/*CELLS*")]


def test_a_folder_is_swept(tmp_path):
    """What dead processes left, files and folders: removed; what lives stays."""
    dead, living = f"{MACHINE}-{2**22 + 1}-1-0.part", f"{owner()}-0.part"
    for name in (f"a.{dead}", f"b.{living}"):
        (tmp_path / name).write_text("")
    (tmp_path / f"c.{dead}").mkdir()
    (tmp_path / f"c.{dead}" / "half").write_text("")
    make_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"b.{living}"]
