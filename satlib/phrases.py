# Written by `python -m satlib.tangle` from chapters/phrases.md: edit that.
# chapters/phrases.md: Phrases: are the maps true on photographs?
"""Grading maps on photographs in which people have boxed things."""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from satlib.calibration import open_collection
from satlib.caption_files import read_captions, read_splits
from satlib.captioner import SHIPPED, load_captioner
from satlib.files import keep_results
from satlib.grounding import (
    blank,
    gaze,
    interval,
    on_cells,
    rivals,
    word_probabilities,
)
from satlib.model import load_checkpoint

COMMAND = "python -m satlib.phrases"


# chapters/phrases.md: What people have marked
class Named(NamedTuple):
    """A word that names a thing, and where people say that the thing is."""

    place: int  # of the word in its caption, from 0
    kind: str  # of the thing: "people", "animals", …
    boxes: list  # [x0, y0, x1, y1], shares of width and height


def read_phrases(path):
    """Return for each photograph its captions, each as (words, list of `Named`).

    Raises ValueError where the file is no table of phrases and boxes.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
        return {name: captions_of(entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"no table of phrases with boxes ({error!r})"
        raise ValueError(f"{path}: {problem}") from None


def captions_of(entry):
    """Return the captions of an entry, each as (words, list of `Named`)."""
    return [
        (
            caption["words"],
            [
                Named(end - 1, kind, entry["boxes"][chain])
                for _, end, chain, kind in caption["phrases"]
            ],
        )
        for caption in entry["captions"]
    ]


# chapters/phrases.md: What people have marked
class Thing(NamedTuple):
    """A thing in a photograph, or several that are boxed together."""

    kind: str
    boxes: list  # [x0, y0, x1, y1], shares of width and height
    words: set  # which name it


def things_of(captions):
    """List the things that captions, as of `captions_of`, name: each a `Thing`."""
    found = {}
    for words, named in captions:
        for place, kind, boxes in named:
            thing = found.setdefault((kind, str(boxes)), Thing(kind, boxes, set()))
            thing.words.add(words[place])
    return list(found.values())


def named_by(words, things):
    """List as `Named` the words of a caption that name one or several of the things."""
    found = []
    for place, word in enumerate(words):
        if meant := [thing for thing in things if word in thing.words]:
            boxes = [box for thing in meant for box in thing.boxes]
            boxes = [box for i, box in enumerate(boxes) if box not in boxes[:i]]
            found.append(Named(place, meant[0].kind, boxes))
    return found


# chapters/phrases.md: Boxes without phrases
OTHER_WORDS = {
    "person": "people man men woman women boy boys girl girls child children kid kids "
    "baby babies toddler lady ladies guy guys player skier snowboarder surfer "
    "skateboarder biker rider batter catcher pitcher umpire chef couple crowd",
    "bicycle": "bike bikes",
    "motorcycle": "motorbike motorbikes bike bikes moped scooter",
    "airplane": "plane planes aeroplane jet jets airliner",
    "boat": "ship ships sailboat sailboats canoe",
    "tv": "television televisions",
    "couch": "sofa sofas",
    "laptop": "computer computers",
    "cell phone": "cellphone cellphones smartphone",
    "donut": "doughnut doughnuts",
    "refrigerator": "fridge",
    "dining table": "desk",
    "handbag": "purse bag bags",
    "suitcase": "luggage bag bags",
    "backpack": "bag bags",
    "cup": "mug mugs",
    "cat": "kitten kittens",
    "dog": "puppy puppies",
    "cow": "cattle bull calf",
    "sheep": "lamb lambs",
    "mouse": "mice",
    "knife": "knives",
    "skis": "ski",
    "hair drier": "dryer",
}


def words_for(category):
    """Return the words that name a category of COCO, a set."""
    last = category.split()[-1]
    return {last, f"{last}s", f"{last}es", *OTHER_WORDS.get(category, "").split()}


def things_in(boxes):
    """List the `Thing`s in boxes of COCO, each [category, x, y, width, height].

    There is one for each category; the numbers are shares of the picture.
    """
    found = {}
    for category, x, y, width, height in boxes:
        kind = "people" if category == "person" else "other"
        thing = found.setdefault(category, Thing(kind, [], words_for(category)))
        thing.boxes.append([x, y, x + width, y + height])
    return list(found.values())


# chapters/phrases.md: Boxes without phrases
class Boxed(NamedTuple):
    """A photograph in which people have boxed things, and what they wrote of it."""

    photograph: Path
    things: list  # of `Thing`
    captions: list  # each (words, list of `Named`)


def read_categories(path):
    """Return for each photograph its `Thing`s, from a file of COCO's boxes.

    Raises ValueError where the file is no table of categories and boxes.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
        return {name: things_in(boxes) for name, boxes in entries.items()}
    except (ValueError, TypeError, AttributeError) as error:
        problem = f"no table of categories with boxes ({error!r})"
        raise ValueError(f"{path}: {problem}") from None


# chapters/phrases.md: Boxes without phrases
PHRASES, BOXES = "phrases_dev.json", "boxes.json"


def with_phrases(folder):
    """List as `Boxed` the photographs of Flickr8k's validation split with phrases."""
    found = read_phrases(folder / PHRASES)
    photographs, _ = open_collection(folder)["val"]
    known = [(path, found[path.name]) for path in photographs if path.name in found]
    return [Boxed(path, things_of(said), said) for path, said in known]


def with_categories(folder):
    """List as `Boxed` the photographs of a folder's validation split with COCO's boxes.

    Raises ValueError where one of them has no captions.
    """
    found, boxed = read_categories(folder / BOXES), []
    captions = read_captions(folder / "captions.csv").captions
    for name in [name for name in read_splits(folder)["val"] if name in found]:
        if name not in captions:
            raise ValueError(f"{folder}: val lists {name}, without captions")
        said = [(words, named_by(words, found[name])) for words in captions[name]]
        boxed.append(Boxed(folder / "Images" / name, found[name], said))
    return boxed


def read_boxed(folder):
    """Return to what the boxes of a folder are tied, and its photographs as `Boxed`.

    They are tied to "phrases" or to "categories". Raises FileNotFoundError where there
    is no file of boxes, and ValueError where none is of the validation split.
    """
    kinds = {PHRASES: ("phrases", with_phrases), BOXES: ("categories", with_categories)}
    for file, (tied, read) in kinds.items():
        if (Path(folder) / file).is_file():
            if boxed := read(Path(folder)):
                return tied, boxed
            raise ValueError(f"{folder}: {file} has no box for the validation split")
    problem = f"{folder}: no {PHRASES} and no {BOXES} there"
    raise FileNotFoundError(f"{problem}; data/README.md says what they are")


# chapters/phrases.md: Hit and weight
FINE = 16  # points of a region, in rows and columns, that are in a box or not


def covered(boxes, side=14):
    """Return which share of each region of a grid boxes cover: (side, side).

    By 16 × 16 points in each region, so to a part in 256; a box has one at least.
    """
    points = side * FINE
    inside = np.zeros((points, points), bool)
    for x0, y0, x1, y1 in (np.clip(boxes, 0, 1) * points).round().astype(int):
        rows = slice(min(y0, points - 1), max(y1, y0 + 1))
        inside[rows, min(x0, points - 1) : max(x1, x0 + 1)] = True
    return inside.reshape(side, FINE, side, FINE).mean((1, 3))


def grade(alpha, boxes):
    """Return (hit, weight) of a map (14, 14): is its peak in the boxes, how much of it?

    Where several regions share the peak, the hit is the part of them that is inside.
    """
    rows, columns = np.nonzero(alpha == alpha.max())
    y, x = (rows + 0.5) / len(alpha), (columns + 0.5) / len(alpha)
    hits = [(x >= a) & (x <= c) & (y >= b) & (y <= d) for a, b, c, d in boxes]
    weight = (alpha * covered(boxes, len(alpha))).sum() / alpha.sum()
    return float(np.any(hits, axis=0).mean()), float(weight)


# chapters/phrases.md: Hit and weight
def grade_maps(number, alphas, named, rng):
    """Return the grades of the maps of words that name things, and of their rivals.

    `alphas` (T, 14, 14) are the maps of a caption, `named` its list of `Named`. A dict
    for each map: the `image`'s number, the map as the `case`, the `kind` of thing, the
    share `area` of the picture in its boxes, `hit` and `weight`.
    """
    rows = []
    for place, kind, boxes in named if len(alphas) > 1 else ():
        what = {"image": number, "kind": kind, "area": float(covered(boxes).mean())}
        maps = {"the model's": alphas[place], **rivals(alphas, place, rng)}
        for name, alpha in maps.items():
            hit, weight = grade(alpha, boxes)
            rows.append(what | {"case": name, "hit": hit, "weight": weight})
    return rows


# chapters/phrases.md: Two kinds of caption
@torch.no_grad()
def maps_of(captioner, cells, captions):
    """Return the maps that a captioner has while it reads captions: a list of arrays.

    `cells` (1, C, D) are those of the photograph; each caption is a list of words, and
    its maps (T, 14, 14), one for each word.
    """
    numbers, device = captioner.word_map, cells.device
    rows = [[numbers.get(word, numbers["<unk>"]) for word in c] for c in captions]
    rows = [[numbers["<start>"], *row, numbers["<end>"]] for row in rows]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    padded = torch.zeros(len(rows), max(lengths), dtype=torch.long, device=device)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids, device=device)
    alphas = captioner.decoder(cells, padded, lengths).alphas.unflatten(2, (14, 14))
    return [a[: len(c)].cpu().numpy() for a, c in zip(alphas, captions, strict=True)]


# chapters/phrases.md: Without what is in the box
def takeaways(inside, looked, rng):
    """Return by name which cells to take, as weights (side, side), and how many.

    `inside` is the share of each cell in the boxes, `looked` the word's map over the
    cells; the heaviest cells are meant.
    """
    mask = inside >= min(0.5, inside.max())
    moved = [np.roll(mask, move, (0, 1)) for move in np.ndindex(mask.shape)]
    common = np.array([(mask & other).sum() for other in moved])
    least = np.flatnonzero(common == common.min())
    weights = {"the box": mask, "the top of the map": looked}
    weights["the shape elsewhere"] = moved[rng.choice(least)]
    weights["random cells elsewhere"] = np.where(mask, -1, rng.random(mask.shape))
    return weights, int(mask.sum())


# chapters/phrases.md: Without what is in the box
HALF = 0.5  # of the picture: what has more leaves no elsewhere


def delete(number, captioner, cells, caption, named, rng):
    """Return what words that name things lose with cells taken away, as dicts.

    One for each thing of less than half the picture and each of `takeaways`, the
    `case`: `probability` is the word's then, `lost` how much less than with all
    `cells` (C, D); the rest is as in `grade_maps`.
    """
    rows, side = [], int(len(cells) ** 0.5)
    looked = on_cells(captioner.decoder, caption.alphas).unflatten(1, (side, side))
    for place, kind, boxes in named:
        what = {"image": number, "kind": kind, "area": float(covered(boxes).mean())}
        if what["area"] >= HALF:
            continue
        inside = covered(boxes, side)
        weights, count = takeaways(inside, looked[place].numpy(), rng)
        stacked = torch.tensor(np.array([*weights.values()])).flatten(1)
        taken = blank(cells, stacked.to(cells.device), count)
        copies = torch.cat([cells[None], taken])
        read, places = caption.words[: place + 1], [place] * len(copies)
        before, *after = word_probabilities(captioner, copies, read, places)
        for case, p in zip(("nothing", *weights), (before, *after), strict=True):
            now = {"probability": float(p), "lost": float(before - p)}
            rows.append(what | {"case": case} | now)
    return rows


# chapters/phrases.md: With the gaze on something else
APART = 0.3  # intersection over union: what has less is another thing


def overlap(boxes, others):
    """Return the intersection over union of the areas that two lists of boxes cover."""
    a, b = covered(boxes), covered(others)
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


def others_of(word, boxes, things):
    """List the `Thing`s that a word does not name and that lie apart from its boxes."""
    others = [thing for thing in things if word not in thing.words]
    return [thing for thing in others if overlap(boxes, thing.boxes) < APART]


def hold(number, captioner, cells, caption, named, things):
    """Hold the gaze at each word that names a thing; return the dicts of `gaze`.

    On the thing itself, and on all others of the photograph's `things` that lie apart.
    `cells` are (C, D); with the dicts comes what `grade_maps` says of a thing.
    """
    rows = []
    for place, kind, boxes in named:
        word = caption.words[place]
        names = set().union(*(t.words for t in things if word in t.words))
        others = others_of(word, boxes, things)
        marked = [(covered(boxes), names)]
        marked += [(covered(other.boxes), other.words) for other in others]
        what = {"image": number, "kind": kind, "area": float(marked[0][0].mean())}
        found = gaze(captioner, cells[None], caption.words, place, marked)
        rows += [what | row for row in found]
    return rows


# chapters/phrases.md: All of it
def cells_of(captioner, photographs, batch_size=16):
    """Yield the cells (C, D) of each photograph."""
    for first in range(0, len(photographs), batch_size):
        yield from captioner.look(photographs[first : first + batch_size])


def grade_photographs(captioner, boxed, beam_size=5, seed=28):
    """Return the rows of all gradings of photographs, a list of `Boxed`, by name.

    Those of `grade_maps`, for the captioner's own captions and for people's, and for
    its own those of `delete` and `hold`.
    """
    rng, rows = np.random.default_rng(seed), {name: [] for name in MEASURES}
    photographs = [each.photograph for each in boxed]
    said = captioner.caption(photographs, beam_size)
    everything = zip(boxed, said, cells_of(captioner, photographs), strict=True)
    for number, (each, caption, cells) in enumerate(everything):
        named = named_by(caption.words, each.things)
        rows["its own captions"] += grade_maps(number, caption.alphas, named, rng)
        words = [words for words, _ in each.captions]
        maps = maps_of(captioner, cells[None], words)
        for alphas, (_, theirs) in zip(maps, each.captions, strict=True):
            rows["people's captions"] += grade_maps(number, alphas, theirs, rng)
        what = number, captioner, cells, caption, named
        rows["deletion"] += delete(*what, rng)
        rows["gaze"] += hold(*what, each.things)
    return rows


MEASURES = {
    "its own captions": ("weight", "hit"),
    "people's captions": ("weight", "hit"),
    "deletion": ("probability", "lost"),
    "gaze": ("changed", "named"),
}


# chapters/phrases.md: What is kept of it
SMALL = 0.25  # of the picture: what is less is a small thing


def summary(rows, measures):
    """Return the means of measures of rows, for each case, with their intervals."""
    found = {}
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]
        images = [row["image"] for row in own]
        found[case] = {"words": len(own)}
        for measure in measures:
            values = [row[measure] for row in own]
            found[case][measure] = float(np.mean(values))
            found[case][f"{measure} interval"] = interval(values, images)
    return found


def by_part(rows, measures):
    """Return the `summary` of all rows, of small and large things, and of each kind."""
    parts = {"all": rows}
    parts["small"] = [row for row in rows if row["area"] < SMALL]
    parts["large"] = [row for row in rows if row["area"] >= SMALL]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        parts[kind] = [row for row in rows if row["kind"] == kind]
    return {part: summary(own, measures) for part, own in parts.items() if own}


# chapters/phrases.md: What is kept of it
def outcome(captioner, boxed):
    """Grade a captioner on photographs, a list of `Boxed`; print and return it all."""
    found = {"photographs": len(boxed)}
    for name, rows in grade_photographs(captioner, boxed).items():
        found[name] = by_part(rows, MEASURES[name])
        for part, cases in found[name].items():
            for case, means in cases.items():
                told = [f"{m} {means[m]:.3f}" for m in MEASURES[name]]
                print(f"{name}, {part}, {case} ({means['words']}):", *told)
    return found


def main(arguments=None):
    """Grade the maps of a captioner where people have drawn boxes."""
    parser = argparse.ArgumentParser(COMMAND, description=main.__doc__)
    usual = ["data/flickr8k", "data/everyday"]
    parser.add_argument("folders", nargs="*", default=usual)
    told = "a run's best.pt, in the place of the captioner that ships"
    parser.add_argument("--captioner", metavar="CHECKPOINT", help=told)
    options = parser.parse_args(arguments)
    try:
        boxed = dict(map(read_boxed, options.folders))
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    captioner, found = load_captioner(options.captioner), {}
    for tied, photographs in boxed.items():
        print(f"boxes tied to {tied}: {len(photographs)} photographs")
        found[tied] = outcome(captioner, photographs)
    if options.captioner is None:
        seed = load_checkpoint(SHIPPED)["config"]["seed"]
        print(keep_results("phrases", COMMAND, seed, **found))


# chapters/phrases.md: What is kept of it
if __name__ == "__main__":
    main()
