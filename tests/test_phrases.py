"""Maps on photographs are graded by boxes: read, matched, measured, as by hand."""

import json

import numpy as np
import pytest
from conftest import tiny_captioner

from satlib import phrases as module
from satlib.grounding import interval
from satlib.phrases import (
    Named,
    by_part,
    captions_of,
    covered,
    grade,
    grade_maps,
    grade_photographs,
    maps_of,
    named_by,
    read_phrases,
)
from satlib.scenes import draw, make_scene

DOG, HORSE = [[0.0, 0.5, 0.5, 1.0]], [[0.5, 0.0, 1.0, 0.25], [0.0, 0.0, 0.25, 0.25]]
ENTRY = {
    "boxes": {"7": DOG, "8": HORSE},
    "captions": [
        {
            "words": ["a", "small", "dog", "looks", "at", "a", "horse"],
            "phrases": [[0, 3, "7", "animals"], [5, 7, "8", "animals"]],
        },
        {"words": ["the", "dog"], "phrases": [[0, 2, "8", "other"]]},
    ],
}


def test_phrases_are_read_with_their_last_word(tmp_path):
    path = tmp_path / "phrases.json"
    path.write_text(json.dumps({"a.jpg": ENTRY}))
    (first, second) = read_phrases(path)["a.jpg"]
    assert first == (
        ENTRY["captions"][0]["words"],
        [Named(2, "animals", DOG), Named(6, "animals", HORSE)],
    )
    assert second == (["the", "dog"], [Named(1, "other", HORSE)])


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"a.jpg": 3}', '{"a.jpg": {"boxes": {}}}', '{"a.jpg": null}']
)
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "phrases.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="phrases.json: no table of phrases"):
        read_phrases(path)


def test_a_word_means_what_people_have_named_with_it():
    words = ["a", "horse", "and", "a", "small", "dog"]
    found = named_by(words, captions_of(ENTRY))
    assert found == [Named(1, "animals", HORSE), Named(5, "animals", DOG + HORSE)]
    assert named_by(["small", "cat"], captions_of(ENTRY)) == []


def test_the_share_that_is_covered():
    shares = covered([[0.0, 0.0, 0.25, 0.5], [0.0, 0.25, 0.75, 0.5]], side=2)
    np.testing.assert_allclose(shares, [[0.75, 0.25], [0, 0]])
    assert covered([[0, 0, 1, 1]]).min() == 1 and covered([]).max() == 0


def test_hit_and_weight_by_hand():
    alpha = np.zeros((2, 2))
    alpha[1, 0], alpha[0, 0] = 0.6, 0.4
    assert grade(alpha, DOG) == (1, 0.6)
    assert grade(alpha, [[0.0, 0.0, 0.5, 0.74]]) == pytest.approx((0, 0.4 + 0.3))
    assert grade(alpha, [[0.0, 0.0, 0.5, 0.75]])[0] == 1  # the centre is at 0.75
    alpha[:] = 0.25  # four peaks, one of them in the box
    assert grade(alpha, DOG) == (0.25, 0.25)


def test_maps_are_graded_beside_their_rivals():
    alphas = np.full((3, 14, 14), 1 / 196)
    alphas[1] = covered(DOG) / 49
    things = [Named(1, "animals", DOG)]
    rows = grade_maps(4, alphas, things, np.random.default_rng(0))
    ours, *others = rows
    expected = {"image": 4, "kind": "animals", "area": 0.25, "map": "the model's"}
    assert ours == expected | {"hit": 1.0, "weight": pytest.approx(1)}
    found = {row["map"]: row for row in others}
    assert [*found] == ["another word's", "central", "random", "even"]
    assert found["even"]["weight"] == found["even"]["hit"] == pytest.approx(0.25)
    assert found["central"]["weight"] == 0.25
    assert grade_maps(4, alphas[:1], things, np.random.default_rng(0)) == []


def test_the_maps_of_a_caption_that_is_read_are_those_of_the_search():
    captioner, picture = tiny_captioner(), draw(make_scene(3))[0]
    (caption,) = captioner.caption([picture], beam_size=1)
    cells = captioner.look([picture])
    other = ["red", "zebra"]
    maps = maps_of(captioner, cells, [caption.words, other])
    assert [m.shape for m in maps] == [(len(caption.words), 14, 14), (2, 14, 14)]
    np.testing.assert_allclose(maps[0], caption.alphas, atol=1e-5)


def test_photographs_are_graded_by_both_captions(monkeypatch):
    picture = draw(make_scene(3))[0]
    captioner = tiny_captioner()
    word = captioner.caption([picture])[0].words[-1]
    captions = [
        (["a", word], [Named(1, "other", DOG)]),
        (["one", "two", "three"], [Named(0, "people", DOG), Named(2, "people", HORSE)]),
    ]
    found = grade_photographs(captioner, [picture] * 2, [captions] * 2)
    own, read = found["its own captions"], found["people's captions"]
    assert {row["image"] for row in own} == {row["image"] for row in read} == {0, 1}
    assert len(read) == 2 * 3 * 5 and len(own) % 5 == 0 and own
    assert {row["kind"] for row in own} == {"other"}
    assert grade_photographs(captioner, [picture] * 2, [captions] * 2) == found


def test_parts_and_intervals():
    rows = [
        {"image": n, "kind": kind, "area": area, "map": m, "hit": hit, "weight": 0.5}
        for n, kind, area, hit in [
            (0, "people", 0.3, 1.0),
            (0, "other", 0.1, 0.0),
            (1, "people", 0.2, 1.0),
        ]
        for m in ("the model's", "even")
    ]
    found = by_part(rows)
    assert [*found] == ["all", "small", "large", "people", "other"]
    words = {part: maps["the model's"]["words"] for part, maps in found.items()}
    assert words == {"all": 3, "small": 2, "large": 1, "people": 2, "other": 1}
    ours = found["all"]["the model's"]
    assert ours["hit"] == pytest.approx(2 / 3) and ours["weight"] == 0.5
    assert ours["hit interval"] == [0.5, 1] and ours["weight interval"] == [0.5, 0.5]
    assert "small" not in by_part(rows[:2])


def test_whole_photographs_are_drawn_for_an_interval():
    alike = interval([1.0] * 90 + [0.0] * 10, [0] * 50 + [1] * 50)
    apart = interval([1.0] * 90 + [0.0] * 10, range(100))
    assert alike == pytest.approx([0.8, 1]) and apart[1] - apart[0] < 0.15


def test_the_command_grades_what_is_there(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        module.main([str(tmp_path)])
    assert "phrases_dev.json: no such file; data/README.md" in capsys.readouterr().err
    (tmp_path / "phrases_dev.json").write_text(json.dumps({"a.jpg": ENTRY}))
    photographs = [tmp_path / name for name in ("b.jpg", "a.jpg")]
    split = {"val": (photographs, None)}
    monkeypatch.setattr(module, "read_flickr8k", lambda folder: split)
    monkeypatch.setattr(module, "load_captioner", lambda: "the captioner")
    card = {"config": {"seed": 3}}
    monkeypatch.setattr(module, "load_checkpoint", lambda path: card)
    rows = [{"image": 0, "kind": "other", "area": 0.1, "map": "the model's"}]
    rows[0] |= {"hit": 1.0, "weight": 0.25}
    seen, kept = [], []

    def graded(*arguments):
        seen.append(arguments)
        return {"its own captions": rows}

    monkeypatch.setattr(module, "grade_photographs", graded)
    monkeypatch.setattr(module, "keep_results", lambda *a, **k: kept.append((a, k)))
    module.main([str(tmp_path)])
    assert seen == [("the captioner", photographs[1:], [captions_of(ENTRY)])]
    ((name, _, seed), found) = kept[0]
    assert (name, seed, found["photographs"]) == ("phrases", 3, 1)
    assert found["its own captions"]["small"]["the model's"]["weight"] == 0.25
