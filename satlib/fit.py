# Written by `python -m satlib.tangle` from chapters/fit.md: edit that.
# chapters/fit.md: Fit: from the first epoch to the best checkpoint
"""Whole training runs: data, epochs, schedule, resuming: `fit`."""

import json
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from satlib.batches import CaptionDataset, augmentation, batches, cache_features
from satlib.bleu import scores
from satlib.captioner import load_captioner
from satlib.concepts import ConceptLesson
from satlib.configuration import Config, check_same_run, folders
from satlib.dataset import Files, create_input_files
from satlib.files import (
    changes,
    digest,
    make_folder,
    read_if_there,
    write_json,
    write_text,
)
from satlib.learner import Learner
from satlib.model import load_checkpoint, new_model, save_checkpoint, threads_for
from satlib.scenes import write_scenes
from satlib.self_critical import RewardLesson
from satlib.training import adjust_learning_rate
from satlib.validation import WordLesson


# chapters/fit.md: The data of a run
def write_data(config):
    """Write the data files of a run; return these `Files` and the images' folder."""
    folder, _ = folders(config)
    captions, images, splits = config.captions, config.images, config.splits
    if config.dataset == "scenes":
        splits = write_scenes(folder / "scenes", config.scenes)
        captions, images = splits / "captions.txt", splits / "images"
    base = create_input_files(
        config.dataset,
        captions,
        images,
        folder,
        caps_per_img=config.caps_per_img,
        min_freq=config.min_freq,
        max_length=config.max_length,
        seed=config.seed,
        splits=splits,
        image_size=config.image_size,
        on_error=config.on_error,
        max_images=config.max_images,
        tokens=config.tokens,
        required=("train", "val"),
    )
    return Files(folder, base), Path(images)


# chapters/fit.md: The data of a run
def split_photographs(config, split):
    """Return the paths of a split's photographs, and every caption of each as words."""
    files, images = write_data(config)
    entries = files.read("references", split)
    return [images / e["file"] for e in entries], [e["captions"] for e in entries]


# chapters/fit.md: The data of a run
def open_dataset(config, encoder, files, split):
    """Return a split, cached or augmented. Raises ValueError where it is empty."""
    images = files.path("images", split)
    if not files.read("captions", split):
        raise ValueError(f"{images}: the {split} split is empty; give more or splits")
    learns = any(p.requires_grad for p in encoder.parameters())
    if learns and config.augment and split == "TRAIN":
        return CaptionDataset(files, split, transform=augmentation())
    own = config.concept_epochs and not learns
    place = folders(config)[1] if own else files.folder
    kind = "TRUNK" if learns else "CELLS"
    cells = place / f"{split}_{kind}_{encoder.name}_{files.base}.hdf5"
    cache_features(encoder, images, cells)
    return CaptionDataset(files, split, cells)


# chapters/fit.md: The lessons
LESSONS = {each.name: each for each in (ConceptLesson(), WordLesson(), RewardLesson())}


# chapters/fit.md: The schedule
def epochs_since_best(history):
    """Return how many epochs there were after the one with the highest merit."""
    merits = [LESSONS[row["lesson"]].merit(row) for row in history]
    return len(merits) - 1 - merits.index(max(merits)) if merits else 0


# chapters/fit.md: The schedule
def next_lesson(config, history):
    """Return the lesson of the epoch after those of `history`, or None at the end."""
    taught = Counter(row["lesson"] for row in history)
    stopped = taught["words"] and epochs_since_best(history) >= config.stop_after
    if taught["concepts"] < config.concept_epochs:
        return LESSONS["concepts"]
    if taught["words"] < config.epochs and not (stopped or taught["reward"]):
        return LESSONS["words"]
    if taught["reward"] < config.self_critical_epochs:
        return LESSONS["reward"]
    return None


# chapters/fit.md: One epoch of a run
def teach(learner, dataset):
    """Teach a learner's next epoch on a dataset; return what was measured, by name."""
    config, number = learner.config, len(learner.history) + 1
    order = config.seed + number
    loader = batches(dataset, config.batch_size, order, config.workers)
    return learner.lesson.epoch(learner, loader, number)


# chapters/fit.md: One epoch of a run
def run_epoch(learner, files, references):
    """Teach and examine one epoch; add its row to the learner's history.

    `files` are the run's data; `references` holds the validation captions as words.
    """
    config, history, start = learner.config, learner.history, time.perf_counter()
    lesson, since = learner.lesson, epochs_since_best(history)
    begun = history and history[-1]["lesson"] == lesson.name
    if begun and since and since % config.decay_after == 0:
        for optimizer in filter(None, learner.optimizers):
            adjust_learning_rate(optimizer, config.decay_factor)
    splits = [open_dataset(config, learner.encoder, files, s) for s in ("TRAIN", "VAL")]
    row = {"epoch": len(history) + 1, "lesson": lesson.name}
    row["learning_rate"] = learner.optimizers[-1].param_groups[0]["lr"]
    loader = batches(splits[1], config.batch_size, workers=config.workers)
    wide = lesson.opens_encoder(config)
    with nullcontext() if wide else threads_for(learner.decoder):
        taught = teach(learner, splits[0])
        row |= {f"train_{name}": value for name, value in taught.items()}
        row |= lesson.examine(learner, loader, references)
    history.append(row | {"seconds": time.perf_counter() - start})
    print(validation_line(row), flush=True)


# chapters/fit.md: One epoch of a run
def validation_line(row):
    """Return what the examination of an epoch has found, as a line of text."""
    found = LESSONS[row["lesson"]].line(row)
    return f"epoch {row['epoch']} validation  {found}"


# chapters/fit.md: What is kept
def _save(learner, data, folder):
    checkpoint = learner.checkpoint() | {"data": data}
    if epochs_since_best(learner.history) == 0:
        save_checkpoint(folder / "best.pt", checkpoint)
    lines = "".join(json.dumps(row) + "\n" for row in learner.history)
    write_text(folder / "log.jsonl", lines)
    save_checkpoint(folder / "last.pt", checkpoint)


def latest(folder):
    """Return the checkpoint of a run's last epoch, `last` or `best`, or None."""
    paths = [folder / "last.pt", folder / "best.pt"]
    found = [load_checkpoint(path) for path in paths if path.exists()]
    return max(found, key=lambda checkpoint: checkpoint["epoch"], default=None)


# chapters/fit.md: What is kept
def beginning(learner, folder):
    """Return what a lesson begins with: the last epoch, or the best on words."""
    stopped = epochs_since_best(learner.history) >= learner.config.stop_after
    if learner.lesson.name == "words" and stopped:
        return load_checkpoint(folder / "best.pt")
    return learner.checkpoint()


# chapters/fit.md: Fit
@dataclass
class Run:
    """A training run: its folder, with the checkpoints `best` and `last`, and history.

    `history` has a dict for each epoch, also written as a line of `log.jsonl`.
    """

    config: Config
    folder: Path
    history: list[dict]

    @property
    def best(self) -> Path:
        """The path of the checkpoint with the best BLEU-4 of generated captions."""
        return self.folder / "best.pt"


# chapters/fit.md: Fit
def fit(config: Config, resume: bool = True) -> Run:
    """Train the model that a configuration describes; return its `Run`.

    A run with this configuration that was interrupted goes on, one that is complete is
    only loaded. Raises ValueError where the folder holds a run of another configuration
    or of other data (unless `resume` is False: it is overwritten), or a split is empty.
    """
    folder = make_folder(folders(config)[1])
    files, _ = write_data(config)
    data = files.read("manifest")
    checkpoint = latest(folder) if resume else None
    if checkpoint:
        check_same_run(checkpoint, config, data, folder / "last.pt")
        if next_lesson(config, checkpoint["history"]) is None:
            return Run(config, folder, checkpoint["history"])
    references = [e["captions"] for e in files.read("references", "VAL")]
    model = new_model(config, files.read("wordmap"))
    lesson = LESSONS[checkpoint["lesson"]] if checkpoint else next_lesson(config, [])
    learner = Learner(model, lesson)
    if checkpoint:
        learner.restore(checkpoint)
    while lesson := next_lesson(config, learner.history):
        if lesson is not learner.lesson or lesson.begins_round(learner.history):
            learner.take(beginning(learner, folder))
            learner.start(lesson)
        run_epoch(learner, files, references)
        _save(learner, data, folder)
    return Run(config, folder, learner.history)


# chapters/fit.md: The test, once
def score_test(run: Run) -> dict:
    """Return what `test.json` in a run's folder says of its best checkpoint.

    If it says nothing yet, the checkpoint captions the photographs of the test split,
    and the file is written: its `epoch`, the number of `images`, the `beam_size`, and
    the `scores` against all references. Raises ValueError where the split is empty.
    """
    path, config, best = run.folder / "test.json", run.config, load_checkpoint(run.best)
    asked = {"epoch": best["epoch"], "beam_size": config.beam_size}
    asked["trained"] = digest(best["history"])
    kept = read_if_there(path)
    if not changes(kept, asked):
        return kept
    photographs, references = split_photographs(config, "TEST")
    if not photographs:
        raise ValueError("the TEST split is empty: give more photographs, or its list")
    captions = load_captioner(run.best).caption(photographs, config.beam_size)
    found = scores(references, [caption.words for caption in captions])
    write_json(path, asked | {"images": len(photographs), "scores": found})
    return read_if_there(path)
