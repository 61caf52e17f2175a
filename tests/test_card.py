"""The captioner that ships: its file, its scores, and the command that grades it."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from satlib.beam_search import FUNCTION
from satlib.calibration import judged, open_collection, platt
from satlib.captioner import load_captioner
from satlib.card import (
    beside_people,
    by_word,
    calibration,
    grade,
    main,
    measure,
    said_freely,
    slim,
)
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
    photographs = open_collection(flickr)["val"][0]
    whole, light = (load_captioner(p) for p in (run.best, path))
    cells = [c.look(photographs) for c in (whole, light)]
    torch.testing.assert_close(*cells, atol=0.2, rtol=0)
    both = [c.caption(photographs, 2) for c in (whole, light)]
    assert [str(c) for c in both[0]] == [str(c) for c in both[1]]


def test_the_official_splits_are_read(flickr):
    splits = open_collection(flickr)
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
        open_collection(tmp_path)


@pytest.mark.parametrize(("file", "needs"), [("dev", "train"), ("train", "val")])
def test_a_split_without_list_is_named(tmp_path, file, needs):
    (tmp_path / "Flickr8k.token.txt").write_text("1.jpg#0\tA dog .\n")
    (tmp_path / f"Flickr_8k.{file}Images.txt").write_text("1.jpg\n")
    with pytest.raises(ValueError, match=f"list of the {needs} split"):
        open_collection(tmp_path)


def test_a_grade_by_hand():
    training = [[["a", "red", "cat"], ["a", "cat"]], [["a", "dog"]]]
    said = [["a", "dog"], ["a", "dog"], ["a", "red", "dog", "here"], ["a", "cat"]]
    found = grade([[words] for words in said], said, training)
    assert found["BLEU-1"] == 1 and found["length"] == 2.5
    assert found["distinct"] == 0.75 and found["verbatim"] == 0.75
    assert found["repeats"] == 0 and found["right"] == 1
    again = [["a", "cat", "and", "a", "cat"], *said[1:]]
    people = [[["a", "cow"]], [["dog"]], [["a", "cat"], ["dog"]], [["x"]]]
    found = grade(people, again, training, {"cat", "dog"})
    assert found["repeats"] == 0.25 and found["right"] == 0.5


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
    with pytest.raises(FileNotFoundError, match=r"phrases_dev\.json"):
        main([str(flickr), "--ship", str(run.best)])
    monkeypatch.setattr("satlib.card.nouns_among", lambda folders: {"picture"})
    judged_by = []

    def two_numbers(captions, people):
        judged_by.append(([caption.words for caption in captions], people))
        return 0.5, 0.25

    monkeypatch.setattr("satlib.card.calibration", two_numbers)
    other = shutil.copytree(flickr, tmp_path / "other")
    main([str(flickr), str(other), "--ship", str(run.best)])
    kept = json.loads((tmp_path / "results" / "card.json").read_text())
    assert [*kept["collections"]] == [flickr.name, "other"]
    assert str(tmp_path) not in json.dumps(kept)
    first, second = kept["collections"].values()
    assert set(first["beams"]) == {"1", "3", "5"} and first["deletion"]["images"] == 4
    assert first["beams"] == second["beams"]
    assert "distinct" in capsys.readouterr().out
    shipped = load_checkpoint(file)
    assert f"{first['beams']['5']['CIDEr-D']:.2f}" in shipped["card"]["scores"]
    captioner = load_captioner(file)
    photographs, people = open_collection(flickr)["val"]
    said = [caption.words for caption in captioner.caption(photographs)]
    assert judged_by == [(said * 2, people * 2)]
    assert captioner.calibration == shipped["calibration"] == (0.5, 0.25)
    before = file.read_bytes()
    main([str(flickr)])
    assert file.read_bytes() == before


def test_a_folder_without_flickr8k_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Flickr8k\.token\.txt"):
        open_collection(tmp_path)


def test_the_calibration_is_of_photographs_with_five_captions():
    log_probs = [math.log(p) for p in (0.5, 0.9, 0.3)]
    words = ["a", "red", "dog"]
    captions = [SimpleNamespace(words=words, word_log_probs=log_probs)] * 3
    people = [[["red"]] * 5, [["red", "dog"]] * 4, [["dog"]] * 5]
    rows = judged(captions[:2], [people[0], people[2]])
    assert [row["word"] for row in rows] == ["red", "dog"] * 2 and "a" in FUNCTION
    odds, right = (np.array([row[name] for row in rows]) for name in ("odds", "right"))
    assert calibration(captions, people) == platt(odds, right)
    silent = SimpleNamespace(words=["a"], word_log_probs=[-0.1])
    assert calibration([silent], people[:1]) is None


def test_people_and_ours_beside_them():
    ours = [SimpleNamespace(words=text.split()) for text in ("a cat", "a cow", "x")]
    people = [
        [["a", "cat"], ["one", "dog"], ["z"], ["z"], ["z"]],
        [["z"], ["a", "cow"], ["z"], ["z"], ["z"]],
        [["x"]] * 4,
    ]
    found = beside_people(ours, people, [], {"cat", "cow", "dog"})
    assert found["named"] == 1 and found["others"]["right"] == 0.5
    assert found["people"]["right"] == 0.5 and found["people"]["length"] == 1.5


def test_a_free_search_is_the_captioners_but_for_the_rule(captioner, pictures):
    said = said_freely(captioner, pictures, batch_size=2)
    assert said == [caption.words for caption in captioner.caption(pictures)]
    seen = []

    def search(*what, **how):
        seen.append((what[2:], how))
        return [[SimpleNamespace(words=[1, 4, 6, 1, 4])]] * len(what[1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("satlib.card.beam_search", search)
        said = said_freely(captioner, pictures, batch_size=2)
    assert said == [["a", "cat", "and", "a", "cat"]] * 3
    how = captioner.word_map, 5, captioner.max_length, captioner.length_power
    assert seen == [(how, {"once": False})] * 2


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
    references = [[f, o, *[["x"]] * 3] for f, o in zip(first, own, strict=True)]
    learnt = ["a ball lies there", "one tree", "a boat is on the sea"]
    of_learnt = [[[*text.split(), "of", "5"]] for text in learnt]
    row = {"word": "cat", "image": 0, "names": True}
    row |= {"before": 0.9, "attended": 0.1, "random": 0.8}
    seen = []

    def deletion(captioner, photographs, captions):
        seen.append((photographs, [c.words for c in captions]))
        return [row, row | {"image": 1}] * 10

    monkeypatch.setattr("satlib.card.deletion", deletion)
    monkeypatch.setattr("satlib.card.said_freely", lambda c, images: [["y"]] * 2)
    captioner = Reader()
    splits = {"val": (val, references), "train": (learnt, of_learnt)}
    found, said = measure(captioner, splits, {"cat"})
    assert [caption.words for caption in said] == own
    assert found["free"] == grade(references, [["y"]] * 2, of_learnt, {"cat"})
    assert captioner.asked == [(2, 1), (2, 3), (2, 5), (3, 5)]
    for beams in (1, 3, 5):
        said = [[*text.split(), "of", str(beams)] for text in val]
        assert found["beams"][beams] == grade(references, said, of_learnt, {"cat"})
    assert found["beams"][5]["BLEU-4"] == 1 > found["beams"][3]["BLEU-4"]
    assert found["training"]["verbatim"] == 1 and found["training"]["BLEU-4"] == 1
    others = [captions[1:] for captions in references]
    assert found["people"] == grade(others, first, of_learnt, {"cat"})
    assert found["others"] == grade(others, own, of_learnt, {"cat"})
    assert seen == [(val, own)]
    assert found["deletion"]["gap"] == pytest.approx(0.7)
    assert found["words"]["cat"]["attended"] == pytest.approx(0.8)
