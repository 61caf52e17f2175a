# Written by `python -m satlib.tangle` from chapters/calibration.md: edit that.
# chapters/calibration.md: Calibration: what a probability is worth
"""How often a word is right that was said with a certain probability."""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from satlib.beam_search import FUNCTION
from satlib.caption_files import read_captions, read_splits
from satlib.captioner import SHIPPED, chance, load_captioner, log_odds
from satlib.files import keep_results
from satlib.model import load_checkpoint

COMMAND = "python -m satlib.calibration"


# chapters/calibration.md: Photographs and what people say of them
CAPTIONS = "Flickr8k.token.txt", "captions.csv"  # the names that a file may have


def captions_in(folder):
    """Return the path of a collection's captions. Raises FileNotFoundError."""
    found = [folder / name for name in CAPTIONS if (folder / name).is_file()]
    if not found:
        raise FileNotFoundError(f"{folder}: neither {' nor '.join(CAPTIONS)} is there")
    return found[0]


def open_collection(folder):
    """Return for each split its photographs' paths, and all captions of each as words.

    Raises FileNotFoundError where the captions are missing, or photographs of the
    training or the validation split; ValueError where the list of one of these is, or a
    listed photograph has no caption.
    """
    folder = Path(folder)
    captions = read_captions(captions_in(folder)).captions
    splits = read_splits(folder)
    for split, names in splits.items():
        if not names and split != "test":
            raise ValueError(f"{folder}: no list of the {split} split ({split}.txt)")
        if missing := [name for name in names if name not in captions]:
            raise ValueError(f"{folder}: {split} lists {missing[0]}, without captions")
    listed = [folder / "Images" / name for name in splits["train"] + splits["val"]]
    if missing := [path for path in listed if not path.is_file()]:
        problem = f"{len(missing)} of {len(listed)} photographs are missing"
        raise FileNotFoundError(f"{folder}: {problem}, first {missing[0].name}")
    return {
        split: ([folder / "Images" / n for n in names], [captions[n] for n in names])
        for split, names in splits.items()
    }


# chapters/calibration.md: When is a word right?
PHRASES = "phrases_train.json", "phrases_dev.json"


def nouns_in(folder):
    """Return the words that end a phrase in at least half of their uses, as a set.

    The phrases are those of a folder's `phrases_train.json` and `phrases_dev.json`.
    Raises FileNotFoundError without them, ValueError where they hold no phrases.
    """
    used, ends = Counter(), Counter()
    for path in (Path(folder) / name for name in PHRASES):
        try:
            for entry in json.loads(path.read_text(encoding="utf-8")).values():
                for caption in entry["captions"]:
                    words = caption["words"]
                    used.update(words)
                    ends.update(words[end - 1] for _, end, *_ in caption["phrases"])
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{path}: no table of phrases ({error!r})") from None
    return {w for w in ends if ends[w] >= used[w] / 2} - FUNCTION


# chapters/calibration.md: When is a word right?
def nouns_among(folders):
    """Return `nouns_in` the first folder with phrases. Raises FileNotFoundError."""
    for folder in map(Path, folders):
        if all((folder / name).is_file() for name in PHRASES):
            return nouns_in(folder)
    where = ", ".join(map(str, folders))
    needed = f"{' and '.join(PHRASES)} (data/README.md says what they are)"
    raise FileNotFoundError(f"{needed} lie in none of these folders: {where}")


# chapters/calibration.md: When is a word right?
def judged(captions, references, nouns=()):
    """Return a row for each content word of captions; `references` are the people's.

    A dict: the number of the `image`, the `word`, its log `odds`, whether it is `right`
    and whether it is a `noun`.
    """
    rows = []
    for image, (caption, people) in enumerate(zip(captions, references, strict=True)):
        said = {word for words in people for word in words}
        for word, log_prob in zip(caption.words, caption.word_log_probs, strict=True):
            if word not in FUNCTION:
                row = {"image": image, "word": word, "odds": log_odds(log_prob)}
                rows.append(row | {"right": word in said, "noun": word in nouns})
    return rows


# chapters/calibration.md: When is a word right?
def with_five(photographs, references):
    """Return the photographs of which five people have told, and what they said.

    Raises ValueError where there is none.
    """
    pairs = zip(photographs, references, strict=True)
    five = [(photograph, people) for photograph, people in pairs if len(people) >= 5]
    if not five:
        raise ValueError(f"none of {len(references)} photographs has five captions")
    return [p for p, _ in five], [people for _, people in five]


# chapters/calibration.md: Is eight tenths eight of ten?
def reliability(chances, right, bins=10):
    """Return the mean chance and the share right of bins with equally many words.

    A list of pairs, in order of the chance; `chances` and `right` are arrays (N,).
    """
    order = np.argsort(chances, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [(float(chances[p].mean()), float(right[p].mean())) for p in parts]


def calibration_error(chances, right, bins=10):
    """Return the expected calibration error, from 0 to 1. Source: Guo et al. 2017."""
    sizes = [len(part) for part in np.array_split(chances, bins) if len(part)]
    gaps = [abs(told - true) for told, true in reliability(chances, right, bins)]
    return float(np.average(gaps, weights=sizes))


# chapters/calibration.md: Two numbers
def platt(odds, right):
    """Return the (a, b) by which log odds (N,) tell best what is `right` (N,).

    Raises ValueError where there is no word. Source: Platt 1999, by Newton's method.
    """
    if not len(odds):
        raise ValueError("no content word to calibrate by: are the captions English?")
    yes, no = right.sum(), len(right) - right.sum()
    goal = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))
    inputs = np.stack([odds, np.ones(len(odds))])

    def loss(pair):
        sums = pair @ inputs
        return (np.logaddexp(0, sums) - goal * sums).sum()

    pair = np.array([0.0, np.log((yes + 1) / (no + 1))])
    for _ in range(100):
        found = chance(odds, pair)
        curve = (inputs * found * (1 - found)) @ inputs.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(curve, inputs @ (found - goal))
        while loss(pair - step) > loss(pair) and abs(step).max() > 1e-9:
            step /= 2
        pair = pair - step
        if abs(step).max() < 1e-9:
            break
    return float(pair[0]), float(pair[1])


# chapters/calibration.md: Two numbers
def columns(rows):
    """Return the images, the log odds, and what is right, of rows: three arrays."""
    names = "image", "odds", "right"
    return tuple(np.array([row[name] for row in rows]) for name in names)


def by_halves(rows):
    """Return the chances (N,) of rows, each half of the images by the other's pair."""
    images, odds, right = columns(rows)
    found = np.zeros(len(rows))
    for half in (0, 1):
        own = images % 2 == half
        found[own] = chance(odds[own], platt(odds[~own], right[~own]))
    return found


# chapters/calibration.md: Does a low probability give it away?
def area_under_curve(values, right):
    """Return how often a right one has the higher value than a wrong one; ties: half.

    0.5 where one of both is lacking. `values` and `right` are arrays (N,).
    """
    high, low = values[right], np.sort(values[~right])
    if not len(high) or not len(low):
        return 0.5
    below = [np.searchsorted(low, high, side) for side in ("left", "right")]
    return float(np.mean(below) / len(low))


def area_interval(images, values, right, seed=28):
    """Return the ends of the 95 % interval of the area, as a list.

    By 1,000 bootstrap samples of the images, each with all its values.
    """
    places = [np.flatnonzero(images == image) for image in np.unique(images)]
    drawn = np.random.default_rng(seed).integers(len(places), size=(1000, len(places)))
    areas = []
    for numbers in drawn:
        sample = np.concatenate([places[number] for number in numbers])
        areas.append(area_under_curve(values[sample], right[sample]))
    return np.quantile(areas, [0.025, 0.975]).tolist()


# chapters/calibration.md: What is kept of it
def unsaid(captions, references):
    """Return which share of the content words of captions nobody says of the image."""
    wrong, number = 0, 0
    for words, people in zip(captions, references, strict=True):
        said = {word for caption in people for word in caption}
        told = [word for word in words if word not in FUNCTION]
        wrong, number = wrong + sum(w not in said for w in told), number + len(told)
    return wrong / max(number, 1)


def against_people(captions, references):
    """Return the `unsaid` shares of the first person and of ours, by the others."""
    others = [people[1:] for people in references]
    first = [people[0] for people in references]
    ours = [caption.words for caption in captions]
    return {"a person": unsaid(first, others), "ours": unsaid(ours, others)}


# chapters/calibration.md: What is kept of it
def summary(rows, calibrated):
    """Return what rows of `judged` tell, with chances `calibrated` (N,) for them."""
    images, odds, right = columns(rows)
    nouns = np.array([row["noun"] for row in rows])
    known = images[nouns], odds[nouns], right[nouns]
    found = {"photographs": len({*images.tolist()}), "words": len(rows)}
    found |= {"nouns": int(nouns.sum()), "unsaid": float(1 - right.mean())}
    found["unsaid nouns"] = float(1 - right[nouns].mean()) if nouns.any() else 0.0
    for name, values in ("before", chance(odds, (1, 0))), ("after", calibrated):
        found[f"error {name}"] = calibration_error(values, right)
        found[f"reliability {name}"] = reliability(values, right)
        found[f"doubted {name}"] = float((values < 0.5).mean())
    found["right of doubted"] = float(right[calibrated < 0.5].mean())
    found["area"] = area_under_curve(*known[1:])
    return found | {"area interval": area_interval(*known)}


# chapters/calibration.md: What is kept of it
def measure(collections):
    """Return the figures of collections: a dict of name → (captions, references, rows).

    `pair` holds the numbers of all words; the errors are by halves, `alone` with a pair
    for each collection.
    """
    everything = [row for *_, rows in collections.values() for row in rows]
    _, odds, right = columns(everything)
    calibrated, found, at = by_halves(everything), {}, 0
    for name, (captions, references, rows) in collections.items():
        found[name] = summary(rows, calibrated[at : at + len(rows)])
        alone = by_halves(rows), columns(rows)[2]
        found[name]["error alone"] = calibration_error(*alone)
        found[name]["against four"] = against_people(captions, references)
        at += len(rows)
    return {"pair": platt(odds, right), "collections": found}


# chapters/calibration.md: What is kept of it
def main(arguments=None):
    """Measure how far the shipped captioner's probabilities may be trusted."""
    parser = argparse.ArgumentParser(COMMAND, description=main.__doc__)
    usual = ["data/flickr8k", "data/everyday"]
    parser.add_argument("folders", nargs="*", default=usual, help="collections")
    folders = [Path(folder) for folder in parser.parse_args(arguments).folders]
    nouns, captioner, collections = nouns_among(folders), load_captioner(), {}
    for folder in folders:
        photographs, references = with_five(*open_collection(folder)["val"])
        captions = captioner.caption(photographs)
        rows = judged(captions, references, nouns)
        collections[folder.resolve().name] = captions, references, rows
    found, seed = measure(collections), load_checkpoint(SHIPPED)["config"]["seed"]
    command = f"{COMMAND} {' '.join(f'data/{name}' for name in collections)}"
    print(keep_results("calibration", command, seed, **found))


# chapters/calibration.md: What is kept of it
if __name__ == "__main__":
    main()
