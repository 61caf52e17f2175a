"""Checks before the work, of captions, lists, words and numbers."""

import contextlib
import io
import unicodedata
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from satlib import dataset
from satlib.bleu import corpus_bleu, scores
from satlib.caption_files import Captions, read_splits
from satlib.configuration import Config, check_same_run, folders
from satlib.dataset import Files, create_input_files
from satlib.fit import plan_data

NAMES = [f"{k}.jpg" for k in range(10)]
OPTIONS = {"min_freq": 0, "image_size": 8}
SMALL = {"attention_dim": 4, "embed_dim": 4, "decoder_dim": 4, "image_size": 64}


class Data:
    """A folder of ten small photographs, and captions of them."""

    def __init__(self, folder):
        self.folder, self.told = folder, ""
        self.write_images(NAMES)
        self.captions = {name: [["a", "dog", f"number{name[0]}"]] for name in NAMES}

    def write_images(self, names):
        for path in (self.folder / "images").glob("**/*.*"):
            path.unlink()
        for name in names:
            path = self.folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(path, format="PNG")

    def create(self, **options):
        """Write the data files; return each split's names, and keep what is told."""
        out = io.StringIO()
        where = Captions(self.captions), self.folder / "images", self.folder / "out"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                with contextlib.redirect_stdout(out):
                    base = create_input_files("data", *where, **OPTIONS | options)
            finally:
                told = [str(warning.message) for warning in caught]
                self.told = "\n".join([out.getvalue(), *told])
        files = Files(where[2], base)
        return {
            split: [entry["file"] for entry in files.read("references", split)]
            for split in ("train", "val", "test")
        }

    def refuse(self, *parts, error=ValueError, **options):
        """Expect an error with these parts, and that nothing was written."""
        with pytest.raises(error) as caught:
            self.create(**options)
        for part in parts:
            assert part in str(caught.value)
        assert not (self.folder / "out").exists()


@pytest.fixture
def data(tmp_path, monkeypatch):
    def not_yet(*_):
        raise AssertionError("the pictures were begun")

    monkeypatch.setattr(dataset, "write_images", not_yet)
    yield Data(tmp_path)


@pytest.fixture
def whole(tmp_path):
    return Data(tmp_path)


@pytest.mark.parametrize(("min_freq", "best"), [(8, 7), (100, 7), (5000, 7)])
@pytest.mark.parametrize("vocabulary", ["train", "all"])
def test_no_word_is_frequent_enough(data, min_freq, best, vocabulary):
    """No word more frequent than `min_freq`: refused, with the most frequent word."""
    count = {"train": 8, "all": 10}[vocabulary]
    options = {"min_freq": min_freq + 2, "vocabulary": vocabulary}
    least = f"min_freq={count - 1} or less"
    data.refuse(f"min_freq={min_freq + 2}", "'a'", f"{count} times", least, **options)


@pytest.mark.parametrize("length", [60, 51, 500])
def test_all_captions_are_too_long(data, length):
    """All captions longer than a row: refused, with the length that would do."""
    data.captions = {name: [["a"] * length, ["b"] * 700] for name in NAMES}
    data.refuse("max_length=52", f"max_length={length + 2}", "long")


def test_some_captions_are_too_long(whole):
    """Some captions longer than a row: left out, and counted."""
    whole.captions["3.jpg"] = [["a"] * 60, ["a"]]
    whole.captions["4.jpg"] = [["a"] * 60]
    assert sum(map(len, whole.create().values())) == 9
    assert "2 too long, 1 images" in whole.told
    assert sum(map(len, whole.create(max_length=62).values())) == 10


def plan(folder, lists=None, **choices):
    """Plan the data of a run on a folder's photographs; return the splits' names."""
    lines = [f"{name}\ta dog" for name in NAMES[: choices.pop("count", 10)]]
    (folder / "captions.tsv").write_text("\n".join(lines))
    for split, names in (lists or {}).items():
        (folder / f"{split}.txt").write_text("\n".join(names))
    paths = {"captions": folder / "captions.tsv", "images": folder / "images"}
    paths |= {"splits": folder} if lists else {}
    texts = {name: str(path) for name, path in paths.items()}
    config = Config(dataset="data", **{"min_freq": 0} | choices, **texts)
    return plan_data(config).whole.parts


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kept", [[], ["z.jpg"], None])
def test_a_split_that_must_not_be_empty(data, split, kept):
    """No photograph for training or validation: refused, with the lists' sizes."""
    lists = {"train": NAMES[:4], "val": NAMES[4:8], "test": NAMES[8:]} | {split: kept}
    lists = {name: names for name, names in lists.items() if names is not None}
    with (
        pytest.raises(ValueError, match=f"{split.upper()} split is empty"),
        pytest.warns(UserWarning, match=f"no image for {split}.*lists of"),
    ):
        plan(data.folder, lists)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_too_few_photographs_for_a_split(data, count):
    """So few photographs that a split is empty: refused, with their number."""
    with (
        pytest.raises(ValueError, match="(TRAIN|VAL) split is empty"),
        pytest.warns(UserWarning, match=f"{count} images cut at"),
    ):
        plan(data.folder, count=count)


def test_an_empty_test_split_is_no_obstacle(data):
    """Lists without a test: a warning, and the run begins."""
    lists = {"train": NAMES[:8], "val": NAMES[8:]}
    with pytest.warns(UserWarning, match="no image for test"):
        assert plan(data.folder, lists) == lists | {"test": []}


@pytest.mark.parametrize(
    ("choices", "message"),
    [({"min_freq": 8}, "min_freq=7"), ({"max_length": 3}, "max_length=4")],
)
def test_a_run_without_words(data, choices, message):
    """A run of rare words only, or of long captions only: refused before it begins."""
    with pytest.raises(ValueError, match=message):
        plan(data.folder, **choices)


@pytest.mark.parametrize(
    "spell",
    ["{}.JPG", "{}", "./{}.jpg", "Images/{}.jpg", "/my/{}.jpg", ".\\{}.jpg", "{}.jpeg"],
)
def test_lists_that_spell_names_otherwise(whole, spell):
    """Lists with `.JPG`, without endings or with folders: found, and told."""
    lists = {"train": range(6), "val": range(6, 8), "test": range(8, 10)}
    named = {split: [spell.format(k) for k in own] for split, own in lists.items()}
    parts = whole.create(splits=named)
    assert parts == {split: [f"{k}.jpg" for k in own] for split, own in lists.items()}
    assert spell[0] == "." or "6 of the names in the list for train" in whole.told


@pytest.mark.parametrize("lost", [1, 5, 7])
def test_names_in_lists_without_captions(whole, lost):
    """Names in the lists that no caption has: counted, and the first ones named."""
    train = [f"x{k}.jpg" for k in range(lost)] + NAMES[: 8 - lost]
    lists = {"train": train, "val": NAMES[8:9], "test": NAMES[9:]}
    assert whole.create(splits=lists)["train"] == NAMES[: 8 - lost]
    assert f"{lost} of 8 names in the list for train have no caption" in whole.told
    assert "'x0.jpg'" in whole.told and f"in no list: {lost}\n" in whole.told


@pytest.mark.parametrize("spell", ["{}.png", "x{}.jpg", "{}{}.jpg"])
def test_lists_of_which_no_name_has_captions(data, spell):
    """Lists of which no name has captions: refused, with the first names."""
    lists = {"train": [spell.format(k, k) for k in range(8)]}
    data.refuse("no image left", "10 images", "lists of 8", splits=lists)
    first = repr(spell.format(0, 0))
    assert "8 of 8 names in the list for train have no caption" in data.told
    assert first in data.told


@pytest.mark.parametrize("twice", ["0.JPG", "0", "./0.jpg", "I/0.jpg"])
def test_one_photograph_twice_in_the_lists(data, twice):
    """A photograph in two lists under two spellings: refused, by its name."""
    lists = {"train": NAMES[:8], "val": [twice, "9.jpg"]}
    data.refuse("0.jpg", "again in the one for val", splits=lists)


@pytest.mark.parametrize(
    "file",
    ["{}.JPG", "{}.jpeg", "sub/{}.jpg", "é{}.jpg", "my {}.jpg", "É{}.jpg", "{}.Jpg"],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_files_that_are_named_otherwise(whole, file, form):
    """Files with another ending, folder or form of accents than the captions: found."""
    written = [file.format(k) for k in range(10)]
    whole.write_images([unicodedata.normalize(form, name) for name in written])
    names = [name.rpartition("/")[2].replace(" ", "%20").lower() for name in written]
    names = [name.replace(".jpeg", ".jpg") for name in names]
    whole.captions = {name: [["a", "dog"]] for name in names}
    found = sum(whole.create().values(), [])
    assert sorted(found) == sorted(unicodedata.normalize(form, n) for n in written)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_no_photograph_is_there(data, on_error):
    """Captions of photographs that the folder has not: refused, and counted."""
    data.captions = {f"z{k}.jpg": [["a"]] for k in range(10)}
    data.refuse("10", "images", error=FileNotFoundError, on_error=on_error)


def test_one_photograph_is_not_there(data):
    """One photograph that the folder has not: refused, and named."""
    (data.folder / "images" / "3.jpg").unlink()
    data.refuse("1 of 10", "3.jpg", error=FileNotFoundError)


@pytest.mark.parametrize("besides", ["0.txt", "0.json", "x/0.csv", "00.jpg"])
def test_files_besides_the_photographs(whole, besides):
    """Texts beside the photographs, with the same names: the photographs are found."""
    whole.write_images([f"{k}.JPG" for k in range(10)])
    (whole.folder / "images" / "x").mkdir()
    (whole.folder / "images" / besides).write_text("no photograph")
    whole.captions = {str(k): [["a"]] for k in range(10)}
    found = sum(whole.create().values(), [])
    assert sorted(found) == [f"{k}.JPG" for k in range(10)]


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "a/b/c.jpg", "?*.jpg"])
def test_a_name_that_no_file_can_have(data, name):
    """A name of 300 letters, or with signs of paths: missing, and named."""
    data.captions[name] = [["a"]]
    data.refuse("1 of 11", name, error=FileNotFoundError)


def test_a_name_that_two_files_might_have(data):
    """A caption's photograph that may be one of two files: refused, and named."""
    names = NAMES[1:] + ["x/0.jpg", "y/0.jpg"]
    data.write_images(names)
    data.refuse("1 of 10", "0.jpg", error=FileNotFoundError)


@pytest.mark.parametrize(
    "name",
    ["caps_per_img", "min_freq", "max_length", "seed", "image_size", "max_images"],
)
@pytest.mark.parametrize("value", ["5", 5.0, -1, 10**12, float("nan"), True, [5]])
def test_a_setting_that_is_no_number(data, name, value):
    """A text, a fraction, NaN or a number beyond all sense: refused."""
    data.refuse(f"{name}=", "whole number", **{name: value})


def test_the_home_folder_in_paths(whole, monkeypatch):
    """Paths that begin with `~`: the home folder, for each that is read or written."""
    monkeypatch.setenv("HOME", str(whole.folder))
    lines = "".join(f"{name},a dog\n" for name in NAMES)
    (whole.folder / "captions.csv").write_text(lines)
    for split, names in {
        "train": NAMES[:6],
        "val": NAMES[6:8],
        "test": NAMES[8:],
    }.items():
        (whole.folder / f"{split}.txt").write_text("\n".join(names))
    paths = "~/captions.csv", "~/images", "~/out"
    base = create_input_files("home", *paths, splits="~", **OPTIONS)
    assert read_splits("~")["train"] == NAMES[:6]
    assert Files(whole.folder / "out", base).path("manifest").exists()


@pytest.mark.parametrize("value", [None, 3, 0.8, b"x", [0.8, 0.2], ""])
@pytest.mark.parametrize("name", ["captions", "images", "output", "splits"])
def test_what_is_no_path(data, name, value):
    """A number, nothing, bytes or shares where a path is meant: named, at once."""
    given = dict(captions=data.folder / "c.csv", images=data.folder / "images")
    given |= {"output": data.folder / "out", name: value}
    given["captions"].write_text("0.jpg,a dog\n") if name != "captions" else None
    if name == "splits" and not value:
        return  # none are given
    with pytest.raises(TypeError, match="must be a path, not"):
        create_input_files("data", **given, **OPTIONS)
    assert not (data.folder / "out").exists()


def test_a_folder_of_photographs_that_is_not_there(data):
    """A folder of photographs that is not there, or a file: said so, not 'skip'."""
    for path in data.folder / "pictures", data.folder / "images" / "0.jpg":
        with pytest.raises(FileNotFoundError, match="no such folder"):
            create_input_files("data", Captions(data.captions), path, data.folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocabulary", "val"),
        ("vocabulary", ""),
        ("on_error", "ignore"),
        ("on_error", " "),
    ],
)
def test_a_setting_that_is_no_choice(data, name, value):
    """Another text than those that there are: refused, with these."""
    data.refuse(f"{name}={value!r}", "must be one of", **{name: value})


def test_a_row_of_any_length_and_any_number_of_rows(whole):
    """A `max_length` and a `caps_per_img` of one's own: the rows are so."""
    whole.create(caps_per_img=3, max_length=7)
    files = Files(whole.folder / "out", "data_3_cap_per_img_0_min_word_freq")
    rows = files.read("captions", "train")
    assert len(rows) == 24 and {len(row) for row in rows} == {7}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_length", 2), ("max_length", "many"), ("max_length", 10**9)),
        *(("caps_per_img", 0), ("caps_per_img", 5.5), ("min_freq", -1)),
        *(("tokens", "letters"), ("tokens", None)),
    ],
)
def test_a_parameter_of_the_notebook_that_cannot_be(name, value):
    """A parameter of the data that cannot be right: refused, by its name."""
    with pytest.raises(ValueError, match=name):
        Config(**{name: value})


@pytest.mark.parametrize("name", ["max_length", "caps_per_img", "tokens"])
def test_a_run_from_before_a_parameter(name):
    """A run from before there was a parameter: goes on, or says what differs."""
    old = {k: v for k, v in vars(Config(dataset="scenes")).items() if k != name}
    checkpoint = {"config": old, "data": {}}
    check_same_run(checkpoint, Config(), {}, "last.pt")
    other = {"max_length": 30, "caps_per_img": 2, "tokens": "characters"}[name]
    with pytest.raises(ValueError, match=f"{name}={getattr(Config(), name)!r}, not"):
        check_same_run(checkpoint, Config(**{name: other}), {}, "last.pt")
    assert folders(Config()) != folders(Config(**{name: other}))


PERFECT = [[[5, 6, 7, 8]]]
CAT = ["a", "cat", "sits", "here"]


@pytest.mark.parametrize(
    ("references", "hypotheses"),
    [
        (PERFECT, [torch.tensor([5, 6, 7, 8])]),
        (PERFECT, [np.array([5, 6, 7, 8])]),
        (PERFECT, [[*torch.tensor([5, 6, 7, 8])]]),
        (PERFECT, [[*np.array([5, 6, 7, 8])]]),
        (PERFECT, [(5, 6, 7, 8)]),
        (PERFECT, torch.tensor([[5, 6, 7, 8]])),
        (torch.tensor(PERFECT), torch.tensor([[5, 6, 7, 8]])),
        (np.array(PERFECT), np.array([[5, 6, 7, 8]])),
        (PERFECT, [torch.tensor([5.0, 6, 7, 8])]),
        ([[CAT]], [np.array(CAT)]),
    ],
)
@pytest.mark.parametrize("score", [corpus_bleu, scores])
def test_captions_that_are_no_lists(references, hypotheses, score):
    """Captions as tensors, arrays, tuples or generators: scored like lists."""
    for given in hypotheses, (caption for caption in hypotheses):
        found = score(references, given)
        assert (found["BLEU-4"] if score is scores else found[3]) == 1.0


def test_captions_that_come_one_by_one():
    """Captions whose words come one by one: scored like lists."""
    words = ((word for word in CAT) for _ in range(1))
    people = ([(word for word in CAT)] for _ in range(1))
    assert corpus_bleu(people, words) == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("references", "hypotheses", "error"),
    [
        ([[CAT]], ["a cat sits here"], TypeError),
        ([["a cat sits here"]], [CAT], TypeError),
        (["a cat sits here"], [CAT], TypeError),
        ([CAT], [CAT], TypeError),
        ([[CAT]], CAT, (TypeError, ValueError)),
        ([[CAT]], [b"a cat"], TypeError),
        ([[CAT]], [None], TypeError),
        ([[CAT]], [[None]], TypeError),
        ([[CAT]], [[["a"]]], TypeError),
        ([[CAT]], [{*CAT}], TypeError),
        ([[CAT]], [5], TypeError),
        ([[CAT]], [[5, 6]], TypeError),
        ([None], [CAT], TypeError),
        (None, [CAT], TypeError),
        ({0: [CAT]}, {0: CAT}, TypeError),
        (PERFECT, [torch.tensor(5)], TypeError),
        (PERFECT, [torch.tensor([[5, 6]])], TypeError),
        ([[5, 6, 7, 8]], [[5, 6, 7, 8]], TypeError),
        ([[CAT]], [CAT, CAT], ValueError),
        ([[CAT]], [], ValueError),
        ([], [], ValueError),
        ([[]], [CAT], ValueError),
        ([[[]]], [CAT], ValueError),
        ([torch.zeros(0, 4)], [[1]], ValueError),
    ],
)
@pytest.mark.parametrize("score", [corpus_bleu, scores])
def test_what_cannot_be_scored(references, hypotheses, error, score):
    """Strings, sets, words against ids, two lengths: refused, by the image."""
    with pytest.raises(error, match="image|hypotheses|words"):
        score(references, hypotheses)


@pytest.mark.parametrize("word", ["a cat", "", " ", "a\u00a0b"])
def test_a_word_that_is_no_word(word):
    """A word with a space, or of nothing: refused where words are split at spaces."""
    with pytest.raises(ValueError, match="without spaces"):
        scores([[CAT]], [["a", word]])


def test_an_empty_caption_scores_nothing():
    """A caption without words: 0 and no error."""
    assert corpus_bleu([[CAT], [CAT]], [[], []]) == [0, 0, 0, 0]
    assert {*scores([[CAT], [CAT]], [[], []]).values()} == {0.0}
