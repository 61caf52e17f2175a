"""Views of a caption and the explorer: what they show, and what the controls do."""

import base64
import io
import json
import re
from datetime import datetime, timezone

import numpy as np
import pytest
from ipywidgets.embed import dependency_state
from PIL import Image

from satlib.captioner import Caption
from satlib.explorer import explore, plain_figure
from satlib.figures import clear, heat_layer, jpeg
from satlib.maps import (
    WordView,
    as_shown,
    attention_figure,
    exhibit,
    page,
    percent,
    save,
    seen_so_far,
    word_details,
)


@pytest.fixture
def caption(captioner, pictures):
    return captioner.caption(pictures[:1], beam_size=3)[0]


def layer_of(alpha, **how):
    """The bytes of a map as a layer to lie over a photograph."""
    file = io.BytesIO()
    heat_layer(alpha, **how).save(file, "PNG", optimize=True)
    return file.getvalue()


def test_details_are_plain_words():
    alphas = np.full((2, 2, 5), 0.1)
    alphas[0] = 0
    alphas[0, 0, 0] = 1
    rivals = [[("the", 0.12), ("one", 0.05)], [("dog", 0.25), ("ball", 0.07)]]
    caption = Caption(
        ["a", "cat"],
        alphas,
        -1.5,
        [np.log(0.8), np.log(0.6)],
        rivals,
        [0.31, 0.72],
        True,
    )
    assert word_details(caption) == [
        "<b><bdi>a</bdi></b>, sure: 80&nbsp;%. It might have said: <bdi>the</bdi> "
        "12&nbsp;%, <bdi>one</bdi> 5&nbsp;%.<br><small>Of what it saw for this word, "
        "31&nbsp;% was let through to the sentence. So far it has looked mostly at "
        "10&nbsp;% of the picture.</small>",
        "<b><bdi>cat</bdi></b>, sure: 60&nbsp;%. It might have said: <bdi>dog</bdi> "
        "25&nbsp;%, <bdi>ball</bdi> 7&nbsp;%.<br><small>Of what it saw for this word, "
        "72&nbsp;% was let through to the sentence. So far it has looked mostly at "
        "80&nbsp;% of the picture.</small>",
    ]


def test_doubts_are_marked_in_every_view(caption, pictures):
    words = caption.words
    plain = WordView(caption, pictures[0])
    assert not any(plain.stepper.buttons.tooltips) and plain.children[3].value == ""
    caption.chances = [None, 0.3, *[0.5] * (len(words) - 2)]
    view = WordView(caption, pictures[0])
    doubt = "more likely wrong than right"
    labels = [label for label, _ in view.stepper.buttons.options]
    assert labels[1:] == [words[0], f"{words[1]}?", *words[2:]]
    tips = ["", "", doubt, *[""] * (len(words) - 2)]
    assert [*view.stepper.buttons.tooltips] == tips
    style = view.children[3].value
    name = f"of-{view.stepper.buttons.model_id}"
    assert name in view.stepper.buttons._dom_classes
    assert style.count("nth-of-type") == 1 and "wavy" in style
    assert f".{name} button:nth-of-type(3) {{" in style  # after photograph and "a"
    details = word_details(caption)
    assert f"30&nbsp;% are right, so it is {doubt}. " in details[1]
    assert "50&nbsp;% are right. " in details[2] and doubt not in details[2]
    assert "are right" not in details[0]
    figure = attention_figure(caption, pictures[0])
    assert figure.axes[2].get_title().startswith(f"{words[1]}? ")
    assert f'"{words[1]}?"' in page(caption, pictures[0])
    assert f"<span>{words[1]}?</span>" in exhibit(caption, pictures[0], "a scene")


def test_details_hold_no_zero():
    rivals = [[("the", 0.01), ("one", 0.0099)], [("dog", 0.004), ("ball", 0.0)]]
    caption = Caption(
        ["a", "cat"],
        np.full((2, 14, 14), 1 / 196),
        -1.5,
        [np.log(0.999), np.log(0.0004)],
        rivals,
        [0.001, 0.9999],
        True,
    )
    first, second = word_details(caption)
    for text in (first, second):
        assert not re.search(r"\b0&nbsp;%|\b100&nbsp;%", text)
    assert "<bdi>the</bdi> 1&nbsp;%.<br>" in first and "one" not in first
    assert "sure: over 99&nbsp;%" in first and "under 1&nbsp;% was let" in first
    assert "sure: under 1&nbsp;%. Nothing else came close.<br>" in second
    assert "over 99&nbsp;% was let" in second and "dog" not in second


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "under 1"), (0.01, "1"), (0.5, "50"), (0.99, "99")]
)
def test_a_share_in_percent(share, text):
    assert percent(share) == f"{text}&nbsp;%"
    assert percent(0.9901) == percent(1) == "over 99&nbsp;%"


def test_how_much_has_been_seen():
    alphas = np.zeros((4, 2, 5))
    alphas[0, 0, 0] = 1  # one region of ten has it all
    alphas[1, 1, :4] = 0.25  # half of 2 in one, 1/8 each in four others: needs five
    alphas[2, 1, 4] = 1  # 4/12 each in two, 1/12 each in four: needs all six
    alphas[3] = 0.1  # 11/40 each in two, 1/40 in four, .1/4 in four
    sums = alphas.cumsum(0).reshape(4, 10)
    needed = []
    for row in sums / sums.sum(1, keepdims=True):
        held = [sum(sorted(row, reverse=True)[: n + 1]) for n in range(10)]
        needed.append(next(n for n, part in enumerate(held, 1) if part > 0.9 - 1e-9))
    assert needed[:3] == [1, 5, 5]
    assert seen_so_far(alphas) == pytest.approx([n / 10 for n in needed], abs=1e-9)


def test_a_view_holds_the_map_of_each_word(caption, pictures):
    view = WordView(caption, pictures[0])
    assert [label for label, _ in view.stepper.choice.options] == [
        "the photograph alone",
        *caption.words,
    ]
    nothing, *shown = [picture.value for picture in view.stepper.pictures]
    assert shown == [layer_of(alpha) for alpha in caption.alphas]
    assert len(set(shown)) > 3
    with Image.open(io.BytesIO(nothing)) as image:
        assert (
            image.size == clear().size
            and image.convert("RGBA").getpixel((0, 0))[3] == 0
        )
    below = view.stepper.children[1].children[0]
    assert below.value == jpeg(as_shown(pictures[0], 640))


def test_another_beam_shows_its_own_words(caption, pictures):
    view = WordView(caption, pictures[0])
    view.beams.value = 1
    beam = caption.beams[0]
    assert [label for label, _ in view.stepper.choice.options][1:] == beam.words
    assert view.stepper.pictures[1].value == layer_of(beam.alphas[0])


def test_words_are_escaped(caption, pictures):
    caption.words[0] = "<script>"
    view = WordView(caption, pictures[0])
    assert "<script>" not in word_details(caption)[0]
    view.beams.value = 1  # the first is among the others now
    assert "&lt;script&gt;" in view.others() and "<script>" not in view.others()
    named = WordView(caption, pictures[0], "<script>")
    assert "<script>" not in named.heading.value


@pytest.mark.parametrize("kind", ["png", "svg", "gif", "html"])
def test_maps_are_kept_as_files(caption, pictures, tmp_path, kind):
    path = tmp_path / f"maps.{kind}"
    save(caption, pictures[0], path)
    content = path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if kind in ("png", "gif"):
        image = Image.open(io.BytesIO(content))
        frames = {"png": 1, "gif": len(caption.words) + 1}  # equal ones are joined
        assert (kind == "gif") < getattr(image, "n_frames", 1) <= frames[kind]
    if kind == "svg":
        assert b"<svg" in content
    if kind == "html":
        text = content.decode()
        assert not re.search(r"(src|href)=.?https?:", text)
        data = json.loads(re.search(r"labels, details\} = (\{.*?\}), word", text)[1])
        assert data["labels"][1:] == caption.words
        assert len(data["frames"]) == len(caption.words) + 1


def test_another_ending_is_refused(caption, pictures, tmp_path):
    with pytest.raises(ValueError, match="must end with"):
        save(caption, pictures[0], tmp_path / "maps.bmp")
    assert not list(tmp_path.iterdir())


def test_the_plain_figure_has_a_text_and_waits_for_no_script(caption, pictures):
    text = plain_figure(caption, pictures[0])
    assert f'alt="{caption}: ' in text and "<noscript>" in text
    assert "display: none" in text and len(text) < 150_000


def test_pictures_and_captioners_have_views(captioner, pictures):
    explorer = explore([captioner, captioner], pictures)
    assert [len(views) for views in explorer.views] == [2, 2, 2]
    assert len(explorer.stack.children) == len(explorer.photographs.small) == 3
    assert explorer.stack.selected_index == 0
    beside = explore(captioner, pictures, side_by_side=True)
    assert len(beside.stack.children) == 3 and not hasattr(beside.stack, "titles")


def test_an_explorer_is_small_enough_for_a_page(captioner, pictures):
    explorer = explore(captioner, pictures)
    state = dependency_state(explorer.widget)
    assert len(json.dumps(state)) < 200_000 * len(pictures)


def test_beam_size_searches_again(captioner, pictures):
    explorer = explore(captioner, pictures[:1], beam_size=1)
    assert len(explorer.views[0][0].captions) == 1
    explorer.controls.beam_size.value = 3
    view = explorer.views[0][0]
    expected = captioner.caption(pictures[:1], 3)[0]
    assert [str(c) for c in view.captions] == [str(expected), *map(str, expected.beams)]
    assert explorer.controls.message.value == ""


def test_controls_redraw_the_maps(captioner, pictures, monkeypatch):
    explorer = explore(captioner, pictures[:1])
    view = explorer.views[0][0]
    before = view.stepper.pictures[1].value
    monkeypatch.setattr(captioner, "caption", None)  # nothing is captioned again
    explorer.controls.smooth.value = False
    explorer.controls.colours.value = "viridis"
    explorer.controls.one_scale.value = True
    alphas = view.caption.alphas
    look = {"smooth": False, "colours": "viridis", "scale": alphas.max()}
    assert view.stepper.pictures[1].value == layer_of(alphas[0], **look) != before


def upload(name, content):
    file = {"name": name, "type": "", "size": len(content), "content": content}
    return file | {"last_modified": datetime(2026, 1, 1, tzinfo=timezone.utc)}


def test_a_photograph_is_taken_upright(captioner, pictures):
    explorer = explore(captioner, pictures[:1])
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turned by the camera
    Image.new("RGB", (300, 200), "red").save(file, "JPEG", exif=exif)
    explorer.controls.upload.value = (upload("mine.jpg", file.getvalue()),)
    assert len(explorer.views) == 2 and explorer.choice.index == 1
    assert explorer.stack.selected_index == 1
    width, height = explorer.views[1][0].picture.size
    assert height > width


def test_a_file_that_is_no_photograph_gets_a_message(captioner, pictures):
    explorer = explore(captioner, pictures[:1])
    explorer.controls.upload.value = (upload("<notes>.txt", b"no photograph"),)
    assert (
        "&lt;notes&gt;.txt cannot be read: it is damaged"
        in explorer.controls.message.value
    )
    assert len(explorer.views) == 1


def test_a_very_large_photograph_is_no_trouble(captioner, pictures):
    explorer = explore(captioner, pictures[:1])
    file = io.BytesIO()
    Image.new("RGB", (8000, 6250), "blue").save(file, "JPEG")
    explorer.controls.upload.value = (upload("large.jpg", file.getvalue()),)
    assert max(explorer.images[1].size) == 1024


def test_the_chosen_picture_is_kept(captioner, pictures, tmp_path):
    explorer = explore(captioner, pictures)
    explorer.choice.index = 1
    explorer.save(tmp_path / "maps.html")
    text = (tmp_path / "maps.html").read_text(encoding="utf-8")
    assert f"<h1>{explorer.views[1][0].caption}</h1>" in text


class Fixed:
    """A captioner that says the same of every picture, with so many beams."""

    def __init__(self, word):
        self.word, self.asked = word, []

    def caption(self, images, beam_size):
        self.asked.append((len(images), beam_size))
        alphas = np.full((1, 2, 2), 0.25)
        return [
            Caption([f"{self.word}{n}"], alphas, -1.0, [-1.0], [[]], [0.5], True)
            for n in range(len(images))
        ]


def test_each_captioner_and_each_picture_has_its_place(pictures):
    one, two = Fixed("cat"), Fixed("dog")
    explorer = explore([one, two], pictures, beam_size=7)
    assert one.asked == two.asked == [(3, 7)]
    assert explorer.controls.beam_size.value == 7
    words = [[str(view.caption) for view in views] for views in explorer.views]
    assert words == [["cat0", "dog0"], ["cat1", "dog1"], ["cat2", "dog2"]]
    small = [jpeg(as_shown(picture, 152)) for picture in pictures]
    small = [base64.b64encode(picture).decode() for picture in small]
    assert explorer.photographs.small == small
    rules = re.findall(
        r"of-(\w+) button:nth-of-type\((\d)\) .*?base64,(.*?)\)",
        explorer.photographs.style.value,
    )
    here = explorer.choice.model_id
    assert rules == [(here, str(n), text) for n, text in enumerate(small, 1)]
    assert f"of-{here}" in explorer.choice._dom_classes
    assert [view.picture.tobytes() for view, _ in explorer.views] == [
        as_shown(picture, 640).tobytes() for picture in pictures
    ]
    assert list(explorer.choice.options) == [f"photograph {n}" for n in (1, 2, 3)]
    assert explorer.choice.index == 0
    explorer.controls.beam_size.value = 2
    assert one.asked[-1] == two.asked[-1] == (3, 2)
    explorer.add(pictures[:2])
    assert one.asked[-1] == (2, 2) and len(explorer.images) == 5
    assert explorer.choice.index == explorer.stack.selected_index == 3


def test_every_control_changes_the_drawing(captioner, pictures):
    explorer = explore(captioner, pictures[:1])
    stepper, controls = explorer.views[0][0].stepper, explorer.controls
    alpha = explorer.views[0][0].caption.alphas[1]
    for name, value in {"opacity": 0.2, "colours": "cividis", "smooth": False}.items():
        before = stepper.pictures[2].value
        getattr(controls, name).value = value
        assert stepper.pictures[2].value != before, name
    how = {"opacity": 0.2, "colours": "cividis", "smooth": False}
    assert stepper.pictures[2].value == layer_of(alpha, **how)
    explorer.add(pictures[1:2])  # a new picture is drawn as the controls say
    view = explorer.views[1][0]
    expected = layer_of(view.caption.alphas[0], **how)
    assert view.stepper.pictures[1].value == expected


def test_the_chosen_picture_is_saved_with_its_own_maps(captioner, pictures, tmp_path):
    explorer = explore(captioner, pictures)
    explorer.choice.index = 2
    explorer.save(tmp_path / "maps.gif")
    save(explorer.views[2][0].caption, pictures[2], tmp_path / "own.gif")
    assert (tmp_path / "maps.gif").read_bytes() == (tmp_path / "own.gif").read_bytes()


def test_of_one_picture_there_is_nothing_to_choose(captioner, pictures):
    explorer = explore(captioner, pictures[:1])
    assert explorer.photographs.layout.display == "none"
    explorer.add(pictures[1:2])
    assert explorer.photographs.layout.display is None
    assert explore(captioner, []).photographs.layout.display == "none"


def test_captioners_have_names(pictures):
    def names(explorer):
        return [
            (re.sub("<.*?>", "", view.heading.value), view.heading.layout.display)
            for view in explorer.views[0]
        ]

    one, two = Fixed("cat"), Fixed("dog")
    assert names(explore(one, pictures)) == [("", "none")]
    numbered = [("captioner 1", None), ("captioner 2", None)]
    assert names(explore([one, two], pictures)) == numbered
    named = explore([one, two], pictures, names=["small", "large"])
    assert names(named) == [("small", None), ("large", None)]
    assert names(explore(one, pictures, names=["small"])) == [("small", None)]
    with pytest.raises(ValueError, match="1 names for 2 captioners"):
        explore([one, two], pictures, names=["small"])


def test_another_beam_size_keeps_the_word(captioner, pictures):
    explorer = explore(captioner, pictures[:2], beam_size=1)
    view = explorer.views[1][0]
    view.stepper.choice.index = 3
    explorer.controls.beam_size.value = 3
    assert view.stepper.choice.index == 3
    assert explorer.views[0][0].stepper.choice.index == 0
