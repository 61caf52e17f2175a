"""The steps to the photographs' recipe, and the command that grades them."""

import json
from itertools import pairwise

import pytest

from satlib import ablation, configuration, files
from satlib.ablation import STEPS, configure, main, train_and_grade
from satlib.files import read_results
from satlib.fit import fit

TINY = {"max_images": 4, "concept_epochs": 1, "epochs": 1, "min_freq": 0}
TINY |= {"image_size": 64, "attention_dim": 8, "embed_dim": 8, "decoder_dim": 8}


@pytest.fixture
def short(tmp_path, monkeypatch):
    """Make the runs tiny, and keep all of them in the folder of the test."""
    monkeypatch.setattr(ablation, "SHORT", TINY)
    monkeypatch.setattr(ablation, "SEEDS", (1,))
    monkeypatch.setattr(configuration, "ROOT", tmp_path / "satlib")
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")


def test_each_step_goes_one_change_further_towards_the_recipe(flickr):
    names = [*STEPS]
    for before, after in pairwise(names):
        assert STEPS[after].items() < STEPS[before].items()
        assert len(STEPS[before]) - len(STEPS[after]) == 1
    whole = vars(configure(flickr, names[-1], 1))
    assert whole["augment"] and whole["concept_epochs"] and whole["output_stride"] == 16
    for name, change in STEPS.items():
        config = vars(configure(flickr, name, 1))
        assert {k: v for k, v in config.items() if v != whole[k]} == change


@pytest.mark.usefixtures("short")
def test_the_command_trains_grades_and_goes_on(flickr, tmp_path, monkeypatch, capsys):
    main([str(flickr)])
    kept = json.loads((tmp_path / "results" / "ablation.json").read_text())
    assert set(kept["steps"]) == set(STEPS)
    assert all(len(rows) == 1 for rows in kept["steps"].values())
    assert "finer grid 1" in capsys.readouterr().out
    monkeypatch.setattr(ablation, "fit", None)  # nothing is trained again
    main([str(flickr)])
    assert read_results("ablation")["steps"] == kept["steps"]


@pytest.mark.usefixtures("short")
def test_a_run_that_has_gone_on_to_the_reward_is_not_graded_as_one_without(flickr):
    splits = ablation.open_collection(flickr)
    reward = configure(flickr, "reward", 1)
    train_and_grade(reward, splits)
    config = configure(flickr, "mirrored images", 1)
    with pytest.raises(ValueError, match=str(fit(reward).folder)):
        train_and_grade(config, splits)


def test_a_folder_without_flickr8k_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Flickr8k\.token\.txt"):
        main([str(tmp_path)])
