"""A map lies over what was looked at, from the cells to every view of a caption."""

import base64
import io
import json
import re
from collections import Counter

import numpy as np
import pytest
from conftest import BLUE, RED, planted_captioner, spotted
from PIL import Image

from satlib.explorer import explore, plain_figure
from satlib.figures import rendered
from satlib.maps import ALONE, WordView, as_shown, attention_figure, film, page, save

SHAPE = 180, 320  # of the picture that is shown: height, width


@pytest.fixture(scope="module")
def picture():
    """A black picture, wider than high, with a red and a blue cell."""
    size = SHAPE[::-1]
    return Image.fromarray(spotted()).resize(size, Image.Resampling.NEAREST)


@pytest.fixture(scope="module")
def caption(planted, picture):
    return planted.caption([picture], beam_size=3)[0]


@pytest.mark.parametrize(
    ("size", "cells", "spots", "expected"),
    [
        (224, 14, (RED, BLUE), (RED, BLUE)),
        (256, 8, ((1, 6), (5, 2)), ((2, 11), (9, 4))),  # regions within these cells
    ],
)
def test_rows_of_a_map_are_rows_of_the_picture(size, cells, spots, expected):
    captioner = planted_captioner(size)
    pictures = [spotted(*spots, cells, size), spotted(*spots[::-1], cells, size)]
    captions = captioner.caption(pictures)
    for caption, places in zip(captions, (expected, expected[::-1]), strict=True):
        assert caption.words == ["red", "blue"] and caption.finished
        for alpha, place in zip(caption.alphas, places, strict=True):
            assert alpha.shape == (14, 14) and alpha.sum() == pytest.approx(1)
            assert np.unravel_index(alpha.argmax(), alpha.shape) == place
            assert alpha[place] > 0.99


def brightest(picture, shape=SHAPE):
    """Return the region (row, column) that is lightest in a picture of a shape."""
    grey = np.asarray(picture.convert("L")).astype(float)[: shape[0], : shape[1]]
    y, x = np.unravel_index(grey.argmax(), grey.shape)
    return y * 14 // grey.shape[0], x * 14 // grey.shape[1]


def check_frames(frames, shape=SHAPE):
    """Check that pictures show first none, then the red and the blue cell's map."""
    assert len(frames) == 3
    assert brightest(frames[1], shape) == RED and brightest(frames[2], shape) == BLUE
    values = np.asarray(frames[0].convert("RGB"))[: shape[0], : shape[1]].reshape(-1, 3)
    colours = Counter((values > 100).any(1).tolist())
    assert colours[True] < 3 * len(values) / 196  # nothing but the two cells is light


def opened(content):
    return Image.open(io.BytesIO(content)).convert("RGB")


def layered(view):
    """The pictures that a view shows: its photograph, under each of its layers."""
    below, frames = view.stepper.children[1].children[0], []
    for widget in view.stepper.pictures:
        layer = Image.open(io.BytesIO(widget.value)).convert("RGBA")
        ground = opened(below.value).convert("RGBA")
        layer = layer.resize(ground.size, Image.Resampling.BILINEAR)
        frames.append(Image.alpha_composite(ground, layer).convert("RGB"))
    return frames


LARGE = 360, 640  # height, width


def test_the_stepper_shows_the_map_of_each_word(caption, picture):
    view = WordView(caption, picture)
    check_frames(layered(view), LARGE)
    details = view.stepper.children[-1].children
    shown = [re.findall("bdi>(.+?)<", text.value)[:1] for text in details]
    assert shown == [[], ["red"], ["blue"]]


def test_the_explorer_shows_the_map_of_each_word(planted, picture):
    explorer = explore(planted, [picture], beam_size=2)
    check_frames(layered(explorer.views[0][0]), LARGE)
    small = opened(base64.b64decode(explorer.photographs.small[0]))
    assert small.size == (152, 86)  # the picture itself: the red spot in its place
    assert (np.asarray(small)[21, 113] - np.array([255, 0, 0])).max() < 60


def test_the_film_and_its_file_show_the_map_of_each_word(caption, picture, tmp_path):
    frames = film(caption, picture)
    check_frames(frames)
    save(caption, picture, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as kept:
        assert kept.n_frames == 3 and kept.info["duration"] == 900
        for n, brightest_ in enumerate((None, RED, BLUE)):
            kept.seek(n)
            assert n == 0 or brightest(kept.convert("RGB")) == brightest_
    below = [np.asarray(f.convert("L"))[SHAPE[0] :] for f in frames]
    assert below[0].min() == 255  # the picture has no word beneath it
    ink = [(part < 128).any(0).sum() for part in below]
    assert 0 < ink[1] < ink[2]  # "red" is shorter than "blue"


def test_the_page_shows_the_map_of_each_word(caption, picture):
    text = page(caption, picture)
    data = json.loads(re.search(r"labels, details\} = (\{.*?\}), word", text)[1])
    check_frames([opened(base64.b64decode(frame)) for frame in data["frames"]], LARGE)
    assert data["labels"] == ["the picture", "red", "blue"]
    assert [re.findall("bdi>(.+?)<", t)[:1] for t in data["details"]] == [
        [],
        ["red"],
        ["blue"],
    ]


def test_the_figure_shows_the_map_of_each_word(caption, picture):
    axes = attention_figure(caption, picture).axes
    frames = [Image.fromarray(np.asarray(ax.images[0].get_array())) for ax in axes[:3]]
    check_frames(frames)
    chances = np.exp(caption.word_log_probs)
    assert [ax.get_title() for ax in axes] == [
        "",
        f"red {chances[0]:.2f}",
        f"blue {chances[1]:.2f}",
    ]


def test_the_plain_figure_is_the_figure(caption, picture):
    source = re.search(r"base64,([^\"]+)", plain_figure(caption, picture))[1]
    shown = np.asarray(opened(base64.b64decode(source))).astype(int)
    expected = np.asarray(rendered(attention_figure(caption, picture))).astype(int)
    assert shown.shape == expected.shape and abs(shown - expected).mean() < 2


def test_another_beam_shows_its_own_maps(caption, picture):
    view = WordView(caption, picture)
    beam = caption.beams[0]
    assert beam.words != caption.words
    view.beams.value = 1
    labels = [label for label, _ in view.stepper.choice.options]
    assert labels == [ALONE, *beam.words]
    assert f"<li>{beam}</li>" not in view.children[-1].value
    assert f"<li>{caption}</li>" in view.children[-1].value  # among the others


def test_one_list_of_beams_for_a_notebook_and_one_for_a_page(caption, picture):
    view = WordView(caption, picture)
    _, stepper, choice, _, listed = view.children
    assert choice is view.beams and "needs-python" in choice._dom_classes
    assert "for-pages" in listed._dom_classes and listed.layout.display == "none"
    others = re.findall("<li>(.*?)</li>", listed.value)
    assert others == [str(beam) for beam in caption.beams] and len(others) == 2
    alone = WordView(type(caption)(**vars(caption) | {"beams": []}), picture)
    assert alone.children[-1].value == "" and alone.beams.layout.display == "none"
    assert "<details>" not in "".join(
        child.value for child in (view.heading, *stepper.children[-1].children)
    )


def test_another_beam_keeps_the_place_in_the_sentence(caption, picture):
    view = WordView(caption, picture)
    beams = [str(c).split() for c in view.captions]
    view.stepper.choice.index = 2
    for number in (1, 2, 0):
        before = view.stepper.choice.index
        view.beams.value = number
        expected = min(before, len(beams[number]))
        assert view.stepper.choice.index == view.stepper.buttons.index == expected
        stage, *_, texts = view.stepper.children[1:]
        assert stage.children[-1].selected_index == texts.selected_index == expected
    longer = type(caption)(**vars(caption) | {"beams": []})
    view.stepper.choice.index = 1
    view.hear(longer)
    assert view.stepper.choice.index == 1


def test_drawing_follows_its_options(caption, picture):
    view = WordView(caption, picture)

    def frame():
        return np.asarray(layered(view)[1]).astype(int)

    view.draw(opacity=0.0)
    plain = np.asarray(picture.resize(LARGE[::-1])).astype(int)
    assert abs(frame() - plain).mean() < 6  # nothing of the map
    view.draw(opacity=1.0, colours="viridis")
    assert abs(frame()[-5:, :5] - [68, 1, 84]).max() < 12  # viridis's darkest
    view.draw(opacity=1.0, smooth=False)
    top, left = RED[0] * LARGE[0] / 14, RED[1] * LARGE[1] / 14
    inside = frame()[int(top + 6) : int(top + 18), int(left + 6) : int(left + 36)]
    assert inside.min(2).mean() > 120  # the whole cell, in inferno's lightest


def test_one_scale_is_that_of_the_caption(caption, picture):
    weak = np.array(caption.alphas)
    weak[1] /= 2
    halved = type(caption)(**vars(caption) | {"alphas": weak})
    own, one = (
        [frame.convert("L") for frame in layered(WordView(halved, picture, **how))]
        for how in ({}, {"one_scale": True})
    )
    most = [[np.asarray(p).max() for p in frames[1:]] for frames in (own, one)]
    assert abs(int(most[0][0]) - most[1][0]) <= 2 and most[1][1] < most[0][1] - 20


@pytest.mark.parametrize("kind", ["path", "image", "array"])
def test_a_photograph_is_shown_in_its_own_proportions(kind, tmp_path):
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:20, :50] = 255  # upper left
    image = Image.fromarray(picture)
    image.save(tmp_path / "a.png")
    shown = as_shown(
        {"path": tmp_path / "a.png", "image": image, "array": picture}[kind], 200
    )
    assert shown.size == (200, 80)
    values = np.asarray(shown.convert("L"))
    assert values[10, 10] > 250 and max(values[70, 10], values[10, 190]) < 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_shown_upright(orientation, tmp_path):
    turn = Image.Transpose
    undo = [None, turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM]
    undo += [turn.TRANSPOSE, turn.ROTATE_90, turn.TRANSVERSE, turn.ROTATE_270]
    upright = Image.new("RGB", (100, 40))
    upright.paste("white", (0, 0, 50, 20))
    how, exif = undo[orientation - 1], Image.Exif()
    exif[0x0112] = orientation
    stored = upright if how is None else upright.transpose(how)
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "a.jpg") as opened_:
        for shown in (as_shown(tmp_path / "a.jpg", 200), as_shown(opened_, 200)):
            assert shown.size == (200, 80)
            values = np.asarray(shown.convert("L"))
            assert values[10, 10] > 240 and max(values[70, 10], values[10, 190]) < 15
