"""A run's choices are checked, and its checkpoints are plain data."""

from dataclasses import asdict, replace

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
