# Written by `python -m satlib.tangle` from chapters/caption_files.md: edit that.
# chapters/caption_files.md: Caption files: five kinds of file, one map
"""Caption files of five formats, and lists of splits, read as UTF-8 text."""

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

from nltk.tokenize import RegexpTokenizer

SPLITS = ("train", "val", "test")


# chapters/caption_files.md: From a sentence to words
_TOKENIZER = RegexpTokenizer(r"[\w']+")


def tokenize(caption):
    """Split a sentence into its words: lower case, punctuation gone, "man's" whole."""
    return _TOKENIZER.tokenize(caption.lower())


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
def _collect(path, pairs, splits=None):
    result = Captions({}, splits)
    for name, sentence in pairs:
        if not (isinstance(name, str) and isinstance(sentence, str)):
            raise ValueError(f"{path}: {name!r}, {sentence!r}: both must be text")
        words = tokenize(sentence)
        captions = result.captions.setdefault(name.strip(), [])
        captions.extend([words] if words else [])
        result.empty += not words
    if not any(result.captions.values()):
        raise ValueError(f"{path}: holds no caption")
    return result


# chapters/caption_files.md: The caption map
def _read_text(path):
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: save the file as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


# chapters/caption_files.md: Flickr8k: one caption a line
_FLICKR_LINE = re.compile(r"^([^\t\n]+)#\d+\t(.*)$", re.MULTILINE)


def _flickr_pairs(path, text):
    for number, line in enumerate(text.split("\n"), 1):
        match = _FLICKR_LINE.fullmatch(line)
        if match:
            yield match.groups()
        elif line.strip():
            problem = f"expected file#number<TAB>caption, found {line[:60]!r}"
            raise ValueError(f"{path}, line {number}: {problem}")


# chapters/caption_files.md: Tables: Kaggle's and yours
def _table_rows(path, text, delimiter):
    options = {"delimiter": delimiter, "strict": True, "skipinitialspace": True}
    reader, start = csv.reader(io.StringIO(text), **options), 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {start}: {error}, open quote?") from None


# chapters/caption_files.md: Tables: Kaggle's and yours
def _table_pairs(path, text):
    first = text.lstrip("\n").split("\n")[0]
    rows = list(_table_rows(path, text, "\t" if "\t" in first else ","))
    endings = [Path(row[0].strip()).suffix for _, row in rows[:2]]
    if len(rows) > 1 and not endings[0] and endings[1]:
        rows = rows[1:]
    for line, row in rows:
        if len(row) != 2 or not row[0].strip():
            problem = "expected photograph and caption (in quotes if it has commas)"
            raise ValueError(f"{path}, line {line}: {problem}, found {row}")
        yield row


# chapters/caption_files.md: JSON: Karpathy's files and COCO's
def _take(path, place, entry, *keys):
    try:
        return [entry[key] for key in keys]
    except (KeyError, TypeError):
        raise ValueError(f"{path}: {place} needs {' and '.join(keys)}") from None


def _coco_pairs(path, data):
    names = {}
    for i, entry in enumerate(data["images"]):
        number, name = _take(path, f"images[{i}]", entry, "id", "file_name")
        names[number] = name
    for i, entry in enumerate(data["annotations"]):
        image, caption = _take(path, f"annotations[{i}]", entry, "image_id", "caption")
        if image not in names:
            raise ValueError(f"{path}: annotations[{i}]: no image has the id {image!r}")
        yield names[image], caption


# chapters/caption_files.md: JSON: Karpathy's files and COCO's
def _karpathy_pairs(path, data, splits):
    for i, image in enumerate(data["images"]):
        place = f"images[{i}]"
        name, split = _take(path, place, image, "filename", "split")
        name = f"{image['filepath']}/{name}" if image.get("filepath") else name
        split = "train" if split == "restval" else split
        if split not in SPLITS:
            raise ValueError(f"{path}: {place} has the unknown split {split!r}")
        splits[split].append(name)
        (sentences,) = _take(path, place, image, "sentences")
        for k, sentence in enumerate(sentences):
            (raw,) = _take(path, f"{place}.sentences[{k}]", sentence, "raw")
            yield name, raw


# chapters/caption_files.md: JSON: Karpathy's files and COCO's
def _read_json(path, text):
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg} in JSON") from None
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise ValueError(f'{path}: expected an object with a list "images"')
    if "annotations" in data:
        return _collect(path, _coco_pairs(path, data))
    splits = {split: [] for split in SPLITS}
    return _collect(path, _karpathy_pairs(path, data, splits), splits)


# chapters/caption_files.md: One door for all
def read_captions(path):
    """Read a caption file of any of five formats, told apart by content.

    Flickr8k's lines, Kaggle's `image,caption` table, Karpathy's JSON (with its splits),
    COCO's `captions_*.json`, or your own two-column CSV or TSV, with a heading or not.
    Returns `Captions`. Raises ValueError with file, line and what it should hold.
    """
    text = _read_text(path)
    if text.lstrip().startswith(("{", "[")):
        return _read_json(path, text)
    if _FLICKR_LINE.search(text):
        return _collect(path, _flickr_pairs(path, text))
    return _collect(path, _table_pairs(path, text))


# chapters/caption_files.md: Official lists
def _list_split(path):
    pattern = r"(.*[\W_])?(train|dev|val|test)(images|idation)?\.txt"
    match = re.fullmatch(pattern, path.name.lower())
    return match and match[2].replace("dev", "val")


# chapters/caption_files.md: Official lists
def _check_splits(splits, source):
    if not splits or not set(splits) <= set(SPLITS):
        raise ValueError(f"{source}: found lists {[*splits]}, expected {SPLITS}")
    owner = {}
    for split, names in splits.items():
        for name in names:
            if name in owner:
                both = f"in the list for {owner[name]} and again in the one for {split}"
                raise ValueError(f"{source}: {name} is {both}; keep it in one, once")
            owner[name] = split
    return {split: list(splits.get(split, ())) for split in SPLITS}


# chapters/caption_files.md: Official lists
def read_splits(source):
    """Read official lists; return {"train": [file name, …], "val": […], "test": […]}.

    `source` is a folder with lists such as Flickr_8k.trainImages.txt or train.txt, a
    list of such files or one of them, Karpathy's JSON, or a dictionary like the result.
    Raises ValueError if there is no list, or if one photograph is named twice.
    """
    if isinstance(source, dict):
        return _check_splits(source, "splits")
    single = isinstance(source, (str, Path))
    paths = [Path(path) for path in ([source] if single else source)]
    if single and paths[0].is_dir():
        paths = [path for path in sorted(paths[0].iterdir()) if _list_split(path)]
    elif single and _read_text(source).lstrip().startswith("{"):
        return _check_splits(read_captions(source).splits or {}, source)
    splits = {}
    for path in paths:
        split = _list_split(path)
        if split is None or split in splits:
            raise ValueError(f"{path}: needs a name such as train.txt, one per split")
        lines = _read_text(path).split("\n")
        splits[split] = [line.strip() for line in lines if line.strip()]
    return _check_splits(splits, source)
