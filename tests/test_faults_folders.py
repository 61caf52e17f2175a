"""Folders and lists of photographs as people have them."""

import io
import os
import socket
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from satlib import captioner as room
from satlib.calibration import open_collection
from satlib.captioner import find_photographs, load_captioner
from satlib.photographs import endings, load_photograph, shown

PICTURE = Image.new("RGB", (20, 10), "red")


@pytest.fixture
def folder(tmp_path):
    """A folder with two photographs, at a short path."""
    folder = tmp_path / "f"
    folder.mkdir()
    for name in ("a.jpg", "z.jpg"):
        PICTURE.save(folder / name)
    return folder


def pipe(path):
    os.mkfifo(path)


def listen(path):
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(os.path.relpath(path))  # a door has at most 107 bytes


def nowhere(path):
    path.symlink_to("nowhere")


def itself(path):
    path.symlink_to(path.name)


def file(path):
    path.write_bytes(b"")


OTHERS = {
    ".DS_Store": (file, "hidden"),
    "._a.jpg": (file, "hidden"),
    ".hidden.png": (file, "hidden"),
    ".git": (os.mkdir, "hidden"),
    "Thumbs.db": (file, ".db"),
    "desktop.ini": (file, ".ini"),
    "notes.txt": (file, ".txt"),
    "a.jpg.txt": (file, ".txt"),
    "half.jpg.part": (file, ".part"),
    "a.jpg~": (file, ".jpg~"),
    "no ending": (file, "without an ending"),
    "b.HEIC": (file, ".heic"),
    "b.heif": (file, ".heif"),
    "b.CR2": (file, ".cr2"),
    "b.dng": (file, ".dng"),
    "b.eps": (file, ".eps"),
    "b.pdf": (file, ".pdf"),
    "b.svg": (file, ".svg"),
    "b.mov": (file, ".mov"),
    "b.zip": (file, ".zip"),
    "2023": (os.mkdir, "folder"),
    "b.jpg": (os.mkdir, "folder"),
    "p.jpg": (pipe, "link to nowhere, pipe or device"),
    "s.jpg": (listen, "link to nowhere, pipe or device"),
    "n.jpg": (nowhere, "link to nowhere, pipe or device"),
    "i.jpg": (itself, "link to nowhere, pipe or device"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", OTHERS)
def test_what_else_is_in_a_folder(name, folder, capsys, monkeypatch):
    """A hidden file, a folder or pipe called `x.jpg`, HEIC: passed over and named."""
    make, kind = OTHERS[name]
    monkeypatch.chdir(folder)
    make(folder / name)
    found = [folder / "a.jpg", folder / "z.jpg"]
    assert find_photographs(folder) == find_photographs(str(folder)) == found
    line = f"passed over: {kind} × 1 ({name})\n"
    assert capsys.readouterr().out == 2 * line


def test_many_other_files(folder, capsys):
    """A thousand notes beside the photographs: counted, and the first five named."""
    for number in range(1000):
        (folder / f"{number:03}.json").touch()
    assert len(find_photographs(folder)) == 2
    told = ".json × 1000 (000.json, 001.json, 002.json, 003.json, 004.json, …)"
    assert capsys.readouterr().out == f"passed over: {told}\n"


READ = [".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".apng", ".gif", ".webp", ".bmp"]
READ += [
    ".dib",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".jp2",
    ".j2k",
    ".mpo",
]


@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("ending", READ)
def test_every_ending_of_the_formats_that_are_read(ending, case, folder, capsys):
    """A `.jfif`, a `.JPE`, a `.Tiff`, and all others that Pillow knows: found."""
    (folder / case(f"m{ending}")).touch()
    assert len(find_photographs(folder)) == 3
    assert ending in endings() and capsys.readouterr().out == ""


NAMES = [
    "new\nline.jpg",
    "tab\t.jpg",
    "qu'o\"te.jpg",
    "-rf.jpg",
    "[a-z]*?.jpg",
    " .jpg",
]
NAMES += [
    "café.jpg",
    unicodedata.normalize("NFD", "café.jpg"),
    "猫.jpg",
    "%s{}$HOME.jpg",
]
NAMES += [
    os.fsdecode(b"\xff\xfe.jpg"),
    "n" * 251 + ".jpg",
    "\x1b[31m.jpg",
    "~.jpg",
    "a#b.jpg",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_is_hard_to_read(name, folder, planted, monkeypatch):
    """A name with a line break, quotes, bytes that are no text: read, and one line."""
    PICTURE.save(folder / "z.png")
    (folder / "z.png").rename(folder / name)
    found = find_photographs(folder)
    assert folder / name in found and len(found) == 3
    monkeypatch.chdir(folder)
    assert len(planted.caption([folder / name, name], 1)) == 2
    assert shown(name).isprintable() and shown(name).encode()
    (folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match="not a usable photograph: it is empty") as no:
        load_photograph(folder / name)
    assert str(no.value).isprintable()


def test_the_home_folder(folder, planted, monkeypatch):
    """A path that begins with `~`: the home folder, wherever it is named."""
    monkeypatch.setenv("HOME", str(folder.parent))
    assert find_photographs("~/f") == [folder / "a.jpg", folder / "z.jpg"]
    assert find_photographs("~/f/a.jpg") == [folder / "a.jpg"]
    assert len(planted.caption(["~/f/a.jpg", Path("~/f/z.jpg")], 1)) == 2
    with pytest.raises(FileNotFoundError, match=f"{folder}/none.pt: no captioner"):
        load_captioner("~/f/none.pt")


@pytest.mark.parametrize("names", [[], [".DS_Store"], ["a.heic", "b.HEIC"], ["2023/"]])
def test_a_folder_without_photographs(names, tmp_path):
    """A folder that is empty, or full of something else: an error that says of what."""
    for name in names:
        os.mkdir(tmp_path / name) if name[-1] == "/" else (tmp_path / name).touch()
    told = ", ".join(name.rstrip("/") for name in names)
    holds = rf"holds \S+ × {len(names)} \({told}\)" if names else "it holds nothing"
    with pytest.raises(
        ValueError, match=rf"no photograph \(JPEG.*in this folder.*{holds}"
    ):
        find_photographs(tmp_path)


NO_FILES = {
    "/dev/zero": (ValueError, "is no file but a folder, a pipe or a device"),
    "/dev/stdin": (ValueError, "is no file|no such file"),
    "p.jpg": (ValueError, "p.jpg is no file but a folder, a pipe or a device"),
    "s.jpg": (ValueError, "s.jpg is no file but a folder, a pipe or a device"),
    "b.jpg": (ValueError, "b.jpg is no file but a folder, a pipe or a device"),
    "n.jpg": (FileNotFoundError, "n.jpg: there is no such file"),
    "i.jpg": (FileNotFoundError, "i.jpg: there is no such file"),
    "a.jpg/b": (FileNotFoundError, "a.jpg/b: there is no such file"),
    "*.jpg": (FileNotFoundError, r"\*.jpg: there is no such file"),
    "https://a.b/c.jpg": (ValueError, "https://a.b/c.jpg is an address: download it"),
    "file:///c.jpg": (ValueError, "file:///c.jpg is an address"),
    "s3://a/b.jpg": (ValueError, "s3://a/b.jpg is an address"),
    "": (FileNotFoundError, "'': there is no such file"),
    "a\0b.jpg": (FileNotFoundError, r"a\\x00b.jpg': there is no such file"),
    "x" * 300: (FileNotFoundError, "xxx: there is no such file"),
    "data:image/png;base64," + 9999 * "A": (FileNotFoundError, "there is no such file"),
    "\ud800.jpg": (FileNotFoundError, r"'\\ud800.jpg': there is no such file"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("path", NO_FILES, ids=lambda path: ascii(path)[:20])
def test_a_path_that_leads_to_no_file(path, folder, planted, monkeypatch):
    """A pipe, a device, a circle of links, an address: named, not waited for."""
    monkeypatch.chdir(folder)
    for name in ("p.jpg", "s.jpg", "b.jpg", "n.jpg", "i.jpg"):
        OTHERS[name][0](folder / name)
    kind, message = NO_FILES[path]
    monkeypatch.setattr(room, "beam_search", pytest.fail)
    for read in (load_photograph, lambda path: planted.caption(["a.jpg", path], 1)):
        with pytest.raises(kind, match=message) as error:
            read(path)
        assert len(str(error.value)) < 1100
    if path not in ("", "b.jpg"):
        with pytest.raises((OSError, ValueError), match="no such file|is |zero byte"):
            find_photographs(path)


LISTS = {
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (a, b),
    "generator": lambda a, b: (photograph for photograph in [a, b]),
    "iterator": lambda a, b: iter([a, b]),
    "values of a dictionary": lambda a, b: {1: a, 2: b}.values(),
    "map": lambda a, b: map(Path, [a, b]),
    "array of text": lambda a, b: np.array([str(a), str(b)]),
    "texts": lambda a, b: [str(a), str(b)],
    "images": lambda a, b: [Image.open(a), Image.open(b)],
    "files": lambda a, b: [io.BytesIO(a.read_bytes()), io.BytesIO(b.read_bytes())],
    "arrays": lambda a, b: [np.asarray(Image.open(a)), np.asarray(Image.open(b))],
    "array of arrays": lambda a, b: np.stack(2 * [np.asarray(Image.open(a))]),
    "floats": lambda a, b: np.stack(2 * [np.asarray(Image.open(a)) / 255]),
    "greys": lambda a, b: [np.zeros((9, 9), np.uint8), Image.new("L", (9, 9))],
    "transparent": lambda a, b: [Image.new("RGBA", (9, 9)), np.zeros((9, 9, 4))],
    "mixed": lambda a, b: [a, Image.open(b)],
}


@pytest.mark.parametrize("form", LISTS)
def test_every_list_of_photographs(form, folder, planted):
    """A tuple, a generator, an array of pictures, files in memory: captions of each."""
    captions = planted.caption(LISTS[form](folder / "a.jpg", folder / "z.jpg"), 2)
    assert len(captions) == 2 and all(caption.words for caption in captions)


SINGLE = [
    "a.jpg",
    Path("a.jpg"),
    "*.jpg",
    "",
    PICTURE,
    np.zeros((9, 9, 3)),
    np.array(5),
]
SINGLE += [
    np.zeros((9, 9)),
    torch.zeros(3, 9, 9),
    b"GIF89a",
    io.BytesIO(),
    None,
    5,
    2.5,
]


@pytest.mark.parametrize("single", SINGLE, ids=lambda single: type(single).__name__)
def test_a_photograph_outside_a_list(single, planted):
    """A single path, image, array or number: refused with the remedy, at once."""
    with pytest.raises(TypeError, match="takes a list of photographs"):
        planted.caption(single)


@pytest.mark.parametrize(
    "wrong",
    [None, 5, 2.5, True, b"GIF89a", [PICTURE], {}, torch.zeros(9, 9, 3), object()],
    ids=lambda wrong: type(wrong).__name__,
)
def test_a_list_that_holds_something_else(wrong, planted, monkeypatch):
    """None, a tensor or a list among the photographs: named by its place, at once."""
    monkeypatch.setattr(room, "beam_search", pytest.fail)
    for on_error in ("raise", "skip"):
        with pytest.raises(
            TypeError, match=r"images\[2\] must be a path, an open file"
        ):
            planted.caption([PICTURE, PICTURE, wrong], 1, 1, on_error)


def broken(folder):
    """List photographs and others by turns: cut, empty, text, a folder, missing."""
    whole = (folder / "a.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[:400])
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("Dear diary")
    (folder / "b.jpg").mkdir()
    others = [folder / name for name in ("cut.jpg", "empty.jpg", "text.png", "b.jpg")]
    others += [folder / "none.jpg", np.zeros((3, 9, 9)), np.full((9, 9), np.nan)]
    return [photograph for other in others for photograph in (folder / "a.jpg", other)]


@pytest.mark.parametrize("batch_size", [1, 3, 16, 1000])
def test_broken_photographs_among_others(batch_size, folder, planted, capsys):
    """Every second photograph broken: the others are captioned, and these named."""
    captions = planted.caption(broken(folder), 1, batch_size, on_error="skip")
    assert [caption is None for caption in captions] == [False, True] * 7
    assert len({str(caption) for caption in captions[::2]}) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "left" in line]
    names = (
        "cut.jpg",
        "empty.jpg",
        "text.png",
        "b.jpg",
        "none.jpg",
        "(3, 9, 9)",
        "(9, 9)",
    )
    assert len(lines) == 7
    for line, name in zip(lines, names, strict=True):
        assert line.startswith("left out: ") and name in line


@pytest.mark.parametrize("place", [1, 3, 5, 11, 13])
def test_a_broken_photograph_that_may_not_be_left_out(place, folder, planted):
    """A broken photograph for a program that wants all: an error with its place."""
    photograph = broken(folder)[place]
    with pytest.raises(ValueError, match=r"images\[1\]: .*not a usable photograph: \w"):
        planted.caption([folder / "a.jpg", photograph], 1)


def test_only_broken_photographs(folder, planted):
    """No photograph that can be read: an error, not an empty answer."""
    with pytest.raises(
        ValueError, match=r"none of 7 photographs can be read, first .*cut\.jpg"
    ):
        planted.caption(broken(folder)[1::2], 1, on_error="skip")
    assert planted.caption([], on_error="skip") == planted.caption(()) == []


@pytest.mark.parametrize("split", ["train", "val"])
def test_flickr8k_without_some_photographs(split, tmp_path):
    """Photographs that Flickr8k's lists name are missing: said before hours of work."""
    files = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt"}
    lines = [f"{name}.jpg#0\tA dog .\n" for name in files]
    (tmp_path / "Flickr8k.token.txt").write_text("".join(lines))
    (tmp_path / "Images").mkdir()
    for name, path in files.items():
        (tmp_path / path).write_text(f"{name}.jpg\n")
        (tmp_path / "Images" / f"{name}.jpg").touch()
    assert open_collection(tmp_path)["train"][1] == [[["a", "dog"]]]
    (tmp_path / "Images" / f"{split}.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"1 of 2 .* missing, first {split}\.jpg"
    ):
        open_collection(tmp_path)
