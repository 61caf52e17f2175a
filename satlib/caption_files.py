# Written by `python -m satlib.tangle` from chapters/caption_files.md: edit that.
# chapters/caption_files.md: Caption files: many kinds of file, one map
"""Caption files of many forms, and lists of splits: read where they are plain."""

import ast
import codecs
import contextlib
import csv
import io
import json
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote

import regex

SPLITS = ("train", "val", "test")


# chapters/caption_files.md: From a sentence to words
_WORD = regex.compile(
    r"['\p{Pc}]*[\p{L}\p{Nd}\p{Nl}]"
    r"(?:[\p{L}\p{Mn}\p{Mc}\p{Nd}\p{Nl}\p{Pc}']+|[\u200c\u200d](?=\p{L}))*"
)


# chapters/caption_files.md: From a sentence to words
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘‛ʼ′＇´", "'"))
_INVISIBLE = regex.compile(
    r"(?V1)[\p{Default_Ignorable_Code_Point}--[\u200b\u200c\u200d]]"
)
_JOINER = regex.compile(
    r"(?<!\p{Arabic}\p{M}*|\p{ccc=9})[\u200c\u200d]|[\u200c\u200d](?!\p{L})"
)


# chapters/caption_files.md: From a sentence to words
TOKENS = ("words", "characters")
_UNSPACED = regex.compile(
    r"(?V1)[[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Line_Break=SA}ー]--\p{M}]"
    r"\p{M}*"
)


def tokenize(caption, tokens="words"):
    """Split a sentence into its words: lower case, punctuation gone, "man's" whole.

    With `tokens` "characters", each letter of a script without spaces is a word. Every
    word is in Unicode's NFC and holds a letter or digit. Raises ValueError for another
    value of `tokens`.
    """
    if tokens not in TOKENS:
        raise ValueError(f"tokens={tokens!r} must be one of: {' '.join(TOKENS)}")
    text = normalize("NFC", _INVISIBLE.sub("", caption))
    text = _JOINER.sub("", text).lower().translate(_APOSTROPHES)
    text = normalize("NFC", text)
    if tokens == "characters":
        text = _UNSPACED.sub(r" \g<0> ", text)
    return _WORD.findall(text)


# chapters/caption_files.md: The caption map
@dataclass
class Captions:
    """What a caption file holds, in the file's order.

    captions: file name of a photograph -> its captions, each a list of words
    splits:   "train", "val", "test" -> file names, where the file brings them
    empty:    number of captions left out because they hold no word
    """

    captions: dict[str, list[list[str]]]
    splits: dict[str, list[str]] | None = None
    empty: int = 0


# chapters/caption_files.md: The caption map
_NAME = regex.compile(r"[^\n]*[^\s./\\] *\.[A-Za-z][A-Za-z0-9]{1,4}(?:#\d+)?")
_NUMBER = regex.compile(r"(?<=\.[A-Za-z][A-Za-z0-9]{1,4})#\d+$")
_NO_NAME = regex.compile(r"[\p{Cs}\0]")


def _one_form(name):
    clean = normalize("NFC", name).replace("\ufeff", "").strip().replace("\\", "/")
    if "#" in clean:
        clean = _NUMBER.sub("", clean)
    while clean.startswith("./"):
        clean = clean[2:].lstrip("/")
    return clean


def file_name(name):
    """Return a photograph's name in one form. Raises ValueError where it is no text."""
    if not isinstance(name, str) or _NO_NAME.search(name):
        raise ValueError(f"{name!r} is no file name: it must be text")
    if not (clean := _one_form(name)):
        raise ValueError(f"{name!r} is no file name: it is empty")
    return clean


# chapters/caption_files.md: The caption map
_MARK = regex.compile(
    r"<\s*[/|]?\s*\p{L}\w*\s*[/|]?\s*>|\[(?:CLS|SEP|PAD|UNK|MASK|BOS|EOS)\]"
    r"|\b(?:start|end)_?(?:of)?(?:seq|token)\b",
    regex.IGNORECASE,
)


# chapters/caption_files.md: The caption map
def _without_marks(path, pairs):
    marks = []
    for name, sentence in pairs:
        if not isinstance(sentence, str):
            problem = f"{name!r} has the caption {sentence!r}"
            raise ValueError(f"{path}: {problem}: it must be text")
        sentence = unescape(sentence)
        found = [match[0] for match in _MARK.finditer(sentence)]
        yield name, _MARK.sub(" ", sentence) if found else sentence
        marks += found
    if marks:
        kinds = ", ".join([*dict.fromkeys(marks)][:6])
        problem = f"dropped {len(marks):,} marks of another program: {kinds}"
        warnings.warn(f"{path}: {problem}", stacklevel=4)


# chapters/caption_files.md: The caption map
def _is_unspaced(text):
    return not text.isascii() and _UNSPACED.search(text)


def _warn_of_unspaced(path, captions):
    total = len(captions)
    captions = [words for words in captions if _is_unspaced(" ".join(words))]
    few = sum(map(len, captions)) < 3 * len(captions)
    long = [len(word) for words in captions for word in words if _is_unspaced(word)]
    limit = 2 if few else 6
    if 10 * len(captions) > total and sum(long) > limit * len(long):
        warnings.warn(
            f"{path}: {len(captions):,} captions in a script without spaces, where a "
            "whole phrase counts as one word; choose tokens='characters', or put "
            "spaces between the words",
            stacklevel=4,
        )


# chapters/caption_files.md: The caption map
def _collect(path, pairs, splits=None, tokens="words"):
    result = Captions({}, splits)
    for name, sentence in _without_marks(path, pairs):
        try:
            captions = result.captions.setdefault(file_name(name), [])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        words = tokenize(sentence, tokens)
        captions.extend([words] if words else [])
        result.empty += not words
    everything = [words for captions in result.captions.values() for words in captions]
    if not everything:
        raise ValueError(f"{path}: holds no caption")
    if tokens == "words":
        _warn_of_unspaced(path, everything)
    return result


# chapters/caption_files.md: From bytes to text
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NO_TEXT = {
    b"PK\x03\x04": "an Excel or zip file",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file",
    b"\x1f\x8b": "a compressed file",
    b"%PDF": "a PDF",
    b"{\\rtf": "a Rich Text file",
    b"<html": "a web page",
    b"<!doctype": "a web page",
}


def _encoding(data):
    for mark, encoding in _ENCODINGS.items():
        if data.startswith(mark):
            return encoding
    begin = data[:4000]
    even, odd = begin[::2].count(0), begin[1::2].count(0)
    if 8 * max(even, odd) > len(begin) and not 4 * even > odd > even / 4:
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8"


# chapters/caption_files.md: From bytes to text
def path_of(path, name):
    """Return a path, `~` written out. Raises TypeError, with its name, for no path."""
    if not (path and isinstance(path, (str, os.PathLike))):
        raise TypeError(f"{name} must be a path, not {path!r:.60}")
    return Path(os.path.expanduser(path))


def _read_text(path):
    file = path_of(path, "a caption file or list")
    if file.is_dir():
        raise ValueError(f"{path} is a folder: name the file in it")
    data = file.read_bytes()
    for begin, kind in _NO_TEXT.items():
        if data.lstrip()[:20].lower().startswith(begin.lower()):
            raise ValueError(f"{path} is {kind}: save its table as CSV in UTF-8")
    encoding = _encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(regex.findall(rb"\r\n?|\n", data[: error.start])) + 1
        problem = "this is no UTF-8; save the file as UTF-8 (in Excel: CSV UTF-8)"
        raise ValueError(f"{path}, line {line}: {problem}") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path}, line {line}: a NUL byte: the file is damaged")
    return regex.sub(r"\A\"?sep=[,;|\t]\"?\n", "\n", text)  # for Excel only


# chapters/caption_files.md: Flickr8k: one caption a line
_FLICKR_LINE = regex.compile(r"^([^\t\n]+)#\d+\t(.*)$", regex.MULTILINE)


def _flickr_pairs(path, text):
    for number, line in enumerate(text.split("\n"), 1):
        match = _FLICKR_LINE.fullmatch(line)
        if match:
            yield match.groups()
        elif line.strip():
            problem = f"expected file#number<TAB>caption, found {line[:60]!r}"
            raise ValueError(f"{path}, line {number}: {problem}")


# chapters/caption_files.md: Flickr8k: one caption a line
_SPACED_LINE = regex.compile(
    r"\s*(\S*[^\s./\\]\.[A-Za-z][A-Za-z0-9]{1,4}(?:#\d+)?)(?:\s*[:=>-]+|\s)\s*(.+)"
)


def _spaced_pairs(text):
    lines = [line for line in text.split("\n") if line.strip()]
    matches = [_SPACED_LINE.fullmatch(line) for line in lines]
    return [match.groups() for match in matches] if all(matches) else []


# chapters/caption_files.md: Tables: Kaggle's and yours
DELIMITERS = "\t,;|"
_QUOTES = " \"'`“”„‘’«»"


def _is_name(cell):
    return bool(_NAME.fullmatch(cell.strip(_QUOTES)))


def _names(line, delimiter):
    cells = line.split(delimiter) if delimiter in line else []
    return [cell for cell in cells if _is_name(cell)]


def _delimiter(text):
    lines = [line for line in text.split("\n") if line.strip()][:1000] or [""]

    def fits(delimiter):
        named = [names for line in lines if (names := _names(line, delimiter))]
        clean = [names for names in named if not {*DELIMITERS} & {*"".join(names)}]
        return len(clean), len(named), delimiter in lines[0]

    return max(DELIMITERS, key=fits)


# chapters/caption_files.md: Tables: Kaggle's and yours
def _quoted_rows(path, text, delimiter):
    options = {"delimiter": delimiter, "strict": True, "skipinitialspace": True}
    reader, start = csv.reader(io.StringIO(text), **options), 1
    lines = text.split("\n")
    try:
        for row in reader:
            further = lines[start : reader.line_num]
            if any(_names(line, delimiter) for line in further):
                raise csv.Error("a row within a row")
            if any(cell.strip() for cell in row):
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        problem = f"{error}, open quote? A quotation mark inside of quotes is doubled"
        raise ValueError(f"{path}, line {start}: {problem}") from None


# chapters/caption_files.md: Tables: Kaggle's and yours
def _table_rows(path, text):
    delimiter = _delimiter(text)
    try:
        rows = list(_quoted_rows(path, text, delimiter))
    except ValueError:
        lines = [line for line in text.split("\n") if line.strip()]
        even = all(line.count('"') % 2 == 0 for line in lines)
        two = all(line.count(delimiter) == 1 for line in lines)
        if delimiter in ",;" and not (even and two):
            raise
        lines = [line.split(delimiter) for line in text.split("\n")]
        rows = [(n, row) for n, row in enumerate(lines, 1) if any(map(str.strip, row))]
    rows = [(line, [cell.strip() for cell in row]) for line, row in rows]
    first = rows[0][1] if rows else []
    while len(first) > 2 and not first[-1] and len({len(row) for _, row in rows}) > 1:
        first.pop()
    return [(line, _fit_row(path, line, row, len(first))) for line, row in rows]


# chapters/caption_files.md: Tables: Kaggle's and yours
_GROWN = regex.compile(r"(\d+)\s+(\S.*)")


def _refuse(path, line, row):
    problem = "expected photograph and caption (in quotes if it has commas)"
    raise ValueError(f"{path}, line {line}: {problem}, found {str(row):.200}")


def _fit_row(path, line, row, width):
    if not any(row[width:]):
        row = row[:width]
    if len(row) == 2 and width == 3 and (grown := _GROWN.fullmatch(row[1])):
        row = [row[0], *grown.groups()]
    if len(row) != width or not 2 <= width <= 100:
        _refuse(path, line, row)
    return row


# chapters/caption_files.md: Tables: Kaggle's and yours
def _name_column(path, rows):
    columns = [[row[k] for _, row in rows] for k in range(len(rows[0][1]))]
    named = [sum(map(_is_name, column)) for column in columns]
    if max(named):
        return named.index(max(named))
    bare = [all(len(cell.split()) == 1 for cell in column) for column in columns]
    if len(columns) == 2 and len(rows) > 1 and any(bare):
        return bare.index(True)
    problem = "expected a column of file names such as beach.jpg, and one of captions"
    found = str(rows[0][1])
    raise ValueError(f"{path}, line {rows[0][0]}: {problem}, found {found:.200}")


# chapters/caption_files.md: Tables: Kaggle's and yours
_HEADING = regex.compile(
    r"(?i)[a-z_ ]*(image|img|file|photo|picture|path|name|id)[a-z_ ]*"
)


def _divide(path, rows, column):
    ended = [_is_name(row[column]) for _, row in rows]
    heading = None
    if not ended[0] and (any(ended) or _HEADING.fullmatch(rows[0][1][column])):
        heading = rows[0][1]
    body = [(line, row) for line, row in rows if row != heading]
    for line, row in body:
        if not row[column] or (any(ended) and not _is_name(row[column])):
            _refuse(path, line, row)
    return heading, body


# chapters/caption_files.md: Tables: Kaggle's and yours
_SPLIT = regex.compile(r"(?i)(train|restval|dev|val|test)(ing|id|idation)?")
_NUMBERS = regex.compile(r"[-+\d.,\[\] ]*")
_SPOKEN = regex.compile(r"(?i)caption|comment|sentence|text|raw|description")


def _caption_columns(path, heading, body, column):
    others = [k for k in range(len(body[0][1])) if k != column]
    cells = {k: [row[k] for _, row in body] for k in others}

    def consists(k, pattern):
        return all(map(pattern.fullmatch, cells[k]))

    called = [k for k in others if heading and heading[k].lower() == "split"]
    splits = [k for k in others if k in called or consists(k, _SPLIT)]
    silent = [k for k in others if k in splits or consists(k, _NUMBERS)]
    spoken = [k for k in others if k not in silent] or others
    if len(spoken) > 1 and heading:
        spoken = [k for k in spoken if _SPOKEN.search(heading[k])]
    if not spoken or (len(spoken) > 1 and not heading):
        _refuse(path, *body[0])
    named = [k for k in splits if k not in spoken or "split" in str(heading).lower()]
    return spoken, named[:1]


# chapters/caption_files.md: Tables: Kaggle's and yours
def _listed(cell):
    if cell.startswith("[") and cell.endswith("]"):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            sentences = ast.literal_eval(cell)
            if all(isinstance(sentence, str) for sentence in sentences):
                return sentences
    return [cell]


# chapters/caption_files.md: Tables: Kaggle's and yours
def _add_to_split(splits, split, name):
    found = _SPLIT.fullmatch(split) if isinstance(split, str) else None
    if not found:
        problem = f"{name!r} has the unknown split {split!r}"
        raise ValueError(f"{problem}; known are {', '.join(SPLITS)}")
    known = {"restval": "train", "dev": "val"}.get(found[1].lower(), found[1].lower())
    if name not in splits[known][-1:]:
        splits[known].append(name)


def _read_table(path, text):
    rows = _table_rows(path, text)
    if not rows:
        return [], None
    column = _name_column(path, rows)
    heading, body = _divide(path, rows, column)
    if not body:
        raise ValueError(f"{path}, line {rows[0][0]}: holds no caption but a heading")
    spoken, with_split = _caption_columns(path, heading, body, column)
    pairs, splits = [], {split: [] for split in SPLITS}
    for line, row in body:
        name = row[column].strip(_QUOTES)
        pairs += [(name, text) for k in spoken for text in _listed(row[k])]
        try:
            for k in with_split:
                _add_to_split(splits, row[k], file_name(name))
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    return pairs, splits if with_split else None


# chapters/caption_files.md: JSON: Karpathy's files and COCO's
def _take(path, place, entry, *keys):
    if not isinstance(entry, dict) or not all(key in entry for key in keys):
        raise ValueError(f"{path}: {place} needs {' and '.join(keys)}")
    return [entry[key] for key in keys]


def _list_of(path, place, entries):
    if not isinstance(entries, list):
        raise ValueError(f"{path}: {place} must be a list, not {entries!r:.60}")
    return entries


# chapters/caption_files.md: JSON: Karpathy's files and COCO's
def _number(path, place, value):
    whole = isinstance(value, float) and value.is_integer()
    if isinstance(value, bool) or not (whole or isinstance(value, (int, str))):
        raise ValueError(f"{path}: {place} has the id {value!r:.60}, no number")
    return str(int(value) if whole else value)


def _named(path, place, name):
    try:
        return file_name(name)
    except ValueError as error:
        raise ValueError(f"{path}: {place}: {error}") from None


def _coco_pairs(path, data):
    names = {}
    for i, entry in enumerate(data["images"]):
        place = f"images[{i}]"
        number, name = _take(path, place, entry, "id", "file_name")
        number, name = _number(path, place, number), _named(path, place, name)
        if names.setdefault(number, name) != name:
            problem = f"{place} has the id {number}, as has {names[number]!r}"
            raise ValueError(f"{path}: {problem}; give each photograph its own")
    for i, entry in enumerate(_list_of(path, "annotations", data["annotations"])):
        place = f"annotations[{i}]"
        if isinstance(entry, dict) and "bbox" in entry and "caption" not in entry:
            raise ValueError(f"{path}: {place} is a box; take captions_….json instead")
        image, caption = _take(path, place, entry, "image_id", "caption")
        number = _number(path, place, image)
        if number not in names:
            raise ValueError(f"{path}: {place}: no image has the id {image!r}")
        yield names[number], caption


# chapters/caption_files.md: JSON: Karpathy's files and COCO's
def _sentences(path, place, found):
    found = [found] if isinstance(found, str) else _list_of(path, place, found)
    for k, sentence in enumerate(found):
        if isinstance(sentence, dict):
            key = "raw" if "raw" in sentence or "tokens" not in sentence else "tokens"
            (sentence,) = _take(path, f"{place}[{k}]", sentence, key)
        words = isinstance(sentence, list) and all(isinstance(w, str) for w in sentence)
        yield " ".join(sentence) if words else sentence


def _karpathy_pairs(path, data, splits):
    for i, image in enumerate(data["images"]):
        place = f"images[{i}]"
        name, split = _take(path, place, image, "filename", "split")
        name = _named(path, place, name)
        if image.get("filepath"):
            name = f"{_named(path, place, image['filepath'])}/{name}"
        try:
            _add_to_split(splits, split, name)
        except ValueError as error:
            raise ValueError(f"{path}: {place}: {error}") from None
        (found,) = _take(path, place, image, "sentences")
        for sentence in _sentences(path, f"{place}.sentences", found):
            yield name, sentence


# chapters/caption_files.md: JSON: Karpathy's files and COCO's
_OF_NAME = ["image", "image_name", "image_path", "file_name", "filename", "file"]
_OF_CAPTION = ["caption", "captions", "sentence", "sentences", "text", "comment"]


def _record_pairs(path, records):
    for i, record in enumerate(records):
        keys = record if isinstance(record, dict) else ()
        named = [key for key in _OF_NAME if key in keys]
        spoken = [key for key in _OF_CAPTION if key in keys]
        if not (named and spoken):
            problem = 'expected image and caption, or an object with a list "images"'
            raise ValueError(f"{path}: entry {i}: {problem}, found {record!r:.60}")
        for sentence in _sentences(path, f"entry {i}", record[spoken[0]]):
            yield record[named[0]], sentence


# chapters/caption_files.md: JSON: Karpathy's files and COCO's
def _once(items):
    result = dict(items)
    if len(result) < len(items):
        keys = [key for key, _ in items]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return result


def _parse(path, text, first=1):
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and "\n" in text[: error.pos]:
            lines = enumerate(text.split("\n"), 1)
            return [_parse(path, line, n) for n, line in lines if line.strip()]
        line = first + error.lineno - 1
        raise ValueError(f"{path}, line {line}: {error.msg} in JSON") from None
    except RecursionError:
        raise ValueError(f"{path}: this JSON is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error} in JSON") from None


# chapters/caption_files.md: JSON: Karpathy's files and COCO's
def _read_json(path, text):
    data = _parse(path, text)
    if isinstance(data, list):
        return _record_pairs(path, data), None
    if not isinstance(data.get("images"), list):
        if data and all(map(_NAME.fullmatch, data)):
            records = [{"image": name, "caption": data[name]} for name in data]
            return _record_pairs(path, records), None
        if set(data) & {*_OF_NAME} and set(data) & {*_OF_CAPTION}:
            return _record_pairs(path, [data]), None
        problem = 'an object with a list "images", or file names with captions'
        raise ValueError(f"{path}: expected {problem}")
    if "annotations" in data:
        return _coco_pairs(path, data), None
    splits = {split: [] for split in SPLITS}
    return _karpathy_pairs(path, data, splits), splits


# chapters/caption_files.md: One door for all
def _read_pairs(path, text):
    if text.lstrip().startswith(("{", "[")):
        return _read_json(path, text)
    lines = sum(bool(line.strip()) for line in text.split("\n"))
    if text.strip() and 2 * len(_FLICKR_LINE.findall(text)) >= lines:
        return _flickr_pairs(path, text), None
    if not any(_names(line, d) for d in DELIMITERS for line in text.split("\n")):
        pairs = _spaced_pairs(text)
        if pairs:
            return pairs, None
    return _read_table(path, text)


def read_captions(path, tokens="words"):
    """Read a caption file of any of many forms, told apart by content.

    Flickr8k's lines, Flickr8k's and Flickr30k's tables as Kaggle has them, Karpathy's
    JSON (with its splits), COCO's `captions_*.json`, records in JSON, or your own table
    of photographs and captions, with a heading or not. `tokens` is that of `tokenize`.
    Returns `Captions`. Warns of marks that are dropped, and of captions in a script
    without spaces. Raises ValueError with file, line and what it should hold.
    """
    pairs, splits = _read_pairs(path, _read_text(path))
    return _collect(path, pairs, splits, tokens)


# chapters/caption_files.md: Official lists
def _list_split(path):
    splits = r"(train|dev|val|test)(ing|id|idation)?"
    pattern = rf"(.*[\W_])?{splits}_?(images)?\.(txt|csv|tsv|lst)"
    match = regex.fullmatch(pattern, Path(path).name.lower())
    return match and match[2].replace("dev", "val")


# chapters/caption_files.md: Official lists
def _listed_name(line):
    for between in (r"$", r"[\t,;|]", r"\s"):
        cells = [cell.strip(_QUOTES) for cell in regex.split(between, line)]
        if names := [cell for cell in cells if _NAME.fullmatch(cell)]:
            return names[0]
    return line.strip(_QUOTES)


# chapters/caption_files.md: Official lists
def _check_splits(splits, source):
    if not splits or not set(splits) <= set(SPLITS):
        raise ValueError(f"{source}: found lists {[*splits]}, expected {SPLITS}")
    owner, result = {}, {split: [] for split in SPLITS}
    for split, names in splits.items():
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise ValueError(f"{source}: the names for {split} must be a list")
        for name in names:
            try:
                name = file_name(str(name) if isinstance(name, int) else name)
            except ValueError as error:
                raise ValueError(f"{source}: {split}: {error}") from None
            if name in owner:
                both = f"in the list for {owner[name]} and again in the one for {split}"
                raise ValueError(f"{source}: {name} is {both}; keep it in one, once")
            owner[name] = split
            result[split].append(name)
    return result


# chapters/caption_files.md: Official lists
def _read_list(path):
    lines = [line.strip() for line in _read_text(path).split("\n") if line.strip()]
    names = [_listed_name(line) for line in lines]
    first = regex.split(r"[,;|\t]", names[0])[0] if len(names) > 1 else ""
    if _HEADING.fullmatch(first) and not _is_name(first) and _is_name(names[1]):
        names, lines = names[1:], lines[1:]
    return names if names == lines else [*dict.fromkeys(names)]


def read_splits(source):
    """Read official lists; return {"train": [file name, …], "val": […], "test": […]}.

    `source` is a folder with lists such as Flickr_8k.trainImages.txt or train.txt, a
    list of such files or one of them, Karpathy's JSON or a table with a column of
    splits, a dictionary like the result, or that in a JSON file. Raises ValueError if
    there is no list, or if one photograph is named twice.
    """
    if isinstance(source, dict):
        return _check_splits(source, "splits")
    single = isinstance(source, str) or not isinstance(source, Iterable)
    paths = [path_of(path, "splits") for path in ([source] if single else source)]
    if single and paths[0].is_dir():
        paths = [path for path in sorted(paths[0].iterdir()) if _list_split(path)]
    elif single and not _list_split(paths[0]):
        return _check_splits(_splits_in(paths[0]), source)
    splits = {}
    for path in paths:
        split = _list_split(path)
        if split is None or split in splits:
            raise ValueError(f"{path}: needs a name such as train.txt, one per split")
        splits[split] = _read_list(path)
    return _check_splits(splits, source)


# chapters/caption_files.md: Official lists
def _splits_in(path):
    text = _read_text(path)
    if text.lstrip().startswith("{"):
        data = _parse(path, text)
        if set(data) <= {*SPLITS, "dev"}:
            return {split.replace("dev", "val"): data[split] for split in data}
        pairs, splits = _read_json(path, text)
        return splits if list(pairs) and splits else {}
    with contextlib.suppress(ValueError):
        _, splits = _read_pairs(path, text)
        if splits:
            return splits
    raise ValueError(f"{path}: needs a name such as train.txt, one per split")


# chapters/caption_files.md: Several collections
def collections_of(captions, images, splits=None):
    """List (captions, images, splits) of each collection: of one, if they are no lists.

    One folder of images may serve all. Raises ValueError where lists differ in length.
    """
    if not isinstance(captions, list):
        return [(captions, images, splits)]
    count = len(captions)
    images = images if isinstance(images, list) else [images] * count
    splits = [None] * count if splits is None else splits
    for name, values in {"images": images, "splits": splits}.items():
        if not isinstance(values, list) or len(values) != count:
            problem = f"{name}={values!r}, but captions are a list of {count}"
            raise ValueError(f"{problem}: give one for each")
    return [*zip(captions, images, splits, strict=True)]


# chapters/caption_files.md: One photograph, spelled in two ways
def _loosely(name):
    """Return the folders, the stem and the ending of a name, as far as they matter."""
    spelled = " ".join(normalize("NFC", unquote(_one_form(name)).casefold()).split())
    *folders, last = spelled.split("/")
    stem, _, ending = last.rpartition(".") if _NAME.fullmatch(last) else (last, "", "")
    ending = {"jpeg": "jpg", "tiff": "tif"}.get(ending, ending)
    return tuple(folders[::-1]), stem, ending


def _may_be(name, other):
    (folders, _, ending), (others, _, theirs) = _loosely(name), _loosely(other)
    same = all(a == b for a, b in zip(folders, others, strict=False))
    return same and (ending == theirs or not (ending and theirs))


_MANY = 100  # photographs with one stem: none of them is meant plainly


def match_names(names, known):
    """Return {name: the one of `known` that is meant}, where exactly one can be."""
    known = dict.fromkeys(known)
    found = {name: name for name in names if name in known}
    for key in (_one_form, _loosely, lambda name: _loosely(name)[1]):
        missing = [name for name in names if name not in found]
        candidates = defaultdict(list)
        for name in known if missing else ():
            candidates[key(name)].append(name)
        for name in missing:
            others = candidates[key(name)]
            meant = [other for other in others[:_MANY] if _may_be(name, other)]
            if len(meant) == 1 and len(others) < _MANY:
                found[name] = meant[0]
    return found
