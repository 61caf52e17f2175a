# Written by `python -m satlib.tangle` from chapters/ablation.md: edit that.
# chapters/ablation.md: Ablation: what each part is worth
"""What each part of the photographs' recipe adds: short runs, one part at a time."""

import argparse
from pathlib import Path

import yaml

from satlib.calibration import open_collection
from satlib.captioner import SHIPPED, load_captioner
from satlib.card import grade
from satlib.configuration import Config, folders
from satlib.files import code_digest, digest, keep_results, read_if_there, write_json
from satlib.fit import fit

COMMAND = "python -m satlib.ablation"
RECIPE = SHIPPED.with_name("flickr8k.yaml")


# chapters/ablation.md: The ways to train
SHORT = {"max_images": 2000, "concept_epochs": 4, "epochs": 3}
NO_REWARD = {"self_critical_epochs": 0}
NO_MIRROR = NO_REWARD | {"augment": False}
NO_CONCEPTS = NO_MIRROR | {"concept_epochs": 0}
ONE_STAGE = NO_CONCEPTS | {"look_stage": None}
STEPS = {
    "none of them": ONE_STAGE | {"output_stride": 32},
    "finer grid": ONE_STAGE,
    "earlier stage": NO_CONCEPTS,
    "concepts": NO_MIRROR,
    "mirrored images": NO_REWARD,
    "reward": {},
}
SEEDS = (28, 29)


def recipe_with(folder, choices, seed):
    """Return the configuration of the recipe with some other choices, by name.

    `folder` is Flickr8k's.
    """
    folder = Path(folder)
    chosen = yaml.safe_load(RECIPE.read_text()) | choices
    chosen["captions"] = str(folder / "Flickr8k.token.txt")
    chosen["images"], chosen["splits"] = str(folder / "Images"), str(folder)
    return Config(**chosen, seed=seed)


def configure(folder, name, seed):
    """Return the configuration of one of the `STEPS`; `folder` is Flickr8k's."""
    return recipe_with(folder, SHORT | STEPS[name], seed)


# chapters/ablation.md: The ways to train
def train_and_grade(config, splits):
    """Train with a configuration, or go on; return the scores on the development set.

    Raises ValueError where the run has already gone on to the reward.
    """
    run = fit(config)
    lessons = [row["lesson"] for row in run.history]
    if lessons.count("reward") > config.self_critical_epochs:
        raise ValueError(f"{run.folder}: has gone on to the reward; delete that folder")
    (photographs, references), (_, training) = splits["val"], splits["train"]
    captions = load_captioner(run.best).caption(photographs)
    return grade(references, [caption.words for caption in captions], training)


# chapters/ablation.md: The ways to train
def each_seed(module, config, names, seeds, graded):
    """Return for each name what `graded(name, seed)` finds, a list for the seeds.

    What is done is kept beside the run of `config`, and holds for the code of the
    `module` and for the recipe.
    """
    how = digest([code_digest(module), RECIPE.read_text(encoding="utf-8")])
    kept = folders(config)[0].parent / f"{module}-{how[:8]}.json"
    found = read_if_there(kept)
    for number, seed in enumerate(seeds):
        for name in names:
            rows = found.setdefault(name, [])
            if len(rows) == number:
                rows.append(graded(name, seed))
                write_json(kept, found)
    return found


def grade_steps(folder):
    """Train and grade all steps; return for each name its scores, one for each seed."""
    splits = open_collection(folder)

    def graded(name, seed):
        scores = train_and_grade(configure(folder, name, seed), splits)
        print(name, seed, {k: round(v, 4) for k, v in scores.items()}, flush=True)
        return scores

    config = configure(folder, "reward", SEEDS[0])
    return each_seed("ablation", config, STEPS, SEEDS, graded)


def main(arguments=None):
    """Train and grade all steps, and keep the outcome."""
    parser = argparse.ArgumentParser(COMMAND, description=main.__doc__)
    parser.add_argument("folder", nargs="?", default="data/flickr8k")
    folder = parser.parse_args(arguments).folder
    keep_results("ablation", COMMAND, SEEDS, steps=grade_steps(folder))


# chapters/ablation.md: The ways to train
if __name__ == "__main__":
    main()
