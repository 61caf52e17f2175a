"""Grading maps, and taking away what was looked at."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from satlib.captioner import Caption
from satlib.configuration import Config, read_results
from satlib.grounding import (
    SEEDS,
    VARIANTS,
    Variant,
    blank,
    deletion,
    grade,
    grade_captions,
    mark_cells,
    mean_of,
    named_cells,
    open_variant,
    rivals,
    summary,
    train_variant,
    unseen_scenes,
    word_probabilities,
)
from satlib.model import encoder_of, new_model
from satlib.scenes import draw, make_scene


def test_cells_that_overlap_a_mask():
    mask = np.zeros((256, 256), bool)
    mask[0, 0] = mask[255, 255] = mask[128, 18] = True  # 18.29 pixels to a cell
    rows, columns = mark_cells(mask).nonzero()
    marked = list(zip(rows.tolist(), columns.tolist(), strict=True))
    assert marked == [(0, 0), (7, 0), (7, 1), (13, 13)]


def test_every_pixel_marks_the_cell_it_lies_in():
    for row, column in np.random.default_rng(0).integers(0, 256, (50, 2)):
        mask = np.zeros((256, 256), bool)
        mask[row, column] = True
        assert mark_cells(mask)[row * 14 // 256, column * 14 // 256]


def test_the_grade_of_a_map():
    cells = np.zeros((14, 14), bool)
    cells[3, 4:6] = True
    alpha = np.full((14, 14), 0.5)
    alpha[3, 4] = 2
    hit, weight = grade(alpha, cells)
    assert hit == 1 and weight == pytest.approx(2.5 / (2 + 0.5 * 195))
    alpha[3, 4], alpha[9, 9] = 0.5, 2
    assert grade(alpha, cells)[0] == 0
    assert grade(np.ones((14, 14)), cells) == pytest.approx((2 / 196, 2 / 196))


def test_named_things_and_their_cells():
    scene = make_scene(12)
    thing, masks = scene.objects[0], draw(scene)[1]
    words = f"there is a {thing.colour} {thing.name} here".split()
    found = named_cells(words, scene, masks)
    assert [(i, kind) for i, kind, _ in found] == [(3, "adjective"), (4, "noun")]
    assert (found[0][2] == mark_cells(masks[0])).all()
    other = "green" if thing.colour != "green" else "red"
    assert named_cells(f"a {other} {thing.name}".split(), scene, masks)
    assert not named_cells(["a", "red", "spaceship"], scene, masks)


def test_perfect_maps_get_full_marks_and_rivals_do_not():
    scene = make_scene(12)
    thing, masks = scene.objects[0], draw(scene)[1]
    words = f"a {thing.colour} {thing.name} stands here".split()
    alphas = np.random.default_rng(0).random((len(words), 14, 14))
    alphas[1] = alphas[2] = mark_cells(masks[0])
    alphas /= alphas.sum((1, 2), keepdims=True)
    caption = Caption(words, alphas, 0.0, [], [], [], True)
    rows = grade_captions([caption], [scene])
    assert mean_of(rows, "hit", map="the model's") == 1
    assert mean_of(rows, "weight", map="the model's", kind="noun") == pytest.approx(1)
    share = mark_cells(masks[0]).mean()
    assert mean_of(rows, "hit", map="even") == pytest.approx(share)
    assert 0 < mean_of(rows, "weight", map="random") < 0.5


def test_rivals_are_maps_too():
    alphas = np.random.default_rng(0).dirichlet(np.ones(196), 4).reshape(4, 14, 14)
    for name, alpha in rivals(alphas, 1, np.random.default_rng(1)).items():
        assert alpha.shape == (14, 14) and (alpha >= 0).all(), name
        assert not np.allclose(alpha, alphas[1]), name


def test_blank_takes_the_tenth_with_most_weight():
    cells = torch.randn(20, 3)
    weights = torch.rand(4, 20)
    found = blank(cells, weights)
    changed = (found != cells).any(2)
    assert (changed.sum(1) == 2).all()
    top = weights.topk(2).indices
    assert changed.gather(1, top).all()
    assert torch.allclose(found[changed], cells.mean(0).expand(8, 3))


def test_word_probabilities_are_those_of_the_search(captioner):
    picture = draw(make_scene(3))[0]
    caption = captioner.caption([picture], beam_size=1)[0]
    words = caption.words[:6]
    cells = captioner.look([picture])[0].expand(len(words), -1, -1)
    found = word_probabilities(captioner, cells, words)
    for p, log_prob in zip(found, caption.word_log_probs, strict=False):
        assert 0 < p <= np.exp(log_prob) + 1e-5  # the search forbids some words
    with torch.no_grad():
        row = torch.tensor([[6, *(captioner.word_map[w] for w in words), 7]])
        decoded = captioner.decoder(cells[:1], row, torch.tensor([row.shape[1]]))
    own = decoded.scores.softmax(1)[torch.arange(len(words)), row[0, 1:-1]]
    assert torch.allclose(torch.from_numpy(found), own, atol=1e-5)


def test_deletion_has_a_row_for_each_word(captioner):
    picture = draw(make_scene(3))[0]
    captions = captioner.caption([picture], beam_size=1)
    rows = deletion(captioner, [picture], captions)
    assert [row["word"] for row in rows] == captions[0].words
    assert all(0 < row[case] < 1 for row in rows for case in ("before", "attended"))


def test_the_summary_of_a_deletion():
    cat = {"word": "cat", "before": 0.9, "attended": 0.1, "random": 0.8}
    rows = [{"image": n, **cat} for n in (0, 1, 2, 3, 4, 4)]
    a = {"word": "a", "before": 0.9, "attended": 0.9, "random": 0.9}
    rows += [{"image": n, **a} for n in (0, 5)]
    found = summary(rows)
    assert found["gap"] == pytest.approx(0.7 * 6 / 8)
    assert found["attended counts more"] == 0.75 and found["words"] == 8
    low, high = found["interval"]
    assert 0.1 < low < found["gap"] < high < 0.71 and found["images"] == 6


def test_words_of_one_image_are_no_independent_evidence():
    cases = {"before": 1.0, "attended": 0.2, "random": 1.0}
    rows = [{"image": n, "word": "x", **cases} for n in range(5)]
    rows += [{"image": n, "word": "x", **cases, "random": 0.2} for n in range(5, 10)]
    once, often = summary(rows)["interval"], summary(rows * 20)["interval"]
    assert often == pytest.approx(once)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny run on forty scenes."""
    sizes = {"decoder_dim": 8, "attention_dim": 8, "embed_dim": 8, "image_size": 64}
    folder = str(tmp_path_factory.mktemp("variants"))
    return Config(scenes=40, epochs=1, min_freq=0, output=folder, **sizes)


@pytest.fixture(scope="module")
def opened(tiny):
    return open_variant(Variant(tiny))


def test_a_variant_is_opened_on_its_cells(tiny, opened):
    encoder, dataset, word_map = opened
    assert len(dataset) == 32 and "cat" in word_map
    raw, as_they_come, _ = open_variant(Variant(tiny, standardized=False))
    norm = encoder.network[-1]
    assert norm.running_var.max() > 2  # so that there is something to see
    spread = norm.running_var.sqrt().cpu()
    cells = norm.running_mean.cpu() + spread * dataset[3][0].float()
    assert torch.allclose(as_they_come[3][0].float(), cells, atol=0.05, rtol=0.01)
    assert raw.encoder_dim == encoder.encoder_dim
    assert unseen_scenes(tiny)[0].objects  # the test split, as scenes


def weights_of(variant, opened, seed=3):
    """The weights of a variant's decoder after its training, on the CPU."""
    captioner = train_variant(variant, seed, *opened)
    assert captioner.encoder is opened[0]
    return {k: v.cpu() for k, v in captioner.decoder.state_dict().items()}


def test_variants_are_trained_as_they_say(tiny, opened):
    first = new_model(replace(tiny, seed=3), opened[2], encoder_of(tiny)).decoder
    plain = weights_of(Variant(tiny), opened)
    assert not torch.equal(plain["fc.weight"], first.fc.weight)
    again = weights_of(Variant(tiny), opened)
    assert all(torch.equal(again[name], plain[name]) for name in plain)
    other = weights_of(Variant(tiny), opened, seed=4)
    assert not torch.equal(other["fc.weight"], plain["fc.weight"])


def test_the_average_is_not_the_weights(tiny, opened):
    plain = weights_of(Variant(tiny), opened)
    last = weights_of(Variant(tiny, averaged=False), opened)
    between = (last["fc.weight"] - plain["fc.weight"]).abs().max()
    assert 0 < between < 0.02  # four steps of at most 0.0015, and a little more


def test_h_and_c_start_at_zero_and_stay_there(tiny, opened):
    plain = weights_of(Variant(tiny), opened)
    found = weights_of(Variant(tiny, zero_start=True), opened)
    zero = [name for name, value in found.items() if not value.any()]
    assert zero == ["init_h.weight", "init_h.bias", "init_c.weight", "init_c.bias"]
    assert all(plain[name].any() for name in zero)
    assert not torch.equal(found["fc.weight"], plain["fc.weight"])


def test_the_variants_differ_in_what_they_say():
    assert len({repr(variant) for variant in VARIANTS.values()}) == len(VARIANTS)


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
