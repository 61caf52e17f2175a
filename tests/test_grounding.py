"""Grading maps, and taking away what was looked at."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import BLUE, RED, planted_captioner, spotted
from nltk.translate.bleu_score import corpus_bleu

from satlib import grounding
from satlib.captioner import Caption
from satlib.configuration import Config
from satlib.grounding import (
    SEEDS,
    VARIANTS,
    Variant,
    blank,
    deletion,
    gaze,
    gaze_in_scenes,
    grade,
    grade_captions,
    held,
    interval,
    mark_cells,
    mean_of,
    named_cells,
    on_cells,
    open_variant,
    outcome,
    rivals,
    summary,
    train_variant,
    unseen_scenes,
    word_probabilities,
)
from satlib.model import encoder_of, new_model
from satlib.scenes import colour_accuracy, draw, load_scenes, make_scene, write_scenes


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


def test_rivals_by_hand():
    alphas = np.random.default_rng(0).dirichlet(np.ones(196), 4).reshape(4, 14, 14)
    found = rivals(alphas, 1, np.random.default_rng(1))
    assert set(found) == {"another word's", "central", "random", "even"}
    assert len({found["even"][0, 0], *found["even"].flat}) == 1
    assert [tuple(place) for place in np.argwhere(found["central"])] == [
        *((6, 6), (6, 7), (7, 6), (7, 7))
    ]
    assert found["random"].sum() == pytest.approx(1)
    drawn = {
        next(j for j in range(4) if (other == alphas[j]).all())
        for other in (
            rivals(alphas, 1, np.random.default_rng(seed))["another word's"]
            for seed in range(40)
        )
    }
    assert drawn == {0, 2, 3}


def test_a_map_is_graded_on_the_cells_of_its_own_thing():
    """A map turned, or on another thing of the scene, gets no marks."""
    scene = make_scene(0)  # a balloon above a house and a tree
    (first, second, _), masks = scene.objects, draw(scene)[1]
    words = [first.colour, first.name, second.colour, second.name]
    cells = [mark_cells(mask) / mark_cells(mask).sum() for mask in masks]
    own = np.stack([cells[0], cells[0], cells[1], cells[1]])

    def marks(alphas):
        caption = Caption(words, alphas, 0.0, [], [], [], True)
        rows = grade_captions([caption], [scene])
        kinds = [(r["kind"], r["hit"]) for r in rows if r["map"] == "the model's"]
        assert [kind for kind, _ in kinds] == ["adjective", "noun"] * 2
        return sum(hit for _, hit in kinds) / 4

    assert marks(own) == 1
    assert marks(own[::-1]) < 0.3 and marks(own[:, ::-1]) < 0.5
    rows = grade_captions([Caption(words, own, 0.0, [], [], [], True)], [scene])
    assert len(rows) == 4 * 5
    again = grade_captions([Caption(words, own, 0.0, [], [], [], True)], [scene])
    other = grade_captions([Caption(words, own, 0.0, [], [], [], True)], [scene], 5)
    assert rows == again != other


def test_the_mean_of_the_rows_chosen():
    rows = [{"a": 1, "kind": "x"}, {"a": 2, "kind": "y"}, {"a": 5, "kind": "y"}]
    assert mean_of(rows, "a") == pytest.approx(8 / 3)
    assert mean_of(rows, "a", kind="y") == 3.5


def test_a_thing_of_a_false_colour_is_looked_for_by_its_name():
    scene = make_scene(0)
    masks = draw(scene)[1]
    found = named_cells(["a", "black", "house", "black", "tree"], scene, masks)
    assert [(i, kind) for i, kind, _ in found] == [
        *((1, "adjective"), (2, "noun"), (3, "adjective"), (4, "noun"))
    ]
    assert (found[1][2] == mark_cells(masks[1])).all()
    assert (found[3][2] == mark_cells(masks[2])).all()


def test_of_two_things_with_one_name_the_colour_decides():
    things = [SimpleNamespace(name="cat", colour=c) for c in ("red", "black")]
    masks = [np.zeros((14, 14), bool) for _ in things]
    masks[0][2, 3] = masks[1][9, 1] = True
    scene = SimpleNamespace(objects=things)
    for colour, expected in (
        ("red", [masks[0]]),
        ("black", [masks[1]]),
        ("blue", masks),  # none of them: both are cats
    ):
        for _, _, cells in named_cells([colour, "cat"], scene, masks):
            assert (cells == np.any(expected, axis=0)).all()


def test_the_outcome_of_a_captioner(captioner):
    scenes = [make_scene(seed) for seed in (1, 2, 3)]
    captions = captioner.caption([draw(scene)[0] for scene in scenes])
    words = [caption.words for caption in captions]
    references = [[w, ["a", "thing", "is", "here"]] for w in words[:2]]
    references.append([["a", "red", "cat", "and", "nothing", "else"]])
    found = outcome(captioner, scenes, references)
    assert found["BLEU-4"] == pytest.approx(corpus_bleu(references, words))
    assert found["colours"] == colour_accuracy(words, scenes)[0]
    rows = grade_captions(captions, scenes)
    assert set(found) == {
        *("BLEU-4", "colours", "adjective hit", "adjective weight"),
        *("noun hit", "noun weight"),
    }
    for kind in ("adjective", "noun"):
        for measure in ("hit", "weight"):
            for name, value in found[f"{kind} {measure}"].items():
                own = [
                    r[measure] for r in rows if (r["map"], r["kind"]) == (name, kind)
                ]
                assert value == pytest.approx(sum(own) / len(own))
            assert "the model's" in found[f"{kind} {measure}"]


def test_unseen_scenes_are_those_of_the_test_split(tmp_path):
    config = Config(scenes=20, image_size=64, output=str(tmp_path))
    written = load_scenes(write_scenes(tmp_path / "scenes", 20))
    assert unseen_scenes(config) == written[18:]


def test_blank_takes_the_tenth_with_most_weight():
    cells = torch.randn(20, 3)
    weights = torch.rand(4, 20)
    found = blank(cells, weights)
    changed = (found != cells).any(2)
    assert (changed.sum(1) == 2).all()
    assert found.shape == (4, 20, 3)
    assert (blank(cells[:4], weights[:, :4]) != cells[:4]).any(2).sum(1).tolist() == [
        1
    ] * 4
    assert (blank(torch.randn(196, 2), torch.rand(1, 196)) != 0).all()
    top = weights.topk(2).indices
    assert changed.gather(1, top).all()
    assert torch.allclose(found[changed], cells.mean(0).expand(8, 3))
    changed = (blank(cells, weights, 7) != cells).any(2)
    assert (changed.sum(1) == 7).all()
    assert changed.gather(1, weights.topk(7).indices).all()


def test_word_probabilities_are_those_of_the_search(captioner):
    picture = draw(make_scene(3))[0]
    caption = captioner.caption([picture], beam_size=1)[0]
    words = caption.words[:6]
    cells = captioner.look([picture])[0].expand(len(words), -1, -1)
    found = word_probabilities(captioner, cells, words, range(len(words)))
    again = word_probabilities(captioner, cells[:3], words, [2, 0, 2])
    np.testing.assert_allclose(again, found[[2, 0, 2]], rtol=1e-5)
    for p, log_prob in zip(found, caption.word_log_probs, strict=False):
        assert 0 < p <= np.exp(log_prob) + 1e-5  # the search forbids some words
    with torch.no_grad():
        text = ["<start>", *words, "<end>"]
        row = [captioner.word_map[w] for w in text]
        decoded = captioner.decoder(cells[:1], *rows_of(captioner, row))
    own = decoded.scores.softmax(1)[torch.arange(len(words)), row[1:-1]]
    assert torch.allclose(torch.from_numpy(found), own.cpu(), atol=1e-5)


def rows_of(captioner, row):
    """One row of ids, and its length, as the decoder takes them."""
    device = captioner.device
    return torch.tensor([row], device=device), torch.tensor([len(row)], device=device)


@torch.no_grad()
def chances(captioner, cells, words):
    """The probability of each word after those before it, by the decoder alone."""
    row = [captioner.word_map[word] for word in ("<start>", *words, "<end>")]
    decoded = captioner.decoder(cells[None], *rows_of(captioner, row))
    return decoded.scores.softmax(1)[torch.arange(len(words)), row[1:-1]].cpu().numpy()


@pytest.mark.parametrize(
    ("size", "side", "spots"), [(224, 14, (RED, BLUE)), (256, 8, ((1, 6), (5, 2)))]
)
def test_what_was_looked_at_is_missed_more_than_what_was_not(size, side, spots):
    """By a model of which is known that it looks at the red, then at the blue cell."""
    captioner = planted_captioner(size)
    picture = spotted(*spots, side, size)
    (caption,) = captioner.caption([picture])
    rows = deletion(captioner, [picture] * 30, [caption] * 30, seed=3)
    assert len(rows) == 60 and {row["names"] for row in rows} == {False}
    assert [row["image"] for row in rows] == [n // 2 for n in range(60)]
    assert [row["word"] for row in rows] == ["red", "blue"] * 30
    cells = captioner.look([picture])[0]
    before = chances(captioner, cells, caption.words)
    for t, (row, column) in enumerate(spots):
        blind = cells.clone()
        blind[row * side + column] = cells.mean(0)
        without = chances(captioner, blind, caption.words)[t]
        own = rows[t::2]
        assert without < 0.15 < 0.9 < before[t]
        assert [r["before"] for r in own] == pytest.approx([before[t]] * 30, abs=1e-5)
        assert [r["attended"] for r in own] == pytest.approx([without] * 30, abs=0.05)
        missed = sum(r["random"] < 0.5 for r in own)  # by chance: one in ten
        assert missed < 10
        assert not any(0.3 < r["random"] < 0.9 for r in own)
    assert any(row["random"] < 0.5 for row in rows)
    found = summary(rows)
    assert found["attended counts more"] > 0.7 and found["gap"] > 0.6
    again = deletion(captioner, [picture] * 30, [caption] * 30, seed=3)
    assert again == rows != deletion(captioner, [picture] * 30, [caption] * 30, seed=4)


def test_maps_over_the_cells_have_all_the_weight():
    alphas = np.zeros((2, 14, 14), np.float32)
    alphas[0, 0, 13] = alphas[1, 13, 0] = 1
    same = on_cells(planted_captioner().decoder, alphas)
    assert torch.equal(same, torch.from_numpy(alphas).flatten(1))
    coarse = on_cells(planted_captioner(256).decoder, alphas)
    assert coarse.shape == (2, 64) and coarse.sum(1).tolist() == pytest.approx([1, 1])
    assert coarse.argmax(1).tolist() == [7, 56]


def spot(*cells):
    """A map with the same weight, not one in all, at each of the cells."""
    look = np.zeros((14, 14))
    for cell in cells:
        look[cell] = 3
    return look


def test_a_gaze_that_is_held_sees_only_that_place(planted):
    """By the captioner that says "a" where it sees nothing."""
    cells, words = planted.look([spotted()]), ["red", "blue"]
    looks = [spot(RED), spot((0, 0)), spot(BLUE)]
    assert held(planted, cells, words, 0) == ["red"]
    assert held(planted, cells, words, 1) == ["blue"]
    assert held(planted, cells, words, 0, looks) == ["red", "a", "red"]
    assert held(planted, cells, words, 1, looks) == ["blue", "a", "blue"]
    assert held(planted, cells, words, 1, looks, steps=9) == ["blue", "a", "blue"]


@torch.no_grad()
def told_step_by_step(captioner, cells, words, place, look, steps):
    decoder, image = captioner.decoder, torch.zeros(1, dtype=int, device=cells.device)
    memory, state = decoder.remember(cells), decoder.start(cells)
    alpha = torch.from_numpy(look / look.sum()).float().view(1, -1).to(cells.device)
    read = ["<start>", *words[:place]]
    for t, word in enumerate(read):
        vector = decoder.vectors(image + captioner.word_map[word])
        told = alpha if t >= len(read) - steps else None
        *state, _, _ = decoder.step(vector, *state, memory, image, told)
    scores = decoder.fc(state[0])[0]
    for token in ("<pad>", "<start>", "<unk>"):
        scores[captioner.word_map[token]] = -torch.inf
    names = {number: word for word, number in captioner.word_map.items()}
    return names[scores.argmax().item()]


def test_the_gaze_is_held_for_the_last_steps_only(captioner, pictures):
    cells = captioner.look(pictures[2:])
    words = ["a", "red", "cat", "and", "a", "blue", "ball"]
    corners = [spot(cell) for cell in ((0, 0), (0, 13), (13, 0), (7, 7), (10, 5))]
    outcomes = []
    for place in (1, 2, 5, 6):
        for steps in (1, 3, 20):
            found = held(captioner, cells, words, place, corners, steps)
            assert found == [
                told_step_by_step(captioner, cells, words, place, look, steps)
                for look in corners
            ]
            outcomes.append(found)
    assert len({*map(tuple, outcomes)}) > 3


def test_what_came_of_a_gaze(planted):
    cells, words = planted.look([spotted()]), ["red", "blue"]
    things = [(spot(BLUE), {"blue"}), (spot((0, 0)), {"a"}), (spot(RED), {"cat"})]
    rows = gaze(planted, cells, words, 1, things)
    itself, another, before = grounding.CASES
    assert rows == [
        {"case": itself, "changed": 0, "named": 1},
        {"case": another, "changed": 1, "named": 1},
        {"case": another, "changed": 0, "named": 0},
        {"case": before, "changed": 1, "named": 1},
        {"case": before, "changed": 0, "named": 0},
    ]
    assert gaze(planted, cells, words, 1, things[:1]) == rows[:1]


def test_in_scenes_the_gaze_is_held_on_each_other_thing(captioner, monkeypatch):
    scene = make_scene(0)  # a balloon above a house and a tree
    picture, masks = draw(scene)
    words = [scene.objects[0].colour, scene.objects[0].name, "and", "house"]
    asked = []

    def asked_gaze(own, cells, words, place, things):
        assert own is captioner and cells.shape[0] == 1
        asked.append((words[place], things))
        return [{"case": "x"}]

    monkeypatch.setattr(grounding, "gaze", asked_gaze)
    caption = Caption(words, np.zeros((4, 14, 14)), 0.0, [], [], [], True)
    assert gaze_in_scenes(captioner, [picture], [caption], [scene]) == [{"case": "x"}]
    ((noun, things),) = asked
    names = [thing.name for thing in scene.objects]
    assert noun == names[0] and [names for _, names in things] == [{n} for n in names]
    for (look, _), mask in zip(things, masks, strict=True):
        assert (look == mark_cells(mask)).all()


def test_words_that_name_a_thing_are_marked(captioner, pictures):
    (caption,) = captioner.caption(pictures[2:])
    rows = deletion(captioner, pictures[2:], [caption])
    assert " ".join(row["word"] for row in rows) == "a red cat and a blue ball"
    named = [row["names"] for row in rows]
    assert named == [False, True, True, False, False, True, True]


def test_the_summary_of_a_deletion():
    cat = {"word": "cat", "before": 0.9, "attended": 0.1, "random": 0.8}
    rows = [{"image": n, **cat} for n in (0, 1, 2, 3, 4, 4)]
    a = {"word": "a", "before": 0.9, "attended": 0.9, "random": 0.9}
    rows += [{"image": n, **a} for n in (0, 5)]
    found = summary(rows)
    assert found["gap"] == pytest.approx(0.7 * 6 / 8)
    assert found["attended counts more"] == 0.75 and found["words"] == 8
    assert found["before"] == pytest.approx(0.9)
    assert found["attended"] == pytest.approx((6 * 0.1 + 2 * 0.9) / 8)
    assert found["random"] == pytest.approx((6 * 0.8 + 2 * 0.9) / 8)
    assert summary(rows) == found
    low, high = found["interval"]
    assert 0.1 < low < found["gap"] < high < 0.71 and found["images"] == 6


def test_words_of_one_image_are_no_independent_evidence():
    cases = {"before": 1.0, "attended": 0.2, "random": 1.0}
    rows = [{"image": n, "word": "x", **cases} for n in range(5)]
    rows += [{"image": n, "word": "x", **cases, "random": 0.2} for n in range(5, 10)]
    once, often = summary(rows)["interval"], summary(rows * 20)["interval"]
    assert often == pytest.approx(once)


def test_an_interval_is_the_same_each_time():
    values = np.random.default_rng(0).random(40).tolist()
    of = values, range(40)
    assert interval(*of) == interval(*of) != interval(*of, seed=1)


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


@pytest.fixture
def few_variants(monkeypatch, tmp_path):
    """Two variants with two seeds; what is opened, trained and graded is told."""
    told = []

    def opened(variant):
        told.append(("open", variant))
        return variant, "parts"

    def trained(variant, seed, *parts):
        assert parts == (variant, "parts")
        told.append((variant, seed))
        return variant, seed

    def graded(captioner, scenes, references):
        assert (scenes, references) == (["scene"], [["reference"]])
        hits = {"the model's": captioner[1] / 100}
        return {"of": [*captioner], "adjective hit": hits, "noun hit": hits}

    monkeypatch.setattr(grounding, "VARIANTS", {"plain": "A", "other": "B"})
    monkeypatch.setattr(grounding, "SEEDS", (28, 29))
    monkeypatch.setattr(grounding, "open_variant", opened)
    monkeypatch.setattr(grounding, "train_variant", trained)
    monkeypatch.setattr(grounding, "outcome", graded)
    monkeypatch.setattr(grounding, "folders", lambda config: (tmp_path, tmp_path))
    monkeypatch.setattr(grounding, "unseen_scenes", lambda config: ["scene"])
    split = {"TEST": (["path"], [["reference"]])}
    monkeypatch.setattr(
        grounding, "split_photographs", lambda config, name: split[name]
    )
    return told


def test_variants_are_graded_with_each_seed_and_go_on(
    few_variants, monkeypatch, capsys
):
    found = grounding.grade_variants()
    outcomes = {name: [row["of"] for row in rows] for name, rows in found.items()}
    assert outcomes == {
        "plain": [["A", 28], ["A", 29]],
        "other": [["B", 28], ["B", 29]],
    }
    assert few_variants == [
        *(("open", "A"), ("A", 28), ("A", 29), ("open", "B"), ("B", 28), ("B", 29))
    ]
    assert "other, 29: adjectives 29.0%, nouns 29.0%" in capsys.readouterr().out
    few_variants.clear()
    assert grounding.grade_variants() == found and few_variants == []
    monkeypatch.setattr(grounding, "SEEDS", (28, 29, 30))  # one more is to be done
    assert [len(rows) for rows in grounding.grade_variants().values()] == [3, 3]
    assert few_variants == [("open", "A"), ("A", 30), ("open", "B"), ("B", 30)]


def test_what_the_command_keeps(monkeypatch, captioner, pictures):
    def row(word, image, attended, names):
        row = {"word": word, "image": image, "names": names}
        return row | {"before": 0.9, "attended": attended, "random": 0.8}

    kept, scenes = {}, [make_scene(seed) for seed in (1, 2)]
    rows = [row("a", 0, 0.7, False), row("cat", 0, 0.1, True), row("cat", 1, 0.2, True)]

    def deleted(own, images, captions):
        assert own is captioner and len(images) == len(captions) == 2
        assert [str(caption) for caption in captions] == [
            str(caption) for caption in captioner.caption(pictures[:2])
        ]
        return rows

    def fitted(config):
        assert config == Config()
        return SimpleNamespace(best="best.pt")

    loaded = {"best.pt": captioner}
    monkeypatch.setattr(grounding, "grade_variants", lambda: {"plain": []})
    monkeypatch.setattr(grounding, "fit", fitted)
    monkeypatch.setattr(grounding, "load_captioner", lambda path: loaded[path])
    monkeypatch.setattr(grounding, "unseen_scenes", lambda config: scenes)
    monkeypatch.setattr(grounding, "deletion", deleted)
    monkeypatch.setattr(
        grounding, "keep_results", lambda *how, **found: kept.update(found, how=how)
    )
    grounding.main()
    assert kept["how"] == ("grounding", "python -m satlib.grounding", SEEDS)
    assert kept["variants"] == {"plain": []}
    assert kept["deletion"] == {
        "all words": summary(rows),
        "names of things": summary(rows[1:]),
    }
