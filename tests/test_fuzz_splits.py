"""Ten thousand lists of photographs, written as people write them, and damaged ones."""

import unicodedata
from random import Random
from urllib.parse import quote

import pytest

from satlib import caption_files
from satlib.caption_files import SPLITS, match_names, read_splits

STEMS = ["IMG_1", "1000268201_693b08cb0e", "my dog", "é", "x.y", "图", "Z", "b-2", "17"]


def known_names(random):
    """Return the names of photographs as captions have them, no two alike."""
    folder = random.choice(["", "", "Images/", "train2014/"])
    ending = random.choice([".jpg", ".png", ".JPG"])
    stems = random.sample(STEMS, random.randrange(1, len(STEMS)))
    return [folder + stem + ending for stem in stems]


def spelled(random, name):
    """Write a photograph's name otherwise, so that it is still plain which is meant."""
    folder, _, last = name.rpartition("/")
    stem, _, ending = last.rpartition(".")
    ways = [
        name,
        name.upper(),
        name.lower(),
        f"./{name}",
        f" {name} ",
        quote(name),
        last,
    ]
    ways += [f"/data/{name}", name.replace("/", "\\"), f"{name}#0", f"C:\\x\\{last}"]
    ways += [
        stem if "." not in stem else last,
        f'"{name}"',
        f"{name},train",
        f"{name}\t7",
    ]
    ways += [unicodedata.normalize("NFD", name), f"{stem}.{ending.swapcase()}"]
    if folder:
        ways = [way for way in ways if "/data" not in way and "C:" not in way]
    return random.choice(ways)


class Held:
    """A path of a list in memory."""

    files = {}

    def __init__(self, path):
        self.name = str(path).rpartition("/")[2]

    def __fspath__(self):
        return self.name

    __str__ = __fspath__

    def is_dir(self):
        return False

    def read_bytes(self):
        return self.files[self.name]


@pytest.fixture
def read(monkeypatch):
    """Read lists from a dictionary of texts by the names of the files."""
    monkeypatch.setattr(caption_files, "Path", Held)

    def reader(files):
        Held.files = {f"{split}.txt": data for split, data in files.items()}
        return read_splits([*Held.files])

    return reader


def test_lists_as_people_write_them(tried, read):
    random = Random(28)
    for _ in range(6_000):
        known = known_names(random)
        of = {name: random.choice(SPLITS) for name in known}
        files = {}
        for split in SPLITS:
            lines = [spelled(random, name) for name in known if of[name] == split]
            text = random.choice(["\n", "\r\n", "\n\n"]).join(lines)
            text = (
                random.choice(["", "\ufeff", "\n"]) + text + random.choice(["", "\n"])
            )
            files[split] = text.encode(random.choice(["utf-8", "utf-8", "utf-16"]))
        for split, names in read(files).items():
            found = match_names(names, known)
            meant = [name for name in known if of[name] == split]
            assert [found.get(name) for name in names] == meant, (files, names, known)
        tried["splits"] += 1


def test_names_of_no_photograph(tried):
    """What is found is never a photograph that the name cannot mean."""
    random = Random(29)
    letters = "aA1é .-_/\\%2#"
    for _ in range(3_000):
        known = {
            "".join(random.choices(letters, k=random.randrange(1, 4))) + ending
            for ending in random.choices([".jpg", ".JPG", ".png", ""], k=4)
        }
        names = ["".join(random.choices(letters, k=3)) for _ in range(3)]
        names = [random.choice([n, n + ".jpg", n + ".PNG", *known]) for n in names]
        found = match_names(names, known)
        for name, other in found.items():
            assert other in known and (name in known) <= (name == other), (name, known)
            ends = [n.casefold()[-4:] for n in (name, other)]
            ends = [end for end in ends if end in (".jpg", ".png")]
            assert len({*ends}) < 2, (name, other)
        tried["splits"] += 1


def test_damaged_lists(tried, read):
    random, kept = Random(30), 0
    pieces = [
        b"\0",
        b"\xff",
        b",",
        b'"',
        b"\n",
        b"\n\n",
        b"#1",
        b"\t",
        b"{",
        b"\xc3\xa9",
    ]
    for _ in range(4_000):
        known = known_names(random)
        files = {
            split: "\n".join(known[k::3]).encode() for k, split in enumerate(SPLITS)
        }
        split = random.choice(SPLITS)
        data = files[split]
        at, to = sorted(random.randrange(len(data) + 1) for _ in range(2))
        piece = random.choice(pieces)
        files[split] = random.choice(
            [data[:at] + piece + data[at:], data[:at] + data[to:], data + b"\n" + data]
        )
        try:
            result = read(files)
        except ValueError as error:
            assert f"{split}.txt" in str(error) or "again in the" in str(error), files
        else:
            kept += 1
            for other in {*SPLITS} - {split}:
                assert result[other] == files[other].decode().split("\n") * bool(
                    files[other]
                ), files
            names = [name for own in result.values() for name in own]
            assert len(names) == len({*names}) and all(map(str.strip, names)), files
        tried["splits"] += 1
    assert kept > 1_000
