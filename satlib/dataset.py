# Written by `python -m satlib.tangle` from chapters/dataset.md: edit that.
# chapters/dataset.md: Dataset: from words and pictures to numbers
"""Captions and photographs in, the files that training reads out."""

import json
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from satlib.caption_files import SPLITS, Captions, read_captions, read_splits
from satlib.files import (
    changes,
    check_name,
    digest,
    is_fresh,
    make_room,
    read_if_there,
    write_json,
)
from satlib.photographs import file_sizes, write_images


# chapters/dataset.md: Counting words
def count_words(captions, names):
    """Return a Counter of the words of the images `names`, in the captions' order."""
    names = set(names)
    counted = (own for name, own in captions.items() if name in names)
    return Counter(word for own in counted for words in own for word in words)


# chapters/dataset.md: Training, validation, test
def split_images(names, random, splits=None):
    """Divide file names into {"train": […], "val": […], "test": […]}.

    By official lists `splits` if given (as `read_splits` takes them), else in the order
    of `random.permutation`, cut at 80 and 90 percent. Warns of an empty split. Raises
    ValueError if all are empty.
    """
    n = len(names)
    if splits:
        known, lists = set(names), read_splits(splits)
        rule = f"divided by lists of {sum(map(len, lists.values()))} names"
        parts = {s: [name for name in lists[s] if name in known] for s in SPLITS}
    else:
        order = [names[i] for i in random.permutation(n)]
        a, b = int(0.8 * n), int(0.9 * n)
        rule = f"cut at int(0.8 * {n}) = {a} and int(0.9 * {n}) = {b}"
        parts = {"train": order[:a], "val": order[a:b], "test": order[b:]}
    if not any(parts.values()):
        raise ValueError(f"no image left: {n} images with captions, {rule}")
    for split in SPLITS:
        if not parts[split]:
            warnings.warn(f"no image for {split}: {n} images {rule}", stacklevel=2)
    return parts


# chapters/dataset.md: The word map
def build_word_map(counts, min_freq):
    """Return word → number, of words used more than `min_freq` times and four more."""
    words = [word for word, count in counts.items() if count > min_freq]
    tokens = ["<pad>", *words, "<start>", "<end>", "<unk>"]
    return {token: number for number, token in enumerate(tokens)}


# chapters/dataset.md: A caption becomes a row
def captions_that_fit(captions, max_length):
    """Return only the captions that fit into a row, and the images that have one."""
    fitting = {
        name: [words for words in own if len(words) + 2 <= max_length]
        for name, own in captions.items()
    }
    return {name: own for name, own in fitting.items() if own}


# chapters/dataset.md: A caption becomes a row
def encode_caption(words, word_map, max_length):
    """Return <start>, the words' numbers, <end>, and <pad> up to `max_length`."""
    ids = [word_map.get(word, word_map["<unk>"]) for word in words]
    row = [word_map["<start>"], *ids, word_map["<end>"]]
    return row + [word_map["<pad>"]] * (max_length - len(row))


# chapters/dataset.md: A caption becomes a row
def choose_captions(captions, count, random):
    """Return `count` of an image's captions: a random sample, or all and repeats."""
    n = len(captions)
    if n > count:
        chosen = random.permutation(n)[:count]
    else:
        chosen = [*range(n), *random.randint(n, size=count - n)]
    return [captions[i] for i in chosen]


# chapters/dataset.md: The files
@dataclass(frozen=True)
class Files:
    """The data files of one base name in a folder.

    `kind` is "images", "captions", "caplens" or "references" of a split ("train",
    "val" or "test"), or without a split "wordmap" or "manifest"; in any case.
    """

    folder: Path
    base: str

    def path(self, kind, split=None):
        """Return the path of a file."""
        name = f"{split}_{kind}" if split else kind
        ending = "hdf5" if kind.lower() == "images" else "json"
        return Path(self.folder, f"{name.upper()}_{self.base}.{ending}")

    def read(self, kind, split=None):
        """Return what a JSON file holds.

        Raises FileNotFoundError where there is no manifest: the files are not complete.
        """
        if not self.path("manifest").exists():
            problem = f"{self.folder}: run create_input_files for {self.base} first"
            raise FileNotFoundError(problem)
        return json.loads(self.path(kind, split).read_text(encoding="utf-8"))

    def are_complete(self):
        """Tell whether all files but the manifest are there."""
        kinds = "images", "captions", "caplens", "references"
        paths = [self.path(kind, split) for split in SPLITS for kind in kinds]
        return all(path.exists() for path in [*paths, self.path("wordmap")])


# chapters/dataset.md: The files
def _nothing_to_do(files, manifest):
    path = files.path("manifest")
    if is_fresh(path, manifest) and files.are_complete():
        print(f"{files.base}: complete in {files.folder}, nothing to do")
        return True
    before = read_if_there(path)
    if before and (names := changes(before, manifest)):
        print(f"{files.base}: other {', '.join(names)} than before, written anew")
    path.unlink(missing_ok=True)
    return False


# chapters/dataset.md: The files
@dataclass(frozen=True)
class Settings:
    """How data files are made: arguments of `create_input_files`, which explains them.

    Raises ValueError where one cannot be right.
    """

    caps_per_img: int
    min_freq: int
    max_length: int
    seed: int
    vocabulary: str
    image_size: int
    on_error: str
    max_images: int | None

    def __post_init__(self):
        least = {"caps_per_img": 1, "min_freq": 0, "max_length": 3, "image_size": 1}
        for name, low in least.items():
            if (value := getattr(self, name)) < low:
                raise ValueError(f"{name}={value} must be {low} or more")
        known = {"vocabulary": "train all", "on_error": "raise skip"}
        for name, values in known.items():
            if (value := getattr(self, name)) not in values.split():
                raise ValueError(f"{name}={value!r} must be one of: {values}")


# chapters/dataset.md: The files
def _write_words(files, source, fitting, parts, random, settings):
    splits = SPLITS if settings.vocabulary == "all" else ("train",)
    counts = count_words(source.captions, sum([parts[s] for s in splits], []))
    word_map, length = build_word_map(counts, settings.min_freq), settings.max_length
    for split, names in parts.items():
        chosen = []
        for name in names:
            chosen += choose_captions(fitting[name], settings.caps_per_img, random)
        contents = {
            "captions": (encode_caption(words, word_map, length) for words in chosen),
            "caplens": (len(words) + 2 for words in chosen),
            "references": ({"file": n, "captions": source.captions[n]} for n in names),
        }
        for kind, content in contents.items():
            write_json(files.path(kind, split), content)
    write_json(files.path("wordmap"), word_map)
    sizes = ", ".join(f"{len(names):,} {split}" for split, names in parts.items())
    print(f"{files.base}: {sizes} photographs; {len(word_map):,} tokens")


# chapters/dataset.md: One call
def create_input_files(
    dataset: str,
    captions: str | Path | Captions,
    images: str | Path,
    output: str | Path,
    caps_per_img: int = 5,
    min_freq: int = 5,
    max_length: int = 52,
    seed: int = 28,
    splits: str | Path | list | dict | None = None,
    vocabulary: Literal["train", "all"] = "train",
    image_size: int = 256,
    on_error: Literal["raise", "skip"] = "raise",
    max_images: int | None = None,
) -> str:
    """Write the data files to `output`, unless they are there; return their base name.

    dataset:      a name, the beginning of the base name
    captions:     a caption file, or the `Captions` read from one
    images:       the folder of the photographs
    caps_per_img: rows per image
    min_freq:     a word is kept if it occurs more often
    max_length:   places per row, <start> and <end> included
    seed:         of the shuffle and of the choice of captions
    splits:       lists, see `read_splits`; without, those of the caption file, if any
    vocabulary:   count the words of the "train" split, or of "all"
    image_size:   width and height of the squares
    on_error:     "raise" what is wrong with a photograph, or "skip" the photograph
    max_images:   at most so many in each split

    Raises ValueError where a setting cannot be right, the caption file or the lists
    cannot be read, no image is left, or a photograph is broken; FileNotFoundError
    where a file or photograph is missing; OSError where the disk is too small. Warns
    of an empty split.
    """
    settings = Settings(
        caps_per_img,
        min_freq,
        max_length,
        seed,
        vocabulary,
        image_size,
        on_error,
        max_images,
    )
    check_name(dataset)
    base = f"{dataset}_{caps_per_img}_cap_per_img_{min_freq}_min_word_freq"
    files = Files(Path(output), base)
    source = captions if isinstance(captions, Captions) else read_captions(captions)
    fitting = captions_that_fit(source.captions, max_length)
    random = np.random.RandomState(seed)
    parts = split_images([*fitting], random, splits or source.splits)
    parts = {split: names[:max_images] for split, names in parts.items()}
    skip = on_error == "skip"
    sizes = file_sizes(images, sum(parts.values(), []), skip)
    inputs = {"captions": digest(source.captions), "images": digest([parts, sizes])}
    manifest = asdict(settings) | inputs
    if _nothing_to_do(files, manifest):
        return base
    _tell_left_out(source, fitting)
    make_room(output, len(sizes), 3 * image_size**2)
    for split, names in parts.items():
        path = files.path("images", split)
        parts[split] = write_images(path, images, names, caps_per_img, image_size, skip)
    _write_words(files, source, fitting, parts, random, settings)
    write_json(files.path("manifest"), manifest)
    return base


# chapters/dataset.md: One call
def _tell_left_out(source, fitting):
    long = sum(map(len, source.captions.values())) - sum(map(len, fitting.values()))
    bare = len(source.captions) - len(fitting)
    print(f"left out: {source.empty} empty captions, {long} too long, {bare} images")
