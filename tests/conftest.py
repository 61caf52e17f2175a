"""A tiny captioned world for tests: flat pictures, captions that name the colour."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads only wait

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from satlib.captioner import Captioner  # noqa: E402
from satlib.decoder import Decoder  # noqa: E402
from satlib.encoder import build_encoder  # noqa: E402

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220)}


def write_world(folder, count=32):
    """Write `count` pictures, a caption table and split lists; return the folder."""
    images = folder / "Images"
    images.mkdir(parents=True)
    names, lines = [], ["image,caption"]
    for number in range(count):
        colour, rgb = list(COLOURS.items())[number % 3]
        name = f"{number:03}.png"
        picture = np.full((48, 64, 3), rgb, np.uint8)
        picture[10:20, number % 20 : number % 20 + 20] = 255 - number
        Image.fromarray(picture).save(images / name)
        lines += [
            f"{name},This picture is all {colour}.",
            f"{name},It is {colour} here.",
        ]
        names.append(name)
    (folder / "captions.csv").write_text("\n".join(lines))
    cuts = {"train": names[:-8], "val": names[-8:-4], "test": names[-4:]}
    for split, own in cuts.items():
        (folder / f"{split}.txt").write_text("\n".join(own))
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The folder of a tiny captioned world: Images/, captions.csv, train.txt, …"""
    return write_world(tmp_path_factory.mktemp("world") / "small")


@pytest.fixture(scope="session")
def flickr(tmp_path_factory):
    """The folder of a tiny world under the names that Flickr8k's files have."""
    folder = write_world(tmp_path_factory.mktemp("flickr") / "small")
    colours = list(COLOURS) * 11
    lines = [
        f"{number:03}.png#{k}\tThis picture is {colours[number]}, all of it{k}."
        for number in range(32)
        for k in range(5)
    ]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines))
    return folder


def tiny_captioner():
    """Make a captioner of a few words with random weights."""
    torch.manual_seed(0)
    words = ["<pad>", "a", "red", "cat", "sits", "here", "<start>", "<end>", "<unk>"]
    word_map = {word: number for number, word in enumerate(words)}
    encoder = build_encoder(image_size=64, stage=5)
    decoder = Decoder(8, 8, 8, len(words), encoder.encoder_dim, pool=encoder.pool)
    with torch.no_grad():
        decoder.fc.bias[word_map["<end>"]] = 0.3  # for captions of a few words
    return Captioner(encoder, decoder, word_map, 64)


@pytest.fixture(scope="session")
def captioner():
    """A captioner of a few words with random weights."""
    return tiny_captioner()
