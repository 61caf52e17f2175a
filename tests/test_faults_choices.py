"""Choices that cannot be right, and checks before the work."""

import os
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import yaml
from PIL import Image

from satlib import captioner as room
from satlib.captioner import CaptionChoices, find_photographs, load_captioner
from satlib.configuration import Config, checked, config_from, folders
from satlib.dataset import create_input_files
from satlib.explorer import explore
from satlib.files import check_name
from satlib.fit import fit, main

PICTURE = Image.new("RGB", (20, 10), "red")


def choices_of(*types):
    """List (kind, name) of all choices of these types, in both notebooks."""
    found = []
    for kind in (Config, CaptionChoices):
        for name, of in get_type_hints(kind).items():
            if (get_args(of) or (of,))[0] in types:
                found.append((kind, name))
    return found


def ids(value):
    return value.__name__ if isinstance(value, type) else ascii(value)[:20]


@pytest.fixture
def mine(tmp_path):
    """Choices for photographs of one's own, in a folder."""
    (tmp_path / "c.csv").write_text("a.png,A cat.")
    (tmp_path / "i").mkdir()
    (tmp_path / "readable").mkdir()
    paths = {"captions": str(tmp_path / "c.csv"), "images": str(tmp_path / "i")}
    return {"dataset": "mine"} | paths


NO_NUMBERS = [
    float("nan"),
    float("inf"),
    -float("inf"),
    "nan",
    "inf",
    "-inf",
    "infinity",
]
NO_NUMBERS += [True, "five", "", "1,5", "0x10", "1_000", " 5", "５", "½", [1], {}, b"5"]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=ids)
def test_what_is_no_number(value):
    """NaN, infinity, True, `five`, `1,5` for each number: an error with its name."""
    for kind, name in choices_of(int, float):
        message = rf"{name}( must be a|=\S+: must lie between)"
        with pytest.raises(ValueError, match=message):
            kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), choices_of(int, float), ids=ids)
def test_a_number_out_of_range(kind, name):
    """A number that is negative, or beyond all sense: an error with its limits."""
    for value in (
        -1,
        -1e-12 if kind is float else -(10**30),
        10**12,
        10**400,
        "1" * 99,
    ):
        with pytest.raises(ValueError, match=f"{name}(=| must be)"):
            kind(**{name: value})


@pytest.mark.parametrize("value", [5.0, 2.5, "5.0", "5e0", np.float64(5)], ids=ids)
def test_a_number_that_must_be_whole(value):
    """5.0 where a whole number is meant: an error that says so."""
    for kind, name in choices_of(int):
        with pytest.raises(ValueError, match=f"{name} must be a whole number, not"):
            kind(**{name: value})


WRITTEN = ["1e-4", "1E-4", "0.0001", ".0001", "+1e-4", "1.0e-4", "1.e-4", "10e-5", 1e-4]
WRITTEN += [np.float64(1e-4)]


@pytest.mark.parametrize("value", WRITTEN, ids=ids)
def test_a_number_written_as_text(value):
    """`1e-4`, which is text in a YAML file: the number that is meant."""
    config = Config(decoder_lr=value)
    assert type(config.decoder_lr) is float and config.decoder_lr == 1e-4
    assert folders(config) == folders(Config(decoder_lr=1e-4))


@pytest.mark.parametrize("value", ["7", "+7", "007", np.int64(7), np.uint8(7)], ids=ids)
def test_a_whole_number_written_as_text(value):
    """`7` as papermill's `-r` gives it, or NumPy's 7: the whole number 7."""
    config = Config(epochs=value, embed_dim=value)
    assert type(config.epochs) is int and config.epochs == 7
    assert folders(config) == folders(Config(embed_dim=7))
    assert CaptionChoices(maps=value).maps == 7


def test_equal_numbers_written_differently():
    """A penalty of 1, of 1.0 and of `1`: one run, in one folder."""
    runs = {folders(Config(alpha_c=value)) for value in (1, 1.0, "1", "1e0")}
    assert len(runs) == 1


@pytest.mark.parametrize("text", ["None", "none", "null", "NULL"])
def test_none_written_as_text(text, mine):
    """`None` in a YAML file, where it is text: as if it were left out."""
    assert Config(output=text, max_images=text, stage=text) == Config()
    assert Config(**mine, splits=text).splits is None
    assert CaptionChoices(images=text, checkpoint=text) == CaptionChoices()


@pytest.mark.parametrize(
    "value", ["no", "yes", "on", "off", "true", "1", 0, 1, None, ""]
)
@pytest.mark.parametrize("name", ["fine_tune", "augment"])
def test_what_is_neither_true_nor_false(name, value):
    """`no`, `off`, 0 where True or False is meant: an error, not the opposite."""
    with pytest.raises(ValueError, match=f"{name} must be True or False, not"):
        Config(**{name: value})
    with pytest.raises(ValueError, match=f"{name} must be True or False, not"):
        config_from({name: value}, CaptionChoices, {name: bool})


@pytest.mark.parametrize("value", [2024, 2.5, False, True, float("nan")], ids=ids)
def test_a_number_where_text_is_meant(value):
    """A folder called 2024 that arrives as a number: the error says how to write it."""
    for kind, name in choices_of(str):
        with pytest.raises(ValueError, match=f"{name} must be text, not .*quotes.* -r"):
            kind(**{name: value})


@pytest.mark.parametrize("value", ["", "a\0b", [], {}, b"a", ("a",)], ids=ids)
def test_text_that_cannot_be_right(value):
    """An empty text, as a variable of the shell that is not set gives: an error."""
    for kind, name in choices_of(str):
        message = f"{name}( must be text, not|=.*: is empty, or)"
        with pytest.raises(ValueError, match=message):
            kind(**{name: value})


LINES = {
    "decoder_lr: 1e-4": 1e-4,
    "decoder_lr: 1.0e-4": 1e-4,
    "epochs: '3'": 3,
    "epochs: 1_0": 10,
    "fine_tune: yes": True,
    "fine_tune: no": False,
    "output: None": None,
    "output: ~": None,
    "output:": None,
    "output: '2024'": "2024",
    "output: 2024": "output must be text, not 2024; put it in quotes",
    "dataset: no": "dataset must be text, not False; put it in quotes",
    "dataset: 1e5x": "needs captions",
    "epochs: 1e1": "epochs must be a whole number, not '1e1'",
    "epochs: ten": "epochs must be a whole number, not 'ten'",
    "epochs:": "epochs must be a whole number, not None",
    "dropout: .inf": "dropout=inf: must lie between",
    "dropout: .nan": "dropout=nan: must lie between",
    "dropout: 50%": "dropout must be a number, not '50%'",
    "fine_tune: 'no'": "fine_tune must be True or False, not 'no'",
    "seed: 2026-11-26": "seed must be a whole number, not datetime.date",
    "workers: [1]": r"workers must be a whole number, not \[1\]",
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_a_parameter_file(line):
    """A line as people write it in YAML: what is meant, or an error about that line."""
    ((name, value),) = yaml.safe_load(line).items()
    expected = LINES[line]
    if isinstance(expected, str) and expected != "2024":
        with pytest.raises(ValueError, match=expected):
            Config(**{name: value})
    else:
        assert getattr(Config(**{name: value}), name) == expected


BAD_NAMES = [
    "a/b",
    "../x",
    "..",
    ".",
    "a.",
    ".a",
    " a",
    "a ",
    "a\\b",
    "C:x",
    "a*b",
    "a?",
]
BAD_NAMES += ["<a>", "a|b", 'a"b', "a\nb", "a\tb", "x" * 300, "猫" * 50, "\udcff", "/"]
BAD_NAMES += ["con", "CON", "aux.v2", "nul", "COM1", "lpt9.txt", "prn"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ids)
def test_a_name_that_cannot_begin_a_file_s(name, mine, tmp_path):
    """A data set called `../x`, `con` or with 300 letters: an error before any file."""
    message = "can't begin a file's name"
    with pytest.raises(ValueError, match=message):
        Config(**mine | {"dataset": name})
    with pytest.raises(ValueError, match=message):
        create_input_files(name, mine["captions"], mine["images"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [None, 5, True, b"a", ["a"], ""], ids=ids)
def test_a_data_set_without_a_name(name, mine, tmp_path):
    """None, a number or nothing as a data set's name: an error before any file."""
    with pytest.raises(ValueError, match="can't begin a file's name"):
        create_input_files(name, mine["captions"], mine["images"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


GOOD_NAMES = [
    "my photographs",
    "flickr8k.v2",
    "naïve",
    "बिल्ली",
    "猫",
    "-x",
    "a+b,c",
    "conx",
]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_an_unusual_name_that_can(name, mine, tmp_path):
    """A name with spaces, dots or letters of any language: taken, and a file's."""
    check_name(name)
    assert Config(**mine | {"dataset": name}).dataset == name
    (tmp_path / f"{name}-1").touch()


@pytest.mark.parametrize(
    "output", ["/", "//", "c.csv", "c.csv/run", "p", "br", "br/run"]
)
def test_an_output_where_no_folder_can_be(output, mine, tmp_path, monkeypatch):
    """The root, a file, a pipe, a broken link as output: an error before the work."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("p")
    os.symlink("nowhere", "br")
    with pytest.raises(ValueError, match=f"'{output}': (.* is no|name a) folder"):
        Config(**mine, output=output)


@pytest.mark.parametrize("output", ["x" * 300, f"a/{'猫' * 90}/b"], ids=ids)
def test_an_output_whose_name_is_too_long(output, mine):
    """An output of 300 letters: an error before the work."""
    with pytest.raises(ValueError, match="output='.*and briefly"):
        Config(**mine, output=output)


def test_an_output_that_may_not_be_written(mine, tmp_path, monkeypatch):
    """An output in a folder that is read-only: an error before the work."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "readable")
    assert Config(**mine, output=str(tmp_path / "other")).output
    with pytest.raises(ValueError, match="nothing may be written in .*readable$"):
        Config(**mine, output=str(tmp_path / "readable" / "a" / "b"))


def test_paths_may_be_paths_and_begin_at_home(mine, tmp_path, monkeypatch):
    """`~` and Path objects in the choices: the folder that is meant."""
    monkeypatch.setenv("HOME", str(tmp_path))
    home = {"captions": "~/c.csv", "images": Path("~/i"), "splits": "~/c.csv"}
    config = Config(**mine | home, output="~/run")
    expected = mine | {"splits": mine["captions"], "output": f"{tmp_path}/run"}
    assert config == Config(**expected)
    assert folders(config) == (tmp_path / "run", tmp_path / "run")


WRONG_PATHS = {
    "captions": [
        "i",
        "p",
        "br",
        "nowhere.csv",
        "https://a.b/c.csv",
        "/dev/null",
        "x" * 300,
    ],
    "images": ["c.csv", "p", "br", "nowhere", "*", "https://a.b/c", "/dev/null"],
    "splits": ["p", "br", "nowhere", "train.txt,val.txt", "/dev/null"],
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("name", "path"),
    [(name, path) for name, paths in WRONG_PATHS.items() for path in paths],
    ids=ids,
)
def test_a_path_that_leads_elsewhere(name, path, mine, tmp_path, monkeypatch):
    """A folder for captions, a file for photographs, a pipe: an error, at once."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("p")
    os.symlink("nowhere", "br")
    with pytest.raises(ValueError, match=f"{name}=.*: there is no (file|folder)"):
        Config(**mine | {name: path})


ENCODERS = {
    "resnet5O": "resnet50",
    "Resnet50": "resnet50",
    "efficientnet-lite0": "efficientnet_lite0",
    "EfficientNet_B4": "efficientnet_b4",
    "resnet50.nosuch": "resnet50",
    "hf-hub:someone/something": "is it",
    "../resnet50": "resnet50",
    "x" * 2000: "is it",
}


@pytest.mark.parametrize("encoder", ENCODERS, ids=ids)
def test_an_encoder_that_is_not_known(encoder):
    """A network's name with a slip, or of nowhere: an error with names like it."""
    with pytest.raises(
        ValueError, match=f"encoder=.* is not known.*{ENCODERS[encoder]}"
    ):
        Config(encoder=encoder)


SLIPS = {"image": "images", "Images": "images", "files": "images", "img": "images"}
SLIPS |= {"beams": "beam_size", "map": "maps", "batch_size": "beam_size", "out": "maps"}
LONGER = {"epoch": "epochs", "lr": "decoder_lr", "batch": "batch_size", "x": "dataset"}
LONGER |= {"encoder_name": "encoder", "resum": "resume", "photos": "captions"}
SLIPS = [(CaptionChoices, *slip) for slip in SLIPS.items()]
SLIPS += [(Config, *slip) for slip in LONGER.items()]


@pytest.mark.parametrize(("kind", "name", "meant"), SLIPS, ids=ids)
def test_a_parameter_that_there_is_not(kind, name, meant):
    """`image` for `images`: an error with the name that is meant, before any work."""
    with pytest.raises(
        ValueError, match=f"no parameter '{name}'; is it one of .*{meant}"
    ):
        config_from(
            {name: "cat.jpg"}, kind, {"resume": bool} if kind is Config else None
        )


WRONG_SIZES = [0, -1, 10**30, 5.0, 2.5, True, None, "x", "", "nan", float("nan"), [1]]


@pytest.mark.parametrize("value", WRONG_SIZES, ids=ids)
@pytest.mark.parametrize("name", ["beam_size", "batch_size"])
def test_a_size_that_cannot_be_right(name, value, planted, monkeypatch):
    """A beam or batch of 0, 2.5 or True photographs: an error before any is read."""
    monkeypatch.setattr(room, "load_photograph", pytest.fail)
    message = f"{name}( must be a whole number|=)"
    with pytest.raises(ValueError, match=message):
        planted.caption([PICTURE], **{name: value})
    if name == "beam_size":
        with pytest.raises(ValueError, match=message):
            explore(planted, [PICTURE], value)


@pytest.mark.parametrize("value", ["ignore", "Skip", None, True, ["skip"], ""], ids=ids)
def test_what_to_do_with_errors_is_not_known(value, planted, mine):
    """`ignore` for `skip`: an error with the two words that are known."""
    with pytest.raises(ValueError, match="on_error"):
        planted.caption([PICTURE], on_error=value)
    with pytest.raises(ValueError, match="on_error"):
        Config(**mine, on_error=value)


@pytest.mark.parametrize("path", [5, True, [], b"a", "", "a\0b", 2.5], ids=ids)
def test_a_path_that_is_no_text(path):
    """A number, bytes or nothing as a checkpoint or folder: an error that says so."""
    for read in (load_captioner, find_photographs):
        with pytest.raises(ValueError, match="path( must be text|=.*is empty)"):
            read(path)


@pytest.mark.parametrize(
    "path", ["nowhere.pt", "i", "~", "p", "x" * 300, "https://a.b/c"]
)
@pytest.mark.timeout(20)
def test_a_checkpoint_that_is_not_there(path, mine, tmp_path, monkeypatch):
    """A folder, a pipe, an address as a checkpoint: an error, at once."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("p")
    with pytest.raises((OSError, ValueError), match="no captioner there|a folder"):
        load_captioner(path)


def test_every_choice_is_checked():
    """A value of a foreign class for each choice: an error with the choice's name."""
    for kind in (Config, CaptionChoices):
        for choice in fields(kind):
            with pytest.raises(ValueError, match=f"{choice.name} must be "):
                kind(**{choice.name: object()})
    assert checked("x", Path("a"), str | None) == "a"


@pytest.mark.parametrize(
    "text", ["- epochs", "epochs", "3", "epochs: 1: 2", "[", "a: *b", b"\xff\xfea"]
)
def test_a_file_of_parameters_that_is_none(tmp_path, text):
    """`-f` with a list, a word, a slip in YAML, bytes: an error with its name."""
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"mine\.yaml: "):
        main(["-f", str(path)])
    with pytest.raises(ValueError, match="epochs"):
        main(["-p", "epochs", "[1"])


def test_weights_that_cannot_be_had(mine, tmp_path, monkeypatch):
    """An encoder whose weights cannot be had: an error before anything is written."""
    names = [f"{k}.png" for k in range(10)]
    (tmp_path / "c.csv").write_text("".join(f"{name},a dog\n" for name in names))
    for name in names:
        PICTURE.save(tmp_path / "i" / name)

    def offline(config):
        raise OSError("no weights")

    monkeypatch.setattr("satlib.fit.encoder_of", offline)
    with pytest.raises(OSError, match="no weights"):
        fit(Config(**mine, min_freq=0, output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
