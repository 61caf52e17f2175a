"""Maps lie where they should, and the slider is linked in the browser."""

import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from ipywidgets.embed import embed_data
from PIL import Image

from satlib.figures import (
    BLUE,
    COLOURS,
    Stepper,
    arrow,
    clear,
    heat_layer,
    heat_map,
    jpeg,
    overlay,
    panels,
    part,
    stretch,
    table,
    told_apart,
)

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


def stacks(stepper):
    """The stacks of a stepper: that of its pictures and, if it has some, its texts."""
    return stepper.children[1].children[-1], stepper.children[-1]


def test_the_stepper_is_linked_without_python():
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    stepper = Stepper(frames, ["first", "second"], details=["<b>1</b>", "<b>2</b>"])
    pictures, texts = stacks(stepper)
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


def drawn(ax):
    return np.asarray(ax.images[0].get_array()).astype(int)


def test_panels_stand_in_rows_with_their_maps():
    map_, bright = np.zeros((2, 2)), np.full((60, 90, 3), 200, np.uint8)
    map_[0, 1] = 0.5
    images, alphas = [PICTURE, bright, PICTURE], [None, map_, map_.T]
    figure = panels(images, ["a", "b", "c"], alphas, columns=2, width=2, scale=1.0)
    assert figure.get_size_inches().tolist() == pytest.approx([4, 4.6])
    assert len(figure.axes) == 4
    assert (drawn(figure.axes[0]) == PICTURE).all()
    for ax, image, alpha in zip(figure.axes[1:], images[1:], alphas[1:], strict=False):
        assert (drawn(ax) == np.asarray(overlay(image, alpha, scale=1.0))).all()
    assert [ax.axison for ax in figure.axes] == [False] * 4
    assert len(panels([PICTURE] * 7).axes) == 12 and len(panels([PICTURE]).axes) == 1


def test_a_heat_map_is_the_overlay():
    alpha = np.eye(3)
    ax = heat_map(PICTURE, alpha, title="here", opacity=0.3, scale=2.0)
    expected = overlay(PICTURE, alpha, opacity=0.3, scale=2.0)
    assert (drawn(ax) == np.asarray(expected)).all() and ax.get_title() == "here"
    assert (
        drawn(heat_map(PICTURE, alpha)) == np.asarray(overlay(PICTURE, alpha))
    ).all()
    plt.close("all")


def test_an_overlay_by_hand():
    alpha = np.array([[0.2, 0.4], [0.0, 0.1]])
    for opacity, scale in ((0.6, None), (0.25, 0.8)):
        how = {"opacity": opacity, "scale": scale, "smooth": False}
        found = np.asarray(overlay(PICTURE, alpha, **how)).astype(float)
        for (row, column), weight in np.ndenumerate(alpha):
            heat = np.array(plt.get_cmap("inferno")(weight / (scale or 0.4))[:3]) * 255
            expected = (1 - opacity) * 100 + opacity * heat
            there = found[row * 30 + 15, column * 45 + 20]
            assert there == pytest.approx(expected, abs=1.1)


def test_pictures_are_kept_as_jpeg_of_quality_80():
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=80)
    assert jpeg(noise) == jpeg(Image.fromarray(noise)) == file.getvalue()
    assert len(jpeg(noise, 20)) < len(jpeg(noise))


def test_a_stepper_shows_label_picture_and_text_together():
    frames = [Image.new("RGB", (40, 30), c) for c in ("red", "lime", "blue")]
    stepper = Stepper(frames, ["one", "two", "one"], "step", ["", "<i>2</i>", "3"])
    pictures, texts = stacks(stepper)
    assert [
        pixel(widget).index(max(pixel(widget))) for widget in pictures.children
    ] == [*range(3)]
    assert [text.value for text in texts.children] == ["", "<i>2</i>", "3"]
    assert stepper.choice.description == "step" and stepper.play.max == 2
    assert (stepper.play.min, stepper.play.value, stepper.choice.index) == (0, 0, 0)
    assert stepper.play.interval == 1200 and len(Stepper(frames, "abc").children) == 4
    stepper.redraw(frames[::-1])
    assert [pixel(widget).index(max(pixel(widget))) for widget in stepper.pictures] == [
        *(2, 1, 0)
    ]


def test_a_table_names_its_columns_and_rows():
    rows = [["a <cat>", "1.5 %", "1e-07", "3 of 4"], ["a dog", "−2%", 1000, 5]]
    html = table(["of", "share", "size", "how\nmany"], rows).data
    head, first, second = re.findall("<tr>(.*?)</tr>", html)
    assert re.findall(
        'scope="col"(?: style="text-align: (right)")?>([^<]+)<', head
    ) == [
        ("", "of"),
        ("right", "share"),
        ("right", "size"),
        ("", "how many"),
    ]
    assert first.startswith('<th scope="row">a &lt;cat&gt;</th><td style=')
    assert re.findall("<td(.*?)>(.*?)</td>", second) == [
        (' style="text-align: right"', "−2%"),
        (' style="text-align: right"', "1000"),
        ("", "5"),
    ]
    assert "<caption" not in html
    said = table(["of", "share"], [["a", 1]], "a <b> & c").data
    assert '<table class="table"><caption>a &lt;b&gt; &amp; c</caption><thead>' in said
    for rows in ([["a", 1], ["b"]], [["a"]], [["a", 1, 2]]):
        with pytest.raises(ValueError):
            table(["of", "share"], rows)


def test_a_stepper_begins_where_it_is_told():
    stepper = Stepper([PICTURE] * 3, ["a", "b", "c"], details=["", "1", "2"], start=2)
    ends = [stepper.choice.index, stepper.buttons.index, stepper.play.value]
    assert ends + [stack.selected_index for stack in stacks(stepper)] == [2] * 5


def mixed(ground, layer):
    """A layer stretched over a picture and mixed with it, as a browser does."""
    with Image.open(io.BytesIO(layer)) as opened:
        over = opened.convert("RGBA").resize(ground.size, Image.Resampling.BILINEAR)
    below = ground.convert("RGBA")
    return np.asarray(Image.alpha_composite(below, over).convert("RGB")).astype(int)


LOOKS = [{}, {"opacity": 0.25}, {"colours": "viridis"}, {"scale": 2.0}, {"opacity": 1}]


@pytest.mark.parametrize("how", LOOKS, ids=str)
@pytest.mark.parametrize("size", [(96, 96), (200, 80)])
def test_a_layer_over_a_picture_is_its_overlay(how, size):
    rng = np.random.default_rng(0)
    alpha = rng.random((14, 14)) ** 3
    ground = Image.fromarray(rng.integers(0, 256, size[::-1] + (3,), dtype=np.uint8))
    stepper = Stepper([clear(), heat_layer(alpha, **how)], "ab", ground=ground)
    nothing, found = (mixed(ground, widget.value) for widget in stepper.pictures)
    assert (nothing == np.asarray(ground)).all()
    expected = np.asarray(overlay(ground, alpha, **how)).astype(int)
    assert abs(found - expected).mean() < 3
    assert stepper.pictures[1].format == "png"
    below = stepper.children[1].children[0]
    assert below.value == jpeg(ground) and below.format == "jpeg"


def test_squares_are_a_layer_of_squares():
    layer = heat_layer(np.eye(2), smooth=False)
    values = np.asarray(layer)
    assert values.shape == (32, 32) and (values[:16, :16] == 255).all()
    assert (values[:16, 16:] == 0).all()
    assert len(np.unique(np.asarray(heat_layer(np.eye(2))))) > 10


def test_layers_are_small():
    rng = np.random.default_rng(0)
    maps = [heat_layer(rng.random((14, 14)) ** 4) for _ in range(5)]
    stepper = Stepper([clear(), *maps], "abcdef", ground=Image.fromarray(PICTURE))
    assert len(stepper.pictures[0].value) < 200
    assert max(len(widget.value) for widget in stepper.pictures) < 30_000


@pytest.mark.parametrize("size", [(64, 48), (30, 90)])
def test_a_stage_shows_all_of_a_picture(size):
    stepper = Stepper([Image.new("RGB", size)], ["it"])
    width = 75 * size[0] / size[1]
    assert stepper.children[1].layout.width == f"min(100%, {width:.1f}vh)"


def test_a_part_can_be_read_and_an_arrow_points_to_its_end():
    figure, ax = plt.subplots()
    part(0, 0, "dark")
    part(1, 0, "light", BLUE)
    arrow((0, 0), (0, 1), (1, 1))
    inks = {text.get_text(): text.get_color() for text in ax.texts}
    assert inks["dark"] == "0.1" and inks["light"] == "white"
    (line,) = ax.lines
    assert line.get_xydata().tolist() == [[0, 0], [0, 1], [1, 1]]
    (head,) = [t for t in ax.texts if not t.get_text()]
    assert head.xy == (1, 1) and head.xyann == (0, 1)
    plt.close(figure)
