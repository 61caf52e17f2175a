# Written by `python -m satlib.tangle` from chapters/dataset.md: edit that.
# chapters/dataset.md: Dataset: from words and pictures to numbers
"""Captions and photographs in, the files that training reads out."""

import json
import os
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from PIL import Image

from satlib.caption_files import (
    SPLITS,
    TOKENS,
    Captions,
    collections_of,
    file_name,
    match_names,
    path_of,
    read_captions,
    read_splits,
)
from satlib.files import (
    changes,
    check_name,
    digest,
    file_digest,
    file_digests,
    hold,
    make_room,
    read_if_there,
    replacing_all,
    tidy,
    write_json,
)
from satlib.photographs import file_sizes, write_images
from satlib.scale import check_parts, forget_parts, once, tell, together


# chapters/dataset.md: Counting words
def count_words(captions, names):
    """Return a Counter of the words of the images `names`, in the captions' order."""
    names = set(names)
    counted = (own for name, own in captions.items() if name in names)
    return Counter(word for own in counted for words in own for word in words)


# chapters/dataset.md: Training, validation, test
def _photographs_in(lists, known):
    parts = {}
    for split, names in lists.items():
        found = match_names(names, known)
        parts[split] = [found[name] for name in names if name in found]
        if lost := [name for name in names if name not in found]:
            problem = f"{len(lost):,} of {len(names):,} names in the list for {split}"
            first = ", ".join(map(repr, lost[:3]))
            problem = f"{problem} have no caption that fits, first {first}"
            warnings.warn(problem, stacklevel=3)
        _tell_taken(f"the list for {split}", "the captions", found)
    return read_splits(parts)


def _tell_taken(names, place, found):
    other = [f"{a!r} is taken for {b!r}" for a, b in found.items() if a != file_name(b)]
    if other:
        many, first = f"{len(other):,} of the names", ", ".join(other[:3])
        print(f"{many} in {names} are not in {place} as written: {first}")


# chapters/dataset.md: Training, validation, test
def split_images(names, random, splits=None):
    """Divide file names into {"train": […], "val": […], "test": […]}.

    By official lists `splits` if given (as `read_splits` takes them), or all into one
    split that `splits` names; else in the order of `random.permutation`, cut at 80 and
    90 percent. Warns of an empty split, and of names in the lists that are not in
    `names`. Raises ValueError if all are empty.
    """
    n, expected = len(names), SPLITS
    if isinstance(splits, str) and splits in SPLITS:
        rule, expected = f"all of them for {splits}", [splits]
        parts = {split: names if split == splits else [] for split in SPLITS}
    elif splits:
        lists = read_splits(splits)
        sizes = [len(lists[split]) for split in SPLITS]
        first = next(chain(*lists.values()), None)
        rule = f"divided by lists of {sum(sizes)} names, {sizes}, such as {first!r}"
        parts = _photographs_in(lists, names)
        if (rest := n - sum(map(len, parts.values()))) > 0:
            print(f"photographs with captions, but in no list: {rest:,}")
    else:
        order = [names[i] for i in random.permutation(n)]
        a, b = int(0.8 * n), int(0.9 * n)
        rule = f"cut at int(0.8 * {n}) = {a} and int(0.9 * {n}) = {b}"
        parts = {"train": order[:a], "val": order[a:b], "test": order[b:]}
    if not any(parts.values()):
        begin = f"no image left: {n} images with captions, such as {names[:1]}"
        raise ValueError(f"{begin}, {rule}")
    for split in expected:
        if not parts[split]:
            warnings.warn(f"no image for {split}: {n} images {rule}", stacklevel=2)
    return parts


# chapters/dataset.md: The word map
def build_word_map(counts, min_freq, known=None):
    """Return word → number, of words used more than `min_freq` times and four more.

    The words of a word map `known` keep their numbers, and the other words follow.
    """
    words = [word for word, count in counts.items() if count > min_freq]
    tokens = ["<pad>", *words, "<start>", "<end>", "<unk>"]
    tokens = [*sorted(known, key=known.get), *words] if known else tokens
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


# chapters/dataset.md: The word map
def _word_map(source, parts, settings, known=None):
    splits = SPLITS if settings.vocabulary == "all" else ("train",)
    counts = count_words(source.captions, sum([parts[s] for s in splits], []))
    word_map = build_word_map(counts, settings.min_freq, known)
    if counts and not word_map.keys() & counts.keys():
        ((word, most),) = counts.most_common(1)
        raise ValueError(
            f"min_freq={settings.min_freq}: no word occurs more often in the captions "
            f"that are counted; the most frequent, {word!r}, occurs {most} times, so "
            f"choose min_freq={most - 1} or less"
        )
    return word_map


# chapters/dataset.md: A caption becomes a row
def captions_that_fit(captions, max_length):
    """Return only the captions that fit into a row, and the images that have one.

    Raises ValueError where none fits.
    """
    fitting = {
        name: [words for words in own if len(words) + 2 <= max_length]
        for name, own in captions.items()
    }
    fitting = {name: own for name, own in fitting.items() if own}
    if captions and not fitting:
        words = min(len(words) for own in captions.values() for words in own)
        raise ValueError(
            f"max_length={max_length}: all captions are too long; the shortest has "
            f"{words} words, so choose max_length={words + 2} or more"
        )
    return fitting


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

    def seals(self):
        """Return for each file, by its name, a digest; None where it is damaged.

        The digest of the images' file is the one that it holds, with its shape.
        """
        kinds = "captions", "caplens", "references"
        texts = [self.path(kind, split) for split in SPLITS for kind in kinds]
        seals = {p.name: file_digest(p) for p in [*texts, self.path("wordmap")]}
        for path in (self.path("images", split) for split in SPLITS):
            seals[path.name] = None
            with suppress(Exception), h5py.File(path, locking=False) as file:
                check_parts(file["images"])
                seals[path.name] = f"{file.attrs['sha256']} {file['images'].shape}"
        return seals  # what h5py raises depends on the damage


# chapters/dataset.md: The files
def _what_to_do(files, manifest):
    before, seals = read_if_there(files.path("manifest")), files.seals()
    if None not in seals.values() and before == manifest | {"written": seals}:
        return None
    if names := before and changes(before, manifest):
        return f"other {', '.join(names)} than before, written anew"
    if names := changes(before.get("written", seals), seals):
        return f"{', '.join(names)} damaged or missing, all are written anew"
    return "written for the first time"


# chapters/dataset.md: The files
@dataclass(frozen=True)
class Settings:
    """How data files are made: arguments of `create_input_files`, which explains them.

    Raises ValueError where one cannot be right.
    """

    caps_per_img: int = 5
    min_freq: int = 5
    max_length: int = 52
    seed: int = 28
    vocabulary: str = "train"
    image_size: int = 256
    on_error: str = "raise"
    max_images: int | None = None
    tokens: str = "words"

    def __post_init__(self):
        limits = {"caps_per_img": (1, 1000), "min_freq": (0, 10**9), "seed": (0, 2**31)}
        limits |= {"max_length": (3, 1000), "image_size": (1, 2048)}
        limits |= {} if self.max_images is None else {"max_images": (1, 10**9)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                problem = f"must be a whole number from {low} to {high}"
                raise ValueError(f"{name}={value!r} {problem}")
        known = {"vocabulary": "train all", "on_error": "raise skip"}
        known["tokens"] = " ".join(TOKENS)
        for name, values in known.items():
            if (value := getattr(self, name)) not in values.split(" "):
                raise ValueError(f"{name}={value!r} must be one of: {values}")


# chapters/dataset.md: Names in the captions, names in the folder
def _named_as_files(source, folder):
    missing = [n for n in source.captions if not os.path.isfile(Path(folder, n))]
    if not missing:
        return source
    paths, known = Path(folder).glob("**/*"), Image.registered_extensions()
    near = (path.relative_to(folder) for path in islice(paths, 1_000_000))
    files = [path.as_posix() for path in near if path.suffix.lower() in known]
    found = match_names(missing, files)
    _tell_taken("the captions", folder, found)
    captions, splits = {}, source.splits
    for name, own in source.captions.items():
        name = found.get(name, name)
        captions[name] = captions.get(name, []) + own
    if splits:
        splits = {s: [found.get(n, n) for n in names] for s, names in splits.items()}
    return Captions(captions, splits, source.empty)


# chapters/dataset.md: Several collections as one
@dataclass
class Collection:
    """Captions, the folder of their photographs, and the names in each split.

    `fitting` has the captions that fit into a row.
    """

    source: Captions
    images: Path
    fitting: dict[str, list]
    parts: dict[str, list]


def read_collection(captions, images, splits, settings, random):
    """Return a `Collection`, divided by `splits` or by chance, as `split_images`.

    Raises the errors of `create_input_files`, whose arguments these are.
    """
    if not isinstance(captions, Captions):
        captions = read_captions(captions, settings.tokens)
    images = path_of(images, "images")
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: there is no such folder of photographs")
    source = _named_as_files(captions, images)
    fitting = captions_that_fit(source.captions, settings.max_length)
    parts = split_images([*fitting], random, splits or source.splits)
    parts = {split: names[: settings.max_images] for split, names in parts.items()}
    return Collection(source, images, fitting, parts)


# chapters/dataset.md: Several collections as one
def merge(collections):
    """Return several collections as one, and of which each photograph is: {name: 1, …}.

    One alone stays as it is, with {}. Raises ValueError where their folders have none
    in common, or a photograph belongs to two of them.
    """
    if len(collections) == 1:
        return collections[0], {}
    root, owner = _common([each.images for each in collections]), {}
    whole = Collection(Captions({}, None, 0), root, {}, {split: [] for split in SPLITS})
    for number, each in enumerate(collections, 1):
        begin = os.path.relpath(os.path.abspath(each.images), root)
        names = {n: Path(begin, n).as_posix() for n in each.source.captions}
        if twice := [name for name in names.values() if name in owner]:
            what = f"{twice[0]} is in the captions of collections {owner[twice[0]]}"
            raise ValueError(f"{what} and {number}: keep it in one of them")
        owner |= dict.fromkeys(names.values(), number)
        for mine, own in (
            (whole.source.captions, each.source.captions),
            (whole.fitting, each.fitting),
        ):
            mine |= {names[name]: captions for name, captions in own.items()}
        for split, own in each.parts.items():
            whole.parts[split] += [names[name] for name in own]
        whole.source.empty += each.source.empty
    return whole, owner


def _common(folders):
    try:
        return Path(os.path.commonpath([os.path.abspath(f) for f in folders]))
    except ValueError:
        listed = ", ".join(map(str, folders))
        problem = f"images: no folder holds all of {listed}"
        raise ValueError(f"{problem}; bring them together on one disk") from None


# chapters/dataset.md: First the plan, then the work
@dataclass
class Plan:
    """What data files will be made of: a `Collection`, maybe of several, and settings.

    `owner` has the number of each photograph's collection, if there are several;
    `known` is the word map that is extended, or None.
    """

    base: str
    settings: Settings
    whole: Collection
    owner: dict[str, int]
    known: dict[str, int] | None
    random: np.random.RandomState
    manifest: dict


def plan_files(dataset, captions, images, splits, settings, known=None):
    """Return the `Plan` of data files; nothing is written.

    The arguments are those of `create_input_files`, but `known`: a word map whose words
    keep their numbers. Raises its errors.
    """
    check_name(dataset)
    base = f"{dataset}_{settings.caps_per_img}_cap_per_img"
    base += f"_{settings.min_freq}_min_word_freq"
    random = np.random.RandomState(settings.seed)
    each = collections_of(captions, images, splits)
    collections = [read_collection(*one, settings, random) for one in each]
    whole, owner = merge(collections)
    _word_map(whole.source, whole.parts, settings, known)  # is a word frequent enough?
    for collection in collections:
        _check_photographs(collection, settings)
    names = sum(whole.parts.values(), [])
    pictures = file_digests([whole.images / name for name in names])
    chosen = [whole.parts, pictures, *([owner] if owner else [])]
    inputs = {"captions": digest(whole.source.captions), "images": digest(chosen)}
    manifest = asdict(settings) | inputs
    return Plan(base, settings, whole, owner, known, random, manifest)


def _check_photographs(collection, settings):
    images, names = collection.images, sum(collection.parts.values(), [])
    if not any(file_sizes(images, names, settings.on_error == "skip")):
        raise FileNotFoundError(f"{images}: has none of the {len(names)} photographs")


# chapters/dataset.md: First the plan, then the work
def _write_words(files, plan, parts):
    settings, source = plan.settings, plan.whole.source
    word_map = _word_map(source, parts, settings, plan.known)
    length = settings.max_length

    def reference(name):
        entry = {"file": name, "captions": source.captions[name]}
        return entry | ({"collection": plan.owner[name]} if plan.owner else {})

    for split, names in parts.items():
        chosen = []
        for name in names:
            own, count = plan.whole.fitting[name], settings.caps_per_img
            chosen += choose_captions(own, count, plan.random)
        contents = {
            "captions": (encode_caption(words, word_map, length) for words in chosen),
            "caplens": (len(words) + 2 for words in chosen),
            "references": map(reference, names),
        }
        for kind, content in contents.items():
            write_json(files.path(kind, split), content)
    write_json(files.path("wordmap"), word_map)
    sizes = ", ".join(f"{len(names):,} {split}" for split, names in parts.items())
    print(f"{files.base}: {sizes} photographs; {len(word_map):,} tokens")


# chapters/dataset.md: One call
def write_files(plan, folder):
    """Write planned data files to a folder, unless they are there; return the `Files`.

    Raises ValueError or OSError for a photograph that is broken, OSError where the disk
    is too small or another run is at work in the folder.
    """
    files = Files(Path(folder), plan.base)
    if not once(lambda: _what_to_do(files, plan.manifest)):
        tell(f"{files.base}: complete, nothing to do")
        once(lambda: tidy(folder))
        return files
    with together(hold(folder, brief=True)):
        what = once(lambda: _what_to_do(files, plan.manifest))
        if what:  # not done while we waited
            tell(f"{files.base}: {what}")
            _write(files, plan)
    return files


def _write(files, plan):
    settings, whole, parts = plan.settings, plan.whole, {}
    count, size = sum(map(len, whole.parts.values())), settings.image_size
    options = settings.caps_per_img, size, settings.on_error == "skip"

    def begin():
        _tell_left_out(whole.source, whole.fitting)
        make_room(files.folder, count, 3 * size**2)

    def finish():
        _write_words(new, plan, parts)
        write_json(new.path("manifest"), plan.manifest | {"written": new.seals()})

    once(begin)
    complete = replacing_all(files.folder, seal=files.path("manifest").name)
    with together(complete) as temporary:
        new = Files(temporary, files.base)
        for split, names in whole.parts.items():
            path = new.path("images", split)
            parts[split] = write_images(path, whole.images, names, *options)
        once(finish)
    once(lambda: [forget_parts(files.path("images", split)) for split in SPLITS])


# chapters/dataset.md: One call
def create_input_files(
    dataset: str,
    captions: str | Path | Captions | list,
    images: str | Path | list,
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
    tokens: Literal["words", "characters"] = "words",
) -> str:
    """Write the data files to `output`, unless they are there; return their base name.

    dataset:      a name, the beginning of the base name
    captions:     a caption file, the `Captions` read from one, or a list of collections
    images:       the folder of the photographs; of several collections, a list or one
    caps_per_img: rows per image
    min_freq:     a word is kept if it occurs more often
    max_length:   places per row, <start> and <end> included
    seed:         of the shuffle and of the choice of captions
    splits:       lists, see `read_splits`; without, those of the caption file, if any;
                  "train", "val" or "test" for all; of several collections, a list
    vocabulary:   count the words of the "train" split, or of "all"
    image_size:   width and height of the squares
    on_error:     "raise" what is wrong with a photograph, or "skip" the photograph
    max_images:   at most so many in each split of each collection
    tokens:       "words", or "characters" for scripts without spaces

    Raises ValueError where a setting cannot be right, the caption file or the lists
    cannot be read, no caption fits, no word is frequent enough, no image is left, or a
    photograph is broken; FileNotFoundError where a file or photograph is missing;
    TypeError where a path is none;
    OSError where the disk is too small, or another run is at work there. Warns of an
    empty split, and of names in the lists without captions.
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
        tokens,
    )
    output = path_of(output, "output")
    plan = once(lambda: plan_files(dataset, captions, images, splits, settings))
    return write_files(plan, output).base


# chapters/dataset.md: One call
def _tell_left_out(source, fitting):
    long = sum(map(len, source.captions.values())) - sum(map(len, fitting.values()))
    bare = len(source.captions) - len(fitting)
    print(f"left out: {source.empty} empty captions, {long} too long, {bare} images")
