"""The variants of the photographs' recipe, and the command that grades them."""

import json

import pytest

from satlib import ablation, configuration
from satlib.ablation import CHANGES, configure, main, train_and_grade
from satlib.configuration import folders, read_results

TINY = {"max_images": 4, "concept_epochs": 1, "epochs": 1, "min_freq": 0}
TINY |= {"image_size": 64, "attention_dim": 8, "embed_dim": 8, "decoder_dim": 8}


@pytest.fixture
def short(tmp_path, monkeypatch):
    """Make the runs tiny, and keep all of them in the folder of the test."""
    monkeypatch.setattr(ablation, "SHORT", TINY)
    monkeypatch.setattr(ablation, "SEEDS", (1,))
    monkeypatch.setattr(configuration, "ROOT", tmp_path / "satlib")
    monkeypatch.setattr(configuration, "RESULTS", tmp_path / "results")


def test_each_variant_differs_from_the_recipe_in_its_change(flickr):
    whole = configure(flickr, "all of it", 1)
    assert whole.augment and whole.concept_epochs and whole.output_stride == 16
    for name, change in CHANGES.items():
        config = configure(flickr, name, 1)
        differs = [k for k, v in vars(config).items() if v != getattr(whole, k)]
        assert differs == list(change)


@pytest.mark.usefixtures("short")
def test_the_command_trains_grades_and_goes_on(flickr, tmp_path, monkeypatch, capsys):
    main([str(flickr)])
    kept = json.loads((tmp_path / "results" / "ablation.json").read_text())
    assert set(kept["variants"]) == set(CHANGES)
    assert all(len(rows) == 1 for rows in kept["variants"].values())
    assert "no concepts 1" in capsys.readouterr().out
    monkeypatch.setattr(ablation, "fit", None)  # nothing is trained again
    main([str(flickr)])
    assert read_results("ablation")["variants"] == kept["variants"]


@pytest.mark.usefixtures("short")
def test_a_run_that_has_gone_on_to_the_reward_is_not_graded_as_one_without(flickr):
    splits = ablation.read_flickr8k(flickr)
    train_and_grade(configure(flickr, "all of it", 1), splits)
    config = configure(flickr, "no reward", 1)
    with pytest.raises(ValueError, match=str(folders(config)[1])):
        train_and_grade(config, splits)


def test_a_folder_without_flickr8k_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Flickr8k\.token\.txt"):
        main([str(tmp_path)])
