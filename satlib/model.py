# Written by `python -m satlib.tangle` from chapters/model.md: edit that.
# chapters/model.md: Model: built from choices, kept in a checkpoint
"""The model: encoder, decoder and word map, from choices or from a checkpoint."""

from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace

import torch

from satlib.configuration import Config
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
    )


# chapters/model.md: From choices to layers
@dataclass
class Model:
    """An encoder and the decoder that reads it, with its words and its choices."""

    config: Config
    word_map: dict[str, int]
    encoder: Encoder
    decoder: Decoder


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
def threads_for(decoder):
    """Compute on one thread in a `with` block if the decoder's products are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if decoder.decode_step.hidden_size < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# chapters/model.md: Checkpoints
def save_checkpoint(path, checkpoint):
    """Write a dictionary of tensors and plain values; complete or not at all."""
    with replacing(path) as partial, open(partial, "wb") as file:
        torch.save(checkpoint, file)


# chapters/model.md: Checkpoints
def load_checkpoint(path):
    """Return a checkpoint, on the CPU, without running code from it.

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


# chapters/model.md: Checkpoints
def load_model(path: str | Path) -> Model:
    """Return the `Model` of a checkpoint, with the weights that caption.

    Raises FileNotFoundError, or ValueError where the file is none of ours.
    """
    checkpoint = load_checkpoint(path)
    usual = {choice.name: choice.default for choice in fields(Config)}
    config = SimpleNamespace(**usual | checkpoint["config"])
    tuned = "encoder" in checkpoint
    encoder = encoder_of(config, pretrained=not tuned)
    if tuned:
        encoder.load_state_dict(checkpoint["encoder"])
    decoder = build_decoder(config, checkpoint["word_map"], encoder)
    decoder.load_state_dict(checkpoint["decoder"])
    return Model(config, checkpoint["word_map"], encoder, decoder)
