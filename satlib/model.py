# Written by `python -m satlib.tangle` from chapters/model.md: edit that.
# chapters/model.md: Model: built from choices, kept in a checkpoint
"""The model: encoder, decoder and word map, from choices or from a checkpoint."""

import io
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from math import isfinite, log
from pathlib import Path

import torch

from satlib import __version__
from satlib.configuration import Config, check_choices
from satlib.decoder import Decoder
from satlib.encoder import Encoder, build_encoder
from satlib.files import replacing
from satlib.recurrence import FastDecoder


# chapters/model.md: From choices to layers
def encoder_of(config, pretrained=True, standardized=True):
    """Return the encoder that a configuration describes.

    Without `pretrained` its weights are random, to be loaded from a checkpoint;
    without `standardized` the cells of a stage are as they come.
    """
    return build_encoder(
        config.encoder,
        pretrained,
        config.image_size,
        config.stage,
        config.output_stride,
        standardized,
        config.look_stage,
    )


# chapters/model.md: From choices to layers
def build_decoder(config, word_map, encoder):
    """Return the decoder that a configuration describes, with fresh weights."""
    return FastDecoder(
        config.attention_dim,
        config.embed_dim,
        config.decoder_dim,
        len(word_map),
        encoder.encoder_dim,
        config.dropout,
        encoder.pool,
        encoder.look_dim,
    )


# chapters/model.md: From choices to layers
@dataclass
class Model:
    """An encoder and the decoder that reads it, with its words and its choices."""

    config: Config
    word_map: dict[str, int]
    encoder: Encoder
    decoder: Decoder
    calibration: tuple[float, float] | None = None  # what its probabilities are worth


def new_model(config, word_map, encoder=None):
    """Return the `Model` that a run begins with; this seeds PyTorch's random numbers.

    `encoder` is used in the place of the one that the configuration describes.
    """
    encoder = encoder or encoder_of(config)
    torch.manual_seed(config.seed)
    return Model(config, word_map, encoder, build_decoder(config, word_map, encoder))


# chapters/model.md: From choices to layers
def choose_device():
    """Return the accelerator (CUDA, then Apple's, …) if there is one, or the CPU."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")


# chapters/model.md: From choices to layers
SMALL = 512  # hidden units: a decoder with fewer has small products


@contextmanager
def threads(number):
    """Compute on so many threads in a `with` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for(decoder, most=None):
    """Return the `threads` that suit a decoder: one, if its products are small.

    Otherwise they are as many as there are, or at `most`.
    """
    small = decoder.decode_step.hidden_size < SMALL
    return threads(1 if small else most or torch.get_num_threads())


# chapters/model.md: Going on from another model
SHAPING = ["encoder", "stage", "image_size"]
SHAPING += ["attention_dim", "embed_dim", "decoder_dim"]
INHERITED = [*SHAPING, "output_stride", "look_stage", "tokens"]


# chapters/model.md: Going on from another model
@torch.no_grad()
def inherit(decoder, other):
    """Copy the weights of another decoder of the same sizes, which has fewer words."""
    weights = decoder.state_dict()
    for name, weight in other.state_dict().items():
        weights[name][: len(weight)] = weight
    if new := len(decoder.fc.bias) - len(other.fc.bias):
        weights["fc.bias"][-new:] = -log(new)


# chapters/model.md: Checkpoints
def save_checkpoint(path, checkpoint):
    """Write a dictionary of tensors and plain values; complete or not at all.

    Raises OSError where the disk is full.
    """
    packed = io.BytesIO()
    torch.save(checkpoint, packed)
    with replacing(path) as partial, open(partial, "wb") as file:
        file.write(packed.getbuffer())


# chapters/model.md: Is it one of ours?
def _unpack(path):
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such checkpoint")
    if not path.is_file():
        raise ValueError(f"{path} is not a checkpoint: it is no file but a folder")
    with open(path, "rb") as file, io.BytesIO() as whole:
        try:
            with zipfile.ZipFile(file) as read, zipfile.ZipFile(whole, "w") as write:
                parts = {part.filename: part for part in read.infolist()}
                if sum(p.file_size for p in parts.values()) > path.stat().st_size:
                    raise ValueError("it is packed, which torch.save never does")
                for name, part in parts.items():
                    write.writestr(name, read.read(part))
            whole.seek(0)
            return torch.load(whole, map_location="cpu", weights_only=True)
        except Exception as error:  # which one depends on the bytes of the file
            reason = " ".join(str(error).split("\n")[0].split())[:200]
            what = "empty" if not path.stat().st_size else f"{reason}"
            raise ValueError(
                f"{path} is not a checkpoint, or is damaged: {what}. A checkpoint of "
                "satlib is a file of plain data, as written by its fit"
            ) from error


# chapters/model.md: Is it one of ours?
def config_of(checkpoint):
    """Return the `Config` of a checkpoint. Raises ValueError where it cannot be right.

    Of a checkpoint without a choice that is new, it has the usual value.
    """
    usual = {choice.name: choice.default for choice in fields(Config)}
    found = checkpoint["config"]
    if strange := [str(name) for name in found if name not in usual]:
        raise ValueError(f"its choices {', '.join(strange)} are not known here")
    if lacking := [name for name in SHAPING if found.get(name) is None]:
        raise ValueError(f"its choices lack {', '.join(lacking)}")
    config = object.__new__(Config)  # as it is: no file is looked for
    vars(config).update(usual | found)
    check_choices(config)
    return config


# chapters/model.md: Is it one of ours?
def check_words(word_map):
    """Raise a ValueError unless a word map gives each word a number of its own."""
    words, numbers = [*word_map], [*word_map.values()]
    lacking = {"<pad>", "<start>", "<end>", "<unk>"} - {*words}
    if lacking:
        raise ValueError(f"its word map lacks {', '.join(sorted(lacking))}")
    plain = all(type(w) is str for w in words) and all(type(n) is int for n in numbers)
    if not plain or {*numbers} != {*range(len(words))} or word_map["<pad>"] != 0:
        raise ValueError(
            f"its word map does not number {len(words)} words from 0, which is <pad>, "
            f"to {len(words) - 1}"
        )


# chapters/model.md: Is it one of ours?
KINDS = torch.float32, torch.float16, torch.bfloat16, torch.float64


def check_weights(name, found, expected):
    """Raise a ValueError unless tensors have the names and shapes of the `expected`."""
    lacking = [key for key in expected if key not in found]
    strange = [str(key) for key in found if key not in expected]
    if lacking or strange:
        listed = [f"lack {', '.join(lacking[:3])}"] * bool(lacking)
        listed += [f"have {', '.join(strange[:3])} besides"] * bool(strange)
        raise ValueError(f"the weights of its {name} {' and '.join(listed)}")
    for key, like in expected.items():
        tensor, whole = found[key], () if like.is_floating_point() else (like.dtype,)
        plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
        if not plain or tensor.dtype not in KINDS + whole or tensor.is_meta:
            raise ValueError(f"{key} of its {name} is no tensor of numbers")
        if tensor.shape != like.shape:
            raise ValueError(
                f"{key} of its {name} is {tuple(tensor.shape)}, but by its choices and "
                f"its words {tuple(like.shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{key} of its {name} holds NaN or infinite numbers")


@lru_cache
def _decoder_of_sizes(*sizes, look_dim):
    with torch.device("meta"):
        return Decoder(*sizes, look_dim=look_dim).state_dict()


def _check_decoder(checkpoint, config):
    found = checkpoint["decoder"]
    looks = ("attention.encoder_att.weight",) if config.look_stage else ()
    encoder_dim, *look_dim = (
        weight.shape[1] if getattr(weight := found.get(name), "ndim", 0) == 2 else 1
        for name in ("init_h.weight", *looks)
    )
    sizes = config.attention_dim, config.embed_dim, config.decoder_dim
    sizes = *sizes, len(checkpoint["word_map"]), encoder_dim
    expected = _decoder_of_sizes(*sizes, look_dim=(*look_dim, None)[0])
    check_weights("decoder", found, expected)


# chapters/model.md: Is it one of ours?
NEEDED = {"word_map": "word map", "config": "choices", "decoder": "decoder"}


def load_checkpoint(path):
    """Return a checkpoint, on the CPU, without running code from it.

    Raises FileNotFoundError, or ValueError that says what is wrong with the file.
    """
    checkpoint = _unpack(Path(path))
    found = checkpoint if isinstance(checkpoint, dict) else {}
    lacking = [n for key, n in NEEDED.items() if not isinstance(found.get(key), dict)]
    if lacking:
        lack = " and no ".join(lacking)
        raise ValueError(f"{path} is not a checkpoint of satlib: it has no {lack}")
    with named(path, found):
        config = config_of(found)
        check_words(found["word_map"])
        _check_decoder(found, config)
    return checkpoint


@contextmanager
def named(path, checkpoint):
    """Raise a ValueError with the path for what is wrong with a checkpoint's content.

    For a `with` block that looks into it.
    """
    try:
        yield
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError) as error:
        version = checkpoint.get("version", __version__)
        by = f" (written by satlib {version}, this is {__version__})"
        by = by if version != __version__ else ""
        raise ValueError(
            f"{path} is no checkpoint that this satlib can use: {error}{by}"
        ) from error


# chapters/model.md: Is it one of ours?
def calibration_of(checkpoint):
    """Return the two numbers of a checkpoint's calibration, None where it has none.

    Raises ValueError where they are no two finite numbers.
    """
    if (found := checkpoint.get("calibration")) is None:
        return None
    pair = isinstance(found, (tuple, list)) and len(found) == 2
    if not pair or not all(type(x) in (int, float) and isfinite(x) for x in found):
        problem = f"its calibration {str(found)[:60]} must be two finite numbers"
        raise ValueError(f"{problem}; python -m satlib.card --ship computes them")
    return float(found[0]), float(found[1])


# chapters/model.md: Is it one of ours?
def load_model(path: str | Path) -> Model:
    """Return the `Model` of a checkpoint, with the weights that caption.

    Raises FileNotFoundError, or ValueError that says what is wrong with the file;
    OSError where the weights of an encoder that has not learnt cannot be had.
    """
    checkpoint = load_checkpoint(path)
    config, word_map = config_of(checkpoint), checkpoint["word_map"]
    with named(path, checkpoint):
        calibration = calibration_of(checkpoint)
        encoder = encoder_of(config, pretrained=False)
        decoder = build_decoder(config, word_map, encoder)
        check_weights("decoder", checkpoint["decoder"], decoder.state_dict())
        if "encoder" in checkpoint:
            check_weights("encoder", checkpoint["encoder"], encoder.state_dict())
            encoder.load_state_dict(checkpoint["encoder"])
    if "encoder" not in checkpoint:
        encoder = encoder_of(config)
    decoder.load_state_dict(checkpoint["decoder"])
    return Model(config, word_map, encoder, decoder, calibration)
