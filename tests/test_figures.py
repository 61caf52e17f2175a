"""Maps lie where they should, and the slider is linked in the browser."""

import io

import numpy as np
import pytest
from ipywidgets.embed import embed_data
from PIL import Image

from satlib.figures import COLOURS, Stepper, overlay, panels, stretch, told_apart

PICTURE = np.full((60, 90, 3), 100, np.uint8)


def test_the_brightest_spot_lies_over_the_largest_weight():
    alpha = np.zeros((14, 14))
    alpha[3, 10] = 1
    lightness = np.asarray(overlay(PICTURE, alpha).convert("L")).astype(int)
    y, x = np.unravel_index(lightness.argmax(), lightness.shape)
    assert abs(y - 3.5 / 14 * 60) <= 2 and abs(x - 10.5 / 14 * 90) <= 3


def test_a_map_is_stretched_to_the_size_of_the_picture():
    assert stretch(np.eye(14), (90, 60)).shape == (60, 90)
    assert overlay(PICTURE, np.ones((7, 5))).size == (90, 60)


def test_one_scale_makes_maps_comparable():
    weak, strong = np.full((2, 2), 0.1), np.full((2, 2), 0.4)
    light = [np.asarray(overlay(PICTURE, a, scale=0.4)).mean() for a in (weak, strong)]
    assert light[0] < light[1]
    own = [np.asarray(overlay(PICTURE, a)).mean() for a in (weak, strong)]
    assert own[0] == own[1]


def test_a_map_of_zeros_is_drawn():
    assert overlay(PICTURE, np.zeros((14, 14))).size == (90, 60)


def test_panels_hold_every_picture_and_title():
    figure = panels([PICTURE] * 5, list("abcde"), columns=3)
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "c", "d", "e", ""]


def pixel(widget):
    return Image.open(io.BytesIO(widget.value)).getpixel((20, 15))


def test_the_stepper_is_linked_without_python():
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    stepper = Stepper(frames, ["first", "second"], details=["<b>1</b>", "<b>2</b>"])
    pictures, texts = stepper.children[2:]
    assert pictures.selected_index == texts.selected_index == 0
    assert len(pictures.children) == len(texts.children) == 2
    assert pixel(pictures.children[1])[2] > 200 > pixel(pictures.children[1])[0]
    state = embed_data(views=[stepper])["manager_state"]["state"].values()
    links = [m["state"] for m in state if m["model_name"] == "LinkModel"]
    source = [f"IPY_MODEL_{stepper.choice.model_id}", "index"]
    ends = [link["target"] for link in links if link["source"] == source]
    followers = {"selected_index": pictures, "index": stepper.buttons}
    followers["value"] = stepper.play
    for trait, widget in followers.items():
        assert [f"IPY_MODEL_{widget.model_id}", trait] in ends
    assert [f"IPY_MODEL_{texts.model_id}", "selected_index"] in ends
    assert stepper.play.max == 1
    stepper.redraw(reversed(frames))
    assert pixel(pictures.children[0])[2] > 200 > pixel(pictures.children[0])[0]
    with pytest.raises(ValueError, match="2 frames for 1 labels"):
        Stepper(frames, ["one"])


def test_cells_show_as_rectangles_where_nothing_is_smoothed():
    map_ = stretch(np.eye(2), (40, 20), smooth=False)
    assert set(map_.flatten()) == {0, 1} and map_[:10, :20].all()
    assert len(set(stretch(np.eye(2), (40, 20)).flatten())) > 10


def test_colours_are_as_chosen():
    light = [overlay(PICTURE, np.eye(3), colours=name) for name in COLOURS]
    assert len({picture.tobytes() for picture in light}) == len(COLOURS)


def test_equal_labels_are_told_apart():
    assert told_apart(["a", "cat", "a", "a"]) == [
        "a",
        "cat",
        "a\u200b",
        "a\u200b\u200b",
    ]
    stepper = Stepper([PICTURE] * 3, ["a", "cat", "a"])
    assert [label for label, _ in stepper.choice.options] == ["a", "cat", "a"]
    assert len({label for label, _ in stepper.buttons.options}) == 3
