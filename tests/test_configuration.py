"""A run's choices and a notebook's parameters are checked; runs find their folders."""

import ast
from dataclasses import asdict, dataclass, fields, replace
from typing import get_args, get_type_hints

import jupytext
import pytest
import torch

from satlib.captioner import CaptionChoices
from satlib.configuration import (
    Config,
    check_choices,
    check_same_run,
    config_from,
    folders,
    number,
)
from satlib.tangle import ROOT


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"epochs": True}, "epochs"),
        ({"dropout": "half"}, "dropout must be a number"),
        ({"dropout": 1.0}, "dropout"),
        ({"max_images": 0}, "max_images"),
        ({"on_error": "ignore"}, "on_error"),
        ({"fine_tune": "false"}, "fine_tune must be True or False"),
        ({"encoder": "nosuch"}, "encoder='nosuch'"),
        ({"output": 3}, "output must be text"),
        ({"dataset": "mine"}, "captions"),
        ({"captions": "captions.csv"}, "scenes"),
        ({"dataset": "mine", "captions": "/no/c.csv", "images": "/no"}, "/no/c.csv"),
    ],
)
def test_a_wrong_value_is_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        Config(**wrong)


def test_a_notebook_s_variables_become_a_configuration():
    namespace = {"epochs": 3, "resume": True, "_": 1, "In": [], "Out": {}, "f": print}
    namespace["torch"] = torch
    assert config_from(namespace, besides={"resume": bool}) == Config(epochs=3)
    with pytest.raises(ValueError, match="'epoch'.*epochs"):
        config_from({"epoch": 3})
    with pytest.raises(ValueError, match="'resum'.*resume"):
        config_from({"resum": False}, besides={"resume": bool})
    with pytest.raises(ValueError, match="resume must be True or False, not 'no'"):
        config_from({"resume": "no"}, besides={"resume": bool})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"chekpoint": "best.pt"}, "no parameter 'chekpoint'; is it one of checkpoint"),
        ({"beam_size": 0}, "beam_size=0: must lie between 1 and"),
        ({"maps": -1}, "maps"),
        ({"maps": 2.5}, "maps must be a whole number, not 2.5"),
        ({"images": 3}, "images must be text, not 3"),
    ],
)
def test_the_caption_notebook_s_parameters_are_checked_alike(wrong, message):
    assert config_from({"maps": 3}, CaptionChoices) == CaptionChoices(maps=3)
    with pytest.raises(ValueError, match=message):
        config_from(wrong, CaptionChoices)


def test_postponed_annotations_are_checked_too():
    """As `from __future__ import annotations` makes them: texts."""

    @dataclass
    class Choices:
        name: "str" = "x"
        share: "float | None" = number(None, 0, 1)
        count: "int" = number(3, 1)
        often: "bool" = False

    check_choices(Choices())
    check_choices(Choices(share=1))  # a whole number is a number
    for wrong in {"name": None}, {"share": "1"}, {"count": 2.0}, {"often": 1}:
        with pytest.raises(ValueError, match=f"{[*wrong][0]} must be"):
            check_choices(Choices(**wrong))
    for wrong in {"share": 1.5}, {"count": 0}, {"share": float("nan")}:
        with pytest.raises(ValueError, match=f"{[*wrong][0]}=.*must lie between"):
            check_choices(Choices(**wrong))


def parameters_of(name):
    """A notebook's parameters by name: (type, default)."""
    cells = jupytext.read(ROOT / "chapters" / f"{name}.md").cells
    marked = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
    values, kinds = {}, {"bool": bool, "float": float, "int": int, "str": str}
    for node in ast.parse(marked[0]).body:
        default = ast.literal_eval(node.value)
        values[node.target.id] = kinds[node.annotation.id], default
    return values


def choices_of(kind):
    """The fields of a dataclass of choices by name: (type, default)."""
    kinds = get_type_hints(kind)
    return {
        choice.name: ((get_args(kinds[choice.name]) or (kinds[choice.name],))[0],
                      choice.default)
        for choice in fields(kind)
    }  # fmt: skip


KEPT = {"grad_clip", "decay_after", "decay_factor", "stop_after"}  # not offered


def test_the_training_notebook_offers_the_choices_with_their_types_and_defaults():
    offered = parameters_of("train")
    assert offered.pop("resume") == (bool, True)
    expected = {k: v for k, v in choices_of(Config).items() if k not in KEPT}
    assert offered == expected
    assert [*offered] == [*expected]  # in the same order


def test_the_caption_notebook_offers_its_choices_with_their_types_and_defaults():
    assert parameters_of("caption") == choices_of(CaptionChoices)


def test_equal_choices_share_a_folder_and_others_do_not():
    data, run = folders(Config())
    assert folders(Config(epochs=99, beam_size=1)) == (data, run)
    assert folders(Config(decoder_dim=99))[0] == data
    assert folders(Config(decoder_dim=99))[1] != run
    assert folders(Config(image_size=448))[0] != data
    assert folders(Config(output="here"))[1].name == "here"


def test_another_run_s_checkpoint_is_refused_by_the_differing_choice():
    config = Config(embed_dim=64)
    checkpoint = {"config": asdict(config), "data": {"n": 3}}
    free = replace(config, epochs=50, beam_size=1)
    check_same_run(checkpoint, free, {"n": 3}, "last.pt")
    with pytest.raises(ValueError, match="embed_dim=64, not 65"):
        check_same_run(checkpoint, replace(config, embed_dim=65), {"n": 3}, "last.pt")
    with pytest.raises(ValueError, match="other data"):
        check_same_run(checkpoint, config, {"n": 4}, "last.pt")
