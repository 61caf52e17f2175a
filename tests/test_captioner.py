"""What a caption says of itself, against the model's formulas taken literally."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import spotted, tiny_captioner

import satlib
from satlib import captioner as captioner_module
from satlib.beam_search import repeats
from satlib.captioner import (
    SHIPPED,
    Caption,
    chance,
    find_photographs,
    load_captioner,
    log_odds,
)
from satlib.model import load_checkpoint, save_checkpoint


@torch.no_grad()
def literal(captioner, picture, words):
    """Yield for each word, then for <end>: log-probabilities (V,), map, mean gate."""
    d, ids = captioner.decoder, captioner.word_map
    cells = captioner.look([picture])[0]
    regions = cells if d.pool is None else d.pool @ cells
    h, c = d.init_h(regions.mean(0)), d.init_c(regions.mean(0))
    for t, word in enumerate(["<start>", *words]):
        att = d.attention
        keys = (att.encoder_att(regions) + att.decoder_att(h)).clamp(min=0)
        alpha = att.full_att(keys)[:, 0].softmax(0)
        gate = torch.sigmoid(d.f_beta(h))
        x = torch.cat([d.embedding.weight[ids[word]], gate * (alpha @ regions)])
        cell = d.decode_step
        pre = cell.weight_ih @ x + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh
        i, f, g, o = pre.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        scores = d.fc.weight @ h + d.fc.bias
        silent = ["<pad>", "<start>", "<unk>"] + ["<end>"] * (t == 0)
        scores[[ids[token] for token in silent]] = -torch.inf
        yield scores.log_softmax(0), alpha, gate.mean()


def check(captioner, picture, caption):
    """Compare everything that a caption tells with the formulas."""
    names = [*captioner.word_map]
    *steps, last = literal(captioner, picture, caption.words)
    assert len(caption.words) == len(caption.alphas) == len(caption.rivals)
    told = zip(
        caption.words,
        caption.word_log_probs,
        caption.alphas,
        caption.gates,
        caption.rivals,
        steps,
        strict=True,
    )
    said = enumerate(told)
    for at, (word, log_prob, alpha, gate, rivals, (expected, weights, opened)) in said:
        before = caption.words[:at]
        own = captioner.word_map[word]
        assert log_prob == pytest.approx(expected[own].item(), abs=1e-4)
        looks = weights.view(14, 14).cpu().numpy()
        np.testing.assert_allclose(alpha, looks, atol=1e-5)
        assert gate == pytest.approx(opened.item(), abs=1e-5)
        may = [i for i in expected.argsort(descending=True).tolist() if i != own]
        ways = {i: [] if names[i] == "<end>" else [names[i], "…"] for i in may}
        order = [i for i in may if not repeats([*before, *ways[i]])][:4]
        assert [name for name, _ in rivals] == [names[i] for i in order]
        chances = expected[order].exp().tolist()
        assert [p for _, p in rivals] == pytest.approx(chances, abs=1e-5)
    total = sum(caption.word_log_probs)
    if caption.finished:
        total += last[0][captioner.word_map["<end>"]].item()
    assert caption.log_prob == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("beam_size", [1, 3, 7])
def test_a_caption_tells_the_truth_about_itself(captioner, pictures, beam_size):
    for picture, caption in zip(
        pictures, captioner.caption(pictures, beam_size), strict=True
    ):
        assert len(caption.beams) == beam_size - 1
        for found in (caption, *caption.beams):
            check(captioner, picture, found)
            assert found is caption or found.beams == []
        assert len({str(c) for c in (caption, *caption.beams)}) == beam_size


def test_gates_and_rivals_of_unsure_captions(pictures):
    """Gates that are nearly shut or open, rivals that are nearly as probable."""
    captioner = tiny_captioner()
    with torch.no_grad():
        captioner.decoder.f_beta.weight.mul_(30)
        captioner.decoder.fc.weight.mul_(0.4)
    gates = []
    for picture in (pictures[1], spotted()):
        (caption,) = captioner.caption([picture], 3)
        gates += caption.gates
        check(captioner, picture, caption)
        assert caption.rivals[0][0][1] > 0.03
    assert max(gates) - min(gates) > 0.05


@pytest.mark.parametrize("power", [0.0, 0.7, 2.0])
def test_beams_stand_in_the_order_of_their_score(captioner, pictures, power):
    captioner.length_power, before = power, captioner.length_power
    try:
        captions = captioner.caption(pictures, beam_size=12)
    finally:
        captioner.length_power = before
    for caption in captions:
        beams = [caption, *caption.beams]
        keys = [
            (not c.finished, -c.log_prob / (len(c.words) + c.finished) ** power)
            for c in beams
        ]
        assert keys == sorted(keys)


def test_a_higher_power_of_length_prefers_longer_captions(planted):
    lengths = []
    for power in (0.0, 50.0):
        planted.length_power, before = power, planted.length_power
        try:
            lengths.append(len(planted.caption([spotted()], 40)[0].words))
        finally:
            planted.length_power = before
    assert lengths[0] == 2 < lengths[1]


def test_any_number_of_photographs_in_their_order(captioner, pictures):
    singles = [str(captioner.caption([picture])[0]) for picture in pictures]
    many = captioner.caption(pictures * 3, batch_size=2)
    assert [str(caption) for caption in many] == singles * 3
    assert captioner.caption([]) == []


def test_a_caption_without_end_has_fifty_words(pictures):
    captioner = tiny_captioner()
    with torch.no_grad():
        captioner.decoder.fc.bias[captioner.word_map["<end>"]] = -1e9
    (caption,) = captioner.caption(pictures[:1], beam_size=2)
    assert len(caption.words) == 50 and not caption.finished
    check(captioner, pictures[0], caption)


def test_what_stands_by_default(captioner, pictures):
    (caption,) = captioner.caption(pictures[:1])
    assert len(caption.beams) == 4  # five beams
    assert captioner.length_power == 0.7
    assert caption.finished and str(caption) == "a red cat sits here"
    assert not captioner.encoder.training and not captioner.decoder.training


def test_the_cells_are_those_of_the_encoder(captioner, pictures):
    cells = captioner.look(pictures[:2])
    squares = [p.resize((64, 64), 3) for p in pictures[:2]]  # 3 is bicubic
    images = torch.tensor(np.stack([np.asarray(p) for p in squares]))
    expected = captioner.encoder(images.permute(0, 3, 1, 2).contiguous())
    torch.testing.assert_close(cells, expected)


def test_a_single_photograph_is_refused(captioner, pictures, tmp_path):
    for single in (pictures[0], np.asarray(pictures[0]), "a.png", tmp_path):
        with pytest.raises(TypeError, match=r"takes a list of photographs: \[photog"):
            captioner.caption(single)
    many = captioner.caption(np.stack([np.asarray(p) for p in pictures]))
    assert len(many) == len(pictures)


def test_without_a_path_the_captioner_that_ships():
    captioner = load_captioner()
    assert captioner.word_map["<pad>"] == 0 and len(captioner.word_map) > 2000
    assert SHIPPED.name == "captioner.pt"


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt: no captioner there"):
        load_captioner(tmp_path / "none.pt")


def test_the_names_that_one_types_are_there():
    assert {"load_captioner", "explore", "attention_figure", "Config"} <= {
        *satlib.__all__
    }
    for name in satlib.__all__:
        value = getattr(satlib, name)
        assert name == "__version__" or value.__name__ == name
        assert name == "__version__" or value.__module__.startswith("satlib.")
    with pytest.raises(AttributeError, match="'satlib' has no attribute 'caption'"):
        satlib.caption  # noqa: B018


def test_the_photographs_of_a_folder(tmp_path):
    names = ["a.png", "b.JPG", "c.webp", "d.tiff", "f.jpeg", "g.tif", "h.bmp", "i.gif"]
    for name in (*names[::-1], "notes.txt", "e"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "inner").mkdir()
    found = find_photographs(tmp_path)
    assert found == [tmp_path / name for name in names]
    assert find_photographs(str(tmp_path / "notes.txt")) == [tmp_path / "notes.txt"]
    with pytest.raises(ValueError, match=r"no photograph \(JPEG.* it holds nothing"):
        find_photographs(tmp_path / "inner")
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such file"):
        find_photographs(tmp_path / "nowhere")


def test_a_captioner_is_what_its_checkpoint_says(tmp_path):
    """Sizes, weights of the encoder, and choices that were made before there were."""
    captioner = load_captioner()
    checkpoint = torch.load(SHIPPED, weights_only=True)
    for part in ("encoder", "decoder"):
        own = getattr(captioner, part).state_dict()
        assert own.keys() == checkpoint[part].keys()
        for name, tensor in own.items():
            assert torch.equal(tensor.cpu(), checkpoint[part][name].float()), name
    assert captioner.image_size == checkpoint["config"]["image_size"]
    del checkpoint["config"]["length_power"]
    torch.save(checkpoint, tmp_path / "old.pt")
    assert load_captioner(str(tmp_path / "old.pt")).length_power == 0.7
    checkpoint["config"]["length_power"] = 1.5
    torch.save(checkpoint, tmp_path / "new.pt")
    assert load_captioner(tmp_path / "new.pt").length_power == 1.5


def test_a_frozen_encoder_is_the_pretrained_one(captioner, pictures, tmp_path):
    """Its weights are not in the checkpoint."""
    sizes = {"attention_dim": 16, "embed_dim": 16, "decoder_dim": 32}
    config = sizes | {"encoder": "efficientnet_lite0", "stage": 5, "image_size": 64}
    checkpoint = {"config": config, "word_map": captioner.word_map}
    checkpoint["decoder"] = captioner.decoder.state_dict()
    torch.save(checkpoint, tmp_path / "best.pt")
    loaded = load_captioner(tmp_path / "best.pt")
    torch.testing.assert_close(loaded.look(pictures), captioner.look(pictures))
    found = [str(caption) for caption in loaded.caption(pictures)]
    assert found == [str(caption) for caption in captioner.caption(pictures)]


def test_the_next_batch_is_encoded_while_one_is_searched(
    captioner, pictures, monkeypatch
):
    """The search of the first of three batches waits until the second is encoded."""
    encoded, begun, search = [], threading.Event(), captioner_module.beam_search
    cells = captioner._cells

    def encode(squares):
        encoded.append(threading.current_thread())
        if len(encoded) == 2:
            begun.set()
        return cells(squares)

    def searching(*what, **how):
        assert begun.wait(60)
        return search(*what, **how)

    alone = [str(captioner.caption([picture])[0]) for picture in pictures]
    monkeypatch.setattr(captioner, "_cells", encode)
    monkeypatch.setattr(captioner_module, "beam_search", searching)
    before, threads = torch.get_num_threads(), threading.active_count()
    found = captioner.caption(pictures, batch_size=1)
    assert [str(caption) for caption in found] == alone
    assert len(encoded) == 3 and threading.current_thread() not in encoded
    assert torch.get_num_threads() == before
    assert threading.active_count() == threads


def test_an_error_in_the_thread_that_encodes_is_told(captioner, pictures, monkeypatch):
    def fail(squares):
        raise RuntimeError("the encoder is broken")

    monkeypatch.setattr(captioner, "_cells", fail)
    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="the encoder is broken"):
        captioner.caption(pictures, batch_size=1)
    assert threading.active_count() == threads


def test_a_calibrated_caption_tells_chances_and_doubts(captioner, pictures):
    plain = captioner.caption(pictures, 2)
    assert all(p is None for c in plain for p in c.chances)

    def doubting(*pair):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(captioner, "calibration", pair)
            return captioner.caption(pictures, 2)

    for caption, before in zip(doubting(0.5, -3.0), plain, strict=True):
        assert caption.words == before.words and len(caption.beams) == 1
        for found in (caption, *caption.beams):
            told = zip(found.words, found.word_log_probs, found.chances, strict=True)
            for word, log_prob, p in told:
                if word in ("a", "and"):
                    assert p is None
                else:
                    assert type(p) is float
                    assert p == pytest.approx(chance(log_odds(log_prob), (0.5, -3.0)))
    assert [str(c) for c in doubting(0.0, 3.0)] == [str(c) for c in plain]
    assert str(doubting(0.0, -3.0)[0]) == "a red? cat? sits? here?"


def test_a_doubt_is_less_than_a_half():
    rest = np.zeros((3, 2, 2)), -1.0, [-1.0] * 3, [[]] * 3, [0.5] * 3, True
    words = ["a", "red", "cat"]
    caption = Caption(words, *rest, chances=[None, 0.5, 0.49])
    assert str(caption) == "a red cat?" and caption.doubted == ["a", "red", "cat?"]
    assert caption.words == words
    assert str(Caption(words, *rest)) == "a red cat"
    assert Caption(words, *rest).chances == [None] * 3


def done_best(done):
    return next(Path(done.output).rglob("best.pt"))


@pytest.mark.parametrize("pair", [(1.5, -0.25), [2, 0], None])
def test_a_checkpoint_brings_its_calibration(done, tmp_path, pair):
    checkpoint = load_checkpoint(done_best(done))
    path = tmp_path / "best.pt"
    save_checkpoint(path, checkpoint | {"calibration": pair})
    found = load_captioner(path).calibration
    assert found == (pair if pair is None else tuple(pair))
    assert load_captioner(done_best(done)).calibration is None


@pytest.mark.parametrize(
    "damaged",
    ["1, 2", (1.0,), (1.0, 2.0, 3.0), (1.0, float("nan")), (True, 1.0), {}, 3],
)
def test_a_damaged_calibration_is_refused(done, tmp_path, damaged):
    checkpoint = load_checkpoint(done_best(done))
    path = tmp_path / "best.pt"
    save_checkpoint(path, checkpoint | {"calibration": damaged})
    with pytest.raises(ValueError, match=r"best\.pt.*calibration .*two finite.*--ship"):
        load_captioner(path)
