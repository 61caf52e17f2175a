# Written by `python -m satlib.tangle` from chapters/configuration.md: edit that.
# chapters/configuration.md: Configuration: a run's choices, and its folder
"""A training run's choices, folders and checkpoints."""

import difflib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import ModuleType

import timm
import torch

from satlib.encoder import COLOURS, check_layers
from satlib.files import ROOT, code_digest, digest, replacing

SCENES = {"stage": 5, "image_size": 224, "alpha_c": 0.0}
PHOTOGRAPHS = {"stage": 8, "image_size": 256, "alpha_c": 1.0}


# chapters/configuration.md: The configuration
def usual(dataset, encoder):
    """Return the stage, image_size and alpha_c that are usual for a data set."""
    values = SCENES if dataset == "scenes" else PHOTOGRAPHS
    return values if encoder in COLOURS else values | {"stage": 8}


# chapters/configuration.md: The configuration
def number(default, least, most=float("inf")):
    """A field of `Config` for a number from `least` to `most`."""
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True)
class Config:
    """The choices of a training run. Raises ValueError where one cannot be right.

    For photographs, `captions` is a caption file, `images` a folder, and `splits` the
    official lists (a folder or file) or None for a random split. The data set "scenes"
    is drawn, `scenes` pictures of it, and needs none of these. `stage`, `image_size`
    and `alpha_c` are by default what is `usual`.
    """

    dataset: str = "scenes"
    captions: str | None = None
    images: str | None = None
    splits: str | None = None
    scenes: int = number(4000, 10, 100_000)
    max_images: int | None = number(None, 1)  # in each split
    on_error: str = "raise"  # or "skip": leave out photographs that are broken
    min_freq: int = number(5, 0)  # a word stays if it occurs more often
    encoder: str = "efficientnet_lite0"
    stage: int | None = number(None, 1, 8)  # of the encoder; 8 is the last grid
    output_stride: int = number(32, 16, 32)  # pixels from cell to cell: 16 or 32
    fine_tune: bool = False  # train the encoder's later blocks as well
    image_size: int | None = number(None, 32, 2048)  # pixels
    augment: bool = False  # mirror images by chance while the encoder learns
    attention_dim: int = number(128, 1)
    embed_dim: int = number(128, 1)
    decoder_dim: int = number(256, 1)
    dropout: float = number(0.5, 0, 0.99)
    concept_epochs: int = number(0, 0)  # before the words, of the encoder
    epochs: int = number(6, 1)  # at most, on words
    self_critical_epochs: int = number(0, 0)  # after these, on CIDEr-D
    batch_size: int = number(8, 1)  # images, each with all its captions
    decoder_lr: float = number(1.5e-3, 1e-9, 10)
    encoder_lr: float = number(1e-4, 1e-9, 10)
    self_critical_lr: float = number(1e-4, 1e-9, 10)
    alpha_c: float | None = number(None, 0)  # weight of the attention penalty
    grad_clip: float = number(5.0, 1e-6)
    decay_after: int = number(8, 1)  # epochs without progress before decay
    decay_factor: float = number(0.8, 0.01, 0.99)
    stop_after: int = number(20, 1)  # epochs without progress before the end
    beam_size: int = number(5, 1, 1000)  # for captions after training
    length_power: float = number(0.7, 0, 2)  # of beam search: 0 for no normalisation
    workers: int = number(0, 0, 64)  # processes that load data
    seed: int = number(28, 0, 2**31)
    output: str | None = None  # folder of the run; by default one under data/runs

    def __post_init__(self):
        for name, value in usual(self.dataset, self.encoder).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for choice in fields(self):
            _check_kind(choice, getattr(self, choice.name))
            _check_number(choice, getattr(self, choice.name))
        _check_data(self)
        _check_encoder(self)


# chapters/configuration.md: The configuration
def _check_kind(choice, value):
    kinds = {bool: bool, str: str, str | None: (str, type(None))}
    if not isinstance(value, kinds.get(choice.type, object)):
        what = "True or False" if choice.type is bool else "text"
        raise ValueError(f"{choice.name} must be {what}, not {value!r}")


def _check_number(choice, value):
    if "least" not in choice.metadata or (value is None and choice.default is None):
        return
    real = choice.type in (float, float | None)
    least, most = choice.metadata["least"], choice.metadata["most"]
    if isinstance(value, bool) or not isinstance(value, (int, float) if real else int):
        what = "a number" if real else "a whole number"
        raise ValueError(f"{choice.name} must be {what}, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{choice.name}={value}: must lie between {least} and {most}")


# chapters/configuration.md: The configuration
def _check_data(config):
    given = [name for name in ("captions", "images") if getattr(config, name)]
    if config.dataset == "scenes" and (given or config.splits):
        raise ValueError("dataset='scenes' is drawn: name yours with another dataset=…")
    if config.dataset != "scenes" and len(given) < 2:
        raise ValueError(f"dataset={config.dataset!r} needs captions=… and images=…")
    if config.on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={config.on_error!r}: must be 'raise' or 'skip'")
    for name in ("captions", "images", "splits"):
        path = getattr(config, name)
        if path and not Path(path).exists():
            raise ValueError(f"{name}={path!r}: there is no {Path(path).resolve()}")


# chapters/configuration.md: The configuration
def _check_encoder(config):
    if config.encoder not in COLOURS and not timm.is_model(config.encoder):
        raise ValueError(
            f"encoder={config.encoder!r} is not known: take efficientnet_lite0, "
            "efficientnet_b4, or a name from timm.list_models()"
        )
    check_layers(config.encoder, config.stage, config.output_stride)


# chapters/configuration.md: The configuration
def config_from(namespace, besides=()):
    """Make a `Config` of a notebook's variables; `besides` names those to pass over.

    Raises ValueError for a name that is no parameter, and for a wrong value.
    """
    known = [choice.name for choice in fields(Config)]
    chosen = {}
    for name, value in namespace.items():
        notebook = name.startswith("_") or name in ("In", "Out") or callable(value)
        if notebook or isinstance(value, ModuleType) or name in besides:
            continue
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1) or known
            raise ValueError(f"no parameter {name!r}; is it one of {', '.join(close)}?")
        chosen[name] = value
    return Config(**chosen)


# chapters/configuration.md: Where a run lives
DATA_CHOICES = ["dataset", "captions", "images", "splits", "scenes", "max_images"]
DATA_CHOICES += ["on_error", "min_freq", "encoder", "stage", "output_stride"]
DATA_CHOICES += ["image_size", "seed"]
FREE_CHOICES = ["epochs", "self_critical_epochs", "stop_after", "beam_size"]
FREE_CHOICES += ["length_power", "workers", "output"]


# chapters/configuration.md: Where a run lives
def folders(config):
    """Return the folder of a run's data files and that of its checkpoints."""
    if config.output:
        return Path(config.output), Path(config.output)
    choices = {k: v for k, v in asdict(config).items() if k not in FREE_CHOICES}
    data = {name: choices[name] for name in DATA_CHOICES}
    code = code_digest("fit") if config.dataset == "scenes" else None
    of_data, of_run = (_tag(made_from, code) for made_from in (data, choices))
    folder = ROOT.parent / "data" / "runs" / f"{config.dataset}-{of_data}"
    return folder, folder / of_run


def _tag(choices, code):
    return digest([choices, code] if code else choices)[:8]


# chapters/configuration.md: Checkpoints
def save_checkpoint(path, checkpoint):
    """Write a dictionary of tensors and plain values; complete or not at all."""
    with replacing(path) as partial, open(partial, "wb") as file:
        torch.save(checkpoint, file)


def load_checkpoint(path):
    """Read a checkpoint onto the CPU without running code from it.

    Raises FileNotFoundError, or ValueError where the file is none of ours.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # which one depends on the bytes of the file
        raise ValueError(f"{path} is not a checkpoint: torch can't read it") from error
    if not isinstance(checkpoint, dict) or "word_map" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of satlib: it has no word map")
    return checkpoint


# chapters/configuration.md: Checkpoints
def check_same_run(checkpoint, config, data, path):
    """Raise a ValueError that names what is different in the checkpoint's run.

    `data` is what the manifest of the data files says of captions and photographs.
    """
    for name, value in asdict(config).items():
        before = checkpoint["config"].get(name)
        if name not in FREE_CHOICES and before != value:
            raise ValueError(
                f"{path} is of a run with {name}={before!r}, not {value!r}; choose "
                "another output, or resume=False to start over"
            )
    if checkpoint["data"] != data:
        raise ValueError(
            f"{path} is of a run on other data: captions or photographs have changed; "
            "choose another output, or resume=False to start over"
        )
