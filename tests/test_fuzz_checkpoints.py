"""Ten thousand checkpoints made at random: right ones come back, others are refused."""

import io
import os
import random
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from satlib.configuration import Config
from satlib.decoder import Decoder
from satlib.model import load_checkpoint

USUAL = asdict(Config())
STRANGE = [None, True, -1, 0, 3.5, float("nan"), float("inf"), "", "x", [], {}, 10**30]
STRANGE += [torch.ones(2), torch.full((1,), torch.nan), [[1]], b"\0", (1, 2)]


def right(dice):
    """The content of a checkpoint of sizes, words and weights drawn by lot."""
    sizes = [dice.randint(1, 4) for _ in range(3)]
    count = dice.randint(0, 5)
    words = ["<pad>", *dice.sample("abcdefgh", count), "<start>", "<end>", "<unk>"]
    names = "attention_dim", "embed_dim", "decoder_dim"
    config = USUAL | dict(zip(names, sizes, strict=True))
    for name in dice.sample(["beam_size", "workers", "epochs", "splits"], 2):
        del config[name]  # as before there were such choices
    numbers = [*range(1, len(words))]
    dice.shuffle(numbers)
    decoder = decoder_of(*sizes, len(words), dice.randint(1, 3)).state_dict()
    kind = dice.choice([torch.float32, torch.float16, torch.float64])
    weights = {k: torch.rand(v.shape).to(kind) for k, v in decoder.items()}
    word_map = dict(zip(words, [0, *numbers], strict=True))
    return {"config": config, "word_map": word_map, "decoder": weights}


def decoder_of(*sizes):
    with torch.device("meta"):
        return Decoder(*sizes)


def spoilt(found, dice):
    """The content with one thing changed so that it cannot be right."""
    part = dice.choice([*found])
    found = {name: dict(value) for name, value in found.items()}
    inside, how = found[part], dice.randrange(5)
    shaping = ["attention_dim", "embed_dim", "decoder_dim", "stage", "image_size"]
    keys = shaping if part == "config" else [*inside]
    key = dice.choice(keys)
    if how == 0:
        del found[part]
    elif how == 1:
        found[part] = dice.choice([x for x in STRANGE if not isinstance(x, dict)])
    elif how == 2 and part != "word_map":
        del inside[key]
    elif how == 3 and part != "word_map":
        inside["strange"] = dice.choice(STRANGE)
    else:
        values = [x for x in STRANGE if type(x) is not int or x < 0 or x > 10**6]
        inside[key] = dice.choice(values)
    return found


def packed(found):
    file = io.BytesIO()
    torch.save(found, file)
    return file.getvalue()


def damaged(data, dice):
    """The bytes with something cut off, put in, or changed."""
    place, how = dice.randrange(len(data)), dice.randrange(4)
    some = dice.randbytes(dice.randint(1, 8))
    if how == 0:
        return data[:place]
    if how == 1:
        return data[:place] + some + data[place:]
    if how == 2:
        return data[: place // 2] + data[place:]
    return data[:place] + some + data[place + len(some) :]


def equal(one, other):
    """Tell whether two contents are the same, tensors included."""
    if isinstance(one, dict):
        same = isinstance(other, dict) and one.keys() == other.keys()
        return same and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other


def outcome(path, data):
    """What `load_checkpoint` makes of bytes: a content, or None if it refuses them."""
    path.write_bytes(data)
    try:
        return load_checkpoint(path)
    except ValueError as error:
        assert "best.pt" in str(error)
        return None


@pytest.fixture
def folder(tmp_path):
    """A folder, in memory where the system has one: files are made faster there."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=where) as folder:
        yield Path(folder)


def test_fuzz_checkpoints(folder, tried):
    dice, path = random.Random(28), folder / "best.pt"
    torch.manual_seed(28)
    accepted = refused = 0
    for _ in range(720):
        found = right(dice)
        data = packed(found)
        assert equal(outcome(path, data), found)
        wrong = spoilt(found, dice)
        assert outcome(path, packed(wrong)) is None, wrong
        for _ in range(12):  # a byte that means nothing may change
            back = outcome(path, damaged(data, dice))
            assert back is None or equal(back, found)
            accepted, refused = accepted + bool(back), refused + (not back)
    assert accepted > 100 and refused > 7000
    tried["checkpoints"] += 1440 + accepted + refused
