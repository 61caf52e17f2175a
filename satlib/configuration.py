# Written by `python -m satlib.tangle` from chapters/configuration.md: edit that.
# chapters/configuration.md: Configuration: a run's choices, and its folder
"""A training run's choices and folders."""

import difflib
import os
import re
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from types import ModuleType, NoneType
from typing import get_args, get_origin, get_type_hints

import timm

from satlib.caption_files import SPLITS, TOKENS, collections_of
from satlib.encoder import COLOURS, check_layers
from satlib.files import (
    ROOT,
    changes,
    check_name,
    code_digest,
    data_folder,
    digest,
)

SCENES = {"stage": 5, "image_size": 224, "alpha_c": 0.0}
PHOTOGRAPHS = {"stage": 8, "image_size": 256, "alpha_c": 1.0}


# chapters/configuration.md: The configuration
def number(default, least, most=10**9):
    """Return a field for a number from `least` to `most`."""
    return field(default=default, metadata={"least": least, "most": most})


# chapters/configuration.md: The configuration
KINDS = {bool: "True or False", str: "text", int: "a whole number", float: "a number"}
TYPES = {bool: bool, str: (str, os.PathLike), int: Integral, float: Real}
WRITTEN = {
    int: re.compile(r"[+-]?[0-9]{1,300}"),
    float: re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"),
}


def checked(name, value, kind, least=None, most=10**9):
    """Return a value as what it must be: of a type, or of a type or None, in limits.

    A number, or None, may be written as text, and a text be a path. Where a list may
    stand, each item is checked. Raises ValueError.
    """
    kinds = {get_origin(k) or k: k for k in _alternatives(kind)}
    text = value if isinstance(value, str) else ""
    if NoneType in kinds and (value is None or text.lower() in ("none", "null")):
        return None
    kind = next(iter(kinds))
    if kind is list or (list in kinds and value and isinstance(value, list)):
        return _checked_list(name, value, *get_args(kinds[list]), least, most)
    if kind in WRITTEN and WRITTEN[kind].fullmatch(text):
        value = kind(text)
    if not isinstance(value, TYPES[kind]) or isinstance(value, bool) != (kind is bool):
        hint = "; put it in quotes, or give it to papermill with -r, not -p"
        hint = hint * (kind is str and isinstance(value, (int, float)))
        raise ValueError(f"{name} must be {KINDS[kind]}, not {value!r}{hint}")
    if least is not None and not least <= value <= most:
        raise ValueError(f"{name}={value}: must lie between {least} and {most}")
    value = os.fspath(value) if kind is str else kind(value)
    if kind is str and (not value or "\0" in value):
        raise ValueError(f"{name}={value!r}: is empty, or holds a zero byte")
    return value


def _alternatives(kind):
    return (kind,) if get_origin(kind) is list else get_args(kind) or (kind,)


def _checked_list(name, value, kind, *limits):
    if not isinstance(value, list) or not value:
        how = f'in a file, or with papermill\'s -y "{name}: [1, 2]"'
        raise ValueError(f"{name} must be a list, {how}, not {value!r}")
    items = enumerate(value)
    return [checked(f"{name}[{i}]", item, kind, *limits) for i, item in items]


# chapters/configuration.md: The configuration
def check_known(name, value, known):
    """Raise a ValueError unless a value is one of those that are known."""
    if value not in known:
        close = difflib.get_close_matches(str(value), known) or known[:5]
        raise ValueError(f"{name}={value!r} is not known: is it {' or '.join(close)}?")


def check_choices(choices):
    """Put each field into the form of its annotation, as `checked`.

    Raises ValueError for a field that is not as annotated, or beyond its limits.
    """
    for name, kind in get_type_hints(type(choices)).items():
        limits = choices.__dataclass_fields__[name].metadata
        value = checked(name, getattr(choices, name), kind, **limits)
        object.__setattr__(choices, name, value)


# chapters/configuration.md: The configuration
def usual(dataset, encoder):
    """Return the stage, image_size and alpha_c that are usual for a data set."""
    values = SCENES if dataset == "scenes" else PHOTOGRAPHS
    return values if encoder in COLOURS else values | {"stage": 8}


# chapters/configuration.md: The configuration
PATHS = ["captions", "images", "splits", "captioner", "output"]
PRECISIONS = ["highest", "medium"]


@dataclass(frozen=True)
class Config:
    """The choices of a training run. Raises ValueError where one cannot be right.

    For photographs, `captions` is a caption file, `images` a folder, and `splits` the
    official lists (a folder or file), the name of one split for all, or None for a
    random split. Of several collections these are lists, and `weights` has a number for
    each. `captioner` is a checkpoint to go on from. The data set "scenes" is drawn,
    `scenes` pictures of it, and needs none of these. `stage`, `image_size` and
    `alpha_c` are by default what is `usual`.
    """

    dataset: str = "scenes"
    captions: str | list[str] | None = None
    images: str | list[str] | None = None
    splits: str | list[str | None] | None = None
    weights: list[float] | None = number(None, 1e-3, 1000)  # of each collection
    scenes: int = number(4000, 10, 100_000)
    max_images: int | None = number(None, 1)  # in each split of each collection
    on_error: str = "raise"  # or "skip": leave out photographs that are broken
    min_freq: int = number(5, 0)  # a word stays if it occurs more often
    caps_per_img: int = number(5, 1, 1000)  # rows of an image; further captions wait
    max_length: int = number(52, 3, 1000)  # places in a row, <start> and <end> too
    tokens: str = "words"  # or "characters", for scripts without spaces
    captioner: str | None = None  # checkpoint to go on from
    encoder: str = "efficientnet_lite0"
    stage: int | None = number(None, 1, 8)  # of the encoder; 8 is the last grid
    output_stride: int = number(32, 16, 32)  # pixels from cell to cell: 16 or 32
    look_stage: int | None = number(None, 4, 7)  # to look with; else with the cells
    fine_tune: bool = False  # train the encoder's later blocks as well
    image_size: int | None = number(None, 32, 2048)  # pixels
    augment: bool = False  # mirror images by chance while the encoder learns
    attention_dim: int = number(128, 1, 65_536)
    embed_dim: int = number(128, 1, 65_536)
    decoder_dim: int = number(256, 1, 65_536)
    dropout: float = number(0.5, 0, 0.99)
    concept_epochs: int = number(0, 0)  # before the words, of the encoder
    epochs: int = number(6, 1)  # at most, on words
    self_critical_epochs: int = number(0, 0)  # after these, on CIDEr-D
    batch_size: int = number(8, 1, 65_536)  # images, each with all its captions
    matmul_precision: str = "highest"  # or "medium": in 16 bits, where that is fast
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
    keep_minutes: float = number(10.0, 0)  # between checkpoints within an epoch
    seed: int = number(28, 0, 2**31)
    output: str | None = None  # folder of the run; by default one under data/runs

    def __post_init__(self):
        check_choices(self)
        for name, value in usual(self.dataset, self.encoder).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in PATHS:
            object.__setattr__(self, name, _expanded(getattr(self, name)))
        _check_data(self)
        _check_output(self.output)
        _check_captioner(self)
        _check_encoder(self)


# chapters/configuration.md: The configuration
def _check_data(config):
    check_name(config.dataset)
    given = [name for name in ("captions", "images") if getattr(config, name)]
    if config.dataset == "scenes" and (given or config.splits):
        raise ValueError("dataset='scenes' is drawn: name yours with another dataset=…")
    if config.dataset != "scenes" and len(given) < 2:
        raise ValueError(f"dataset={config.dataset!r} needs captions=… and images=…")
    check_known("on_error", config.on_error, ["raise", "skip"])
    check_known("tokens", config.tokens, TOKENS)
    check_known("matmul_precision", config.matmul_precision, PRECISIONS)
    check_there("captions", config.captions, ["file"])
    check_there("images", config.images, ["folder"])
    check_there("splits", config.splits, ["file", "folder"], SPLITS)
    for name in "images", "splits":
        value = getattr(config, name)
        if isinstance(value, list) and not isinstance(config.captions, list):
            raise ValueError(f"{name}={value} is a list: let captions be one as well")
    count = len(collections_of(config.captions, config.images, config.splits))
    if config.weights and len(config.weights) != count:
        problem = f"weights={config.weights} for {count} caption files"
        raise ValueError(f"{problem}: give one for each of them")


def _check_encoder(config):
    known = {*COLOURS, *timm.list_models(), *timm.list_pretrained()}
    check_known("encoder", config.encoder, sorted(known))
    layers = config.stage, config.output_stride, config.look_stage
    check_layers(config.encoder, *layers)


# chapters/configuration.md: The configuration
def _expanded(path):
    if isinstance(path, list):
        return [_expanded(each) for each in path]
    return path and os.path.expanduser(path)


def check_there(name, paths, kinds, words=()):
    """Raise a ValueError where a path is given that leads to no "file" or "folder".

    There may be one path or a list; one of the `words` is none.
    """
    there = {"file": os.path.isfile, "folder": os.path.isdir}
    for path in paths if isinstance(paths, list) else [paths]:
        if path and path not in words and not any(there[kind](path) for kind in kinds):
            what = f"there is no {' or '.join(kinds)} {os.path.abspath(path)}"
            raise ValueError(f"{name}={path!r}: {what}")


def _check_output(output):
    if output is None:
        return
    path = Path(os.path.abspath(output))
    if path == path.parent or max(len(os.fsencode(part)) for part in path.parts) > 255:
        raise ValueError(f"output={output!r}: name a folder of its own, and briefly")
    found = next(p for p in (path, *path.parents) if os.path.lexists(p))
    if not os.path.isdir(found):
        raise ValueError(f"output={output!r}: {found} is no folder")
    if not os.access(found, os.W_OK | os.X_OK):
        raise ValueError(f"output={output!r}: nothing may be written in {found}")


# chapters/configuration.md: The configuration
def _check_captioner(config):
    check_there("captioner", path := config.captioner, ["file"])
    if path and config.dataset == "scenes":
        raise ValueError("captioner=… goes on with photographs: dataset=… names them")
    output = config.output and os.path.realpath(config.output)
    if path and output == os.path.dirname(os.path.realpath(path)):
        problem = f"captioner={path!r} lies in output={config.output!r}"
        raise ValueError(f"{problem}, where this run would write; name another output")


# chapters/configuration.md: The configuration
def config_from(namespace, kind=Config, besides=None):
    """Return the choices, of the dataclass `kind`, that a notebook's variables make.

    `besides` maps names of further parameters, which are not among the choices, to
    their types. Raises ValueError for a name that is no parameter, and a wrong value.
    """
    besides, chosen = besides or {}, {}
    known = [choice.name for choice in fields(kind)] + [*besides]
    for name, value in namespace.items():
        notebook = name.startswith("_") or name in ("In", "Out") or callable(value)
        if notebook or isinstance(value, ModuleType):
            continue
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1) or known
            raise ValueError(f"no parameter {name!r}; is it one of {', '.join(close)}?")
        if name in besides:
            checked(name, value, besides[name])
        else:
            chosen[name] = value
    return kind(**chosen)


# chapters/configuration.md: Where a run lives
DATA_CHOICES = ["dataset", "scenes", "max_images", "on_error", "min_freq", "encoder"]
DATA_CHOICES += ["stage", "output_stride", "look_stage", "image_size", "seed"]
DATA_CHOICES += ["caps_per_img", "max_length", "tokens"]
FREE_CHOICES = ["epochs", "self_critical_epochs", "stop_after", "beam_size"]
FREE_CHOICES += ["length_power", "workers", "keep_minutes", "output"]
PLACES = ["captions", "images", "splits", "captioner"]  # they count by what lies there


# chapters/configuration.md: Where a run lives
def folders(config, inputs=None):
    """Return the folder of a run's data files and that of its checkpoints.

    `inputs` are the digests of captions, photographs and captioner; drawn scenes need
    none.
    """
    if config.output:
        return Path(config.output), Path(config.output)
    hidden = FREE_CHOICES + PLACES
    choices = {k: v for k, v in asdict(config).items() if k not in hidden}
    choices["inputs"] = inputs
    data = {name: choices[name] for name in [*DATA_CHOICES, "inputs"]}
    code = code_digest("fit") if config.dataset == "scenes" else None
    of_data, of_run = (_tag(made_from, code) for made_from in (data, choices))
    folder = data_folder(ROOT) / "runs" / f"{config.dataset}-{of_data}"
    return folder, folder / of_run


def _tag(choices, code):
    return digest([choices, code] if code else choices)[:8]


# chapters/configuration.md: When a run may go on
def check_same_run(checkpoint, config, data, path):
    """Raise a ValueError that names what is different in the checkpoint's run.

    `data` is what the manifest of the data files says of captions and photographs; None
    where that is not known yet.
    """
    usual = {choice.name: choice.default for choice in fields(Config)}
    for name, value in asdict(config).items():
        before = checkpoint["config"].get(name, usual[name])
        if name not in FREE_CHOICES + PLACES and before != value:
            raise ValueError(
                f"{path} is of a run with {name}={before!r}, not {value!r}; choose "
                "another output, or resume=False to start over"
            )
    if data is not None and checkpoint["data"] != data:
        gone = dict.fromkeys(checkpoint["data"])
        names = ", ".join(changes(checkpoint["data"], gone | data))
        raise ValueError(
            f"{path} is of a run on other data: {names} changed; choose another "
            "output, or resume=False to start over"
        )
