"""Right words, reliability, Platt's two numbers, and the area under the curve."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from satlib import calibration as module
from satlib.calibration import (
    against_people,
    area_interval,
    area_under_curve,
    by_halves,
    calibration_error,
    columns,
    judged,
    measure,
    nouns_among,
    nouns_in,
    open_collection,
    platt,
    reliability,
    unsaid,
    with_five,
)
from satlib.captioner import chance, log_odds


def said(text, *probabilities):
    """A caption of content words that were said with these probabilities."""
    log_probs = [float(np.log(p)) for p in probabilities]
    return SimpleNamespace(words=text.split(), word_log_probs=log_probs)


def write_phrases(folder, captions=("a small dog", "a dog on grass")):
    """Write phrase files in which "dog" and "grass" end phrases, "small" does not."""
    rows = [
        {
            "words": text.split(),
            "phrases": [[0, text.split().index("dog") + 1, "1", "x"]],
        }
        for text in captions
    ]
    rows[-1]["phrases"].append([3, 4, "2", "x"])
    for name in module.PHRASES:
        (folder / name).write_text(json.dumps({"1.jpg": {"captions": rows}}))
    return folder


def some_words(count=3000, stretch=0.5, shift=-0.3, seed=0):
    """Draw log odds, and what is right by chances that are known."""
    dice = np.random.default_rng(seed)
    odds = dice.normal(0.5, 2, count)
    right = dice.random(count) < 1 / (1 + np.exp(-stretch * odds - shift))
    return odds, right


def rows_of(odds, right, images=None):
    images = range(len(odds)) if images is None else images
    return [
        {"image": int(i), "word": "x", "odds": float(o), "right": bool(r), "noun": True}
        for i, o, r in zip(images, odds, right, strict=True)
    ]


def test_a_word_is_right_if_one_of_the_people_says_it():
    captions = [said("a red dog", 0.9, 0.5, 0.25), said("cats", 1.0)]
    people = [[["one", "dog"], ["red", "ball"]], [["a", "cat"]]]
    rows = judged(captions, people, {"dog", "cats"})
    assert [(r["image"], r["word"], r["right"], r["noun"]) for r in rows] == [
        (0, "red", True, False),
        (0, "dog", True, True),
        (1, "cats", False, True),
    ]
    assert [r["odds"] for r in rows[:2]] == pytest.approx([0, -np.log(3)])
    assert np.isfinite(rows[2]["odds"]) and rows[2]["odds"] > 13
    assert unsaid([["a", "red", "dog"], ["cats"]], people) == pytest.approx(1 / 3)


def test_a_person_is_judged_by_the_others():
    people = [[["red", "dog"], ["dog"], ["cat"]]]
    captions = [said("red cat", 0.5, 0.5)]
    assert against_people(captions, people) == {"a person": 0.5, "ours": 0.5}


def test_nouns_end_phrases(tmp_path):
    write_phrases(tmp_path)
    assert nouns_in(tmp_path) == {"dog", "grass"}
    assert nouns_among([tmp_path / "none", tmp_path]) == {"dog", "grass"}
    with pytest.raises(FileNotFoundError, match=r"phrases_dev\.json .*none"):
        nouns_among([tmp_path / "none"])
    (tmp_path / "phrases_dev.json").write_text('{"1.jpg": {"captions": [{}]}}')
    with pytest.raises(ValueError, match=r"phrases_dev\.json: no table of phrases"):
        nouns_in(tmp_path)


def test_only_photographs_with_five_captions_are_judged():
    people = [[["a"]] * 5, [["b"]] * 4, [["c"]] * 6]
    assert with_five("xyz", people) == (["x", "z"], [people[0], people[2]])
    with pytest.raises(ValueError, match="none of 1 photographs has five"):
        with_five("x", [[["a"]]])


def test_the_error_by_brute_force():
    odds, right = some_words(1003)
    chances = chance(odds, (1, 0))
    order = sorted(range(1003), key=lambda i: chances[i])
    sizes, expected, at = [101] * 3 + [100] * 7, 0.0, 0
    for size in sizes:
        part = order[at : at + size]
        told, true = (sum(x[i] for i in part) / size for x in (chances, right))
        expected += abs(told - true) * size / 1003
        at += size
    assert calibration_error(chances, right) == pytest.approx(expected)
    assert len(reliability(chances, right)) == 10
    assert len(reliability(chances[:3], right[:3])) == 3


def test_the_error_of_the_honest_and_the_sure():
    right = np.array([True, False] * 50)
    assert calibration_error(np.full(100, 0.5), right) == 0
    assert calibration_error(np.where(right, 1.0, 0.0), right) == 0
    assert calibration_error(np.where(right, 0.0, 1.0), right) == 1


def test_platt_finds_what_torch_finds():
    odds, right = some_words()
    a, b = platt(odds, right)
    yes, no = right.sum(), (~right).sum()
    goal = torch.tensor(np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2)))
    pair, x = torch.zeros(2, dtype=torch.double, requires_grad=True), torch.tensor(odds)
    optimizer = torch.optim.LBFGS([pair], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            pair[0] * x + pair[1], goal
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    assert (a, b) == pytest.approx(pair.tolist(), abs=1e-4)
    assert (a, b) == pytest.approx((0.5, -0.3), abs=0.1)


@pytest.mark.parametrize("odds", [[1.0], [1.0, 1.0, 1.0], [-9.0, 14.0, 14.0]])
@pytest.mark.parametrize("all_right", [True, False])
def test_platt_is_finite_whatever_the_words(odds, all_right):
    a, b = platt(np.array(odds), np.full(len(odds), all_right))
    assert np.isfinite([a, b]).all()
    assert (chance(odds[-1], (a, b)) > 0.5) == all_right


def test_without_a_word_there_is_nothing_to_calibrate():
    with pytest.raises(ValueError, match="no content word"):
        platt(np.array([]), np.array([], bool))


def test_log_odds_and_chance_undo_each_other():
    for p in (0.001, 0.3, 0.999):
        assert chance(log_odds(np.log(p)), (1, 0)) == pytest.approx(p)
    assert 0 < chance(log_odds(-800.0), (5, 0)) < chance(log_odds(0.0), (5, 0)) <= 1


def test_each_half_gets_the_numbers_of_the_other():
    odds, right = some_words(400)
    rows = rows_of(odds, right, images=np.arange(400) // 2)
    images, *_ = columns(rows)
    even = images % 2 == 0
    found = by_halves(rows)
    expected = chance(odds[even], platt(odds[~even], right[~even]))
    np.testing.assert_allclose(found[even], expected)
    expected = chance(odds[~even], platt(odds[even], right[even]))
    np.testing.assert_allclose(found[~even], expected)


def test_the_area_by_brute_force():
    odds, right = some_words(300)
    odds = odds.round(1)  # with ties
    pairs = [(h, low) for h in odds[right] for low in odds[~right]]
    expected = np.mean([(h > low) + (h == low) / 2 for h, low in pairs])
    assert area_under_curve(odds, right) == pytest.approx(expected)
    assert area_under_curve(-odds, right) == pytest.approx(1 - expected)
    assert area_under_curve(odds, np.ones(300, bool)) == 0.5


def test_whole_photographs_are_drawn_for_the_area():
    odds, right = some_words(300, stretch=2)
    apart = area_interval(np.arange(300), odds, right)
    again = np.tile(odds, 4), np.tile(right, 4)  # the same words, four times each
    assert area_interval(np.tile(np.arange(300), 4), *again) == pytest.approx(apart)
    assert apart[0] < area_under_curve(odds, right) < apart[1] < apart[0] + 0.12
    assert area_interval(np.arange(300), odds, right) == apart


def test_what_is_kept():
    odds, right = some_words(600)
    captions = [said("dog", 0.5)] * 3
    people = [[["dog"], ["dog"]]] * 3
    halves = {
        "one": rows_of(odds[:400], right[:400]),
        "two": rows_of(odds[400:], right[400:]),
    }
    found = measure({n: (captions, people, rows) for n, rows in halves.items()})
    assert found["pair"] == platt(odds, right)
    calibrated = by_halves(halves["one"] + halves["two"])
    one, two = found["collections"].values()
    assert (one["words"], two["words"]) == (400, 200) == (one["nouns"], two["nouns"])
    assert two["error before"] == calibration_error(
        chance(odds[400:], (1, 0)), right[400:]
    )
    assert two["error after"] == calibration_error(calibrated[400:], right[400:])
    assert one["error after"] < one["error before"]
    own = by_halves(halves["two"])
    assert two["error alone"] == calibration_error(own, right[400:])
    assert one["unsaid"] == one["unsaid nouns"] == pytest.approx(1 - right[:400].mean())
    assert one["doubted after"] == (calibrated[:400] < 0.5).mean()
    assert one["against four"] == {"a person": 0, "ours": 0}
    assert one["area"] == area_under_curve(odds[:400], right[:400])
    assert two["area interval"] == area_interval(
        np.arange(200), odds[400:], right[400:]
    )
    json.dumps(found)


def test_a_collection_is_read_by_either_name(flickr, world, tmp_path):
    for folder in (flickr, world):
        splits = open_collection(folder)
        assert {split: len(paths) for split, (paths, _) in splits.items()} == {
            "train": 24,
            "val": 4,
            "test": 4,
        }
    with pytest.raises(
        FileNotFoundError, match=r"neither Flickr8k\.token\.txt nor cap"
    ):
        open_collection(tmp_path)


class Sayer:
    """A captioner that says the same of all photographs, more or less surely."""

    def caption(self, photographs):
        return [said("red dog", 0.3 + n / 9, 0.4) for n in range(len(photographs))]


def test_the_command_measures_all_collections(flickr, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "load_captioner", Sayer)
    card = {"config": {"seed": 3}}
    monkeypatch.setattr(module, "load_checkpoint", lambda path: card)
    monkeypatch.setattr("satlib.files.RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"phrases_dev\.json"):
        module.main([str(flickr)])
    nouns = {"dog"}
    monkeypatch.setattr(module, "nouns_among", lambda folders: nouns)
    module.main([str(flickr)])
    kept = json.loads((tmp_path / "calibration.json").read_text())
    assert kept["seed"] == 3 and str(flickr) not in kept["command"]
    found = kept["collections"][flickr.name]
    assert (found["photographs"], found["words"], found["nouns"]) == (4, 8, 4)
    assert found["unsaid nouns"] == 1 and len(kept["pair"]) == 2
