# Written by `python -m satlib.tangle` from chapters/pointing.md: edit that.
# chapters/pointing.md: Pointing: what makes maps true on photographs
"""What makes maps true on photographs: nine ways to train, graded by boxes."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from satlib.ablation import each_seed, recipe_with
from satlib.calibration import open_collection
from satlib.captioner import load_captioner
from satlib.card import grade
from satlib.files import keep_results
from satlib.fit import fit, open_dataset, teach, write_data
from satlib.grounding import start_at_zero
from satlib.learner import Learner
from satlib.model import new_model
from satlib.phrases import covered, outcome, read_boxed, read_phrases
from satlib.training import caption_loss
from satlib.validation import WordLesson

COMMAND = "python -m satlib.pointing"


# chapters/pointing.md: What it looks with
SHORT = {"max_images": 2000, "concept_epochs": 2, "epochs": 4}
SHORT |= {"self_critical_epochs": 0, "look_stage": None}
SHORT |= {"attention_dim": 256, "embed_dim": 256, "decoder_dim": 384}
NO_CONCEPTS = {"concept_epochs": 0}
OURS = "looks with stage 5, concepts"
CHOICES = {
    "last grid, with the penalty": NO_CONCEPTS | {"alpha_c": 1.0},
    "last grid": NO_CONCEPTS,
    "looks with stage 6": NO_CONCEPTS | {"look_stage": 6},
    "looks with stage 5": NO_CONCEPTS | {"look_stage": 5},
    "last grid, concepts": {},
    OURS: {"look_stage": 5},
}
SEEDS = (28, 29)


def configure(folder, name, seed):
    """Return the configuration of one of the `CHOICES`; `folder` is Flickr8k's."""
    return recipe_with(folder, SHORT | CHOICES[name], seed)


# chapters/pointing.md: How it is taught
HIDDEN = 1 / 3  # of the cells


def hide(decoder, inputs):
    """Hide some of the cells (B, C, D) that a decoder in training is given."""
    cells, *others = inputs
    if not decoder.training:
        return inputs
    shown = torch.rand(*cells.shape[:2], 1, device=cells.device) > HIDDEN
    return cells * shown, *others


# chapters/pointing.md: How it is taught
def boxed_words(dataset, word_map, phrases):
    """Return {caption: {place: map}}: where people's boxes are, of what words name.

    Captions are numbered through the `dataset`, places from 0, and a map (196,) is the
    share of each region that is in a box. `phrases` are as of `read_phrases`, by name.
    """
    found, rows = {}, dataset.captions.flatten(0, 1).tolist()
    names = dataset.names(range(len(dataset)))
    per_image, unknown = dataset.captions.shape[1], word_map["<unk>"]
    for number, row in enumerate(rows):
        for words, things in phrases.get(names[number // per_image], ()):
            ids = [word_map.get(word, unknown) for word in words]
            if row[1 : len(ids) + 2] == [*ids, word_map["<end>"]]:
                shares = {t.place: covered(t.boxes).ravel() for t in things}
                found[number] = {p: torch.tensor(s).float() for p, s in shares.items()}
    return found


# chapters/pointing.md: How it is taught
def box_loss(decoded, captions, boxed):
    """Return the mean of -log of the weight in the boxes; zero where no word has any.

    `decoded` is of the captions with these numbers, and `boxed` what `boxed_words`
    returns.
    """
    losses = [
        -(decoded.alphas[row, place] @ share).clamp_min(1e-6).log()
        for row, number in enumerate(captions)
        for place, share in boxed.get(number, {}).items()
        if share.any()
    ]
    return torch.stack(losses).mean() if losses else decoded.alphas.sum() * 0


class BoxLesson(WordLesson):
    """The lesson of words, with boxes for the maps of words that name things."""

    def __init__(self, boxed):
        self.boxed = boxed

    def epoch(self, learner, loader, number):
        """Teach epoch `number` to a `Learner`; return the mean losses and times."""
        iterations = learner.iterations(loader, number)
        learner.decoder.train()
        for cells, captions, lengths in iterations:
            decoded = learner.decoder(cells.float(), captions, lengths)
            k = len(captions) // len(cells)
            images = loader.batch_sampler.drawn[iterations.number]
            numbers = [k * image + j for image in images for j in range(k)]
            loss, _ = caption_loss(decoded)
            looks = box_loss(decoded, numbers, self.boxed)
            words = len(decoded.targets)
            iterations.learn((loss, words), (looks, words))
            iterations.count(words, loss=loss.item(), box_loss=looks.item())
        return iterations.means()


# chapters/pointing.md: One after the other
OTHERS = "h and c start at zero", "a third of the cells hidden", "taught with boxes"


def teach_otherwise(run, name, phrases):
    """Train a new decoder on the cells of a run in one of the `OTHERS`; a captioner.

    `phrases` are those of the training photographs, as of `read_phrases`.
    """
    captioner, files = load_captioner(run.best), write_data(run.config)
    dataset = open_dataset(run.config, captioner.encoder, files, "TRAIN", run.folder)
    lesson, word_map = WordLesson(), captioner.word_map
    if name == "taught with boxes":
        lesson = BoxLesson(boxed_words(dataset, word_map, phrases))
    frozen = replace(run.config, concept_epochs=0)
    learner = Learner(new_model(frozen, word_map, captioner.encoder), lesson)
    if name == "h and c start at zero":
        start_at_zero(learner.decoder)
    if name == "a third of the cells hidden":
        learner.decoder.register_forward_pre_hook(hide)
    for number in range(1, run.config.epochs + 1):
        learner.history.append({"epoch": number} | teach(learner, dataset))
    captioner.decoder = learner.averaged()[1].eval()
    return captioner


# chapters/pointing.md: One after the other
GRADED = 300  # photographs, for the maps


def measure(captioner, folder):
    """Return a captioner's scores, and of `outcome` its own maps and the held gaze."""
    splits, (_, boxed) = open_collection(folder), read_boxed(folder)
    photographs, references = splits["val"]
    words = [caption.words for caption in captioner.caption(photographs)]
    found = {"scores": grade(references, words, splits["train"][1])}
    maps = outcome(captioner, boxed[:GRADED])
    own = maps["its own captions"]
    found |= {part: own[part] for part in ("all", "small") if part in own}
    return found | {"gaze": maps["gaze"]["all"]}


# chapters/pointing.md: One after the other
def grade_ways(folder):
    """Train and grade all ways; return for each name what was found, for each seed."""
    phrases = read_phrases(Path(folder) / "phrases_train.json")

    def graded(name, seed):
        print(name, seed, flush=True)
        run = fit(configure(folder, name if name in CHOICES else OURS, seed))
        if name in CHOICES:
            return measure(load_captioner(run.best), folder)
        return measure(teach_otherwise(run, name, phrases), folder)

    config = configure(folder, OURS, SEEDS[0])
    return each_seed("pointing", config, [*CHOICES, *OTHERS], SEEDS, graded)


def main(arguments=None):
    """Train and grade all ways, and keep the outcome."""
    parser = argparse.ArgumentParser(COMMAND, description=main.__doc__)
    parser.add_argument("folder", nargs="?", default="data/flickr8k")
    folder = parser.parse_args(arguments).folder
    print(keep_results("pointing", COMMAND, SEEDS, ways=grade_ways(folder)))


# chapters/pointing.md: One after the other
if __name__ == "__main__":
    main()
