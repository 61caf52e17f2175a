"""The book's committed results reach what its text claims: data/results and the model.

No change of the code can break this, so it is not among the tests; it has a command of
its own: `python -m pytest tests/figures_of_the_book.py`.
"""

import pytest
import torch

from satlib import speed
from satlib.captioner import SHIPPED
from satlib.files import read_results
from satlib.grounding import SEEDS, VARIANTS
from satlib.model import load_checkpoint


def test_what_ships_is_small_plain_and_complete():
    assert SHIPPED.stat().st_size <= 32 * 2**20
    shipped = load_checkpoint(SHIPPED)
    assert set(shipped) >= {
        "encoder",
        "decoder",
        "word_map",
        "config",
        "card",
        "history",
    }
    weights = [*shipped["encoder"].values(), *shipped["decoder"].values()]
    assert all(tensor.dtype == torch.float16 for tensor in weights)
    assert all(torch.isfinite(tensor).all() for tensor in weights)
    assert set(shipped["card"]) == {
        *("model", "data", "terms", "recipe", "limits", "scores")
    }
    paths = ("captions", "images", "splits", "output")
    assert [shipped["config"][name] for name in paths] == [None] * 4


def test_the_kept_scores_reach_what_they_should():
    for name, (least, distinct) in {
        "flickr8k": (0.235, 0.82),
        "everyday": (0.235, 0.86),
    }.items():
        found = read_results("card")["collections"][name]
        best = found["beams"]["5"]
        assert best["BLEU-4"] >= least and best["distinct"] >= distinct
        assert best["repeats"] == 0 < found["free"]["repeats"]
        assert found["deletion"]["interval"][0] > 0


def test_the_kept_calibration_reaches_what_it_should():
    pair = read_results("calibration")["pair"]
    assert load_checkpoint(SHIPPED)["calibration"] == pytest.approx(pair, abs=1e-3)
    for found in read_results("calibration")["collections"].values():
        assert found["error after"] < found["error before"]
        assert found["area interval"][0] > 0.5


def test_the_card_in_the_file_tells_the_kept_scores():
    told = load_checkpoint(SHIPPED)["card"]["scores"]
    for name, found in read_results("card")["collections"].items():
        best = found["beams"]["5"]
        scores = f"BLEU-4 {100 * best['BLEU-4']:.1f}, CIDEr-D {best['CIDEr-D']:.2f}, "
        assert f"{name}: {scores}" in told


@pytest.mark.xfail(strict=True, reason="10,000 photographs do not reach it so far")
def test_the_kept_cider_reaches_what_it_should():
    flickr8k = read_results("card")["collections"]["flickr8k"]
    assert flickr8k["beams"]["5"]["CIDEr-D"] >= 0.64


def test_the_kept_outcome_reaches_what_it_should():
    found = read_results("grounding")
    assert list(found["variants"]) == list(VARIANTS)
    ours = found["variants"]["no penalty, twice the scenes (ours)"]
    assert len(ours) == len(SEEDS)
    for run in ours:
        assert run["BLEU-4"] >= 0.8
        for kind in ("noun hit", "adjective hit"):
            assert run[kind]["the model's"] >= 0.85 > 2 * run[kind]["another word's"]
    for row in found["deletion"].values():
        assert row["interval"][0] > 0


def test_the_kept_results_reach_the_targets():
    rows = {what: middle for what, middle, *_ in speed.table(read_results("speed"))}
    assert rows["training step"] >= 6
    assert rows["epoch on photographs"] >= 15
    assert rows["captions with beam 5"] >= 15
    assert rows["share of the matrix speed"] >= 0.5
    assert rows["peak memory, share of the textbook's"] <= 1
    assert rows["writing files, times Pillow alone"] <= 1.2
