"""Ten thousand caption files: of every form, and the same with small damage."""

import csv
import io
import json
import unicodedata
import warnings
from random import Random

import pytest

from satlib import caption_files
from satlib.caption_files import Captions, read_captions, tokenize

WORDS = ["a", "the", "cat's", "dog", "RUNS,", "on", "grass.", "größe", "café", "2"]
WORDS += ["чёрный", "狗", "बिल्ली", "كلب", "x"]
ODD = ["...", "", "“wet”", "d'or!", "(big)", "e\u0301", "50 %", "a-b", "?!"]
QUOTED = ['"stop"', "say, please", "one; two", "a|b", 'a "b" c, d', "[x]", "a\tb"]
STEMS = [
    "a",
    "IMG_1",
    "1000268201_693b08cb0e",
    "my dog",
    "é",
    "x.y",
    "图",
    "sub/z",
    "7",
]


def rows_of(random, quoted=False):
    """Return rows (name, sentence), names of the same photograph together or not."""
    names = random.sample(STEMS, random.randrange(1, 5))
    ending = random.choice([".jpg", ".png", ".JPEG", ".webp"])
    rows = []
    for _ in range(random.randrange(1, 7)):
        words = random.choices(WORDS, k=random.randrange(1, 8))
        words += random.sample(ODD + QUOTED * quoted, random.randrange(3))
        rows.append((random.choice(names) + ending, " ".join(words)))
    return rows


def expected(rows):
    """Return the caption map of rows."""
    captions = {}
    for name, sentence in rows:
        own = captions.setdefault(unicodedata.normalize("NFC", name), [])
        own += [words] if (words := tokenize(sentence)) else []
    return captions


def a_table(random, rows):
    """Write rows as a table: any separator, order of columns, heading, further ones."""
    delimiter = random.choice("\t,;|")
    columns = [("image", [n for n, _ in rows]), ("caption", [s for _, s in rows])]
    if random.random() < 0.3:
        columns.append(("number", [str(k) for k in range(len(rows))]))
    if random.random() < 0.3:
        columns.insert(0, ("", [str(7 * k) for k in range(len(rows))]))
    if random.random() < 0.3:
        random.shuffle(columns)
    heading = random.random() < 0.5
    lines = [[h for h, _ in columns]] * heading
    lines += [list(row) for row in zip(*(c for _, c in columns), strict=True)]
    file = io.StringIO()
    how = csv.QUOTE_ALL if random.random() < 0.2 else csv.QUOTE_MINIMAL
    csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=how).writerows(
        lines
    )
    return file.getvalue()


def a_bare_table(random, rows):
    """Write rows as lines without quotes: tabs, pipes or spaces between."""
    between = random.choice(["\t", " | ", "|", "#0\t", "#12\t"])
    plain = [(n, " ".join(s.replace("|", " ").split()) or "x") for n, s in rows]
    return "".join(f"{n}{between}{s}\n" for n, s in plain)


def a_coco(random, rows):
    """Write rows as COCO's JSON, with ids of one kind or another."""
    kind = random.choice([int, str, float])
    ids = {name: k + 100 for k, name in enumerate(dict(rows))}
    images = [{"id": kind(k), "file_name": name} for name, k in ids.items()]
    notes = [{"id": 1, "image_id": ids[n], "caption": s} for n, s in rows]
    data = {"info": {"x": [1]}, "images": images, "annotations": notes}
    return json.dumps(data, ensure_ascii=random.random() < 0.5)


def a_karpathy(random, rows):
    """Write rows as Karpathy's JSON, its sentences in one of three ways."""
    images = {}
    way = random.choice([lambda s: {"raw": s, "tokens": ["no"]}, str])
    for name, sentence in rows:
        new = {"filename": name, "split": random.choice(["train", "val", "restval"])}
        image = images.setdefault(name, new | {"sentences": []})
        image["sentences"].append(way(sentence))
    return json.dumps({"images": [*images.values()]}, indent=random.choice([None, 1]))


def records(random, rows):
    """Write rows as records, a list of them or one a line, or as a dictionary."""
    name, caption = random.choice([("image", "caption"), ("file_name", "text")])
    found = [{name: n, caption: random.choice([s, [s]])} for n, s in rows]
    kind = random.randrange(3)
    if kind == 2:
        together = {}
        for n, s in rows:
            together.setdefault(n, []).append(s)
        return json.dumps(together)
    return json.dumps(found) if kind else "\n".join(map(json.dumps, found))


FORMS = [a_table, a_bare_table, a_coco, a_karpathy, records]
ENCODINGS = ["utf-8"] * 4 + ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


def some_file(random, number):
    """Return (form, rows, text) of a file."""
    form = FORMS[number % len(FORMS)]
    rows = rows_of(random, quoted=form is not a_bare_table)
    return form, rows, form(random, rows)


class Held:
    """A path whose file is in memory: to open 10,000 files on a disk takes too long."""

    data = b""

    def __init__(self, path):
        self.path = path

    def is_dir(self):
        return False

    def read_bytes(self):
        return Held.data


@pytest.fixture
def read(monkeypatch):
    """Read captions from bytes, without warnings."""
    monkeypatch.setattr(caption_files, "Path", Held)

    def reader(data):
        Held.data = data
        return read_captions("captions.txt")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield reader


def test_files_of_every_form(tried, read):
    random = Random(28)
    for number in range(5_000):
        form, rows, text = some_file(random, number)
        if not any(expected(rows).values()):
            continue
        text = text.replace("\n", random.choice(["\n", "\n", "\r\n", "\n\n"]))
        result = read(text.encode(random.choice(ENCODINGS)))
        assert result.captions == expected(rows), (form, text)
        empty = sum(not tokenize(sentence) for _, sentence in rows)
        assert result.empty == empty, (form, text)
        tried["captions"] += 1


def damaged(random, data):
    """Return bytes with one to three small things wrong."""
    for _ in range(random.randrange(1, 4)):
        at, to = sorted(random.randrange(len(data) + 1) for _ in range(2))
        piece = random.choice(
            [b'"', b"'", b",", b"\t", b";", b"|", b"\n", b"\r", b"{", b"]", b"[" * 2000]
            + [
                b"\0",
                b"\xff",
                b"\xe4",
                b" ",
                b"#1",
                b"null",
                b"NaN",
                b"-1e999",
                b"<end>",
            ]
            + [
                b"\xef\xbb\xbf",
                b".jpg",
                b'"id": ',
                b"\xf0\x9f\x91\x8d",
                b"\\ud800",
                b"",
            ]
        )
        data = random.choice(
            [data[:at] + piece + data[at:], data[:at] + data[to:], data[:at]]
            + [data[:at] + data[at:to] * 2 + data[to:], data[:at] + piece + data[to:]]
        )
    return data


def test_files_with_small_damage(tried, read):
    random, kept = Random(29), 0
    for number in range(6_000):
        data = damaged(random, some_file(random, number)[2].encode())
        try:
            result = read(data)
        except ValueError as error:
            assert "captions.txt" in str(error), (data, error)
        else:
            assert isinstance(result, Captions) and any(result.captions.values())
            for name, captions in result.captions.items():
                assert name == name.strip() != "" and "\0" not in name, data
                assert all(map(len, captions)), data
            kept += 1
        tried["captions"] += 1
    assert 500 < kept < 5_000


def test_a_damaged_line_costs_no_other_line(tried, read):
    """What is accepted has the captions of all lines that are whole."""
    random, kept = Random(30), 0
    for _ in range(4_000):
        rows = [(f"{k}.jpg", f"word{k} a dog") for k in range(random.randrange(3, 7))]
        between = random.choice("\t,;|")
        lines = [f"{name}{between}{text}" for name, text in rows]
        hurt = random.randrange(len(lines))
        lines[hurt] = damaged(random, lines[hurt].encode()).decode("utf-8", "replace")
        lines[hurt] = lines[hurt].replace("\n", " ").replace("\r", " ")
        try:
            found = read("\n".join(lines).encode()).captions
        except ValueError:
            pass
        else:
            kept += 1
            for k, (name, text) in enumerate(rows):
                assert k == hurt or found[name] == [text.split()], lines
        tried["captions"] += 1
    assert kept > 1_000
