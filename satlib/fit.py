# Written by `python -m satlib.tangle` from chapters/fit.md: edit that.
# chapters/fit.md: Fit: from the first epoch to the best checkpoint
"""Whole training runs: data, epochs, schedule, resuming: `fit`."""

import argparse
import json
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import yaml
from torch.distributed.elastic.multiprocessing.errors import record

from satlib.batches import (
    CaptionDataset,
    augmentation,
    batches,
    cache_features,
    shown,
)
from satlib.bleu import scores
from satlib.concepts import ConceptLesson
from satlib.configuration import Config, check_same_run, config_from, folders
from satlib.dataset import Settings, plan_files, write_files
from satlib.files import (
    changes,
    check_free,
    digest,
    file_digest,
    hold,
    read_if_there,
    tidy,
    write_json,
    write_text,
)
from satlib.learner import Learner, check_kept
from satlib.model import (
    INHERITED,
    config_of,
    encoder_of,
    inherit,
    load_checkpoint,
    load_model,
    named,
    new_model,
    save_checkpoint,
    threads_for,
)
from satlib.scale import check_alike, group, once, tell, together
from satlib.scenes import write_scenes
from satlib.self_critical import RewardLesson
from satlib.training import adjust_learning_rate, multiplying
from satlib.validation import WordLesson, examples_of


# chapters/fit.md: The data of a run
def plan_data(config):
    """Return the `Plan` of a run's data files; of these, only the scenes are drawn.

    Raises ValueError where the training or the validation split is empty.
    """
    captions, images, splits = config.captions, config.images, config.splits
    if config.dataset == "scenes":
        splits = write_scenes(folders(config)[0] / "scenes", config.scenes)
        captions, images = splits / "captions.txt", splits / "images"
    settings = Settings(
        caps_per_img=config.caps_per_img,
        min_freq=config.min_freq,
        max_length=config.max_length,
        seed=config.seed,
        image_size=config.image_size,
        on_error=config.on_error,
        max_images=config.max_images,
        tokens=config.tokens,
    )
    before = load_checkpoint(config.captioner) if config.captioner else {}
    sources = captions, images, splits
    plan = plan_files(config.dataset, *sources, settings, before.get("word_map"))
    if before:
        plan.manifest["captioner"] = file_digest(config.captioner)
    for split in "train", "val":
        check_filled(plan.whole.parts[split], split, plan.whole.images)
    return plan


def check_filled(images, split, place):
    """Raise a ValueError where a split has no images."""
    if not images:
        what = f"the {split.upper()} split is empty"
        raise ValueError(f"{place}: {what}; give more photographs, or other splits")


def places(config, plan):
    """Return the folder of the planned data files, and that of the run."""
    kinds = "captions", "images", "captioner"
    inputs = {kind: plan.manifest[kind] for kind in kinds if kind in plan.manifest}
    drawn = config.dataset == "scenes"  # by the code, which counts anyway
    return folders(config, None if drawn else inputs)


def write_data(config, plan=None):
    """Write a run's data files, by their plan, unless they are there; return them.

    Raises ValueError where all photographs of a split are left out.
    """
    plan = plan or plan_data(config)
    files = write_files(plan, places(config, plan)[0])
    for split in "train", "val":
        check_filled(files.read("captions", split), split, plan.whole.images)
    return files


# chapters/fit.md: The data of a run
def split_photographs(config, split):
    """Return the paths of a split's photographs, and every caption of each as words."""
    plan = plan_data(config)
    entries = write_data(config, plan).read("references", split)
    captions = [entry["captions"] for entry in entries]
    return [plan.whole.images / entry["file"] for entry in entries], captions


# chapters/fit.md: The data of a run
def tell_collections(config, dataset):
    """Print how many photographs of each collection an epoch shows, and how often."""
    names, numbers = config.captions, dataset.collections()
    names = names if isinstance(names, list) else [names]
    weights = config.weights or [1] * len(names)
    counts = shown(numbers, weights)
    for number, (name, count) in enumerate(zip(names, counts, strict=False), 1):
        own = (numbers == number).sum()
        tell(f"collection {number}, {name}: {own:,} photographs, {count:,} an epoch")


# chapters/fit.md: The data of a run
def open_dataset(config, encoder, files, split, folder=None):
    """Return a split, cached or augmented.

    `folder` is that of the run, where cells are kept that are the run's own.
    """
    images = files.path("images", split)
    learns = any(p.requires_grad for p in encoder.parameters())
    if learns and config.augment and split == "TRAIN":
        return CaptionDataset(files, split, transform=augmentation())
    own = config.concept_epochs and not learns
    place = folder if own else files.folder
    kind = "TRUNK" if learns else "CELLS"
    cells = place / f"{split}_{kind}_{encoder.name}_{files.base}.hdf5"
    cache_features(encoder, images, cells)
    return CaptionDataset(files, split, cells)


# chapters/fit.md: The lessons
LESSONS = {each.name: each for each in (ConceptLesson(), WordLesson(), RewardLesson())}


# chapters/fit.md: The schedule
def epochs_since_best(history):
    """Return how many epochs there were after the one with the highest merit.

    What is no number is no merit.
    """
    merits = [LESSONS[row["lesson"]].merit(row) for row in history]
    merits = [merit if merit == merit else -inf for merit in merits]
    return len(merits) - 1 - merits.index(max(merits)) if merits else 0


# chapters/fit.md: The schedule
FEW = 1000  # images; a run with fewer is a trial


def planned(config):
    """Return how many epochs each lesson takes at most, by the lesson's name."""
    wanted = config.concept_epochs, config.epochs, config.self_critical_epochs
    trial = config.max_images and config.max_images < FEW
    most = config.epochs if trial else max(wanted)
    return {name: min(n, most) for name, n in zip(LESSONS, wanted, strict=True)}


def next_lesson(config, history):
    """Return the lesson of the epoch after those of `history`, or None at the end."""
    taught, most = Counter(row["lesson"] for row in history), planned(config)
    stopped = taught["words"] and epochs_since_best(history) >= config.stop_after
    if taught["concepts"] < most["concepts"] and not taught["words"]:
        return LESSONS["concepts"]
    if taught["words"] < most["words"] and not (stopped or taught["reward"]):
        return LESSONS["words"]
    if taught["reward"] < most["reward"]:
        return LESSONS["reward"]
    return None


# chapters/fit.md: The schedule
def trial(history, captioner=None):
    """Return a sentence that says how little a run has learnt; "" where it is enough.

    `history` is that of a run or of a checkpoint, and `captioner` what it went on from.
    """
    words = [row for row in history if row["lesson"] == "words" and "images" in row]
    seen = sum(row["images"] for row in words)
    if not words or seen >= 5 * FEW or captioner:
        return ""
    epochs = "1 epoch" if len(words) == 1 else f"{len(words)} epochs"
    what = f"trained for {epochs} on {words[-1]['images']:,} images"
    return f"This is a trial, {what}: expect little of its captions."


# chapters/fit.md: One epoch of a run
def teach(learner, dataset):
    """Teach a learner's next epoch on a dataset; return what was measured, by name."""
    config, number = learner.config, len(learner.history) + 1
    order = config.seed + number
    done = learner.begun["iteration"] if learner.begun else 0
    how = config.workers, done, config.weights
    loader = batches(dataset, config.batch_size, order, *how)
    taught = learner.lesson.epoch(learner, loader, number)
    learner.begun = None
    return taught


# chapters/fit.md: One epoch of a run
def run_epoch(learner, files, references, folder):
    """Teach and examine one epoch; add its row to the learner's history.

    `files` are the run's data; `references` holds the validation captions as words;
    `folder` is that of the run. Raises ValueError where a loss is no number.
    """
    config, history, start = learner.config, learner.history, time.perf_counter()
    lesson, since = learner.lesson, epochs_since_best(history)
    begun = history and history[-1]["lesson"] == lesson.name
    if begun and since and since % config.decay_after == 0 and not learner.begun:
        for optimizer in filter(None, learner.optimizers):
            adjust_learning_rate(optimizer, config.decay_factor)
    what = config, learner.encoder, files
    splits = [open_dataset(*what, split, folder) for split in ("TRAIN", "VAL")]
    row = {"epoch": len(history) + 1, "lesson": lesson.name}
    row["learning_rate"] = learner.optimizers[-1].param_groups[0]["lr"]
    row["images"] = sum(shown(splits[0].collections(), config.weights))
    loader = batches(splits[1], config.batch_size, workers=config.workers)
    wide = lesson.opens_encoder(config)
    threads = nullcontext() if wide else threads_for(learner.decoder)
    with threads, multiplying(config.matmul_precision):
        taught = teach(learner, splits[0])
        row |= {f"train_{name}": value for name, value in taught.items()}
        try:
            row |= lesson.examine(learner, loader, references)
        except ValueError as error:
            raise ValueError(f"epoch {row['epoch']}, {error}") from error
        if "bleu4" in row:
            said = examples_of(splits[1], *learner.averaged(), learner.word_map)
            once(lambda: write_json(examples_path(folder, row["epoch"]), said))
    history.append(row | {"seconds": time.perf_counter() - start})
    tell(validation_line(row))


def examples_path(folder, epoch):
    """Return the path of the `examples_of` an epoch of the run in a folder."""
    return folder / f"examples-{epoch}.json"


# chapters/fit.md: One epoch of a run
def validation_line(row):
    """Return what the examination of an epoch has found, as a line of text."""
    found = LESSONS[row["lesson"]].line(row)
    return f"epoch {row['epoch']} validation  {found}"


# chapters/fit.md: How long it will take
def seconds_left(learner, pace, number, count):
    """Return about how many seconds a run still takes, if no lesson ends early.

    In the learner's next epoch `number` of `count` iterations are done, with a `pace`
    of so many seconds each.
    """
    history, most = learner.history, planned(learner.config)
    taught = Counter(row["lesson"] for row in history)
    taught[learner.lesson.name] += 1  # this one
    left = pace * (count - number)
    for name, wanted in most.items():
        known = [row["seconds"] for row in history if row["lesson"] == name]
        left += max(wanted - taught[name], 0) * min(known, default=pace * count)
    return left


def outlook(learner):
    """Return a function that says how long a learner's run still takes.

    It is the `outlook` of `Iterations`.
    """
    return lambda *done: f"about {in_words(seconds_left(learner, *done))} left"


def in_words(seconds):
    """Return a time as a text: in seconds, minutes, or hours and minutes."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


# chapters/fit.md: What is kept
def _save(learner, data, folder, begun=None):
    checkpoint, best = learner.checkpoint(begun) | {"data": data}, folder / "best.pt"

    def write():
        if not begun and (epochs_since_best(learner.history) == 0 or not best.exists()):
            save_checkpoint(best, checkpoint)
        lines = "".join(json.dumps(row) + "\n" for row in learner.history)
        write_text(folder / "log.jsonl", lines)
        save_checkpoint(folder / "last.pt", checkpoint)

    once(write)


# chapters/fit.md: What is kept
def keeper(learner, data, folder):
    """Return a function that keeps an epoch's state now and then, see `Iterations`."""
    last = time.monotonic()

    def keep(begun):
        nonlocal last
        if once(lambda: time.monotonic() - last) >= 60 * learner.config.keep_minutes:
            _save(learner, data, folder, begun)
            last = time.monotonic()

    return keep


# chapters/fit.md: What is kept
def load_run(path):
    """Return a checkpoint that a run can go on from.

    Raises ValueError where the file is none.
    """
    checkpoint = load_checkpoint(path)
    with named(path, checkpoint):
        check_kept(checkpoint)
        if not isinstance(checkpoint.get("data"), dict):
            raise ValueError("it does not say of which data it is")
        history, lesson = checkpoint["history"], checkpoint["lesson"]
        lessons = [row["lesson"] for row in history]
        if unknown := {*lessons, lesson} - LESSONS.keys():
            raise ValueError(f"it has lessons that are not known: {unknown}")
        same = checkpoint["begun"] or lessons[-1:] == [lesson]
        if checkpoint["epoch"] != len(history) or not same:
            raise ValueError("its history is not that of its epochs")
        epochs_since_best(history)
    return checkpoint


def latest(folder):
    """Return the path and checkpoint of a run's last epoch; None, None without one.

    Raises ValueError where `last.pt` or `best.pt` cannot be used.
    """
    found, broken = {}, {}
    for path in (folder / "last.pt", folder / "best.pt"):
        try:
            if path.exists():
                found[path] = load_run(path)
        except ValueError as error:
            broken[path] = error
    if broken:
        path, error = next(iter(broken.items()))
        advice = "resume=False starts over"
        for whole, checkpoint in found.items():
            what = f"{whole} is whole, of epoch {checkpoint['epoch']}"
            advice = f"{what}: delete {path.name} to go on from there, or {advice}"
        raise ValueError(f"{error}. {advice}")
    pairs = found.items()
    return max(pairs, key=lambda pair: pair[1]["epoch"], default=(None, None))


# chapters/fit.md: What is kept
def beginning(learner, folder):
    """Return what a lesson begins with: the last epoch, or the best on words."""
    stopped = epochs_since_best(learner.history) >= learner.config.stop_after
    if learner.lesson.name == "words" and stopped:
        return load_checkpoint(folder / "best.pt")
    return learner.checkpoint()


# chapters/fit.md: Fit
def going_on(config):
    """Return a configuration with those choices that its captioner has made."""
    if not config.captioner:
        return config
    path, own = config.captioner, config_of(load_checkpoint(config.captioner))
    taken = {name: getattr(own, name) for name in INHERITED}
    other = {k: v for k, v in taken.items() if v != getattr(config, k)}
    if other:
        listed = ", ".join(f"{name}={value!r}" for name, value in other.items())
        tell(f"goes on from {path}, so {listed}")
    return replace(config, **taken)


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
def taken_up(config, folder, data=None):
    """Return the checkpoint that a run in a folder goes on from, or None.

    Raises ValueError where it is of other choices or, where these are known, `data`.
    """
    path, checkpoint = latest(folder)
    if checkpoint:
        check_same_run(checkpoint, config, data, path)
    return checkpoint


def fit(config: Config, resume: bool = True) -> Run:
    """Train the model that a configuration describes; return its `Run`.

    A run with this configuration that was interrupted goes on, one that is complete is
    only loaded. Raises ValueError where the folder holds a run of another configuration
    or of other data (unless `resume` is False: it is overwritten), a checkpoint there
    cannot be used, a split is empty, or a loss is no number; OSError where another run
    is at work in the folder, or the disk is full.
    """
    config = going_on(config)
    if config.output or config.dataset == "scenes":  # else, by the data
        folder = folders(config)[1]
        once(lambda: check_free(folder))
        if resume:
            taken_up(config, folder)
    plan = once(lambda: plan_data(config))
    folder = places(config, plan)[1]
    checkpoint = taken_up(config, folder, plan.manifest) if resume else None
    check_alike(f"runs in {folder}", digest(checkpoint and checkpoint["history"]))
    if checkpoint and next_lesson(config, checkpoint["history"]) is None:
        once(lambda: _complete(folder, checkpoint))
        return Run(config, folder, checkpoint["history"])
    before = load_model(config.captioner) if config.captioner else None
    encoder = before.encoder if before else encoder_of(config)  # from the network?
    with together(hold(folder)):
        files = write_data(config, plan)
        checkpoint = taken_up(config, folder, plan.manifest) if resume else None
        model = new_model(config, files.read("wordmap"), encoder)
        if before:
            inherit(model.decoder, before.decoder)
        return _train(model, plan.manifest, files, checkpoint, folder)


# chapters/fit.md: Fit
def _complete(folder, checkpoint):
    tidy(folder)
    if not (folder / "best.pt").exists():
        print(f"{folder}: best.pt is gone, the last epoch takes its place")
        with hold(folder):
            save_checkpoint(folder / "best.pt", checkpoint)


# chapters/fit.md: Fit
def _train(model, data, files, checkpoint, folder):
    references = [e["captions"] for e in files.read("references", "VAL")]
    config = model.config
    if config.weights or isinstance(config.captions, list):
        tell_collections(config, CaptionDataset(files, "TRAIN"))
    lesson = LESSONS[checkpoint["lesson"]] if checkpoint else next_lesson(config, [])
    learner = Learner(model, lesson)
    learner.keep = keeper(learner, data, folder)
    learner.epochs, learner.outlook = sum(planned(config).values()), outlook(learner)
    if checkpoint:
        with named(folder / "last.pt", checkpoint):
            learner.restore(checkpoint)
    while lesson := next_lesson(config, learner.history):
        new = lesson is not learner.lesson or lesson.begins_round(learner.history)
        if new and not learner.begun:
            learner.take(beginning(learner, folder))
            learner.start(lesson)
        run_epoch(learner, files, references, folder)
        _save(learner, data, folder)
    if little := trial(learner.history, config.captioner):
        tell(little)
    return Run(config, folder, learner.history)


# chapters/fit.md: The test, once
def score_test(run, captioner):
    """Return what `test.json` in a run's folder says of its best checkpoint.

    If it says nothing yet, the `captioner` of that checkpoint captions the photographs
    of the test split, and the file is written: the `epoch`, the number of `images`, the
    `beam_size`, and the `scores` against all references. Raises ValueError where the
    split is empty.
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
    captions = captioner.caption(photographs, config.beam_size)
    found = scores(references, [caption.words for caption in captions])
    write_json(path, asked | {"images": len(photographs), "scores": found})
    return read_if_there(path)


# chapters/fit.md: From the command line
def _from_yaml(place, text):
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{place}: {error}") from None


def parameters_in(path):
    """Return what a YAML file holds, by name. Raises ValueError for another file."""
    found = _from_yaml(path, Path(path).read_bytes()) or {}
    if not isinstance(found, dict):
        problem = f"expected lines such as `epochs: 3`, found {found!r:.60}"
        raise ValueError(f"{path}: {problem}")
    return {str(name): value for name, value in found.items()}


@record
def main(arguments=None):
    """Run `python -m satlib.fit [-f FILE] [-p NAME VALUE] …`; return its `Run`."""
    parser = argparse.ArgumentParser("python -m satlib.fit", description=__doc__)
    text = "parameters of chapters/train.ipynb, as papermill takes them"
    options, pair = {"action": "append", "default": []}, ("NAME", "VALUE")
    parser.add_argument("-f", metavar="FILE", help=text, **options)
    parser.add_argument("-p", nargs=2, metavar=pair, help="one of them", **options)
    given, chosen = parser.parse_args(arguments), {}
    for path in given.f:
        chosen |= parameters_in(path)
    chosen |= {name: _from_yaml(name, value) for name, value in given.p}
    config = config_from(chosen, besides={"resume": bool})
    with group():
        return fit(config, chosen.get("resume", True))


# chapters/fit.md: From the command line
if __name__ == "__main__":
    main()
