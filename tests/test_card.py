"""The captioner that ships: its file, its scores, and the command that grades it."""

import json
import math
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from satlib.captioner import load_captioner
from satlib.card import by_word, grade, main, measure, read_flickr8k, slim
from satlib.configuration import Config
from satlib.fit import fit
from satlib.model import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def run(flickr, tmp_path_factory):
    config = Config(
        dataset="world",
        captions=str(flickr / "Flickr8k.token.txt"),
        images=str(flickr / "Images"),
        splits=str(flickr),
        output=str(tmp_path_factory.mktemp("run")),
        min_freq=0,
        image_size=64,
        attention_dim=16,
        embed_dim=16,
        decoder_dim=32,
        epochs=2,
        decoder_lr=0.03,
        fine_tune=True,
    )
    return fit(config)


def test_the_slim_file_captions_as_the_checkpoint_does(run, flickr, tmp_path):
    path = tmp_path / "slim.pt"
    save_checkpoint(path, slim(load_checkpoint(run.best)))
    assert path.stat().st_size < run.best.stat().st_size / 5
    assert str(flickr) not in repr(load_checkpoint(path))
    photographs = read_flickr8k(flickr)["val"][0]
    whole, light = (load_captioner(p) for p in (run.best, path))
    cells = [c.look(photographs) for c in (whole, light)]
    torch.testing.assert_close(*cells, atol=0.2, rtol=0)
    both = [c.caption(photographs, 2) for c in (whole, light)]
    assert [str(c) for c in both[0]] == [str(c) for c in both[1]]


def test_the_official_splits_are_read(flickr):
    splits = read_flickr8k(flickr)
    assert {split: len(paths) for split, (paths, _) in splits.items()} == {
        "train": 24,
        "val": 4,
        "test": 4,
    }
    paths, captions = splits["val"]
    assert paths[0] == flickr / "Images" / "024.png"
    assert captions[0][0] == ["this", "picture", "is", "red", "all", "of", "it0"]


def test_a_photograph_without_captions_is_named(tmp_path):
    (tmp_path / "Flickr8k.token.txt").write_text("1.jpg#0\tA dog .\n")
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("1.jpg\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("2.jpg\n")
    with pytest.raises(ValueError, match=r"val lists 2\.jpg"):
        read_flickr8k(tmp_path)


@pytest.mark.parametrize(("file", "needs"), [("dev", "train"), ("train", "val")])
def test_a_split_without_list_is_named(tmp_path, file, needs):
    (tmp_path / "Flickr8k.token.txt").write_text("1.jpg#0\tA dog .\n")
    (tmp_path / f"Flickr_8k.{file}Images.txt").write_text("1.jpg\n")
    with pytest.raises(ValueError, match=f"list of the {needs} split"):
        read_flickr8k(tmp_path)


def test_a_grade_by_hand():
    training = [[["a", "red", "cat"], ["a", "cat"]], [["a", "dog"]]]
    said = [["a", "dog"], ["a", "dog"], ["a", "red", "dog", "here"], ["a", "cat"]]
    found = grade([[words] for words in said], said, training)
    assert found["BLEU-1"] == 1 and found["length"] == 2.5
    assert found["distinct"] == 0.75 and found["verbatim"] == 0.75


def test_losses_of_frequent_words():
    dog = {"word": "dog", "before": 0.9, "attended": 0.1, "random": 0.8}
    rows = [dog, dog | {"attended": 0.3}] * 10 + [dog | {"word": "cat"}] * 19
    error = np.std([0.8, 0.6] * 10, ddof=1) / 20**0.5
    expected = {"attended": 0.7, "random": 0.1, "error": error}
    assert by_word(rows) == {"dog": pytest.approx(expected)}


def test_the_command_ships_and_grades(run, flickr, tmp_path, monkeypatch, capsys):
    file = tmp_path / "captioner.pt"
    monkeypatch.setattr("satlib.card.SHIPPED", file)
    monkeypatch.setattr("satlib.captioner.SHIPPED", file)
    monkeypatch.setattr("satlib.files.RESULTS", tmp_path / "results")
    main([str(flickr), "--ship", str(run.best)])
    kept = json.loads((tmp_path / "results" / "card.json").read_text())
    assert set(kept["beams"]) == {"1", "3", "5"} and kept["deletion"]["images"] == 4
    assert "distinct" in capsys.readouterr().out
    assert (
        f"{kept['beams']['5']['CIDEr-D']:.2f}"
        in load_checkpoint(file)["card"]["scores"]
    )
    before = file.read_bytes()
    main([str(flickr)])
    assert file.read_bytes() == before


def test_a_folder_without_flickr8k_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Flickr8k\.token\.txt"):
        read_flickr8k(tmp_path)


def test_the_photographs_teach_what_their_page_tells():
    told = {"chelsea.png": "dog", "horse.png": "dog", "coffee.png": "red"}
    folder = files("skimage") / "data"
    captions = load_captioner().caption([folder / name for name in told])
    for caption, word in zip(captions, told.values(), strict=True):
        assert word in caption.words
    horse = captions[1]
    assert "snow" in horse.words
    assert math.exp(horse.word_log_probs[horse.words.index("dog")]) > 0.9


class Reader:
    """A captioner that says the names of photographs, and how many beams it has."""

    def __init__(self):
        self.asked = []

    def caption(self, images, beam_size=5):
        self.asked.append((len(images), beam_size))
        return [
            SimpleNamespace(words=[*image.split(), "of", str(beam_size)])
            for image in images
        ]


def test_what_is_measured_and_against_what(monkeypatch):
    val = ["a red cat sits", "a dog runs here"]
    own = [[*text.split(), "of", "5"] for text in val]
    first = [["a", "cat", "is", "red", "here"], ["some", "dog", "runs", "away", "now"]]
    references = [[first[0], own[0], ["x"]], [first[1], own[1], ["y"]]]
    learnt = ["a ball lies there", "one tree", "a boat is on the sea"]
    of_learnt = [[[*text.split(), "of", "5"]] for text in learnt]
    row = {"word": "cat", "image": 0, "names": True}
    row |= {"before": 0.9, "attended": 0.1, "random": 0.8}
    seen = []

    def deletion(captioner, photographs, captions):
        seen.append((photographs, [c.words for c in captions]))
        return [row, row | {"image": 1}] * 10

    monkeypatch.setattr("satlib.card.deletion", deletion)
    captioner = Reader()
    splits = {"val": (val, references), "train": (learnt, of_learnt)}
    found = measure(captioner, splits)
    assert captioner.asked == [(2, 1), (2, 3), (2, 5), (3, 5)]
    for beams in (1, 3, 5):
        said = [[*text.split(), "of", str(beams)] for text in val]
        assert found["beams"][beams] == grade(references, said, of_learnt)
    assert found["beams"][5]["BLEU-4"] == 1 > found["beams"][3]["BLEU-4"]
    assert found["training"]["verbatim"] == 1 and found["training"]["BLEU-4"] == 1
    others = [captions[1:] for captions in references]
    assert found["people"] == grade(others, first, of_learnt)
    assert found["others"] == grade(others, own, of_learnt)
    assert seen == [(val, own)]
    assert found["deletion"]["gap"] == pytest.approx(0.7)
    assert found["words"]["cat"]["attended"] == pytest.approx(0.8)
