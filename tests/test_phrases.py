"""Maps on photographs are graded by boxes: read, matched, measured, as by hand."""

import json

import numpy as np
import pytest
import torch
from conftest import BLUE, RED, planted_captioner, spotted

from satlib import phrases as module
from satlib.captioner import SHIPPED, Caption
from satlib.grounding import CASES, interval
from satlib.phrases import (
    MEASURES,
    Boxed,
    Named,
    Thing,
    by_part,
    captions_of,
    covered,
    delete,
    grade,
    grade_maps,
    grade_photographs,
    hold,
    maps_of,
    named_by,
    others_of,
    overlap,
    read_boxed,
    read_categories,
    read_phrases,
    takeaways,
    things_in,
    things_of,
    words_for,
)
from satlib.scenes import draw, make_scene

DOG, HORSE = [[0.0, 0.5, 0.5, 1.0]], [[0.5, 0.0, 1.0, 0.25], [0.0, 0.0, 0.25, 0.25]]
ENTRY = {
    "boxes": {"7": DOG, "8": HORSE},
    "captions": [
        {
            "words": ["a", "small", "dog", "looks", "at", "a", "horse"],
            "phrases": [[0, 3, "7", "animals"], [5, 7, "8", "animals"]],
        },
        {"words": ["the", "dog"], "phrases": [[0, 2, "8", "other"]]},
    ],
}


def test_phrases_are_read_with_their_last_word(tmp_path):
    path = tmp_path / "phrases.json"
    path.write_text(json.dumps({"a.jpg": ENTRY}))
    (first, second) = read_phrases(path)["a.jpg"]
    assert first == (
        ENTRY["captions"][0]["words"],
        [Named(2, "animals", DOG), Named(6, "animals", HORSE)],
    )
    assert second == (["the", "dog"], [Named(1, "other", HORSE)])


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"a.jpg": 3}', '{"a.jpg": {"boxes": {}}}', '{"a.jpg": null}']
)
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "phrases.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="phrases.json: no table of phrases"):
        read_phrases(path)


def test_a_word_means_what_people_have_named_with_it():
    words = ["a", "horse", "and", "a", "small", "dog"]
    things = things_of(captions_of(ENTRY))
    found = named_by(words, things)
    assert found == [Named(1, "animals", HORSE), Named(5, "animals", DOG + HORSE)]
    assert named_by(["small", "cat"], things) == []
    assert named_by(["horse"], [*things, things[1]]) == [Named(0, "animals", HORSE)]


def test_things_have_the_words_of_all_who_name_them():
    puppy = {"words": ["my", "puppy"], "phrases": [[0, 2, "7", "animals"]]}
    things = things_of(captions_of(ENTRY | {"captions": [*ENTRY["captions"], puppy]}))
    assert things == [
        Thing("animals", DOG, {"dog", "puppy"}),
        Thing("animals", HORSE, {"horse"}),
        Thing("other", HORSE, {"dog"}),
    ]


def test_words_of_categories():
    assert {"phone", "phones", "cellphone"} <= words_for("cell phone")
    assert {"bus", "buses"} <= words_for("bus") and "cell" not in words_for(
        "cell phone"
    )
    for category, words in {
        "person": "man woman boy girl people",
        "motorcycle": "motorbike motorcycles bike",
        "bicycle": "bike bikes bicycles",
        "tv": "television tvs",
        "couch": "sofa couches",
        "knife": "knives",
        "sheep": "sheep",
    }.items():
        assert {*words.split()} <= words_for(category)


def test_boxes_of_a_category_are_one_thing():
    boxes = [
        ["dog", 0.0, 0.5, 0.5, 0.25],
        ["person", 0, 0, 1, 1],
        ["dog", 0, 0, 1, 0.5],
    ]
    dogs, people = things_in(boxes)
    assert dogs == Thing(
        "other", [[0, 0.5, 0.5, 0.75], [0, 0, 1, 0.5]], words_for("dog")
    )
    assert people == Thing("people", [[0, 0, 1, 1]], words_for("person"))


@pytest.mark.parametrize("text", ["", "[1]", '{"a.jpg": 3}', '{"a.jpg": [["cat", 1]]}'])
def test_another_file_of_categories_is_refused(tmp_path, text):
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="boxes.json: no table of categories"):
        read_categories(path)


def test_the_share_that_is_covered():
    shares = covered([[0.0, 0.0, 0.25, 0.5], [0.0, 0.25, 0.75, 0.5]], side=2)
    np.testing.assert_allclose(shares, [[0.75, 0.25], [0, 0]])
    assert covered([[0, 0, 1, 1]]).min() == 1 and covered([]).max() == 0
    for tiny in ([0.3, 0.3, 0.3, 0.3], [1, 1, 1, 1], [-1, 2, 0, 3]):
        assert covered([tiny]).sum() == pytest.approx(1 / 256)
    assert covered([[-1, -1, 2, 2]]).min() == 1


def test_hit_and_weight_by_hand():
    alpha = np.zeros((2, 2))
    alpha[1, 0], alpha[0, 0] = 0.6, 0.4
    assert grade(alpha, DOG) == (1, 0.6)
    assert grade(alpha, [[0.0, 0.0, 0.5, 0.74]]) == pytest.approx((0, 0.4 + 0.3))
    assert grade(alpha, [[0.0, 0.0, 0.5, 0.75]])[0] == 1  # the centre is at 0.75
    alpha[:] = 0.25  # four peaks, one of them in the box
    assert grade(alpha, DOG) == (0.25, 0.25)


def test_maps_are_graded_beside_their_rivals():
    alphas = np.full((3, 14, 14), 1 / 196)
    alphas[1] = covered(DOG) / 49
    things = [Named(1, "animals", DOG)]
    rows = grade_maps(4, alphas, things, np.random.default_rng(0))
    ours, *others = rows
    expected = {"image": 4, "kind": "animals", "area": 0.25, "case": "the model's"}
    assert ours == expected | {"hit": 1.0, "weight": pytest.approx(1)}
    found = {row["case"]: row for row in others}
    assert [*found] == ["another word's", "central", "random", "even"]
    assert found["even"]["weight"] == found["even"]["hit"] == pytest.approx(0.25)
    assert found["central"]["weight"] == 0.25
    assert grade_maps(4, alphas[:1], things, np.random.default_rng(0)) == []


def test_the_maps_of_a_caption_that_is_read_are_those_of_the_search(captioner):
    picture = draw(make_scene(3))[0]
    (caption,) = captioner.caption([picture], beam_size=1)
    cells = captioner.look([picture])
    other = ["red", "zebra"]
    maps = maps_of(captioner, cells, [caption.words, other])
    assert [m.shape for m in maps] == [(len(caption.words), 14, 14), (2, 14, 14)]
    np.testing.assert_allclose(maps[0], caption.alphas, atol=1e-5)


def test_what_is_taken_away_and_what_instead():
    inside = np.zeros((6, 6))
    inside[1, 0:4], inside[2, 0] = 1, 0.4  # the last cell is hardly covered
    looked = np.random.default_rng(0).random((6, 6))
    seen = set()
    for seed in range(20):
        weights, count = takeaways(inside, looked, np.random.default_rng(seed))
        assert count == 4 and (weights["the box"] == (inside == 1)).all()
        assert weights["the top of the map"] is looked
        moved, random = (
            weights["the shape elsewhere"],
            weights["random cells elsewhere"],
        )
        assert moved.sum() == 4 and not (moved & (inside == 1)).any()
        rows = np.flatnonzero(moved.any(1))
        assert len(rows) == 1  # still four side by side, perhaps over the border
        assert (random[inside == 1] < 0).all() and (random[inside < 1] >= 0).all()
        seen.add((rows[0], *np.flatnonzero(moved[rows[0]])))
    assert len(seen) > 5
    _, count = takeaways(inside * 0.3, looked, np.random.default_rng(0))
    assert count == 4  # no cell is covered by half: those that are most


def box_of(row, column, side=14):
    """The box that is one cell of a grid."""
    return [column / side, row / side, (column + 1) / side, (row + 1) / side]


@pytest.mark.parametrize(
    ("size", "side", "spots"), [(224, 14, (RED, BLUE)), (256, 8, ((1, 6), (5, 2)))]
)
def test_a_word_loses_what_is_in_its_box(size, side, spots):
    """By a model of which is known that it looks at the red, then at the blue cell."""
    captioner = planted_captioner(size)
    picture = spotted(*spots, side, size)
    (caption,), (cells,) = captioner.caption([picture]), captioner.look([picture])
    named = [Named(t, "x", [box_of(*spots[t], side)]) for t in (0, 1)]
    named.append(Named(1, "x", [[0, 0, 1, 0.5]]))  # too large to be asked
    rng = np.random.default_rng(0)
    rows = delete(7, captioner, cells, caption, named, rng)
    cases = ["nothing", "the box", "the top of the map"]
    cases += ["the shape elsewhere", "random cells elsewhere"]
    assert [row["case"] for row in rows] == cases * 2
    for row in rows:
        assert (row["image"], row["kind"]) == (7, "x") and row["area"] < 0.02
        gone = row["case"] in ("the box", "the top of the map")
        missed = row["lost"] > 0.8 and row["probability"] < 0.15
        if gone:
            assert missed
        elif row["case"] == "nothing":
            assert row["lost"] == 0 and row["probability"] > 0.9
    kept = [row for row in rows if row["case"].endswith("elsewhere")]
    assert all(abs(row["lost"]) < 0.01 for row in kept)


def test_how_much_boxes_have_in_common():
    left, right = [[0, 0, 0.5, 1]], [[0.5, 0, 1, 1]]
    assert overlap(left, left) == 1 and overlap(left, right) == 0
    assert overlap(left, left + right) == overlap(left + right, left) == 0.5
    assert overlap(left, [[0.25, 0, 0.75, 1]]) == pytest.approx(1 / 3)


def test_other_things_have_other_words_and_lie_apart():
    left, right = [[0, 0, 0.5, 1]], [[0.5, 0, 1, 1]]
    dog, second = Thing("x", left, {"dog"}), Thing("x", right, {"dog", "puppy"})
    cat, near = Thing("x", right, {"cat"}), Thing("x", [[0.25, 0, 0.75, 1]], {"man"})
    assert others_of("dog", left, [dog, second, cat, near]) == [cat]
    near = near._replace(boxes=[[0.3, 0, 0.8, 1]])  # 0.25 in common
    assert others_of("dog", left, [dog, near]) == [near]


def test_the_gaze_is_held_on_the_boxes_of_other_things():
    captioner, picture = planted_captioner(), spotted()
    caption = Caption(["red", "blue"], np.zeros((2, 14, 14)), 0.0, [], [], [], True)
    red, blue = [box_of(*RED)], [box_of(*BLUE)]
    things = [
        Thing("x", blue, {"blue", "sky"}),
        Thing("y", [[0, 0, 0.1, 0.1]], {"a"}),  # nothing is there
        Thing("z", red, {"rose"}),
    ]
    named = named_by(caption.words, things)
    (cells,) = captioner.look([picture])
    rows = hold(3, captioner, cells, caption, named, things)
    itself, another, before = CASES
    assert [(row["case"], row["changed"], row["named"]) for row in rows] == [
        (itself, 0, 1),
        *((another, 1, 1), (another, 0, 0)),
        *((before, 1, 1), (before, 0, 0)),
    ]
    assert {row["image"] for row in rows} == {3} and {r["kind"] for r in rows} == {"x"}
    assert all(row["area"] == pytest.approx(1 / 196) for row in rows)


def test_photographs_are_graded_by_both_captions():
    picture, captioner = spotted(), planted_captioner()
    captions = [
        (["the", "red"], [Named(1, "other", DOG)]),
        (["one", "two", "three"], [Named(0, "people", DOG), Named(2, "people", HORSE)]),
    ]
    boxed = [Boxed(picture, things_of(captions), captions)] * 18
    found = grade_photographs(captioner, boxed)
    assert [*found] == [*MEASURES]
    for rows in found.values():
        assert {row["image"] for row in rows} == {*range(18)}
    assert len(found["people's captions"]) == 18 * 3 * 5
    assert len(found["its own captions"]) == len(found["deletion"]) == 18 * 5
    assert len(found["gaze"]) == 18 * (1 + 1 + 1)  # "three" lies apart from "red"
    assert {row["kind"] for row in found["its own captions"]} == {"other"}
    assert grade_photographs(captioner, boxed) == found
    cells = [*module.cells_of(captioner, [picture, spotted(BLUE, RED)] * 9)]
    assert len(cells) == 18 and torch.equal(cells[0], captioner.look([picture])[0])
    assert torch.equal(cells[16], cells[0]) and not torch.equal(cells[17], cells[0])


def test_parts_and_intervals():
    rows = [
        {"image": n, "kind": kind, "area": area, "case": m, "hit": hit, "weight": 0.5}
        for n, kind, area, hit in [
            (0, "people", 0.3, 1.0),
            (0, "other", 0.1, 0.0),
            (1, "people", 0.2, 1.0),
        ]
        for m in ("the model's", "even")
    ]
    found = by_part(rows, ("weight", "hit"))
    assert [*found] == ["all", "small", "large", "people", "other"]
    words = {part: maps["the model's"]["words"] for part, maps in found.items()}
    assert words == {"all": 3, "small": 2, "large": 1, "people": 2, "other": 1}
    ours = found["all"]["the model's"]
    assert ours["hit"] == pytest.approx(2 / 3) and ours["weight"] == 0.5
    assert ours["hit interval"] == [0.5, 1] and ours["weight interval"] == [0.5, 0.5]
    assert "small" not in by_part(rows[:2], ("weight", "hit"))
    assert [*by_part(rows, ["hit"])["all"]["even"]] == ["words", "hit", "hit interval"]


def test_whole_photographs_are_drawn_for_an_interval():
    alike = interval([1.0] * 90 + [0.0] * 10, [0] * 50 + [1] * 50)
    apart = interval([1.0] * 90 + [0.0] * 10, range(100))
    assert alike == pytest.approx([0.8, 1]) and apart[1] - apart[0] < 0.15


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders, with phrases and with categories, and the splits of both."""
    flickr, coco = tmp_path / "flickr", tmp_path / "coco"
    flickr.mkdir()
    coco.mkdir()
    (flickr / "phrases_dev.json").write_text(json.dumps({"a.jpg": ENTRY}))
    photographs = [flickr / name for name in ("b.jpg", "a.jpg")]
    split = {"val": (photographs, None)}
    monkeypatch.setattr(module, "open_collection", lambda folder: split)
    boxes = {name: [["dog", 0, 0.5, 0.5, 0.5]] for name in ("a.jpg", "c.jpg")}
    (coco / "boxes.json").write_text(json.dumps(boxes))
    lines = ["image,caption", "a.jpg,A dog.", "a.jpg,A cat.", "b.jpg,No.", "c.jpg,So."]
    (coco / "captions.csv").write_text("\n".join(lines))
    (coco / "val.txt").write_text("a.jpg\nb.jpg\n")
    (coco / "train.txt").write_text("c.jpg\n")
    return flickr, coco


def test_folders_are_read_by_what_is_in_them(folders, tmp_path):
    flickr, coco = folders
    captions = captions_of(ENTRY)
    boxed = [Boxed(flickr / "a.jpg", things_of(captions), captions)]
    assert read_boxed(flickr) == ("phrases", boxed)
    dog = Thing("other", DOG, words_for("dog"))
    said = [(["a", "dog"], [Named(1, "other", DOG)]), (["a", "cat"], [])]
    boxed = [Boxed(coco / "Images/a.jpg", [dog], said)]
    assert read_boxed(str(coco)) == ("categories", boxed)
    with pytest.raises(
        FileNotFoundError, match="no phrases_dev.json and no boxes.json"
    ):
        read_boxed(tmp_path)
    (coco / "captions.csv").write_text("image,caption\nb.jpg,No.\nc.jpg,So.")
    with pytest.raises(ValueError, match="val lists a.jpg, without captions"):
        read_boxed(coco)
    (coco / "val.txt").write_text("b.jpg\n")
    with pytest.raises(ValueError, match="boxes.json has no box for the validation"):
        read_boxed(coco)


def test_the_command_grades_what_is_there(folders, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        module.main([str(tmp_path)])
    assert "no boxes.json there; data/README.md" in capsys.readouterr().err
    loaded = {None: "the captioner", "best.pt": "another"}
    monkeypatch.setattr(module, "load_captioner", lambda path: loaded[path])
    card = {SHIPPED: {"config": {"seed": 3}}}
    monkeypatch.setattr(module, "load_checkpoint", lambda path: card[path])
    what = {"image": 0, "kind": "other", "area": 0.1}
    rows = {
        "its own captions": [what | {"case": "even", "hit": 1.0, "weight": 0.25}],
        "gaze": [what | {"case": "x", "changed": 1.0, "named": 0.0}],
    }
    seen, kept = [], []

    def graded(*arguments):
        seen.append(arguments)
        return rows

    monkeypatch.setattr(module, "grade_photographs", graded)
    monkeypatch.setattr(module, "keep_results", lambda *a, **k: kept.append((a, k)))
    module.main([str(folder) for folder in folders])
    assert seen == [("the captioner", read_boxed(folder)[1]) for folder in folders]
    ((name, command, seed), found) = kept.pop()
    assert (name, command, seed) == ("phrases", "python -m satlib.phrases", 3)
    assert [*found] == ["phrases", "categories"]
    assert found["phrases"] == found["categories"]
    assert found["phrases"]["photographs"] == 1
    assert found["phrases"]["its own captions"]["small"]["even"]["weight"] == 0.25
    assert found["phrases"]["gaze"]["all"]["x"]["changed"] == 1
    told = capsys.readouterr().out
    assert "boxes tied to categories: 1 photographs" in told
    assert "gaze, other, x (1): changed 1.000 named 0.000" in told
    module.main([str(folders[1]), "--captioner", "best.pt"])
    assert seen[2:] == [("another", read_boxed(folders[1])[1])] and kept == []
