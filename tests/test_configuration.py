"""A run's choices and a notebook's parameters are checked; runs find their folders."""

import ast
from dataclasses import asdict, dataclass, fields, replace
from typing import get_args, get_origin, get_type_hints

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
        ({"captions": []}, "captions must be text, not"),
        ({"captions": ["a.csv", 3]}, r"captions\[1\] must be text, not 3"),
        ({"captions": ["a.csv", None]}, r"captions\[1\] must be text, not None"),
        ({"weights": 2}, r"weights must be a list, .*-y \"weights: \[1, 2\]\", not 2"),
        ({"weights": []}, "weights must be a list"),
        ({"weights": "[1, 2]"}, "weights must be a list"),
        ({"weights": [1, "much"]}, r"weights\[1\] must be a number, not 'much'"),
        ({"weights": [1, 0]}, r"weights\[1\]=0: must lie between 0.001 and"),
        ({"weights": [1, 2]}, r"weights=\[1.0, 2.0\] for 1 caption files: give one"),
        ({"captioner": "/no/best.pt"}, "captioner='/no/best.pt': there is no file"),
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
    for wrong in {"name": None}, {"share": "one"}, {"count": 2.0}, {"often": 1}:
        with pytest.raises(ValueError, match=f"{[*wrong][0]} must be"):
            check_choices(Choices(**wrong))
    for wrong in {"share": 1.5}, {"count": 0}, {"share": float("nan")}:
        with pytest.raises(ValueError, match=f"{[*wrong][0]}=.*must lie between"):
            check_choices(Choices(**wrong))


def parameters_of(name):
    """A notebook's parameters by name: (type, default)."""
    cells = jupytext.read(ROOT / "chapters" / f"{name}.md").cells
    marked = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
    kinds = {kind.__name__: kind for kind in (bool, float, int, str, list)}
    values = {}
    for node in ast.parse(marked[0]).body:
        default = ast.literal_eval(node.value)
        values[node.target.id] = kinds[node.annotation.id], default
    return values


def choices_of(kind):
    """The fields of a dataclass of choices by name: (type, default)."""
    kinds = get_type_hints(kind)
    return {
        name: (get_origin(first := (get_args(of) or (of,))[0]) or first, default)
        for name, of, default in (
            (c.name, kinds[c.name], c.default) for c in fields(kind)
        )
    }


KEPT = {"grad_clip", "decay_after", "decay_factor", "stop_after"}  # not offered
KEPT |= {"keep_minutes"}


def test_the_training_notebook_offers_the_choices_with_their_types_and_defaults():
    offered = parameters_of("train")
    assert offered.pop("resume") == (bool, True)
    assert offered.pop("test_scores") == (bool, False)
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


def test_what_is_usual_depends_on_the_data_and_the_encoder(tmp_path):
    def values(**choices):
        config = Config(**choices)
        return config.stage, config.image_size, config.alpha_c

    (tmp_path / "captions.csv").write_text("a.png,A cat.")
    mine = {"dataset": "mine", "captions": str(tmp_path / "captions.csv")}
    mine["images"] = str(tmp_path)
    assert values() == values(dataset="scenes") == (5, 224, 0.0)
    assert values(**mine) == (8, 256, 1.0)
    assert values(encoder="efficientnet_b4") == (5, 224, 0.0)
    assert values(encoder="resnet18") == (8, 224, 0.0)
    assert values(stage=3, image_size=64, alpha_c=0.5) == (3, 64, 0.5)
    with pytest.raises(ValueError, match="stage=5 of resnet18"):
        Config(encoder="resnet18", stage=5)
    with pytest.raises(ValueError, match="output_stride=24"):
        Config(output_stride=24)


def test_numbers_stay_within_their_bounds():
    for choice in fields(Config):
        least, most = (choice.metadata.get(end) for end in ("least", "most"))
        if least is None or choice.name in ("stage", "weights"):
            continue
        real = choice.type in (float, float | None)
        step = 1e-12 if real else 1
        with pytest.raises(ValueError, match=f"{choice.name}="):
            Config(**{choice.name: least - step})
        if most < float("inf"):
            with pytest.raises(ValueError, match=f"{choice.name}="):
                Config(**{choice.name: most + (0.1 if real else 1)})
        if choice.name not in ("output_stride", "look_stage"):
            assert getattr(Config(**{choice.name: least}), choice.name) == least


@pytest.mark.parametrize("choice", fields(Config), ids=lambda choice: choice.name)
def test_a_run_may_go_on_only_with_free_choices_changed(choice):
    """What may change is what no epoch so far depended on."""
    free = {"epochs", "self_critical_epochs", "stop_after", "beam_size"}
    free |= {"length_power", "workers", "output", "captions", "images", "splits"}
    free |= {"keep_minutes", "captioner"}
    config = Config()
    checkpoint = {"config": asdict(config), "data": {}}
    checkpoint["config"][choice.name] = "another"
    if choice.name in free:
        check_same_run(checkpoint, config, {}, "last.pt")
    else:
        with pytest.raises(ValueError, match=f"{choice.name}='another'"):
            check_same_run(checkpoint, config, {}, "last.pt")


OTHER = {"seed": 3, "scenes": 20, "min_freq": 2, "max_images": 9, "stage": 4}
OTHER |= {"image_size": 96, "on_error": "skip", "output_stride": 16}
OTHER |= {"look_stage": 5, "caps_per_img": 3, "max_length": 30, "tokens": "characters"}


@pytest.mark.parametrize("name", OTHER)
def test_other_data_lie_in_another_folder(name):
    needed = {"output_stride": {"stage": 8}}
    needed |= {"look_stage": {"stage": 8, "output_stride": 16}}
    config = Config(**needed.get(name, {}))
    other = replace(config, **{name: OTHER[name]})
    assert folders(config)[0] != folders(other)[0]
    assert folders(other)[1].parent == folders(other)[0]
    assert folders(config)[0].name.startswith("scenes-")


@pytest.fixture
def two(tmp_path, monkeypatch):
    """The choices that name two collections, with files that are there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    choices = {"dataset": "both", "captions": [], "images": []}
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.csv").write_text(f"{name}.png,a cat")
        choices["captions"].append(f"~/{name}.csv")
        choices["images"].append(str(tmp_path / name))
    return choices


def test_several_collections_are_lists(two, tmp_path):
    config = Config(**two, splits=[None, "val"], weights=[1, "0.5"])
    assert config.captions == [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    assert config.splits == [None, "val"] and config.weights == [1.0, 0.5]
    assert Config(**asdict(config)) == config
    assert Config(**two | {"images": two["images"][0]}).images == two["images"][0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": ["."]}, r"images=\['.'\], but captions are a list of 2"),
        ({"splits": "train"}, "splits='train', but captions are a list of 2"),
        ({"splits": ["train"]}, "splits=.*, but captions are a list of 2: give one"),
        ({"splits": ["train", "dev"]}, "splits='dev': there is no file or folder"),
        ({"captions": "~/a.csv"}, "images=.* is a list: let captions be one as well"),
        ({"captions": ["~/a.csv", "~/c.csv"]}, "captions='.*c.csv': there is no file"),
        ({"weights": [1]}, r"weights=\[1.0\] for 2 caption files: give one for each"),
    ],
)
def test_lists_that_do_not_fit_together_are_refused(two, wrong, message):
    with pytest.raises(ValueError, match=message):
        Config(**two | wrong)


def test_a_captioner_to_go_on_from_is_not_overwritten(two, tmp_path):
    (tmp_path / "best.pt").touch()
    captioner = {"captioner": "~/best.pt"}
    assert Config(**two, **captioner).captioner == str(tmp_path / "best.pt")
    Config(**two, **captioner, output=str(tmp_path / "run"))
    with pytest.raises(
        ValueError, match="captioner=.* lies in output=.*another output"
    ):
        Config(**two, **captioner, output=f"{tmp_path}/a/..")
    with pytest.raises(ValueError, match="captioner=… goes on with photographs"):
        Config(**captioner)


def test_data_that_lack_something_are_other_data():
    checkpoint = {"config": asdict(Config()), "data": {"images": 1, "captioner": 2}}
    with pytest.raises(ValueError, match="other data: captioner changed"):
        check_same_run(checkpoint, Config(), {"images": 1}, "last.pt")
