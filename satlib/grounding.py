# Written by `python -m satlib.tangle` from chapters/grounding.md: edit that.
# chapters/grounding.md: Grounding: does it look at what it names?
"""Grading attention: does it look at what it names, and does the look matter?"""

import argparse
import json
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from satlib.beam_search import speakable
from satlib.bleu import corpus_bleu
from satlib.captioner import Captioner, load_captioner
from satlib.configuration import Config, folders
from satlib.files import code_digest, keep_results, read_if_there, write_json
from satlib.fit import fit, open_dataset, split_photographs, teach, write_data
from satlib.learner import Learner
from satlib.model import choose_device, encoder_of, new_model
from satlib.scenes import colour_accuracy, draw, named_objects, scenes_of
from satlib.validation import WordLesson


# chapters/grounding.md: The pointing game
def unseen_scenes(config):
    """Return the scenes of a run's test split."""
    return scenes_of(split_photographs(config, "TEST")[0])


# chapters/grounding.md: The pointing game
def mark_cells(mask, side=14):
    """Mark the cells of a grid that a mask (rows, columns) overlaps: (side, side)."""
    mask = torch.from_numpy(np.asarray(mask, dtype=np.float32))
    return F.adaptive_max_pool2d(mask[None], side)[0].bool().numpy()


# chapters/grounding.md: The pointing game
PARTS = "adjective", "noun"


def named_cells(words, scene, masks):
    """List (i, kind, cells) for each word i of a caption that names a thing there is.

    `kind` is "adjective" or "noun", `cells` (14, 14) marks the cells of the thing.
    """
    found = []
    for colour, name, *places in named_objects(words):
        things = list(zip(scene.objects, masks, strict=True))
        same = [mask for t, mask in things if (t.colour, t.name) == (colour, name)]
        same = same or [mask for t, mask in things if t.name == name]
        if same:
            cells = mark_cells(np.any(same, axis=0))
            kinds = zip(places, PARTS, strict=True)
            found += [(i, kind, cells) for i, kind in kinds]
    return found


# chapters/grounding.md: The pointing game
def grade(alpha, cells):
    """Return (hit, weight) of a map (14, 14): is its peak in the cells, how much of it?

    Where several cells share the peak, the hit is the part of them that is marked.
    """
    peak = alpha == alpha.max()
    return float(cells[peak].mean()), float(alpha[cells].sum() / alpha.sum())


# chapters/grounding.md: Four hundred scenes, and who else plays
def rivals(alphas, i, rng):
    """Return, by name, maps (14, 14) to compare with that of word i of `alphas`.

    `alphas` (T, 14, 14) holds a caption's maps, of two words or more; `rng` draws the
    random map and the other word.
    """
    even, centre = np.ones_like(alphas[i]), np.zeros_like(alphas[i])
    centre[6:8, 6:8] = 1
    random = rng.dirichlet(even.flatten()).reshape(even.shape)
    other = alphas[rng.choice([j for j in range(len(alphas)) if j != i])]
    return {"another word's": other, "central": centre, "random": random, "even": even}


def grade_captions(captions, scenes, seed=28):
    """Return the grades of the maps of words that name a thing, and of their rivals.

    A list of dicts: the `map`'s name, the word's `kind`, and `hit` and `weight`, both
    from 0 to 1, as `grade` returns them.
    """
    rng, rows = np.random.default_rng(seed), []
    for caption, scene in zip(captions, scenes, strict=True):
        for i, kind, cells in named_cells(caption.words, scene, draw(scene)[1]):
            maps = {"the model's": caption.alphas[i], **rivals(caption.alphas, i, rng)}
            for name, alpha in maps.items():
                hit, weight = grade(alpha, cells)
                rows.append({"map": name, "kind": kind, "hit": hit, "weight": weight})
    return rows


def mean_of(rows, measure, **chosen):
    """Return the mean of a measure over the rows that have the chosen values."""
    found = [r[measure] for r in rows if all(r[k] == v for k, v in chosen.items())]
    return float(np.mean(found))


# chapters/grounding.md: Take it away
def blank(cells, weights, count=None):
    """Return cells (C, D) T times, the heaviest turned into the mean: (T, C, D).

    Row t of `weights` (T, C) says which cells are the heaviest in copy t; they are
    `count`, or a tenth of all.
    """
    count = count or max(1, round(weights.shape[1] / 10))
    top = weights.topk(count).indices
    gone = torch.zeros_like(weights, dtype=torch.bool).scatter_(1, top, True)
    return torch.where(gone.unsqueeze(2), cells.mean(0), cells)


@torch.no_grad()
def word_probabilities(captioner, cells, words, places):
    """Return how probable image k makes the word at places[k], as an array (K,).

    `cells` (K, C, D) holds the images; each is read the `words` of a caption, and the
    probability is that of a word after those before it.
    """
    ids = [captioner.word_map[word] for word in words]
    row = [captioner.word_map["<start>"], *ids, captioner.word_map["<end>"]]
    rows = torch.tensor([row] * len(cells), device=cells.device)
    lengths = torch.full((len(cells),), len(row), device=cells.device)
    decoded = captioner.decoder(cells, rows, lengths)
    scores = decoded.scores.unflatten(0, (len(row) - 1, len(cells)))  # (T + 1, K, V)
    of_words = [ids[place] for place in places]
    return scores.softmax(2)[places, range(len(cells)), of_words].cpu().numpy()


def on_cells(decoder, alphas):
    """Return maps (T, rows, columns) as weights of the encoder's cells: (T, C)."""
    weights = torch.from_numpy(alphas).flatten(1)
    return weights if decoder.pool is None else weights @ decoder.pool.cpu()


# chapters/grounding.md: Take it away
def lost(captioner, image, caption, generator):
    """Return the probabilities of a caption's T words: a dict of arrays (T,).

    The keys are "before", "attended" and "random", for all cells, and for those without
    the tenth with most weight, or without a random tenth drawn by `generator`.
    """
    cells = captioner.look([image])[0]
    weights = on_cells(captioner.decoder, caption.alphas)
    chance = torch.rand(weights.shape, generator=generator)
    cases = {"before": cells.expand(len(weights), -1, -1)}
    cases["attended"] = blank(cells, weights.to(cells.device))
    cases["random"] = blank(cells, chance.to(cells.device))
    words, places = caption.words, range(len(weights))
    return {
        name: word_probabilities(captioner, case, words, places)
        for name, case in cases.items()
    }


# chapters/grounding.md: Take it away
def deletion(captioner, images, captions, seed=28):
    """Measure what each word of captions loses without the cells it looked at.

    Returns a dict for each word: the number of its `image`, whether it is part of the
    name of a thing as scenes have them (`names`), its probability `before`, without
    the `attended` tenth of the cells, and without a `random` one.
    """
    generator, rows = torch.Generator().manual_seed(seed), []
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        found = lost(captioner, image, caption, generator)
        things = {i for thing in named_objects(caption.words) for i in thing[2:]}
        rows += [
            {"image": number, "word": word, "names": t in things}
            | {case: float(p[t]) for case, p in found.items()}
            for t, word in enumerate(caption.words)
        ]
    return rows


# chapters/grounding.md: Hold the gaze
@torch.no_grad()
def held(captioner, cells, words, place, looks=None, steps=1):
    """List the most probable words at a `place` of a caption, the gaze held on `looks`.

    There is one for each of `looks` (K, 14, 14), maps over which the gaze is spread in
    the last `steps` steps; without them, the one by the model's own looks. `cells`
    (1, C, D) are the image's; the `words` before the place are read to the model.
    """
    decoder, numbers, device = captioner.decoder, captioner.word_map, cells.device
    ids = [numbers[word] for word in ("<start>", *words[:place])]
    vectors = decoder.vectors(torch.tensor(ids, device=device)).split(1)
    memory, image = decoder.remember(cells), torch.zeros(1, dtype=int, device=device)
    state, free = decoder.start(cells), max(len(ids) - steps, 0)
    for vector in vectors[:free]:
        *state, _, _ = decoder.step(vector, *state, memory, image)
    alpha, count = None, 1
    if looks is not None:
        alpha = torch.tensor(np.array(looks), device=device).flatten(1)  # (K, P)
        alpha, count = (alpha / alpha.sum(1, keepdim=True)).to(cells.dtype), len(looks)
    state, image = [s.expand(count, -1) for s in state], image.expand(count)
    for vector in vectors[free:]:
        vector = vector.expand(count, -1)
        *state, _, _ = decoder.step(vector, *state, memory, image, alpha)
    scores = speakable(decoder.fc(state[0]), numbers, first=place == 0)
    words_of = {number: word for word, number in numbers.items()}
    return [words_of[number] for number in scores.argmax(1).tolist()]


# chapters/grounding.md: Hold the gaze
CASES = {  # on the thing itself or not, and for how many words
    "the thing itself": (True, 1),
    "another thing": (False, 1),
    "another thing, from two words before": (False, 3),
}


def gaze(captioner, cells, words, place, things):
    """Hold the gaze on things at a `place` of a caption; return a dict for each.

    `things` lists pairs: a map (14, 14) that marks the thing, and its names. The `case`
    is one of `CASES`: the first thing is the one that the word names. `changed` is 1
    where the most probable word is another than by the model's own looks, `named` is 1
    where it is one of the names.
    """
    rows, (own,) = [], held(captioner, cells, words, place)
    for case, (itself, steps) in CASES.items():
        marked = things[:1] if itself else things[1:]
        looks = [look for look, _ in marked]
        said = held(captioner, cells, words, place, looks, steps) if looks else []
        for word, (_, names) in zip(said, marked, strict=True):
            found = {"changed": float(word != own), "named": float(word in names)}
            rows.append({"case": case} | found)
    return rows


# chapters/grounding.md: Hold the gaze
def gaze_in_scenes(captioner, images, captions, scenes):
    """Hold the gaze at the nouns of captions; return the dicts of `gaze`."""
    rows = []
    for image, caption, scene in zip(images, captions, scenes, strict=True):
        masks, cells, words = draw(scene)[1], captioner.look([image]), caption.words
        things = [
            (mark_cells(mask), {thing.name})
            for thing, mask in zip(scene.objects, masks, strict=True)
        ]
        for place, kind, own in named_cells(words, scene, masks):
            if kind == "noun":
                others = [thing for thing in things if words[place] not in thing[1]]
                marked = [(own, {words[place]}), *others]
                rows += gaze(captioner, cells, words, place, marked)
    return rows


# chapters/grounding.md: What it takes
@dataclass(frozen=True)
class Variant:
    """A way to train on the scenes, of which the maps are graded."""

    config: Config = Config()
    standardized: bool = True  # the stage's cells
    zero_start: bool = False  # h and c start at zero, not at what the mean cell says
    averaged: bool = True  # the weights


def few(**choices):
    """Return the configuration of a run on half of the scenes."""
    return Config(scenes=2000, **choices)


VARIANTS = {
    "last grid, 8×8 cells": Variant(few(stage=8, image_size=256, alpha_c=1.0)),
    "last grid, 14×14 cells": Variant(few(stage=8, image_size=448, alpha_c=1.0)),
    "stage 5, 14×14 cells": Variant(few(alpha_c=1.0), standardized=False),
    "stage 5, standardised": Variant(few(alpha_c=1.0)),
    "no penalty": Variant(few()),
    "no penalty, weights not averaged": Variant(few(), averaged=False),
    "no penalty, h and c start at zero": Variant(few(), zero_start=True),
    "no penalty, half as large": Variant(few(decoder_dim=128, attention_dim=64)),
    "no penalty, twice the scenes (ours)": Variant(Config()),
}
SEEDS = (28, 29, 30)


# chapters/grounding.md: What it takes
def open_variant(variant):
    """Return a variant's encoder, training set and word map."""
    config, files = variant.config, write_data(variant.config)
    encoder = encoder_of(config, standardized=variant.standardized)
    dataset = open_dataset(config, encoder.to(choose_device()), files, "TRAIN")
    return encoder, dataset, files.read("wordmap")


# chapters/grounding.md: What it takes
def start_at_zero(decoder):
    """Let a decoder's first h and c be zero, whatever the picture, for good."""
    for layer in (decoder.init_h, decoder.init_c):
        layer.requires_grad_(False)
        for weights in layer.parameters():
            weights.zero_()


def train_variant(variant, seed, encoder, dataset, word_map):
    """Train a variant with a seed; return its captioner.

    `encoder`, `dataset` and `word_map` are what `open_variant` returns.
    """
    config = replace(variant.config, seed=seed)
    model = new_model(config, word_map, encoder)
    if variant.zero_start:
        start_at_zero(model.decoder)
    learner = Learner(model, WordLesson())
    for number in range(1, config.epochs + 1):
        learner.history.append({"epoch": number} | teach(learner, dataset))
    decoder = learner.averaged()[1] if variant.averaged else learner.decoder
    return Captioner(encoder, decoder, word_map, config.image_size)


# chapters/grounding.md: What it takes
def outcome(captioner, scenes, references):
    """Grade a captioner on scenes; return a dict of what was found.

    "BLEU-4" and "colours" are from 0 to 1; "noun hit", "noun weight" and the same of
    adjectives are dicts of the means of `grade_captions`, for each kind of map.
    """
    captions = captioner.caption([draw(scene)[0] for scene in scenes])
    words = [caption.words for caption in captions]
    rows = grade_captions(captions, scenes)
    found = {"BLEU-4": corpus_bleu(references, words)[3]}
    found["colours"] = colour_accuracy(words, scenes)[0]
    for kind in PARTS:
        for measure in ("hit", "weight"):
            found[f"{kind} {measure}"] = {
                name: mean_of(rows, measure, map=name, kind=kind)
                for name in dict.fromkeys(row["map"] for row in rows)
            }
    return found


# chapters/grounding.md: What it takes
def interval(values, images, seed=28):
    """Return the ends of the 95 % interval of a mean, as a list.

    By 1,000 bootstrap samples of the `images`, of which each value has one's number,
    each with all its values (Efron, 1979).
    """
    _, image = np.unique(images, return_inverse=True)
    counts, sums = np.bincount(image), np.bincount(image, values)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(1000, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return np.quantile(means, [0.025, 0.975]).tolist()


def summary(rows):
    """Return the means of `deletion`'s rows, and their gap: random minus attended.

    `interval` holds the ends of the gap's 95 % interval.
    """
    cases = "before", "attended", "random"
    found = {case: float(np.mean([row[case] for row in rows])) for case in cases}
    gaps = np.array([row["random"] - row["attended"] for row in rows])
    images = [row["image"] for row in rows]
    found |= {"images": len({*images}), "words": len(gaps), "gap": float(gaps.mean())}
    found["attended counts more"] = float((gaps > 0).mean())
    return found | {"interval": interval(gaps, images)}


# chapters/grounding.md: What it takes
COMMAND = "python -m satlib.grounding"


def grade_variants():
    """Return the outcomes of all variants: for each name a list, one for each seed.

    What is done is kept beside the scenes, so that an interrupted run goes on.
    """
    scenes, folder = unseen_scenes(Config()), folders(Config())[0]
    _, references = split_photographs(Config(), "TEST")
    kept = folder / f"grounding-{code_digest('grounding')[:8]}.json"
    found = read_if_there(kept)
    for name, variant in VARIANTS.items():
        parts = open_variant(variant) if len(found.get(name, [])) < len(SEEDS) else ()
        for seed in SEEDS[len(found.setdefault(name, [])) :]:
            captioner = train_variant(variant, seed, *parts)
            found[name].append(outcome(captioner, scenes, references))
            hits = [found[name][-1][f"{k} hit"]["the model's"] for k in PARTS]
            print(f"{name}, {seed}: adjectives {hits[0]:.1%}, nouns {hits[1]:.1%}")
            write_json(kept, found)
    return found


# chapters/grounding.md: What it takes
def main():
    """Grade everything, and keep the outcome in data/results/grounding.json."""
    found = grade_variants()
    captioner, scenes = load_captioner(fit(Config()).best), unseen_scenes(Config())
    pictures = [draw(scene)[0] for scene in scenes]
    rows = deletion(captioner, pictures, captioner.caption(pictures))
    deleted = {"all words": summary(rows)}
    deleted["names of things"] = summary([row for row in rows if row["names"]])
    print(json.dumps(deleted, indent=1))
    keep_results("grounding", COMMAND, SEEDS, variants=found, deletion=deleted)


# chapters/grounding.md: What it takes
if __name__ == "__main__":
    argparse.ArgumentParser(COMMAND, description=main.__doc__).parse_args()
    main()
