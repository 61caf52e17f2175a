# Written by `python -m satlib.tangle` from chapters/dataset.md: edit that.
# chapters/dataset.md: Dataset: from words and pictures to numbers
"""Captions and photographs in, the files that training reads out."""

import hashlib
import json
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from satlib.caption_files import SPLITS, Captions, read_captions, read_splits
from satlib.photographs import file_sizes, make_room, write_images, write_json


# chapters/dataset.md: Counting words
def count_words(captions, names):
    """Count the words of the images `names`, in the order of the caption map."""
    names = set(names)
    counted = (own for name, own in captions.items() if name in names)
    return Counter(word for own in counted for words in own for word in words)


# chapters/dataset.md: Training, validation, test
def split_images(names, random, splits=None):
    """Divide file names into {"train": […], "val": […], "test": […]}.

    By official lists `splits` if given (as `read_splits` takes them), else in the order
    of `random.permutation`, cut at 80 and 90 percent. Warns of an empty split.
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
    """Number the words that occur more than `min_freq` times, and the special ones."""
    words = [word for word, count in counts.items() if count > min_freq]
    tokens = ["<pad>", *words, "<start>", "<end>", "<unk>"]
    return {token: number for number, token in enumerate(tokens)}


# chapters/dataset.md: A caption becomes a row
def captions_that_fit(captions, max_length):
    """Leave out captions that do not fit into a row, and images left without one."""
    fitting = {
        name: [words for words in own if len(words) + 2 <= max_length]
        for name, own in captions.items()
    }
    return {name: own for name, own in fitting.items() if own}


def encode_caption(words, word_map, max_length):
    """Return <start>, the words' numbers, <end>, and <pad> up to `max_length`."""
    ids = [word_map.get(word, word_map["<unk>"]) for word in words]
    row = [word_map["<start>"], *ids, word_map["<end>"]]
    return row + [word_map["<pad>"]] * (max_length - len(row))


# chapters/dataset.md: A caption becomes a row
def choose_captions(captions, count, random):
    """Choose `count` of an image's captions: a random sample, or all and repeats."""
    n = len(captions)
    if n > count:
        chosen = random.permutation(n)[:count]
    else:
        chosen = [*range(n), *random.randint(n, size=count - n)]
    return [captions[i] for i in chosen]


# chapters/dataset.md: The files
def file_path(output, split, kind, base):
    """Return the path of a split's file, or, with None for the split, of the others."""
    name = f"{split}_{kind}" if split else kind
    ending = "hdf5" if kind.lower() == "images" else "json"
    return Path(output, f"{name.upper()}_{base}.{ending}")


def read_file(output, split, kind, base):
    """Read one of the JSON files; FileNotFoundError if they are not complete."""
    if not file_path(output, None, "manifest", base).exists():
        raise FileNotFoundError(f"{output}: run create_input_files for {base} first")
    return json.loads(file_path(output, split, kind, base).read_text(encoding="utf-8"))


# chapters/dataset.md: The files
def _digest(content):
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _is_complete(output, base, manifest):
    path = file_path(output, None, "manifest", base)
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kinds = ("images", "captions", "caplens", "references")
    paths = [file_path(output, split, kind, base) for split in SPLITS for kind in kinds]
    paths.append(file_path(output, None, "wordmap", base))
    if old == manifest and all(path.exists() for path in paths):
        print(f"{base}: complete in {output}, nothing to do")
        return True
    changed = [key for key in manifest if old and old.get(key) != manifest[key]]
    if changed:
        print(f"{base}: other {', '.join(changed)} than before, written anew")
    path.unlink(missing_ok=True)
    return False


# chapters/dataset.md: The files
def _check_settings(settings):
    least = {"caps_per_img": 1, "min_freq": 0, "max_length": 3, "image_size": 1}
    for name, low in least.items():
        if settings[name] < low:
            raise ValueError(f"{name}={settings[name]} must be {low} or more")
    for name, values in {"vocabulary": "train all", "on_error": "raise skip"}.items():
        if settings[name] not in values.split():
            raise ValueError(f"{name}={settings[name]!r} must be one of: {values}")


# chapters/dataset.md: The files
def _write_words(output, base, source, fitting, parts, random, settings):
    k, length = settings["caps_per_img"], settings["max_length"]
    splits = SPLITS if settings["vocabulary"] == "all" else ("train",)
    counts = count_words(source.captions, sum([parts[s] for s in splits], []))
    word_map = build_word_map(counts, settings["min_freq"])
    for split, names in parts.items():
        chosen = []
        for name in names:
            chosen += choose_captions(fitting[name], k, random)
        contents = {
            "captions": (encode_caption(words, word_map, length) for words in chosen),
            "caplens": (len(words) + 2 for words in chosen),
            "references": ({"file": n, "captions": source.captions[n]} for n in names),
        }
        for kind, content in contents.items():
            write_json(file_path(output, split, kind, base), content)
    write_json(file_path(output, None, "wordmap", base), word_map)
    sizes = ", ".join(f"{len(names):,} {split}" for split, names in parts.items())
    print(f"{base}: {sizes} photographs; {len(word_map):,} tokens")


# chapters/dataset.md: One call
def create_input_files(
    dataset,
    captions,
    images,
    output,
    caps_per_img=5,
    min_freq=5,
    max_length=52,
    seed=28,
    splits=None,
    vocabulary="train",
    image_size=256,
    on_error="raise",
    max_images=None,
):
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
    """
    settings = dict(locals())
    for name in ("dataset", "captions", "images", "output", "splits"):
        del settings[name]
    _check_settings(settings)
    base = f"{dataset}_{caps_per_img}_cap_per_img_{min_freq}_min_word_freq"
    source = captions if isinstance(captions, Captions) else read_captions(captions)
    fitting = captions_that_fit(source.captions, max_length)
    random = np.random.RandomState(seed)
    parts = split_images([*fitting], random, splits or source.splits)
    parts = {split: names[:max_images] for split, names in parts.items()}
    skip = on_error == "skip"
    sizes = file_sizes(images, sum(parts.values(), []), skip)
    inputs = {"captions": _digest(source.captions), "images": _digest([parts, sizes])}
    if _is_complete(output, base, settings | inputs):
        return base
    long = sum(map(len, source.captions.values())) - sum(map(len, fitting.values()))
    bare = len(source.captions) - len(fitting)
    print(f"left out: {source.empty} empty captions, {long} too long, {bare} images")
    make_room(output, len(sizes), 3 * image_size**2)
    for split, names in parts.items():
        path = file_path(output, split, "images", base)
        parts[split] = write_images(path, images, names, caps_per_img, image_size, skip)
    _write_words(output, base, source, fitting, parts, random, settings)
    write_json(file_path(output, None, "manifest", base), settings | inputs)
    return base
