"""A checkpoint that is none, or not of this model"""

import contextlib
import pickle
import socket
import zipfile
from dataclasses import asdict, replace

import h5py
import numpy as np
import pytest
import torch

from satlib import batches, dataset, files, model
from satlib.captioner import load_captioner
from satlib.configuration import Config
from satlib.decoder import Decoder
from satlib.fit import fit
from satlib.model import load_checkpoint, load_model, save_checkpoint

resource = pytest.importorskip("resource")  # sets how large a file may be
WORDS = ["<pad>", "a", "cat", "<start>", "<end>", "<unk>"]
SIZES = {"attention_dim": 3, "embed_dim": 5, "decoder_dim": 7, "image_size": 64}


def content(**changes):
    """A checkpoint's content, small and right but for the changes."""
    decoder = Decoder(3, 5, 7, len(WORDS), 112).state_dict()
    word_map = {word: number for number, word in enumerate(WORDS)}
    right = {"config": asdict(Config(**SIZES)), "word_map": word_map}
    return right | {"decoder": decoder} | changes


def changed(part, **changes):
    """A checkpoint's content with changes in one part; None takes a key away."""
    found = content()
    found[part] = found[part] | changes
    found[part] = {k: v for k, v in found[part].items() if v is not None}
    return found


@pytest.fixture
def offline(monkeypatch):
    """Whoever asks the network fails the test."""

    def refused(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def state_of(folder):
    """What a folder holds, and when it was changed."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in paths}


FOREIGN = {
    "nothing": b"",
    "text": b"epoch 1: loss 2.3",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(99),
    "safetensors": b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
    "ONNX": b"\x08\x08\x12\x07pytorch\x1a\x051.0.0",
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(99),
    "a pickle": pickle.dumps({"word_map": {}, "decoder": {}}),
    "a pickle with code": b"cos\nsystem\n(S'touch /tmp/x'\ntR.",
    "the end of an archive": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_programs(tmp_path, name):
    """A file of another program in the place of a checkpoint: refused by its path."""
    path = tmp_path / "best.pt"
    path.write_bytes(FOREIGN[name])
    for load in load_checkpoint, load_captioner:
        with pytest.raises(ValueError, match=r"best\.pt is not a checkpoint"):
            load(path)


def test_a_folder_in_the_place_of_a_checkpoint(tmp_path):
    """A folder called `best.pt`, or nothing at all: said by name."""
    (tmp_path / "best.pt").mkdir()
    with pytest.raises(ValueError, match=r"best\.pt.*folder"):
        load_captioner(tmp_path / "best.pt")
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        load_captioner(tmp_path / "none.pt")


def test_an_archive_that_is_packed(tmp_path):
    """An archive of KB that would unpack to MB: refused before it is unpacked."""
    path = tmp_path / "best.pt"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w", force_zip64=True) as part,
    ):
        for _ in range(64):
            part.write(bytes(2**20))
    assert path.stat().st_size < 10**5
    with pytest.raises(ValueError, match=r"best\.pt is not a checkpoint.*packed"):
        load_checkpoint(path)


class Code:
    """What a pickle could run."""

    def __reduce__(self):
        return print, ("this must not be seen",)


OTHERS = {
    "whole objects, as the textbook saves": content(decoder=Decoder(3, 5, 7, 6, 112)),
    "code": content(more=Code()),
    "weights alone": Decoder(3, 5, 7, 6, 112).state_dict(),
    "a list": [content()],
    "a tensor": torch.ones(3),
    "no decoder": content(decoder=None),
    "a decoder that is a list": content(decoder=[1.0]),
    "no choices": content(config=None),
    "no word map": content(word_map=None),
}


@pytest.mark.parametrize("name", OTHERS)
def test_checkpoints_of_other_programs(tmp_path, capfd, name):
    """A checkpoint with other things in it, or with code: refused, nothing is run."""
    path = tmp_path / "best.pt"
    torch.save(OTHERS[name], path)
    with pytest.raises(ValueError, match=r"best\.pt is not a checkpoint"):
        load_captioner(path)
    assert "seen" not in capfd.readouterr().out


WRONG = {
    "another size": (changed("config", decoder_dim=8), "decoder_att.weight.*7.*8"),
    "a size that is text": (changed("config", decoder_dim="big"), "decoder_dim"),
    "a size below one": (changed("config", attention_dim=0), "attention_dim"),
    "no size": (changed("config", embed_dim=None), "lack embed_dim"),
    "no encoder": (changed("config", encoder=None), "lack encoder"),
    "an encoder that nobody knows": (changed("config", encoder="my_net"), "my_net"),
    "another stage": (changed("config", stage=7), "112.*320"),
    "a choice of a later version": (changed("config", halo=1), "halo.*not known"),
    "another vocabulary": (changed("word_map", dog=6), "6.*7"),
    "words that lack the end": (changed("word_map", **{"<end>": None}), "lacks <end>"),
    "words that lack the start": (
        changed("word_map", **{"<start>": None, "dog": 3}),
        "lacks <start>",
    ),
    "two words with one number": (changed("word_map", cat=1), "number 6 words"),
    "a number out of range": (changed("word_map", cat=99), "number 6 words"),
    "a number below zero": (changed("word_map", cat=-1), "number 6 words"),
    "a number that is none": (changed("word_map", cat=float("nan")), "number 6 words"),
    "a number that is text": (changed("word_map", cat="2"), "number 6 words"),
    "padding that is not zero": (
        changed("word_map", **{"<pad>": 1, "a": 0}),
        "<pad>",
    ),
    "weights that are missing": (changed("decoder", **{"fc.bias": None}), "fc.bias"),
    "weights too many": (changed("decoder", halo=torch.ones(1)), "halo"),
    "weights of another shape": (
        changed("decoder", **{"fc.weight": torch.ones(6, 8)}),
        r"fc.weight.*\(6, 8\).*\(6, 7\)",
    ),
    "weights of one number": (
        changed("decoder", **{"fc.weight": torch.tensor(1.0)}),
        "fc.weight",
    ),
    "weights that are NaN": (
        changed("decoder", **{"fc.bias": torch.full((6,), torch.nan)}),
        "fc.bias.*NaN",
    ),
    "weights that are infinite": (
        changed("decoder", **{"fc.bias": torch.full((6,), torch.inf)}),
        "fc.bias.*infinite",
    ),
    "weights that are whole numbers": (
        changed("decoder", **{"fc.bias": torch.ones(6, dtype=torch.long)}),
        "fc.bias",
    ),
    "weights that are a list": (
        changed("decoder", **{"fc.bias": [0.0] * 6}),
        "fc.bias",
    ),
    "weights that are sparse": (
        changed("decoder", **{"fc.weight": torch.eye(6, 7).to_sparse()}),
        "fc.weight",
    ),
    "an encoder's weights for it": (content(encoder={"x": torch.ones(1)}), "encoder"),
    "an encoder that is a list": (content(encoder=[]), "encoder"),
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("name", WRONG)
@pytest.mark.usefixtures("offline")
def test_what_does_not_fit(tmp_path, name):
    """A checkpoint in which a part does not fit: refused by what differs, offline."""
    found, named = WRONG[name]
    save_checkpoint(tmp_path / "best.pt", found)
    with pytest.raises(ValueError, match=rf"(?s)best\.pt.*{named}"):
        load_captioner(tmp_path / "best.pt")


@pytest.mark.usefixtures("offline")
def test_the_network_is_not_asked_for_what_cannot_be_used(tmp_path, monkeypatch):
    """A checkpoint whose decoder fits no cell of its encoder: nothing is downloaded."""
    found, built = changed("config", encoder="resnet18", stage=8), []
    build = model.build_encoder

    def watched(name, pretrained, *rest):
        built.append(pretrained)
        return build(name, pretrained, *rest)

    monkeypatch.setattr(model, "build_encoder", watched)
    save_checkpoint(tmp_path / "best.pt", found)
    with pytest.raises(ValueError, match=r"best\.pt.*112.*512"):
        load_captioner(tmp_path / "best.pt")
    assert built == [False]


def test_another_version_is_told(tmp_path):
    """A checkpoint that another version wrote and that does not fit: both are named."""
    save_checkpoint(
        tmp_path / "best.pt", changed("config", halo=1) | {"version": "9.1"}
    )
    with pytest.raises(ValueError, match=r"halo.*satlib 9\.1, this is"):
        load_captioner(tmp_path / "best.pt")


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("how", ["cut", "changed"])
def test_damage(tmp_path, where, how):
    """A checkpoint that was cut off, or of whose weights a byte changed: refused."""
    path, found = tmp_path / "best.pt", content()
    save_checkpoint(path, found)
    data = bytearray(path.read_bytes())
    weights = [*found["decoder"].values()][where].numpy().tobytes()
    place = data.index(weights) + 2
    data[place] ^= 0xFF
    path.write_bytes(data[:place] if how == "cut" else data)
    with pytest.raises(ValueError, match=r"best\.pt is not a checkpoint.*damaged"):
        load_checkpoint(path)


SPOILT = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:2000]),
    "empty": lambda path: path.write_bytes(b""),
    "a captioner's": lambda path: rewrite(path, history=None, learner=None),
    "without its history": lambda path: rewrite(path, history=None),
    "of another epoch": lambda path: rewrite(path, epoch=7),
    "of an unknown lesson": lambda path: rewrite(path, lesson="dance"),
    "without optimiser": lambda path: rewrite(path, decoder_optimizer=None),
    "without random numbers": lambda path: rewrite(path, random_states=None),
    "without its data": lambda path: rewrite(path, data=None),
    "with weights that are NaN": lambda path: spoil(path, torch.nan),
}


def rewrite(path, **changes):
    found = torch.load(path, weights_only=True) | changes
    torch.save({k: v for k, v in found.items() if v is not None}, path)


def spoil(path, value):
    found = torch.load(path, weights_only=True)
    found["learner"]["decoder.fc.bias"][0] = value
    torch.save(found, path)


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_one_bad_checkpoint_beside_a_good_one(copied, name, how):
    """`last.pt` or `best.pt` is spoilt: both are named, with what to do; all stays."""
    config, folder = copied
    SPOILT[how](folder / name)
    other = {"last.pt": "best.pt", "best.pt": "last.pt"}[name]
    before = state_of(folder)
    message = rf"(?s){name}.*{other} is whole, of epoch 1: delete {name}.*resume=False"
    with pytest.raises(ValueError, match=message):
        fit(config)
    assert state_of(folder) == before


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_the_advice_about_a_bad_checkpoint(copied, name):
    """The bad one of two checkpoints is deleted, as advised: the run goes on."""
    config, folder = copied
    (folder / name).unlink()
    load_captioner(fit(config).best)
    assert len(fit(replace(config, epochs=2)).history) == 2
    load_captioner(folder / "best.pt")


def test_two_bad_checkpoints(copied):
    """Both checkpoints of a run are spoilt: starting over is offered, and works."""
    config, folder = copied
    for name in "last.pt", "best.pt":
        (folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"last\.pt.*empty.*resume=False starts over"):
        fit(config)
    assert len(fit(config, resume=False).history) == 1


def test_an_optimiser_of_other_weights(copied):
    """What an optimiser remembers has another shape: refused before the first step."""
    config, folder = copied
    for name in "last.pt", "best.pt":
        found = torch.load(folder / name, weights_only=True)
        found["decoder_optimizer"]["state"][0]["exp_avg"] = torch.zeros(2)
        torch.save(found, folder / name)
    with pytest.raises(ValueError, match=r"last\.pt.*decoder_optimizer"):
        fit(replace(config, epochs=2))


@contextlib.contextmanager
def small_disk(size):
    """No file may be larger than `size` bytes: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_disk_fills_while_a_checkpoint_is_written(tmp_path):
    """The disk fills while a checkpoint is written: said so, and the old one stays."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, content())
    before = path.read_bytes()
    with small_disk(5000), pytest.raises(OSError, match=r"last\.pt.*full.*make room"):
        save_checkpoint(path, content(more=torch.ones(9)))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_the_disk_fills_while_a_run_is_going(copied):
    """The disk fills in the middle of a run: the epochs before are kept and go on."""
    config, folder = copied
    more = replace(config, epochs=3)
    before = (folder / "last.pt").read_bytes()
    room = len(before) - 1  # for the examples, but not for a checkpoint
    with small_disk(room), pytest.raises(OSError, match=r"\.pt could not be written"):
        fit(more)
    assert (folder / "last.pt").read_bytes() == before
    assert not [*folder.glob("*.part")] + [*folder.glob("*.lock")]
    assert len(fit(more).history) == 3


WRITERS = {
    "texts": lambda path: files.write_text(path, "a" * 9999),
    "lists": lambda path: files.write_json(path, range(9999)),
    "pictures": lambda path: dataset.write_images(path, *photographs(path)),
}


def photographs(path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(path.parent / "a.png")
    return path.parent, ["a.png"], 1


@pytest.mark.parametrize("what", WRITERS)
def test_the_disk_fills_while_a_file_is_written(tmp_path, what):
    """The disk fills while any other file is written: it is named, no half stays."""
    (tmp_path / "old").write_text("old")
    with small_disk(4000), pytest.raises(OSError, match=r"old could not be written"):
        WRITERS[what](tmp_path / "old")
    assert (tmp_path / "old").read_text() == "old"
    assert not [*tmp_path.glob("*.part")]


class Eyes(torch.nn.Linear):
    """An encoder that needs no time."""

    def begin(self, images):
        return super().forward(images.flatten(2).transpose(1, 2).float())

    def fingerprint(self):
        return "eyes"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_disk_fills_while_features_are_cached(tmp_path):
    """The disk fills while cells are cached: said so; with room, the work is done."""
    with h5py.File(tmp_path / "images.hdf5", "w") as file:
        file["images"] = np.zeros((9, 3, 8, 8), "u1")
        file.attrs["sha256"] = "x"
    what = Eyes(3, 64), tmp_path / "images.hdf5", tmp_path / "cells.hdf5"
    with small_disk(9000), pytest.raises(OSError, match=r"cells\.hdf5.*full"):
        batches.cache_features(*what)
    assert not (tmp_path / "cells.hdf5").exists()
    assert batches.is_cached(what[0], what[1], batches.cache_features(*what))
    assert len([*tmp_path.iterdir()]) == 2


def test_what_fits_is_loaded(tmp_path):
    """A checkpoint without a choice that is new: loaded, with its usual value."""
    found = content()
    del found["config"]["beam_size"], found["config"]["output_stride"]
    save_checkpoint(tmp_path / "best.pt", found)
    loaded = load_model(tmp_path / "best.pt")
    assert loaded.config.beam_size == Config.beam_size
    assert all(
        torch.equal(value, found["decoder"][name])
        for name, value in loaded.decoder.state_dict().items()
    )
