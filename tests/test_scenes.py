"""The picture-book world: what it draws, says and writes, and that a seed fixes it."""

import hashlib
import json
import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.ImageColor import getrgb

from satlib import scenes, stickers, storybook
from satlib.files import MACHINE
from satlib.scenes import (
    backdrop,
    colour_accuracy,
    distinct_scenes,
    draw,
    load_scenes,
    make_scene,
    named_objects,
    scenes_of,
    write_scenes,
)
from satlib.stickers import COLOURS, SHAPES, paint, smooth, sticker
from satlib.storybook import HOME, KINDS, SKY, simple_scene

SEEDS = st.integers(0, 10**9)


def words(caption):
    return re.findall(r"[\w']+", caption.lower())


@pytest.fixture(scope="module")
def many():
    return [make_scene(seed) for seed in range(2500)]


def test_a_seed_fixes_the_world():
    told = [[scene, scene.captions] for scene in map(make_scene, range(200))]
    digest = hashlib.sha256(repr(told).encode()).hexdigest()
    assert digest[:16] == "823932c8e2a9756f"  # a change of the world is meant, or a bug


def test_a_seed_fixes_the_picture():
    grey = draw(make_scene(7))[0].convert("L").resize((4, 4), Image.Resampling.BOX)
    seen = np.asarray(grey).astype(int)
    expected = np.array(
        [
            [191, 218, 177, 191],
            [188, 189, 189, 195],
            [209, 196, 165, 174],
            [206, 178, 200, 219],
        ]
    )
    assert abs(seen - expected).max() <= 2


def test_drawing_twice_gives_the_same_pixels():
    first, masks = draw(make_scene(11))
    paint.cache_clear()
    scenes.gradient.cache_clear()
    again, masks_again = draw(make_scene(11))
    assert first.tobytes() == again.tobytes()
    assert all((a == b).all() for a, b in zip(masks, masks_again, strict=True))


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_masks_are_the_visible_objects(seed):
    scene = make_scene(seed)
    picture, masks = draw(scene)
    assert picture.mode == "RGB" and picture.size == (256, 256)
    assert len(masks) == len(scene.objects) in (1, 2, 3)
    assert np.sum(masks, axis=0).max() == 1  # they never overlap
    empty = np.asarray(backdrop(scene.ground, scene.seed)).astype(int)
    changed = abs(np.asarray(picture).astype(int) - empty).max(axis=2) > 24
    for thing, mask in zip(scene.objects, masks, strict=True):
        assert mask.shape == (256, 256) and mask.dtype == bool
        rows, columns = np.nonzero(mask)
        assert abs(columns.mean() - thing.x) < 0.2 * thing.size
        assert abs(rows.mean() - thing.y) < 0.25 * thing.size
        assert 50 <= thing.size <= 140
        assert 44 <= np.ptp(columns) + 1 <= 1.12 * thing.size
        assert changed[mask].mean() > 0.7  # the mask holds nothing but the thing


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_objects_are_in_the_picture_and_hardly_covered(seed):
    scene = make_scene(seed)
    for thing, mask in zip(scene.objects, draw(scene)[1], strict=True):
        colour = COLOURS[thing.colour]
        whole = sticker(thing.name, colour, thing.size, thing.mirrored)
        assert mask.sum() > 0.8 * (np.asarray(whole)[..., 3] > 127).sum()


def test_the_main_colour_of_a_mask_is_the_colour_of_the_caption(many):
    palette = np.array([getrgb(colour) for colour in COLOURS.values()])
    for scene in many[:120]:
        picture, masks = draw(scene)
        for thing, mask in zip(scene.objects, masks, strict=True):
            pixels = np.asarray(picture)[mask].astype(int)
            distance = ((pixels[:, None] - palette) ** 2).sum(axis=2)
            close = distance.min(axis=1) < 60**2
            share = np.bincount(distance.argmin(axis=1)[close], minlength=len(palette))
            strong = [list(COLOURS)[i] for i in share.argsort()[::-1][:2]]
            assert thing.colour in strong, (scene.seed, thing, strong)


def test_everything_is_where_it_belongs(many):
    for scene in many:
        names = [thing.name for thing in scene.objects]
        assert len(set(names)) == len(names)
        assert len({thing.colour for thing in scene.objects}) == len(names)
        for thing in scene.objects:
            foot = thing.y + thing.size // 2
            rides = scene.relation == "on" and thing == scene.objects[0]
            assert rides or thing.name in HOME[scene.ground] + SKY
            if thing.name in SKY:
                assert foot < 150 and thing.y - thing.size // 2 >= 0
            elif not rides:
                assert 150 < foot < 256
            assert thing.size // 2 - 8 <= thing.x <= 256 - thing.size // 2 + 8


def test_relations_hold(many):
    for scene in many:
        first, *others = scene.objects
        if scene.relation in ("beside", "between"):
            middles = [thing.x for thing in scene.objects]
            assert middles == sorted(middles) and min(np.diff(middles)) > 60
        if scene.relation in ("above", "over"):
            assert all(first.y < other.y - 40 for other in others)
        if scene.relation == "over":
            assert others[0].x < first.x < others[1].x
        if scene.relation == "on":
            (below,) = others
            foot = first.y + first.size // 2
            assert first.x == below.x
            assert below.y - below.size // 2 < foot < below.y


def test_nothing_hides_in_its_ground():
    assert "white" not in storybook.fitting_colours("cat", "snow")
    assert "green" not in storybook.fitting_colours("dog", "grass")
    assert "blue" not in storybook.fitting_colours("fish", "sea")
    for ground, names in HOME.items():
        for name in names + SKY:
            assert len(storybook.fitting_colours(name, ground)) >= 7


def test_five_captions_of_right_english(many):
    for scene in many:
        assert len(set(scene.captions)) == 5
        for caption in scene.captions:
            tokens = words(caption)
            assert 5 <= len(tokens) <= 14, caption
            assert caption[0].isupper() and caption.endswith(".")
            assert "  " not in caption and "{" not in caption
            for article, word in zip(tokens, tokens[1:], strict=False):
                if article in ("a", "an"):
                    assert (article == "an") == (word[0] in "aeiou"), caption


def test_captions_name_every_thing_with_its_colour(many):
    for scene in many:
        things = {(thing.colour, thing.name) for thing in scene.objects}
        for caption in scene.captions:
            assert {pair[:2] for pair in named_objects(words(caption))} == things


def test_a_caption_of_each_kind():
    assert simple_scene("fish", "orange", "sea").captions == [
        "An orange fish swims in the sea.",
        "There is an orange fish in the sea.",
        "An orange fish in the sea.",
        "In the sea swims an orange fish.",
        "A picture of an orange fish in the sea.",
    ]


def test_the_grammar_uses_few_words(many):
    used = {w for scene in many for caption in scene.captions for w in words(caption)}
    assert used >= set(COLOURS) | set(KINDS) | set(HOME)
    assert len(used) < 70


def test_there_are_ten_thousand_scenes():
    assert len({make_scene(seed).layout for seed in range(30_000)}) >= 10_000


def test_the_worked_example_can_be_drawn():
    wanted = ("cat", "black", "grass"), ("dog", "brown", "grass")
    for name, colour, ground in (*wanted, ("bird", "blue", "sea")):
        scene = simple_scene(name, colour, ground)
        assert scene.objects[0].name == name and scene.objects[0].colour == colour
        assert draw(scene)[1][0].sum() > 2000
    with pytest.raises(ValueError, match="no 'fish' at 'grass'"):
        simple_scene("fish", "red", "grass")
    with pytest.raises(ValueError, match="no 'white' cat at 'snow'"):
        simple_scene("cat", "white", "snow")
    with pytest.raises(ValueError, match="no 'bird' at 'moon'"):
        simple_scene("bird", "red", "moon")


def test_named_objects():
    tokens = words("A red cat sits left of an orange ball on the green grass, red.")
    assert named_objects(tokens) == [("red", "cat", 1, 2), ("orange", "ball", 7, 8)]
    assert named_objects([]) == [] and named_objects(["cat"]) == []


def test_colour_accuracy():
    pictures = [
        simple_scene("cat", "red", "sand"),
        simple_scene("fish", "black", "sea"),
    ]
    said = [words("a red cat and a red fish"), words("a black fish")]
    assert colour_accuracy(said, pictures) == (2 / 3, 3)
    false = [words("a blue cat"), words("a red fish and a black fish")]
    assert colour_accuracy(false, pictures) == (1 / 3, 3)  # the cat is there, but red
    swapped = [words("a black fish"), words("a red cat")]
    assert colour_accuracy(swapped, pictures) == (0, 2)  # each in the other's picture
    assert colour_accuracy([["a", "cat"], []], pictures) == (0.0, 0)
    with pytest.raises(ValueError):
        colour_accuracy(said[:1], pictures)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")}


def test_a_folder_like_any_other(tmp_path):
    folder = write_scenes(tmp_path / "scenes", 20)
    drawn = load_scenes(folder)
    lines = (folder / "captions.txt").read_text(encoding="utf-8").splitlines()
    assert len(drawn) == 20 and len(lines) == 100
    assert lines[5] == f"scene_00001.png#0\t{drawn[1].captions[0]}"
    lists = {
        s: (folder / f"{s}.txt").read_text().split() for s in ("train", "val", "test")
    }
    assert [len(names) for names in lists.values()] == [16, 2, 2]
    assert sum(lists.values(), []) == sorted(
        p.name for p in (folder / "images").iterdir()
    )
    for name, scene in zip(sum(lists.values(), []), drawn, strict=True):
        picture, masks = draw(scene)
        numbers = np.asarray(Image.open(folder / "masks" / name))
        assert (np.asarray(Image.open(folder / "images" / name)) == picture).all()
        assert numbers.max() == len(masks)
        assert all((numbers == i + 1).sum() == m.sum() for i, m in enumerate(masks))


def test_no_scene_of_the_test_was_seen_in_training():
    drawn = distinct_scenes(500)
    assert len({scene.layout for scene in drawn}) == 500
    other = distinct_scenes(500, seed=1)
    assert not {scene.seed for scene in drawn} & {scene.seed for scene in other}


def test_writing_can_be_interrupted_anywhere(tmp_path, monkeypatch):
    whole = contents(write_scenes(tmp_path / "whole", 4))
    replace = os.replace
    for stop in range(1, len(whole) + 1):
        left = iter(range(stop))

        def dying(part, path, left=left):
            if next(left, None) is None:
                killed = f"{MACHINE}-{2**30}-1-1"  # the name of a process
                part.rename(f"{path}.{killed}.part")
                raise KeyboardInterrupt
            replace(part, path)

        folder = tmp_path / f"stopped {stop}"
        monkeypatch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            write_scenes(folder, 4)
        with pytest.raises(ValueError, match="no complete scenes"):
            load_scenes(folder)
        monkeypatch.setattr(os, "replace", replace)
        assert contents(write_scenes(folder, 4)) == whole


def test_a_picture_leads_to_its_scene(tmp_path):
    folder = write_scenes(tmp_path, 12, seed=1)
    drawn, names = load_scenes(folder), ["scene_00011.png", "scene_00003.png"]
    assert drawn[3].layout != drawn[11].layout
    paths = [folder / "images" / name for name in names]
    assert scenes_of(paths) == [drawn[11], drawn[3]]
    with pytest.raises(ValueError, match="no complete scenes"):
        scenes_of([tmp_path / "elsewhere" / "images" / "scene_00000.png"])


def test_a_complete_folder_is_left_alone(tmp_path):
    folder = write_scenes(tmp_path, 3)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_scenes(folder, 3) == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(("choice", "named"), [((4, 0), "n=3"), ((3, 1), "seed=0")])
def test_another_number_or_seed_is_an_error(tmp_path, choice, named):
    before = contents(write_scenes(tmp_path, 3))
    with pytest.raises(ValueError, match=named):
        write_scenes(tmp_path, *choice)
    assert contents(tmp_path) == before


def test_another_world_or_a_foreign_folder_is_an_error(tmp_path, monkeypatch):
    folder = write_scenes(tmp_path / "ours", 3)
    monkeypatch.setitem(SHAPES, "cat", SHAPES["dog"])
    with pytest.raises(ValueError, match="world"):
        write_scenes(folder, 3)
    with pytest.raises(ValueError, match="no complete scenes"):
        load_scenes(folder)
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "captions.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        write_scenes(tmp_path / "photographs", 3)
    assert json.loads((folder / "scenes.json").read_text())["complete"] is True


def test_corner_cutting_stays_inside_and_is_whole():
    square = np.array([[0, 0], [64, 0], [64, 64], [0, 64]])
    curve = smooth(square)
    assert curve.shape == (32, 2) and curve.dtype.kind == "i"
    assert curve.min() >= 0 and curve.max() <= 64
    first = np.array([[16, 0], [48, 0], [64, 16], [64, 48], [48, 64], [16, 64]])
    once = {tuple(point) for point in first.tolist()}
    assert not once & {(0, 0), (64, 64)} and (0, 0) not in set(
        map(tuple, curve.tolist())
    )


def test_stickers_stay_in_their_margin_and_mirror():
    for name in KINDS:
        layer = sticker(name, COLOURS["red"], 100)
        alpha = np.asarray(layer)[..., 3]
        assert alpha.shape == (116, 116)
        assert not alpha[0].any() and not alpha[:, 0].any() and not alpha[:, -1].any()
        mirrored = np.asarray(sticker(name, COLOURS["red"], 100, True))[..., 3]
        assert abs((alpha > 127).sum() - (mirrored > 127).sum()) < 120
        moved = np.roll(alpha[:, ::-1] > 127, 1, axis=1) ^ (mirrored > 127)
        assert moved.mean() < 0.03


def test_light_falls_from_the_upper_left():
    ball = np.asarray(stickers.sticker("ball", COLOURS["white"], 100)).astype(int)
    assert ball[24:34, 24:34, :3].mean() > ball[-34:-24, -34:-24, :3].mean() + 20


def test_no_sticker_is_painted_twice():
    paint.cache_clear()
    scene = make_scene(0)
    draw(scene)
    painted = paint.cache_info().misses
    assert painted > 0
    draw(scene)
    assert paint.cache_info().misses == painted
