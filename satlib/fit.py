# Written by `python -m satlib.tangle` from chapters/fit.md: edit that.
# chapters/fit.md: Fit: from the first epoch to the best checkpoint
"""Whole training runs: data, epochs, schedule, resuming: `fit`."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from satlib.batches import CaptionDataset, augmentation, batches, cache_features
from satlib.concepts import train_concepts, validate_concepts
from satlib.configuration import (
    Config,
    check_same_run,
    folders,
    load_checkpoint,
    save_checkpoint,
)
from satlib.dataset import Files, create_input_files
from satlib.files import make_folder, write_text
from satlib.learner import Session, choose_device, encoder_of
from satlib.scenes import write_scenes
from satlib.self_critical import CiderReward, train_on_reward
from satlib.training import adjust_learning_rate, train
from satlib.validation import validate


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
        min_freq=config.min_freq,
        seed=config.seed,
        splits=splits,
        image_size=config.image_size,
        on_error=config.on_error,
        max_images=config.max_images,
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
    cells = place / f"{split}_{kind}_{config.encoder}_{files.base}.hdf5"
    cache_features(encoder, images, cells)
    return CaptionDataset(files, split, cells)


# chapters/fit.md: The schedule
def epochs_since_best(history):
    """Count the epochs after the best: by BLEU-4 of generated captions.

    An epoch on concepts has no captions. It counts minus its loss, less than any other.
    """
    scores = [row.get("bleu4", -row.get("concept_loss", 0)) for row in history]
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


# chapters/fit.md: Fit
@dataclass
class Run:
    """A training run: its folder, with the checkpoints `best` and `last`, and history.

    `history` has a dict for each epoch, also written as a line of `log.jsonl`.
    """

    config: Config
    folder: Path
    history: list

    @property
    def best(self):
        """The path of the checkpoint with the best BLEU-4 of generated captions."""
        return self.folder / "best.pt"


def latest(folder):
    """Return the checkpoint of a run's last epoch, `last` or `best`, or None."""
    paths = [folder / "last.pt", folder / "best.pt"]
    found = [load_checkpoint(path) for path in paths if path.exists()]
    return max(found, key=lambda checkpoint: checkpoint["epoch"], default=None)


def fit(config, resume=True):
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
    word_map = files.read("wordmap")
    lesson = checkpoint["lesson"] if checkpoint else next_lesson(config, [])
    session = Session(config, encoder_of(config), word_map, choose_device(), lesson)
    if checkpoint:
        session.restore(checkpoint)
    while lesson := next_lesson(config, session.history):
        if lesson != session.lesson or begins_round(session):
            session.take(beginning(session, folder))
            session.start(lesson)
        _run_epoch(session, files, references)
        _save(session, data, folder)
    return Run(config, folder, session.history)


# chapters/fit.md: Fit
def next_lesson(config, history):
    """Tell what the next epoch teaches: "concepts", "words", "reward" or None."""
    lessons = [row["lesson"] for row in history]
    if lessons.count("concepts") < config.concept_epochs:
        return "concepts"
    on_words = lessons.count("words") < config.epochs and "reward" not in lessons
    if on_words and epochs_since_best(history) < config.stop_after:
        return "words"
    rewarded = lessons.count("reward")
    return "reward" if rewarded < config.self_critical_epochs else None


# chapters/fit.md: Fit
def beginning(session, folder):
    """Return what a lesson begins with: the last epoch, or the best on words."""
    stopped = epochs_since_best(session.history) >= session.config.stop_after
    if session.lesson == "words" and stopped:
        return load_checkpoint(folder / "best.pt")
    return session.checkpoint()


# chapters/fit.md: Fit
def begins_round(session, epochs=2):
    """Tell whether the next epoch on concepts begins a round of `epochs`."""
    return session.lesson == "concepts" and len(session.history) % epochs == 0


# chapters/fit.md: Fit
def _teach(session, dataset, epoch):
    config, word_map = session.config, session.word_map
    loader = batches(dataset, config.batch_size, config.seed + epoch, config.workers)
    settings = {"grad_clip": config.grad_clip, "scaler": session.scaler}
    settings["after_step"] = session.follow
    if session.lesson == "concepts":
        concepts = session.learner["concepts"]
        if begins_round(session):
            concepts.expect(dataset.captions, word_map)
        what = loader, session.encoder, concepts, *session.optimizers, epoch
        return train_concepts(*what, word_map, **settings)
    what = loader, session.encoder, session.decoder, *session.optimizers, epoch
    if session.lesson == "words":
        return train(*what, alpha_c=config.alpha_c, **settings)
    return train_on_reward(*what, CiderReward(dataset.captions), word_map, **settings)


# chapters/fit.md: Fit
def _examine(session, dataset, references):
    config, word_map = session.config, session.word_map
    loader = batches(dataset, config.batch_size, workers=config.workers)
    if session.lesson == "concepts":
        models = session.average.module
        concepts = models["encoder"], models["concepts"]
        return validate_concepts(loader, *concepts, word_map)
    return validate(loader, *session.averaged(), word_map, references)


# chapters/fit.md: Fit
def _run_epoch(session, files, references):
    config, history, start = session.config, session.history, time.perf_counter()
    since = epochs_since_best(history)
    begun = history and history[-1]["lesson"] == session.lesson
    if begun and since and since % config.decay_after == 0:
        for optimizer in filter(None, session.optimizers):
            adjust_learning_rate(optimizer, config.decay_factor)
    splits = [open_dataset(config, session.encoder, files, s) for s in ("TRAIN", "VAL")]
    row = {"epoch": len(history) + 1, "lesson": session.lesson}
    row["learning_rate"] = session.decoder_optimizer.param_groups[0]["lr"]
    measured = _teach(session, splits[0], row["epoch"])
    row |= {f"train_{name}": value for name, value in measured.items()}
    row |= _examine(session, splits[1], references)
    history.append(row | {"seconds": time.perf_counter() - start})
    print(validation_line(row), flush=True)


# chapters/fit.md: Fit
def validation_line(row):
    """Write what the validation of an epoch has found."""
    if row["lesson"] == "concepts":
        loss = f"concept loss {row['concept_loss']:.2f}"
        return f"epoch {row['epoch']} validation  {loss}"
    return (
        f"epoch {row['epoch']} validation  loss {row['loss']:.3f}"
        f"  top-5 {row['top5']:.1f} %"
        f"  BLEU-4: teacher-forced {row['bleu4_teacher_forced']:.3f},"
        f" generated {row['bleu4']:.3f}"
    )


def _save(session, data, folder):
    checkpoint = session.checkpoint() | {"data": data}
    if epochs_since_best(session.history) == 0:
        save_checkpoint(folder / "best.pt", checkpoint)
    lines = "".join(json.dumps(row) + "\n" for row in session.history)
    write_text(folder / "log.jsonl", lines)
    save_checkpoint(folder / "last.pt", checkpoint)
