"""The dataset room: the worked example, the fixed files, interruption."""

import inspect
import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from satlib import dataset
from satlib.caption_files import SPLITS, read_captions, read_splits
from satlib.dataset import (
    Files,
    Settings,
    build_word_map,
    captions_that_fit,
    choose_captions,
    count_words,
    create_input_files,
    encode_caption,
    plan_files,
    split_images,
)

FLICKR8K = Path(__file__).parents[2] / "shared" / "flickr8k"
EXAMPLE = """image,caption
img1.jpg,A cat.
img1.jpg,Black cat.
img1.jpg,Cat on mat.
img2.jpg,A dog.
img2.jpg,Brown dog.
img3.jpg,A bird.
img3.jpg,Blue bird.
img3.jpg,Bird flies.
img4.jpg,A fish.
"""
COUNTS = {"a": 4, "cat": 3, "black": 1, "on": 1, "mat": 1, "dog": 2, "brown": 1}
COUNTS |= {"bird": 3, "blue": 1, "flies": 1, "fish": 1}
WORD_MAP = {"<pad>": 0, "a": 1, "cat": 2, "dog": 3, "bird": 4}
WORD_MAP |= {"<start>": 5, "<end>": 6, "<unk>": 7}
OPTIONS = {"caps_per_img": 2, "min_freq": 1, "max_length": 4, "vocabulary": "all"}
BASE = "example_2_cap_per_img_1_min_word_freq"
EMPTY = "ignore:no image for:UserWarning"


@pytest.fixture
def example(tmp_path):
    """A folder with captions.csv and the four pictures, each of one colour."""
    (tmp_path / "captions.csv").write_text(EXAMPLE)
    (tmp_path / "images").mkdir()
    for number in range(1, 5):
        colour = (50 * number, 0, 0)
        path = tmp_path / "images" / f"img{number}.jpg"
        Image.new("RGB", (40, 30), colour).save(path, quality=95)
    return tmp_path


def create(folder, **options):
    paths = folder / "captions.csv", folder / "images", folder / "out"
    return create_input_files("example", *paths, **OPTIONS | options)


def written(folder, base=BASE):
    return Files(folder / "out", base)


def contents(folder):
    """Everything a run wrote: bytes of the JSON files, arrays and attributes."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            found[path.name] = path.read_bytes()
        else:
            with h5py.File(path) as file:
                found[path.name] = file["images"][:].tobytes(), dict(file.attrs)
    return found


def test_example_1_caption_map_and_counts(example):
    captions = read_captions(example / "captions.csv").captions
    assert captions == {
        "img1.jpg": [["a", "cat"], ["black", "cat"], ["cat", "on", "mat"]],
        "img2.jpg": [["a", "dog"], ["brown", "dog"]],
        "img3.jpg": [["a", "bird"], ["blue", "bird"], ["bird", "flies"]],
        "img4.jpg": [["a", "fish"]],
    }
    counts = count_words(captions, captions)
    assert list(counts.items()) == list(COUNTS.items())
    assert count_words(captions, ["img4.jpg", "img2.jpg"]) == {
        "a": 2,
        "dog": 2,
        "brown": 1,
        "fish": 1,
    }


def test_example_2_split():
    names = ["img1.jpg", "img2.jpg", "img3.jpg", "img4.jpg"]
    assert np.random.RandomState(28).permutation(4).tolist() == [0, 2, 3, 1]
    with pytest.warns(UserWarning, match=r"for val: 4 images.*0\.8 \* 4.*= 3.*= 3"):
        parts = split_images(names, np.random.RandomState(28))
    train = ["img1.jpg", "img3.jpg", "img4.jpg"]
    assert parts == {"train": train, "val": [], "test": ["img2.jpg"]}


def test_example_3_word_map():
    word_map = build_word_map(COUNTS, min_freq=1)
    assert list(word_map.items()) == list(WORD_MAP.items())


@pytest.mark.filterwarnings(EMPTY)
def test_example_4_and_5_files(example):
    assert create(example) == BASE
    assert len(list((example / "out").iterdir())) == 14
    with h5py.File(written(example).path("images", "train")) as file:
        images = file["images"][:]
        assert images.shape == (3, 3, 256, 256) and images.dtype == np.uint8
        assert file.attrs["captions_per_image"] == 2
        reds = images[:, 0, 0, 0].astype(int)
        assert np.abs(reds - [50, 150, 200]).max() <= 3  # img1, img3, img4
        assert images[:, 1:].max() <= 3

    read = written(example).read
    assert read("wordmap") == WORD_MAP
    rows = read("captions", "train")
    assert rows[:2] == [[5, 1, 2, 6], [5, 7, 2, 6]]  # a cat, black cat
    of_bird = ([5, 1, 4, 6], [5, 7, 4, 6], [5, 4, 7, 6])  # a, blue, flies
    assert rows[2] != rows[3] and rows[2] in of_bird and rows[3] in of_bird
    assert rows[4:] == [[5, 1, 7, 6], [5, 1, 7, 6]]  # a fish, twice
    assert read("caplens", "train") == [4] * 6
    assert read("captions", "test") == [[5, 1, 3, 6], [5, 7, 3, 6]]
    assert read("references", "test") == [
        {"file": "img2.jpg", "captions": [["a", "dog"], ["brown", "dog"]]}
    ]
    assert read("references", "train")[0] == {
        "file": "img1.jpg",
        "captions": [["a", "cat"], ["black", "cat"], ["cat", "on", "mat"]],
    }
    assert [read(kind, "val") for kind in ("captions", "caplens", "references")] == [
        [],
        [],
        [],
    ]
    with h5py.File(written(example).path("IMAGES", "VAL")) as file:
        assert file["images"].shape == (0, 3, 256, 256)


def test_example_5_rows():
    assert encode_caption(["a", "bird"], WORD_MAP, 4) == [5, 1, 4, 6]
    assert encode_caption(["bird", "flies"], WORD_MAP, 4) == [5, 4, 7, 6]
    assert encode_caption(["a"], WORD_MAP, 4) == [5, 1, 6, 0]
    captions = {"a": [["cat", "on", "mat"], ["cat"]], "b": [["cat", "on", "mat"]]}
    assert captions_that_fit(captions, 4) == {"a": [["cat"]]}
    assert captions_that_fit(captions, 5) == captions


WORDS = st.lists(
    st.sampled_from(["the", "quick", "brown", "fox", "jumps", "over", "dogs"])
)


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1), st.integers(0, 3), st.integers(0, 4))
def test_rows_lead_back_to_the_words(captions, min_freq, extra):
    counts = count_words({"image": captions}, ["image"])
    word_map = build_word_map(counts, min_freq)
    assert sorted(word_map.values()) == list(range(len(word_map)))
    token = {number: word for word, number in word_map.items()}
    longest = max(map(len, captions)) + 2 + extra
    for words in captions:
        row = encode_caption(words, word_map, longest)
        assert len(row) == longest
        start, *inner, end = [token[n] for n in row[: len(words) + 2]]
        assert (start, end) == ("<start>", "<end>")
        assert inner == [w if counts[w] > min_freq else "<unk>" for w in words]
        assert set(row[len(words) + 2 :]) <= {0}


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_choice_of_captions(own, count, seed):
    captions = [[str(n)] for n in range(own)]
    chosen = choose_captions(captions, count, np.random.RandomState(seed))
    assert chosen == choose_captions(captions, count, np.random.RandomState(seed))
    assert len(chosen) == count
    assert len({c[0] for c in chosen}) == min(own, count)
    if own <= count:
        assert chosen[:own] == captions


def test_the_sample_is_random():
    captions, random = [["a"], ["b"], ["c"]], np.random.RandomState(0)
    seen = {choose_captions(captions, 1, random)[0][0] for _ in range(50)}
    assert seen == {"a", "b", "c"}


@settings(deadline=None)
@given(st.integers(10, 200), st.integers(0, 9))
def test_split_divides_all_images(n, seed):
    names = [str(i) for i in range(n)]
    parts = split_images(names, np.random.RandomState(seed))
    assert sorted(sum(parts.values(), [])) == sorted(names)
    ends = int(0.8 * n), int(0.9 * n)
    sizes = [len(parts[split]) for split in SPLITS]
    assert sizes == [ends[0], ends[1] - ends[0], n - ends[1]]


@pytest.mark.filterwarnings(EMPTY)
def test_official_lists_replace_the_shuffle(example):
    (example / "train.txt").write_text("img4.jpg\nimg1.jpg\nimg9.jpg\n")
    (example / "val.txt").write_text("img2.jpg\n")
    files = [example / "train.txt", example / "val.txt"]
    lists = {"train": ["img4.jpg", "img1.jpg", "img9.jpg"], "val": ["img2.jpg"]}
    written = []
    for number, splits in enumerate((example, files, lists)):
        copy = example / str(number)
        paths = example / "captions.csv", example / "images", copy
        create_input_files("example", *paths, **OPTIONS, splits=splits)
        written.append(contents(copy))
    assert written[0] == written[1] == written[2]
    references = Files(copy, BASE).read("references", "train")
    assert [image["file"] for image in references] == ["img4.jpg", "img1.jpg"]
    word_map = Files(copy, BASE).read("wordmap")  # of the three, in file order
    assert list(word_map)[1:-3] == ["a", "cat", "dog"]
    with pytest.raises(ValueError, match="no image left: 4 images.*lists of 1"):
        create(example, splits={"train": ["img9.jpg"]})


@pytest.mark.filterwarnings(EMPTY)
def test_splits_of_karpathys_file_are_used(example):
    images = [
        {"filename": f"img{n}.jpg", "split": split, "sentences": [{"raw": "A cat."}]}
        for n, split in ((1, "val"), (2, "restval"), (3, "test"))
    ]
    captions = example / "dataset.json"
    captions.write_text(json.dumps({"images": images}))
    out = example / "out"
    base = create_input_files("k", captions, example / "images", out, min_freq=0)
    for split, name in zip(SPLITS, ("img2.jpg", "img1.jpg", "img3.jpg"), strict=True):
        (image,) = Files(out, base).read("references", split)
        assert image["file"] == name
    assert len(Files(out, base).read("captions", "train")) == 5


@pytest.mark.filterwarnings(EMPTY)
def test_vocabulary_of_training_only_is_the_default(example):
    create(example, vocabulary="train", min_freq=0)
    base = "example_2_cap_per_img_0_min_word_freq"
    words = set(written(example, base).read("wordmap"))
    assert words & {"dog", "brown"} == set() and {"a", "mat", "flies"} <= words
    unknown = written(example, base).read("wordmap")["<unk>"]
    assert unknown in written(example, base).read("captions", "test")[0]


@pytest.mark.filterwarnings(EMPTY)
def test_max_images_per_split_and_image_size(example):
    create(example, max_images=1, image_size=32)
    for split, count in zip(SPLITS, (1, 0, 1), strict=True):
        with h5py.File(written(example).path("images", split)) as file:
            assert file["images"].shape == (count, 3, 32, 32)
        assert len(written(example).read("caplens", split)) == 2 * count


@pytest.mark.filterwarnings(EMPTY)
def test_bad_photographs_are_named_or_skipped(example, capsys):
    (example / "images" / "img3.jpg").unlink()
    (example / "images" / "img4.jpg").write_bytes(b"broken")
    with pytest.raises(FileNotFoundError, match=r"1 of 4.*img3\.jpg"):
        create(example)
    with pytest.raises(ValueError, match=r"img4\.jpg: not a usable photograph"):
        create(
            example, splits={"train": ["img1.jpg", "img4.jpg"], "test": ["img2.jpg"]}
        )
    with pytest.raises(FileNotFoundError, match="run create_input_files for example"):
        written(example).read("wordmap")
    create(example, on_error="skip")
    assert "left out 2 of 3 photographs" in capsys.readouterr().out
    assert written(example).read("caplens", "train") == [4, 4]
    words = written(example).read("wordmap")
    assert list(words)[1:-3] == ["a", "cat", "dog"]  # none of bird or fish


@pytest.mark.filterwarnings(EMPTY)
def test_empty_and_long_captions_are_counted(example, capsys):
    with open(example / "captions.csv", "a") as file:
        file.write('img1.jpg,...\nimg5.jpg,A fish that is long\n"img6.jpg",!\n')
    create(example)
    assert "left out: 2 empty captions, 2 too long, 2 images" in capsys.readouterr().out
    train = written(example).read("references", "train")
    assert {image["file"] for image in train} <= {f"img{n}.jpg" for n in (1, 2, 3, 4)}


@pytest.mark.filterwarnings(EMPTY)
def test_a_second_run_does_nothing_and_another_setting_writes_anew(example, capsys):
    create(example)
    before = {path: path.stat().st_mtime_ns for path in (example / "out").iterdir()}
    create(example)
    assert "nothing to do" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in (example / "out").iterdir()}
    first = contents(example / "out")
    create(example, max_length=5, seed=1)
    assert "other max_length, seed, images than before" in capsys.readouterr().out
    assert contents(example / "out") != first
    Image.new("RGB", (99, 99)).save(example / "images" / "img1.jpg")
    create(example, max_length=5, seed=1)
    assert "other images than before" in capsys.readouterr().out
    (example / "captions.csv").write_text(EXAMPLE.replace("Brown", "Old"))
    create(example, max_length=5, seed=1)
    assert "other captions than before" in capsys.readouterr().out
    written(example).path("caplens", "val").unlink()
    create(example, max_length=5, seed=1)
    assert len(list((example / "out").iterdir())) == 14


@pytest.mark.filterwarnings(EMPTY)
def test_what_was_there_stays_where_it_cannot_be_written_anew(example):
    create(example)
    before = contents(example / "out")
    whole = (example / "images" / "img2.jpg").read_bytes()
    (example / "images" / "img2.jpg").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"img2\.jpg"):
        create(example, image_size=32)
    assert contents(example / "out") == before
    (example / "images" / "img2.jpg").write_bytes(whole)
    create(example, image_size=32)
    with h5py.File(written(example).path("images", "train")) as file:
        assert file["images"].shape == (3, 3, 32, 32)


@pytest.mark.filterwarnings(EMPTY)
def test_the_manifest_holds_all_settings_and_what_went_in(example):
    create(example, max_images=1, seed=3)
    manifest = written(example).read("manifest")
    settings = {field.name: manifest.pop(field.name) for field in fields(Settings)}
    defaults = {"image_size": 256, "on_error": "raise", "tokens": "words"}
    assert settings == OPTIONS | defaults | {"max_images": 1, "seed": 3}
    assert set(manifest) == {"captions", "images", "written"}
    assert manifest.pop("written") == written(example).seals()
    assert all(len(value) == 64 for value in manifest.values())
    with pytest.raises(FrozenInstanceError):
        Settings(**settings).seed = 4


def test_the_call_that_users_type_stays_and_is_annotated():
    parameters = inspect.signature(create_input_files).parameters
    assert [*parameters] == [
        *("dataset", "captions", "images", "output", "caps_per_img", "min_freq"),
        *("max_length", "seed", "splits", "vocabulary", "image_size", "on_error"),
        *("max_images", "tokens"),
    ]
    assert [p.default for p in parameters.values()][4:] == [
        *(5, 5, 52, 28, None, "train", 256, "raise", None, "words")
    ]
    annotated = inspect.get_annotations(create_input_files)
    assert set(annotated) == {*parameters, "return"} and annotated["return"] is str


@pytest.mark.filterwarnings(EMPTY)
def test_files_know_whether_they_are_there(example):
    files = written(example)
    assert set(files.seals().values()) == {None}
    create(example)
    assert len(files.seals()) == 13 and None not in files.seals().values()
    assert files.path("images", "val").name == f"VAL_IMAGES_{BASE}.hdf5"
    assert files.path("WORDMAP").name == f"WORDMAP_{BASE}.json"
    files.path("references", "test").unlink()
    assert files.seals()[files.path("references", "test").name] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caps_per_img": 0}, "caps_per_img=0 must be a whole number from 1 to"),
        ({"min_freq": -1}, "min_freq=-1"),
        ({"max_length": 2}, "max_length=2"),
        ({"image_size": 0}, "image_size=0"),
        ({"vocabulary": "val"}, "vocabulary='val' must be one of: train all"),
        ({"on_error": "ignore"}, "on_error='ignore' must be one of: raise skip"),
    ],
)
def test_impossible_settings_are_refused(example, options, message):
    with pytest.raises(ValueError, match=message):
        create(example, **options)
    assert not (example / "out").exists()


def test_a_disk_that_is_too_small_is_refused(example, monkeypatch):
    usage = type("Usage", (), {"free": 100_000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with (
        pytest.raises(OSError, match=r"4 photographs.*0\.1 MB are free"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        create(example)


@pytest.mark.filterwarnings(EMPTY)
def test_identical_photographs_and_captions_of_one_letter(example):
    same = (example / "images" / "img1.jpg").read_bytes()
    (example / "images" / "img3.jpg").write_bytes(same)
    (example / "captions.csv").write_text("img1.jpg,A\nimg3.jpg,A\nimg2.jpg,A\n")
    create(example, min_freq=0)
    out, base = example / "out", "example_2_cap_per_img_0_min_word_freq"
    assert Files(out, base).read("captions", "train") == [[2, 1, 3, 0]] * 4
    assert Files(out, base).read("caplens", "train") == [3] * 4


KILLED = """
import os, signal, sys, threading, warnings
import satlib.dataset, satlib.files, satlib.photographs

folder, moments = sys.argv[1], sys.argv[2:]
warnings.simplefilter("ignore")
lock, calls = threading.Lock(), {"load": 0, "rename": 0, "renamed": 0}

def create(output):
    options = {"caps_per_img": 2, "min_freq": 0, "max_length": 6, "image_size": 32}
    paths = f"{folder}/captions.csv", f"{folder}/images", f"{folder}/{output}"
    satlib.dataset.create_input_files("kill", *paths, **options)

def count(what, moment):
    with lock:
        calls[what] += 1
        if moment == f"{what}-{calls[what]}":
            os.kill(os.getpid(), signal.SIGKILL)

def run_until(moment):
    load, rename = satlib.photographs.load_photograph, os.replace
    def counted_load(*arguments):
        count("load", moment)
        return load(*arguments)
    def counted_rename(*arguments):
        count("rename", moment)
        rename(*arguments)
        count("renamed", moment)
    satlib.photographs.load_photograph = counted_load
    os.replace = counted_rename
    create(moment)

create("whole")
for moment in moments:
    child = os.fork()
    if not child:
        run_until(moment)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, moment
    left = [name for name in os.listdir(f"{folder}/{moment}") if name.endswith(".part")]
    assert left, moment
    create(moment)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_at_any_moment_and_run_again(tmp_path):
    (tmp_path / "images").mkdir()
    lines = []
    for n in range(100):
        Image.new("RGB", (30, 20), (n, 2 * n, 0)).save(tmp_path / f"images/{n}.png")
        lines += [f"{n}.png,a number {w}\n" for w in ("one", "two", "six")[: n % 4]]
    (tmp_path / "captions.csv").write_text("".join(lines))
    moments = ["load-1", "load-50", "load-70"]  # training, validation
    moments += [f"rename-{n}" for n in (1, 3, 4, 9, 13, 14)]  # into a folder
    moments += [f"rename-{n}" for n in (15, 20, 28)]  # out of it, the manifest last
    moments += [f"renamed-{n}" for n in (1, 3, 10, 14, 15, 27, 28)]
    command = [sys.executable, "-c", KILLED, str(tmp_path), *moments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    whole = contents(tmp_path / "whole")
    assert len(whole) == 14
    for moment in moments:
        assert contents(tmp_path / moment) == whole, moment


@pytest.mark.skipif(not FLICKR8K.is_dir(), reason=f"no Flickr8k in {FLICKR8K}")
@pytest.mark.filterwarnings(EMPTY)
def test_flickr8k(tmp_path):
    paths = FLICKR8K / "Flickr8k.token.txt", FLICKR8K / "Images", tmp_path
    options = {"splits": FLICKR8K, "max_images": 100, "image_size": 64}
    base = create_input_files("flickr8k", *paths, **options)
    assert base == "flickr8k_5_cap_per_img_5_min_word_freq"
    captions, lists = read_captions(paths[0]).captions, read_splits(FLICKR8K)
    word_map = Files(tmp_path, base).read("wordmap")
    for split in ("train", "val"):
        references = Files(tmp_path, base).read("references", split)
        assert [image["file"] for image in references] == lists[split][:100]
        assert all(captions[image["file"]] == image["captions"] for image in references)
        rows = Files(tmp_path, base).read("captions", split)
        lengths = Files(tmp_path, base).read("caplens", split)
        assert len(rows) == len(lengths) == 500 and {len(row) for row in rows} == {52}
        for row, length in zip(rows, lengths, strict=True):
            assert row[length - 1] == word_map["<end>"] and not any(row[length:])
    words = [w for n in lists["train"][:100] for c in captions[n] for w in c]
    assert all(words.count(word) > 5 for word in list(word_map)[1:-3])
    assert len(word_map) - 4 == sum(words.count(word) > 5 for word in set(words))


@pytest.mark.filterwarnings(EMPTY)
def test_of_each_split_the_first_images_are_taken(example):
    lists = {"train": ["img3.jpg", "img1.jpg", "img4.jpg"], "test": ["img2.jpg"]}
    create(example, splits=lists, max_images=2)
    kept = Files(example / "out", BASE).read("references", "train")
    assert [image["file"] for image in kept] == ["img3.jpg", "img1.jpg"]


@pytest.mark.parametrize(
    ("vocabulary", "known"),
    [("train", {"a", "cat", "black", "on", "mat"}), ("all", COUNTS.keys())],
)
def test_whose_words_are_counted(example, vocabulary, known):
    lists = {
        "train": ["img1.jpg"],
        "val": ["img2.jpg"],
        "test": ["img3.jpg", "img4.jpg"],
    }
    base = create(example, splits=lists, vocabulary=vocabulary, min_freq=0)
    words = Files(example / "out", base).read("wordmap")
    assert set(words) == {*known, "<pad>", "<start>", "<end>", "<unk>"}


def test_what_stands_by_default(example, monkeypatch):
    paths = example / "captions.csv", example / "images", example / "out"
    lists = {"train": ["img1.jpg"], "val": ["img2.jpg"], "test": ["img3.jpg"]}
    (example / "captions.csv").write_text(EXAMPLE + "img1.jpg,cat cat cat\n")
    base = create_input_files("example", *paths, splits=lists)
    assert base == "example_5_cap_per_img_5_min_word_freq"
    rows = Files(example / "out", base).read("captions", "train")
    assert len(rows) == 5 and {len(row) for row in rows} == {52}
    with h5py.File(Files(example / "out", base).path("images", "train")) as file:
        assert file["images"].shape == (1, 3, 256, 256)
    manifest = Files(example / "out", base).read("manifest")
    usual = {"seed": 28, "vocabulary": "train", "on_error": "raise", "max_images": None}
    assert usual.items() <= manifest.items()


def test_references_keep_every_caption(example):
    """Also those that are too long for a row, and more than have a row."""
    lists = {"train": ["img1.jpg"], "val": ["img2.jpg"], "test": ["img3.jpg"]}
    base = create(example, splits=lists, max_length=4, caps_per_img=1)
    (image,) = Files(example / "out", base).read("references", "train")
    assert image["captions"] == [["a", "cat"], ["black", "cat"], ["cat", "on", "mat"]]
    assert len(Files(example / "out", base).read("captions", "train")) == 1


def test_repeats_are_drawn_among_all(example):
    captions, random = [["a"], ["b"]], np.random.RandomState(0)
    more = [choose_captions(captions, 6, random)[2:] for _ in range(20)]
    assert {c[0] for chosen in more for c in chosen} == {"a", "b"}


@pytest.mark.filterwarnings(EMPTY)
def test_room_is_asked_for_squares_of_the_size_chosen(example, monkeypatch):
    asked = []
    (example / "out").mkdir()
    monkeypatch.setattr(dataset, "make_room", lambda *what: asked.append(what))
    create(example, image_size=40, splits={"train": ["img1.jpg"]})
    assert asked == [(example / "out", 1, 3 * 40 * 40)]


@pytest.fixture
def cups(example):
    """Two more photographs in a folder of their own, under names that are taken."""
    (example / "cups").mkdir()
    for number in 1, 2:
        picture = Image.new("RGB", (40, 30), (0, 0, 90 * number))
        picture.save(example / "cups" / f"img{number}.jpg", quality=95)
    text = "img1.jpg,A cup.\nimg2.jpg,A blue cup.\nimg2.jpg,Cup on mat.\n"
    (example / "cups.csv").write_text(text)
    return example / "cups.csv", example / "cups"


def create_all(folder, *others, splits=None, **options):
    """Write the example's files together with those of other collections."""
    pairs = [(folder / "captions.csv", folder / "images"), *others]
    given = [c for c, _ in pairs], [i for _, i in pairs], folder / "out"
    options = OPTIONS | {"max_length": 6, "splits": splits} | options
    create_input_files("example", *given, **options)
    return written(folder)


@pytest.mark.filterwarnings(EMPTY)
def test_a_list_of_one_collection_is_that_collection(example):
    create(example)
    plain = contents(example / "out")
    paths = [example / "captions.csv"], [example / "images"], example / "other"
    create_input_files("example", *paths, **OPTIONS)
    assert contents(example / "other") == plain


def test_collections_become_one_and_equal_names_stay_apart(example, cups):
    files = create_all(example, cups, splits=[None, "val"])
    found = {s: files.read("references", s) for s in ("train", "val", "test")}
    names = {s: [e["file"] for e in entries] for s, entries in found.items()}
    assert names == {  # the first is divided as it is when alone
        "train": [f"images/img{n}.jpg" for n in (1, 3, 4)],
        "val": ["cups/img1.jpg", "cups/img2.jpg"],
        "test": ["images/img2.jpg"],
    }
    assert [e["collection"] for s in found for e in found[s]] == [1, 1, 1, 2, 2, 1]
    assert found["val"][0]["captions"] == [["a", "cup"]]
    with h5py.File(files.path("images", "val")) as file:
        assert [image[2].mean() // 1 for image in file["images"]] == [90, 180]
    assert {"cup", "cat"} <= files.read("wordmap").keys()


@pytest.mark.filterwarnings(EMPTY)
def test_each_collection_is_divided_on_its_own_by_one_generator(example, cups):
    random = np.random.RandomState(28)
    parts = [split_images([*range(n)], random) for n in (4, 2)]
    references = create_all(example, cups).read("references", "train")
    expected = [f"images/img{n + 1}.jpg" for n in parts[0]["train"]]
    expected += [f"cups/img{n + 1}.jpg" for n in parts[1]["train"]]
    assert [entry["file"] for entry in references] == expected


@pytest.mark.filterwarnings(EMPTY)
def test_max_images_counts_for_each_collection(example, cups):
    files = create_all(example, cups, splits=["train", "train"], max_images=1)
    names = [entry["file"] for entry in files.read("references", "train")]
    assert names == ["images/img1.jpg", "cups/img1.jpg"]


def test_a_pair_of_coco_files(example):
    """Both number and name as they like; each brings a whole split."""
    captions, images = [], []
    for split, numbers in {"train": (1, 2, 3), "val": (4,)}.items():
        names = [{"id": n, "file_name": f"img{n}.jpg"} for n in numbers]
        said = [{"image_id": n, "caption": "A thing."} for n in numbers]
        captions.append(example / f"captions_{split}.json")
        captions[-1].write_text(json.dumps({"images": names, "annotations": said}))
        images.append(example / f"{split}2017")
        images[-1].mkdir()
        for n in numbers:
            shutil.copy(example / "images" / f"img{n}.jpg", images[-1])
    options = OPTIONS | {"splits": ["train", "val"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that the other splits are empty is meant
        create_input_files("example", captions, images, example / "out", **options)
    for split, numbers in {"train": (1, 2, 3), "val": (4,), "test": ()}.items():
        found = [e["file"] for e in written(example).read("references", split)]
        assert found == [f"{split}2017/img{n}.jpg" for n in numbers]


def test_one_folder_serves_all_caption_files(example):
    lines = EXAMPLE.splitlines(keepends=True)
    for name, own in {"a": lines[:6], "b": lines[:1] + lines[6:]}.items():
        (example / f"{name}.csv").write_text("".join(own))
    captions, images = [example / "a.csv", example / "b.csv"], example / "images"
    options = OPTIONS | {"splits": ["train", "val"]}
    create_input_files("example", captions, images, example / "out", **options)
    found = [e["file"] for e in written(example).read("references", "val")]
    assert found == ["img3.jpg", "img4.jpg"]
    captions[0] = example / "captions.csv"
    with pytest.raises(ValueError, match="img3.jpg is in .* collections 1 and 2"):
        create_input_files("example", captions, images, example / "out", **options)


@pytest.mark.parametrize("wrong", [{"images": ["x"]}, {"splits": ["train"]}])
def test_lists_of_other_lengths_are_refused(example, cups, wrong):
    given = {"captions": [example / "captions.csv", cups[0]]}
    given |= {"images": [example / "images", cups[1]]} | wrong
    with pytest.raises(ValueError, match=f"{[*wrong][0]}=.*a list of 2: give one"):
        create_input_files("example", **given, output=example / "out")


def test_folders_without_one_in_common_are_refused(example, cups, monkeypatch):
    def on_two_disks(paths):
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(os.path, "commonpath", on_two_disks)
    with pytest.raises(ValueError, match="no folder holds all of .*images, .*cups;"):
        create_all(example, cups, splits=["train", "val"])


@pytest.mark.filterwarnings(EMPTY)
def test_a_collection_without_any_photograph_is_refused(example, cups):
    other = example / "empty"
    other.mkdir()
    options = {"splits": ["train", "val"], "on_error": "skip"}
    with pytest.raises(FileNotFoundError, match="empty: has none of the 2"):
        create_all(example, (cups[0], other), **options)


@pytest.mark.filterwarnings(EMPTY)
def test_photographs_that_change_their_collection_make_other_data(example):
    lines, found = EXAMPLE.splitlines(keepends=True)[1:], []
    for cut in 3, 5:  # before img2 or img3
        paths = [example / f"{part}-{cut}.csv" for part in "ab"]
        for path, own in zip(paths, (lines[:cut], lines[cut:]), strict=True):
            path.write_text("".join(own))
        source = paths, example / "images", ["train", "train"]
        found.append(plan_files("example", *source, Settings(min_freq=0)))
    assert found[0].whole.parts == found[1].whole.parts
    assert found[0].manifest["captions"] == found[1].manifest["captions"]
    assert found[0].manifest["images"] != found[1].manifest["images"]


def test_known_words_keep_their_numbers_and_new_ones_follow(example):
    known = {"<pad>": 0, "bird": 2, "zebra": 1, "<end>": 3, "<unk>": 4, "<start>": 5}
    found = build_word_map(COUNTS, 1, known)
    assert found == known | {"a": 6, "cat": 7, "dog": 8}
    settings = Settings(min_freq=99)
    paths = "example", example / "captions.csv", example / "images", "", settings
    plan_files(*paths, known)  # a bird is known, however rare
    del known["bird"]
    with pytest.raises(ValueError, match="min_freq=99: no word occurs more often"):
        plan_files(*paths, known)
