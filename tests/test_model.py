"""A model is built from choices, and kept in a checkpoint of plain data."""

import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from satlib.configuration import Config
from satlib.decoder import Decoder
from satlib.encoder import build_encoder
from satlib.model import (
    build_decoder,
    choose_device,
    encoder_of,
    load_checkpoint,
    load_model,
    new_model,
    save_checkpoint,
    threads_for,
)

WORD_MAP = {"<pad>": 0, "cat": 1, "<start>": 2, "<end>": 3, "<unk>": 4}
SMALL = {"attention_dim": 3, "embed_dim": 5, "decoder_dim": 7, "image_size": 64}


def equal(one, other):
    """Tell whether two modules have the same weights."""
    a, b = one.state_dict(), other.state_dict()
    return [*a] == [*b] and all(torch.equal(a[name], b[name]) for name in a)


def test_a_model_that_looks_with_another_stage_comes_back_from_its_checkpoint(tmp_path):
    layers = {"stage": 8, "output_stride": 16, "look_stage": 5}
    config = Config(**SMALL, **layers)
    model = new_model(config, WORD_MAP)
    state = {
        "decoder": model.decoder.state_dict(),
        "encoder": model.encoder.state_dict(),
    }
    kept = state | {"word_map": WORD_MAP, "config": asdict(config)}
    save_checkpoint(tmp_path / "best.pt", kept)
    loaded = load_model(tmp_path / "best.pt")
    assert loaded.decoder.attention.look_dim == model.encoder.look_dim == 112
    assert equal(loaded.decoder, model.decoder) and equal(loaded.encoder, model.encoder)


def test_a_model_is_what_its_choices_say():
    config = Config(**SMALL, stage=3, dropout=0.25)
    model = new_model(config, WORD_MAP)
    encoder, decoder = model.encoder, model.decoder
    assert equal(encoder, build_encoder(image_size=64, stage=3))
    assert encoder.image_size == 64
    assert decoder.attention.full_att.in_features == 3
    assert tuple(decoder.embedding.weight.shape) == (5, 5)
    assert decoder.decode_step.hidden_size == 7
    assert decoder.dropout.p == 0.25
    assert decoder.init_h.in_features == encoder.encoder_dim
    assert torch.equal(decoder.pool, encoder.pool)
    assert model.config is config and model.word_map is WORD_MAP


def test_an_encoder_that_is_to_be_loaded_is_not_pretrained():
    config = Config(**SMALL)
    blank, known = encoder_of(config, pretrained=False), encoder_of(config)
    assert not equal(blank, known)
    raw = encoder_of(config, standardized=False)
    assert not equal(raw, known) and len(raw.network) == len(known.network)


def test_the_seed_gives_the_first_weights_of_the_decoder():
    encoder = build_encoder(image_size=64, stage=5)
    models = [new_model(Config(**SMALL, seed=n), WORD_MAP, encoder) for n in (1, 1, 2)]
    assert all(model.encoder is encoder for model in models)
    a, b, c = (model.decoder for model in models)
    assert equal(a, b) and not equal(a, c)


@pytest.mark.parametrize("tuned", [False, True])
def test_a_model_comes_back_from_its_checkpoint(tmp_path, tuned):
    path, config = tmp_path / "best.pt", Config(**SMALL)
    model = new_model(config, WORD_MAP)
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1)
    content = {"config": asdict(config), "word_map": WORD_MAP}
    content["decoder"] = model.decoder.state_dict()
    if tuned:
        content["encoder"] = model.encoder.state_dict()
    del content["config"]["length_power"]  # a choice that did not exist yet
    save_checkpoint(path, content)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    found = load_model(path)
    torch.set_rng_state(state)
    assert equal(found.decoder, model.decoder)
    assert equal(found.encoder, model.encoder if tuned else encoder_of(config))
    assert not equal(model.encoder, encoder_of(config))
    assert found.word_map == WORD_MAP
    assert found.config.decoder_dim == 7
    assert found.config.length_power == Config.length_power


def test_the_fastest_device_is_chosen(monkeypatch):
    gpu = torch.device("mps")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: gpu)
    for there, expected in (True, "mps"), (False, "cpu"):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda t=there: t)
        assert choose_device() == torch.device(expected)


def test_the_decoder_s_sizes_do_not_depend_on_the_encoder_s_weights():
    encoder = encoder_of(Config(**SMALL), pretrained=False)
    decoder = build_decoder(Config(**SMALL), WORD_MAP, encoder)
    assert decoder.f_beta.out_features == encoder.encoder_dim


def test_to_caption_nothing_of_the_training_is_imported():
    unwanted = ["training", "concepts", "learner", "validation", "self_critical", "fit"]
    script = f"""
import sys
import satlib.captioner
found = [name for name in {unwanted} if "satlib." + name in sys.modules]
sys.exit(" ".join(found) or 0)
"""
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_is_plain_data_and_complete(tmp_path):
    path = tmp_path / "last.pt"
    config, decoder = Config(**SMALL), Decoder(3, 5, 7, len(WORD_MAP), 11)
    content = {"config": asdict(config), "word_map": WORD_MAP, "more": torch.ones(2)}
    content["decoder"] = decoder.state_dict()
    save_checkpoint(path, content)
    assert torch.equal(load_checkpoint(path)["more"], torch.ones(2))

    class Code:
        pass

    with pytest.raises(Exception, match="Code"):
        save_checkpoint(path, content | {"code": Code()})
    assert torch.equal(load_checkpoint(path)["more"], torch.ones(2))
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


def test_small_products_get_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for size, threads in ((511, 1), (512, 2)):
            decoder = Decoder(2, 2, size, 5, encoder_dim=2)
            with pytest.raises(KeyError), threads_for(decoder):
                assert torch.get_num_threads() == threads
                raise KeyError
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
