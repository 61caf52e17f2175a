"""A run's choices are checked, and its checkpoints are plain data."""

from dataclasses import asdict, fields, replace

import pytest
import torch

from satlib.configuration import (
    Config,
    check_same_run,
    config_from,
    folders,
    load_checkpoint,
    save_checkpoint,
)


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
    assert config_from(namespace, besides=["resume"]) == Config(epochs=3)
    with pytest.raises(ValueError, match="'epoch'.*epochs"):
        config_from({"epoch": 3})


def test_equal_choices_share_a_folder_and_others_do_not():
    data, run = folders(Config())
    assert folders(Config(epochs=99, beam_size=1)) == (data, run)
    assert folders(Config(decoder_dim=99))[0] == data
    assert folders(Config(decoder_dim=99))[1] != run
    assert folders(Config(image_size=448))[0] != data
    assert folders(Config(output="here"))[1].name == "here"


def test_a_checkpoint_is_plain_data_and_complete(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"word_map": {"a": 1}, "weight": torch.ones(2)})
    assert torch.equal(load_checkpoint(path)["weight"], torch.ones(2))

    class Code:
        pass

    with pytest.raises(Exception, match="Code"):
        save_checkpoint(path, {"word_map": {}, "code": Code()})
    assert torch.equal(load_checkpoint(path)["weight"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("content", [b"not a checkpoint", b"hello", b"", b"\x89PNG"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="last.pt is not a checkpoint"):
        load_checkpoint(path)
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="no word map"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.pt")


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
        if least is None or choice.name == "stage":
            continue
        real = choice.type in (float, float | None)
        step = 1e-12 if real else 1
        with pytest.raises(ValueError, match=f"{choice.name}="):
            Config(**{choice.name: least - step})
        if most < float("inf"):
            with pytest.raises(ValueError, match=f"{choice.name}="):
                Config(**{choice.name: most + (0.1 if real else 1)})
        if choice.name != "output_stride":
            assert getattr(Config(**{choice.name: least}), choice.name) == least


@pytest.mark.parametrize("choice", fields(Config), ids=lambda choice: choice.name)
def test_a_run_may_go_on_only_with_free_choices_changed(choice):
    """What may change is what no epoch so far depended on."""
    free = {"epochs", "self_critical_epochs", "stop_after", "beam_size"}
    free |= {"length_power", "workers", "output"}
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


@pytest.mark.parametrize("name", OTHER)
def test_other_data_lie_in_another_folder(name):
    config = Config(stage=8) if name == "output_stride" else Config()
    other = replace(config, **{name: OTHER[name]})
    assert folders(config)[0] != folders(other)[0]
    assert folders(other)[1].parent == folders(other)[0]
    assert folders(config)[0].name.startswith("scenes-")
