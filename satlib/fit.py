# Written by `python -m satlib.tangle` from chapters/fit.md: edit that.
"""Whole training runs: data, epochs, schedule, resuming: `fit`."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from satlib.configuration import (
    Config,
    check_same_run,
    folders,
    load_checkpoint,
    save_checkpoint,
)
from satlib.dataset import create_input_files, file_path, read_file
from satlib.features import CaptionDataset, batches, cache_features
from satlib.photographs import replacing
from satlib.scenes import write_scenes
from satlib.self_critical import CiderReward, train_on_reward
from satlib.session import Session, choose_device, encoder_of
from satlib.training import adjust_learning_rate, train
from satlib.validation import validate


def write_data(config):
    """Write the data files of a run; give their base name and the images' folder."""
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
    return base, Path(images)


def split_photographs(config, split):
    """Give the paths of a split's photographs, and every caption of each as words."""
    base, images = write_data(config)
    entries = read_file(folders(config)[0], split, "references", base)
    return [images / e["file"] for e in entries], [e["captions"] for e in entries]


def open_dataset(config, encoder, base, split):
    """Give a split with its cells cached. Raises ValueError where it is empty."""
    folder, _ = folders(config)
    images = file_path(folder, split, "images", base)
    if not read_file(folder, split, "captions", base):
        raise ValueError(f"{images}: the {split} split is empty; give more or splits")
    cells = folder / f"{split}_CELLS_{config.encoder}_{base}.hdf5"
    cache_features(encoder, images, cells)
    return CaptionDataset(folder, base, split, cells)


def epochs_since_best(history):
    """Count the epochs after the one with the best BLEU-4 of generated captions."""
    scores = [row["bleu4"] for row in history]
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


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
    """Give the checkpoint of a run's last epoch, `last` or `best`, or None."""
    paths = [folder / "last.pt", folder / "best.pt"]
    found = [load_checkpoint(path) for path in paths if path.exists()]
    return max(found, key=lambda checkpoint: checkpoint["epoch"], default=None)


def fit(config, resume=True):
    """Train the model that a configuration describes; give its `Run`.

    A run with this configuration that was interrupted goes on, one that is complete is
    only loaded. Raises ValueError where the folder holds a run of another configuration
    or of other data (unless `resume` is False: it is overwritten), or a split is empty.
    """
    files, folder = folders(config)
    folder.mkdir(parents=True, exist_ok=True)
    base, _ = write_data(config)
    data = read_file(files, None, "manifest", base)
    checkpoint = latest(folder) if resume else None
    if checkpoint:
        check_same_run(checkpoint, config, data, folder / "last.pt")
        if next_lesson(config, checkpoint["history"]) is None:
            return Run(config, folder, checkpoint["history"])
    device = choose_device()
    encoder = encoder_of(config).to(device)
    datasets = [open_dataset(config, encoder, base, s) for s in ("TRAIN", "VAL")]
    references = [e["captions"] for e in read_file(files, "VAL", "references", base)]
    word_map = read_file(files, None, "wordmap", base)
    session = Session(config, encoder, word_map, device)
    if checkpoint:
        session.restore(checkpoint)
    while lesson := next_lesson(config, session.history):
        if lesson == "first reward":
            best = load_checkpoint(folder / "best.pt")
            for name, model in session.learner.items():
                model.load_state_dict(best[name])
            session.start(config.self_critical_lr, config.self_critical_lr)
        _run_epoch(session, lesson, datasets, references)
        _save(session, data, folder)
    return Run(config, folder, session.history)


def next_lesson(config, history):
    """Tell what the next epoch teaches: "words", "first reward", "reward" or None."""
    rewarded = sum("train_reward" in row for row in history)
    on_words = len(history) < config.epochs and not rewarded
    if on_words and epochs_since_best(history) < config.stop_after:
        return "words"
    if rewarded < config.self_critical_epochs:
        return "reward" if rewarded else "first reward"
    return None


def _teach(session, lesson, dataset, epoch):
    config = session.config
    loader = batches(dataset, config.batch_size, config.seed + epoch, config.workers)
    encoder = session.encoder if config.fine_tune else None
    what = loader, encoder, session.decoder, *session.optimizers, epoch
    settings = {"grad_clip": config.grad_clip, "scaler": session.scaler}
    settings["after_step"] = session.follow
    if lesson == "words":
        return train(*what, alpha_c=config.alpha_c, **settings)
    reward = CiderReward(dataset.captions)
    return train_on_reward(*what, reward, session.word_map, **settings)


def _run_epoch(session, lesson, datasets, references):
    config, epoch, start = session.config, len(session.history) + 1, time.perf_counter()
    since = epochs_since_best(session.history)
    if since and since % config.decay_after == 0 and lesson != "first reward":
        for optimizer in filter(None, session.optimizers):
            adjust_learning_rate(optimizer, config.decay_factor)
    measured = _teach(session, lesson, datasets[0], epoch)
    validation = batches(datasets[1], config.batch_size, workers=config.workers)
    row = {"epoch": epoch, "learning_rate": session.learning_rate}
    row |= {f"train_{name}": value for name, value in measured.items()}
    row |= validate(validation, *session.averaged(), session.word_map, references)
    session.history.append(row | {"seconds": time.perf_counter() - start})
    print(validation_line(row), flush=True)


def validation_line(row):
    """Write what the validation of an epoch has found."""
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
    with replacing(folder / "log.jsonl") as partial:
        partial.write_text(lines, encoding="utf-8")
    save_checkpoint(folder / "last.pt", checkpoint)
