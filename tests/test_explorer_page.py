"""The explorer on a page without Python: mouse, keyboard, finger, light and dark."""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress

import nbformat
import numpy as np
import pytest
from conftest import CHROMIUM, small_book
from PIL import Image

from satlib.tangle import ROOT

pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and shutil.which("npm")), reason="needs chromium and npm"
    ),
    pytest.mark.timeout(300),  # the first test builds a page
]
PAGE = """\
    ---
    jupytext:
      text_representation: {extension: .md, format_name: myst}
    kernelspec: {display_name: Python 3, language: python, name: python3}
    ---

    # A page

    ```{code-cell}
    import sys
    sys.path.insert(0, TESTS)
    from conftest import tiny_captioner
    from satlib.explorer import explore
    from satlib.scenes import draw, make_scene

    captioner = tiny_captioner()
    square, other = (draw(make_scene(seed))[0] for seed in (1, 2))
    explore(captioner, [square], beam_size=3)
    ```

    ```{code-cell}
    pictures = [square.crop((0, 40, 256, 200)), other]
    explore([captioner] * 2, pictures, beam_size=1, names=["small", "large"])
    ```
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page with two explorers, built with its scripts from npm."""
    folder = tmp_path_factory.mktemp("book")
    return small_book(folder, PAGE, BOOK_SCRIPTS="npm")


@contextmanager
def opened(path, chromium, width, colours):
    """Open the page and wait for its explorers; a list of the outputs of both."""
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=colours, has_touch=True
    )
    tab = context.new_page()
    tab.goto(path.as_uri())
    outputs = tab.locator(".cell_output")
    for number in (1, 0):
        outputs.nth(number).scroll_into_view_if_needed()
        outputs.nth(number).locator(".stepper img").first.wait_for(timeout=20_000)
    try:
        yield [outputs.nth(0), outputs.nth(1)]
    finally:
        context.close()


@pytest.fixture
def explorers(path, chromium, width, colours):
    with opened(path, chromium, width, colours) as found:
        yield found


@pytest.fixture
def one(explorers):
    """An explorer of one picture and one captioner."""
    return explorers[0]


@pytest.fixture
def two(explorers):
    """An explorer of two pictures and two captioners."""
    return explorers[1]


WINDOWS = pytest.mark.parametrize(
    ("width", "colours"), [(320, "light"), (390, "dark"), (1280, "light")]
)
WIDE = pytest.mark.parametrize(("width", "colours"), [(1280, "dark")])
ALONE, SENTENCE = "the photograph alone", ["a", "red", "cat", "sits", "here"]


def word(explorer, name):
    return explorer.get_by_role("button", name=name, exact=True).first


def is_shown(explorer, name):
    """Wait until all that follows the word shows it; tell whether it came to that."""
    tab, pressed = explorer.page, explorer.locator(".stepper [aria-pressed=true]")
    picture = explorer.locator(".frames img:visible").first
    for _ in range(60):
        found = [button.text_content() for button in pressed.all()]
        details = explorer.locator(".stepper .widget-html-content:visible").last
        if found == [name] and name in picture.get_attribute("alt"):
            text = details.text_content()
            return "Choose a word" in text if name == ALONE else f"{name}, sure" in text
        tab.wait_for_timeout(50)
    return False


@WINDOWS
def test_the_sentence_is_text_whose_words_are_pressed(one):
    buttons = one.locator(".widget-toggle-buttons:visible button")
    names = [button.text_content() for button in buttons.all()]
    assert names == [ALONE, *SENTENCE] and is_shown(one, ALONE)
    places = [button.bounding_box() for button in buttons.all()]
    before, after = places[1], places[2]
    assert 0 < after["x"] - before["x"] - before["width"] < 12  # a space between
    for name in ("cat", "a", ALONE):
        word(one, name).click()
        assert is_shown(one, name)


@WINDOWS
def test_arrow_keys_go_from_word_to_word(one):
    word(one, ALONE).focus()
    for key, name in (
        ("ArrowRight", "a"),
        ("ArrowRight", "red"),
        ("ArrowLeft", "a"),
        ("End", "here"),
        ("ArrowRight", "here"),
        ("Home", ALONE),
        ("ArrowLeft", ALONE),
    ):
        one.page.keyboard.press(key)
        assert is_shown(one, name), key
        assert one.page.evaluate("document.activeElement.textContent") == name
    one.page.keyboard.press("Tab")  # the words are one stop
    assert one.page.evaluate(
        "!document.activeElement.closest('.frames, button.widget-toggle-button')"
    )


@WINDOWS
def test_a_finger_presses_a_word(one):
    word(one, "red").tap()
    assert is_shown(one, "red")


@WINDOWS
def test_one_list_of_beams_and_no_control_that_needs_python(explorers):
    one, two = explorers
    assert one.locator("details").count() == 1 and two.locator("details").count() == 0
    one.get_by_text("other beams").click()
    assert one.locator("li:visible").count() >= 1
    for explorer in explorers:
        assert explorer.locator("select:visible").count() == 0
        assert explorer.locator(".needs-python:visible").count() == 0


@WINDOWS
def test_thumbnails_are_the_choice_and_of_one_picture_there_are_none(one, two):
    assert one.locator(".photographs:visible").count() == 0
    small = two.locator(".photographs button")
    assert [s.text_content() for s in small.all()] == ["photograph 1", "photograph 2"]
    grounds = [
        s.evaluate("part => getComputedStyle(part).backgroundImage")
        for s in small.all()
    ]
    assert len({*grounds}) == 2 and all("data:image/jpeg" in g for g in grounds)
    assert all(
        s.evaluate("part => getComputedStyle(part).fontSize") == "0px"
        for s in small.all()
    )
    shape = "image => image.naturalWidth / image.naturalHeight"
    shown = two.locator(".stepper img:visible").first
    assert shown.evaluate(shape) == pytest.approx(1.6, abs=0.01)
    small.nth(1).click()
    two.page.wait_for_timeout(300)
    shown = two.locator(".stepper img:visible").first
    assert shown.evaluate(shape) == pytest.approx(1, abs=0.01)
    assert two.get_by_role("button", name="ball", exact=True).count() == 2


@WINDOWS
def test_a_picture_has_all_the_room_and_its_map_lies_over_all_of_it(one, two, width):
    room = one.bounding_box()["width"]
    for explorer in (one, two):
        word(explorer, "a").click()
        explorer.page.wait_for_timeout(300)
        photograph, layer = explorer.locator(".stepper img:visible").all()[:2]
        box = photograph.bounding_box()
        assert layer.bounding_box() == pytest.approx(box, abs=0.5)
        natural = photograph.evaluate("i => i.naturalWidth / i.naturalHeight")
        assert box["width"] / box["height"] == pytest.approx(natural, rel=0.01)
    picture = one.locator(".stepper img:visible").first.bounding_box()
    assert picture["width"] > 0.9 * min(room, 690)
    assert picture["height"] <= 0.76 * 900


@WINDOWS
def test_two_captioners_stand_side_by_side_under_their_names(two, width):
    names = [two.get_by_text(name, exact=True) for name in ("small", "large")]
    pictures = [two.locator(".stepper").nth(n).locator("img").first for n in (0, 1)]
    (left, right), (a, b) = (
        [part.bounding_box() for part in parts] for parts in (names, pictures)
    )
    assert left["y"] + left["height"] <= a["y"] and left["x"] < a["x"] + a["width"]
    assert right["y"] + right["height"] <= b["y"]
    if width == 1280:
        assert a["y"] == b["y"] and a["x"] + a["width"] < b["x"]
    else:
        assert b["y"] > a["y"] + a["height"] and a["x"] == b["x"]


@WINDOWS
def test_nothing_is_cut_or_too_small_for_a_finger(explorers):
    tab = explorers[0].page
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert tab.evaluate(wide) <= 0
    for explorer in explorers:
        room = explorer.bounding_box()
        for part in explorer.locator("button:visible, [role=slider]:visible").all():
            box = part.bounding_box()
            assert box["width"] >= 24 and box["height"] >= 24, part.text_content()
            assert box["x"] + box["width"] <= room["x"] + room["width"] + 1


CONTRAST = """part => {
    const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map((n) => n / 255).map(
            (n) => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (part) => {
        const colour = getComputedStyle(part).backgroundColor;
        return /, 0\\)|transparent/.test(colour) ? ground(part.parentElement) : colour;
    };
    const ratio = (a, b) =>
        (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    const own = ground(part), page = ground(part.closest(".cell_output"));
    return [ratio(getComputedStyle(part).color, own), ratio(own, page), light(page)];
}"""


@pytest.mark.parametrize(("width", "colours"), [(1280, "dark"), (390, "light")])
def test_colours_are_those_of_the_page(one, colours):
    word(one, "cat").click()
    assert is_shown(one, "cat")
    text, mark, page = word(one, "cat").evaluate(CONTRAST)
    assert text >= 4.5 and mark >= 3 and (page < 0.05) == (colours == "dark")
    parts = [word(one, "red"), one.locator(".widget-html-content:visible").last]
    parts += [
        one.locator(".widget-label:visible").first,
        one.get_by_text("other beams"),
    ]
    for part in parts:
        text, mark, _ = part.evaluate(CONTRAST)
        assert text >= 4.5 and mark == 1  # no ground of its own


@WIDE
def test_names_follow_what_is_done(one):
    slider = one.get_by_role("slider", name="word")
    slider.focus()
    for name in ("a", "red"):
        one.page.keyboard.press("ArrowRight")
        assert is_shown(one, name)
        assert slider.get_attribute("aria-valuetext") == name


LIVE = """\
from conftest import tiny_captioner
from satlib.explorer import explore
from satlib.scenes import draw, make_scene
explore(tiny_captioner(), [draw(make_scene(1))[0]], beam_size=3)
"""


@pytest.fixture
def live(tmp_path, chromium):
    """A tab of a real JupyterLab, `$JUPYTER_LAB`, with an explorer in a notebook."""
    env = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = {"argv": argv, "display_name": "book", "language": "python", "env": env}
    (tmp_path / "kernels/book").mkdir(parents=True)
    (tmp_path / "kernels/book/kernel.json").write_text(json.dumps(kernel))
    cell = nbformat.v4.new_code_cell(LIVE)
    notebook = nbformat.v4.new_notebook(
        cells=[cell], metadata={"kernelspec": {"name": "book", "display_name": "book"}}
    )
    (tmp_path / "here").mkdir()
    nbformat.write(notebook, tmp_path / "here/live.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [os.environ["JUPYTER_LAB"], "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--IdentityProvider.token="]
    command += [f"--ServerApp.root_dir={tmp_path / 'here'}"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command,
            env=os.environ | {"JUPYTER_PATH": str(tmp_path)},
            stdout=log,
            stderr=log,
        )
    tab = chromium.new_page(viewport={"width": 1280, "height": 1600})
    try:
        for _ in range(60):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            tab.wait_for_timeout(500)
        tab.goto(f"http://127.0.0.1:{port}/lab/tree/live.ipynb")
        tab.locator(".jp-Cell .cm-content").first.click(timeout=60_000)
        tab.wait_for_timeout(3000)  # for its kernel
        tab.keyboard.press("Shift+Enter")
        tab.locator(".stepper img").first.wait_for(timeout=90_000)
        yield tab
    finally:
        tab.close()
        server.terminate()
        server.wait(30)


@pytest.mark.skipif("JUPYTER_LAB" not in os.environ, reason="needs a JupyterLab")
def test_photographs_go_through_a_real_jupyterlab(live, tmp_path):
    """Large, several, the same again, an iPhone's: added, or told why not."""
    noise = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg", quality=95)
    assert (tmp_path / "large.jpg").stat().st_size > 10 * 2**20
    Image.new("RGB", (40, 60), "green").save(tmp_path / "small.png")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(2000))
    small = live.locator(".photographs button")

    def choose(*names, count):
        with live.expect_file_chooser() as chooser:
            live.get_by_role("button", name="of your own").click()
        chooser.value.set_files([tmp_path / name for name in names])
        small.nth(count - 1).wait_for(timeout=30_000)
        assert small.count() == count
        live.wait_for_timeout(1500)
        pressed = [s for s in small.all() if "mod-active" in s.get_attribute("class")]
        (chosen,) = (s.text_content() for s in pressed)
        assert chosen == f"photograph {count}"

    choose("large.jpg", count=2)
    choose("small.png", "phone.heic", "small.png", count=4)
    choose("small.png", count=5)
    (told,) = live.locator("[role=alert]:has-text('cannot be read')").all()
    assert "phone.heic" in told.text_content() and "JPEG" in told.text_content()
    live.get_by_role("button", name="seen").click()
    told.wait_for(state="detached")

    small.nth(0).click()
    output = live.locator(".jp-OutputArea-output").first
    live.wait_for_timeout(1000)
    word(output, "red").click()
    assert is_shown(output, "red")
    live.keyboard.press("ArrowRight")
    assert is_shown(output, "cat")
    assert output.locator("details:visible").count() == 0
    beams = output.locator(".needs-python:visible select").first
    beams.select_option(index=1)
    live.wait_for_timeout(3000)
    pressed = output.locator(".stepper:visible button").all()
    states = [button.get_attribute("aria-pressed") for button in pressed]
    assert states.index("true") == 3  # the third word of the other beam
