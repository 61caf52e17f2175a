# Written by `python -m satlib.tangle` from chapters/fit.md: edit that.
"""Whole training runs: data, epochs, schedule, resuming: `fit`."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from satlib.configuration import (
    Config,
    check_same_run,
    folders,
    load_checkpoint,
    save_checkpoint,
)
from satlib.dataset import create_input_files, file_path, read_file
from satlib.decoder import Decoder
from satlib.encoder import build_encoder
from satlib.features import CaptionDataset, batches, cache_features
from satlib.photographs import replacing
from satlib.scenes import write_scenes
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
    images, cells = file_path(folder, split, "images", base), None
    if not read_file(folder, split, "captions", base):
        raise ValueError(f"{images}: the {split} split is empty; give more or splits")
    if not config.fine_tune:
        cells = folder / f"{split}_CELLS_{config.encoder}_{base}.hdf5"
        cache_features(encoder, images, cells)
    return CaptionDataset(folder, base, split, cells)


def build_decoder(config, word_map, encoder):
    """Build the decoder that a configuration describes, with fresh weights."""
    return Decoder(
        config.attention_dim,
        config.embed_dim,
        config.decoder_dim,
        len(word_map),
        encoder.encoder_dim,
        config.dropout,
        encoder.pool,
    )


def choose_device():
    """Choose the fastest device: CUDA, then Apple's, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _adam(model, rate):
    opened = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.Adam(opened, rate, fused=True)


class Session:
    """A model in training: its weights, optimisers and history on a device."""

    def __init__(self, config, encoder, word_map, device):
        torch.manual_seed(config.seed)
        self.config, self.word_map, self.history = config, word_map, []
        self.encoder = encoder.to(device)
        self.decoder = build_decoder(config, word_map, encoder).to(device)
        self.decoder_optimizer = _adam(self.decoder, config.decoder_lr)
        self.encoder_optimizer = None
        if config.fine_tune:
            self.encoder.fine_tune()
            self.encoder_optimizer = _adam(encoder, config.encoder_lr)
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    def parts(self):
        """Name everything that has a state_dict and changes while training."""
        names = ["decoder", "decoder_optimizer", "scaler"]
        if self.config.fine_tune:
            names += ["encoder", "encoder_optimizer"]
        return {name: getattr(self, name) for name in names}

    def checkpoint(self):
        """Give the session as plain data."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {name: part.state_dict() for name, part in self.parts().items()} | {
            "config": asdict(self.config),
            "word_map": self.word_map,
            "history": self.history,
            "epoch": len(self.history),
            "best_bleu4": max((row["bleu4"] for row in self.history), default=0.0),
            "random_state": torch.get_rng_state(),
            "cuda_random_state": cuda,
        }

    def restore(self, checkpoint):
        """Take the session up where the checkpoint left it."""
        for name, part in self.parts().items():
            part.load_state_dict(checkpoint[name])
        self.history = checkpoint["history"]
        torch.set_rng_state(checkpoint["random_state"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(checkpoint["cuda_random_state"])


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


def fit(config, resume=True):
    """Train the model that a configuration describes; give its `Run`.

    A run with this configuration that was interrupted goes on, one that is complete is
    only loaded. Raises ValueError where the folder holds a run of another configuration
    (unless `resume` is False: then it is overwritten), or a split is empty.
    """
    files, folder = folders(config)
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last.pt"
    checkpoint = load_checkpoint(last) if resume and last.exists() else None
    if checkpoint:
        check_same_run(checkpoint, config, last)
        if _complete(config, checkpoint["history"]):
            return Run(config, folder, checkpoint["history"])
    device = choose_device()
    encoder = build_encoder(config.encoder, image_size=config.image_size).to(device)
    base, _ = write_data(config)
    datasets = [open_dataset(config, encoder, base, s) for s in ("TRAIN", "VAL")]
    references = [e["captions"] for e in read_file(files, "VAL", "references", base)]
    word_map = read_file(files, None, "wordmap", base)
    session = Session(config, encoder, word_map, device)
    if checkpoint:
        session.restore(checkpoint)
    while not _complete(config, session.history):
        _run_epoch(session, datasets, references)
        _save(session, folder)
    return Run(config, folder, session.history)


def _complete(config, history):
    return (
        len(history) >= config.epochs or epochs_since_best(history) >= config.stop_after
    )


def _run_epoch(session, datasets, references):
    config, epoch, start = session.config, len(session.history) + 1, time.perf_counter()
    optimizers = [session.encoder_optimizer, session.decoder_optimizer]
    since = epochs_since_best(session.history)
    if since and since % config.decay_after == 0:
        for optimizer in filter(None, optimizers):
            adjust_learning_rate(optimizer, config.decay_factor)
    training, validation = (
        batches(dataset, config.batch_size, seed, config.workers)
        for dataset, seed in zip(datasets, (config.seed + epoch, None), strict=True)
    )
    encoder = session.encoder if config.fine_tune else None
    measured = train(
        training,
        encoder,
        session.decoder,
        *optimizers,
        epoch,
        alpha_c=config.alpha_c,
        grad_clip=config.grad_clip,
        scaler=session.scaler,
    )
    found = validate(validation, encoder, session.decoder, session.word_map, references)
    rate = session.decoder_optimizer.param_groups[0]["lr"]
    row = {"epoch": epoch, "learning_rate": rate}
    row |= {f"train_{name}": value for name, value in measured.items()}
    row |= found | {"seconds": time.perf_counter() - start}
    session.history.append(row)
    print(
        f"epoch {epoch} validation  loss {row['loss']:.3f}  top-5 {row['top5']:.1f} %"
        f"  BLEU-4: teacher-forced {row['bleu4_teacher_forced']:.3f},"
        f" generated {row['bleu4']:.3f}",
        flush=True,
    )


def _save(session, folder):
    checkpoint = session.checkpoint()
    if epochs_since_best(session.history) == 0:
        save_checkpoint(folder / "best.pt", checkpoint)
    lines = "".join(json.dumps(row) + "\n" for row in session.history)
    with replacing(folder / "log.jsonl") as partial:
        partial.write_text(lines, encoding="utf-8")
    save_checkpoint(folder / "last.pt", checkpoint)
