# Written by `python -m satlib.tangle` from chapters/phrases.md: edit that.
# chapters/phrases.md: Phrases: are the maps true on photographs?
"""Grading maps on photographs, by phrases whose things people have boxed."""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from satlib.captioner import SHIPPED, load_captioner
from satlib.card import read_flickr8k
from satlib.files import keep_results
from satlib.grounding import interval, rivals
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
def named_by(words, captions):
    """List as `Named` the words with which people, too, name a thing in the photograph.

    `captions` are the people's, as of `read_phrases`.
    """
    found = {}
    for said, things in captions:
        for thing in things:
            kind, boxes = found.setdefault(said[thing.place], (thing.kind, []))
            boxes += [box for box in thing.boxes if box not in boxes]
    return [Named(i, *found[word]) for i, word in enumerate(words) if word in found]


# chapters/phrases.md: Hit and weight
FINE = 16  # points of a region, in rows and columns, that are in a box or not


def covered(boxes, side=14):
    """Return which share of each region of a grid boxes cover: (side, side).

    By 16 × 16 points in each region, so to a part in 256.
    """
    points = (np.arange(side * FINE) + 0.5) / (side * FINE)
    inside = np.zeros((side * FINE, side * FINE), bool)
    for x0, y0, x1, y1 in boxes:
        rows, columns = ((points >= a) & (points <= b) for a, b in ((y0, y1), (x0, x1)))
        inside |= rows[:, None] & columns
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
def grade_maps(number, alphas, things, rng):
    """Return the grades of the maps of words that name things, and of their rivals.

    `alphas` (T, 14, 14) are the maps of a caption, `things` its list of `Named`. A dict
    for each map: the `image`'s number, the `map`'s name, the `kind` of thing, the share
    `area` of the picture in its boxes, `hit` and `weight`.
    """
    rows = []
    for place, kind, boxes in things if len(alphas) > 1 else ():
        what = {"image": number, "kind": kind, "area": float(covered(boxes).mean())}
        maps = {"the model's": alphas[place], **rivals(alphas, place, rng)}
        for name, alpha in maps.items():
            hit, weight = grade(alpha, boxes)
            rows.append(what | {"map": name, "hit": hit, "weight": weight})
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


def grade_photographs(captioner, photographs, phrases, beam_size=5, seed=28):
    """Return the rows of `grade_maps`, as lists, for its own captions and for people's.

    `phrases` holds for each photograph its captions, as `read_phrases`.
    """
    rng, own, read = np.random.default_rng(seed), [], []
    said = captioner.caption(photographs, beam_size)
    everything = zip(photographs, said, phrases, strict=True)
    for number, (photograph, caption, captions) in enumerate(everything):
        things = named_by(caption.words, captions)
        own += grade_maps(number, caption.alphas, things, rng)
        cells = captioner.look([photograph])
        maps = maps_of(captioner, cells, [words for words, _ in captions])
        for alphas, (_, things) in zip(maps, captions, strict=True):
            read += grade_maps(number, alphas, things, rng)
    return {"its own captions": own, "people's captions": read}


# chapters/phrases.md: What is kept of it
SMALL = 0.25  # of the picture: what is less is a small thing


def summary(rows):
    """Return the means of rows of `grade_maps`, for each map, with their intervals."""
    found = {}
    for name in dict.fromkeys(row["map"] for row in rows):
        own = [row for row in rows if row["map"] == name]
        images = [row["image"] for row in own]
        found[name] = {"words": len(own)}
        for measure in "weight", "hit":
            values = [row[measure] for row in own]
            found[name][measure] = float(np.mean(values))
            found[name][f"{measure} interval"] = interval(values, images)
    return found


def by_part(rows):
    """Return the `summary` of all rows, of small and large things, and of each kind."""
    parts = {"all": rows}
    parts["small"] = [row for row in rows if row["area"] < SMALL]
    parts["large"] = [row for row in rows if row["area"] >= SMALL]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        parts[kind] = [row for row in rows if row["kind"] == kind]
    return {part: summary(of_part) for part, of_part in parts.items() if of_part}


# chapters/phrases.md: What is kept of it
def main(arguments=None):
    """Grade the maps of the captioner that ships, where people have drawn boxes."""
    parser = argparse.ArgumentParser(COMMAND, description=main.__doc__)
    parser.add_argument("folder", nargs="?", default="data/flickr8k")
    folder = Path(parser.parse_args(arguments).folder)
    path = folder / "phrases_dev.json"
    if not path.is_file():
        parser.error(f"{path}: no such file; data/README.md says what it is")
    photographs, _ = read_flickr8k(folder)["val"]
    phrases = read_phrases(path)
    known = [photograph for photograph in photographs if photograph.name in phrases]
    captions = [phrases[photograph.name] for photograph in known]
    graded = grade_photographs(load_captioner(), known, captions)
    found = {source: by_part(rows) for source, rows in graded.items()}
    for source, parts in found.items():
        for part, maps in parts.items():
            ours = maps["the model's"]
            print(f"{source}, {part}: {ours['weight']:.3f} {ours['hit']:.3f}")
    seed = load_checkpoint(SHIPPED)["config"]["seed"]
    print(keep_results("phrases", COMMAND, seed, photographs=len(known), **found))


# chapters/phrases.md: What is kept of it
if __name__ == "__main__":
    main()
