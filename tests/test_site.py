"""A page with an explorer, built for reading offline and opened in a real browser."""

import io
import os
import shutil
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from satlib.tangle import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and shutil.which("npm")), reason="needs chromium and npm"
    ),
    pytest.mark.timeout(300),  # the first test builds a book
]
PAGE = """\
    ---
    jupytext:
      text_representation: {extension: .md, format_name: myst}
    kernelspec: {display_name: Python 3, language: python, name: python3}
    ---

    # A page

    A formula: $x^2$.

    ```{code-cell}
    import sys
    sys.path.insert(0, TESTS)
    from conftest import tiny_captioner
    from satlib.explorer import explore
    from satlib.scenes import draw, make_scene

    pictures = [draw(make_scene(seed))[0] for seed in (1, 2)]
    explorer = explore(tiny_captioner(), pictures, beam_size=1)
    for n, (view,) in enumerate(explorer.views):
        for k, picture in enumerate(view.stepper.pictures):
            open(f"{HERE}/{n}-{k}.jpg", "wb").write(picture.value)
    explorer
    ```
"""


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The folder of a small book, built with its scripts from npm."""
    folder = tmp_path_factory.mktemp("book")
    page = textwrap.dedent(PAGE).replace("TESTS", repr(str(ROOT / "tests")))
    (folder / "page.md").write_text(page.replace("{HERE}", str(folder)))
    (folder / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    config = (ROOT / "_config.yml").read_text()
    config = config.replace("chapters/_static", str(ROOT / "chapters" / "_static"))
    config = config.replace(
        "chapters/references", str(ROOT / "chapters" / "references")
    )
    (folder / "_config.yml").write_text(config)
    command = [Path(sys.executable).with_name("jupyter-book"), "build", folder]
    run = subprocess.run(
        command,
        env=os.environ | {"BOOK_SCRIPTS": "npm"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert (folder / "_build/html/page.html").exists(), run.stdout + run.stderr
    return folder


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def is_error(message):
    """The theme of Python 3.10 fetches its fonts early, which fails from a disk."""
    early = "/_static/vendor/fontawesome/" in message.text + message.location["url"]
    return message.type == "error" and not early


@contextmanager
def opened(path, chromium, width, colours):
    """Open a page from the disk; an error, or a request for another machine, fails."""
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=colours
    )
    tab, errors = context.new_page(), []
    tab.on("console", lambda m: is_error(m) and errors.append(m.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda r: r.url.startswith("http") and errors.append(r.url))
    tab.goto(path.as_uri())
    try:
        yield tab
        assert errors == []
    finally:
        context.close()


WINDOWS = pytest.mark.parametrize(
    ("width", "colours"), [(380, "light"), (1280, "dark")]
)


@pytest.fixture
def page(book, chromium, width, colours):
    with opened(book / "_build/html/page.html", chromium, width, colours) as tab:
        tab.wait_for_selector(".widget-image", timeout=20_000)
        yield tab


def shown(tab):
    """The map that is shown when the page has come to rest, as an array."""
    source = tab.evaluate(
        """async () => {
            const frame = () => new Promise(requestAnimationFrame);
            await frame();
            await frame();
            const images = [...document.querySelectorAll("img.widget-image")];
            const last = images.filter(image => image.offsetParent).at(-1);
            const data = await (await fetch(last.src)).arrayBuffer();
            return Array.from(new Uint8Array(data));
        }"""
    )
    return np.asarray(Image.open(io.BytesIO(bytes(source))))


def is_pressed(tab, words, chosen, milliseconds=20_000):
    """Wait until exactly one of the words is pressed; tell whether it came to that."""
    expected = [n == chosen for n in range(words.count())]
    for _ in range(milliseconds // 50):
        if [w.get_attribute("aria-pressed") == "true" for w in words.all()] == expected:
            return True
        tab.wait_for_timeout(50)
    return False


def is_frame(tab, book, picture, word, milliseconds=20_000):
    """Wait until a word is pressed; tell whether the map that is shown is its own."""
    words = tab.locator(".widget-toggle-buttons:visible").nth(1).locator("button")
    if not is_pressed(tab, words, word, milliseconds):
        return False
    expected = np.asarray(Image.open(book / f"{picture}-{word}.jpg"))
    for _ in range(milliseconds // 50):
        tab.wait_for_timeout(50)
        found = shown(tab)
        if found.shape == expected.shape and (found == expected).all():
            return True
    return False


def slider(tab):
    return tab.locator("[role=slider]:visible").first


@WINDOWS
def test_the_keyboard_moves_the_words(page, book):
    assert is_frame(page, book, 0, 0)
    slider(page).focus()
    page.keyboard.press("ArrowRight")
    assert is_frame(page, book, 0, 1)
    page.keyboard.press("ArrowLeft")
    assert is_frame(page, book, 0, 0)


@WINDOWS
def test_a_click_chooses_a_word(page, book):
    words = page.locator(".widget-toggle-buttons:visible").nth(1).locator("button")
    count = words.count()
    words.nth(count - 1).click()
    assert is_frame(page, book, 0, count - 1)
    assert is_pressed(page, words, count - 1)


@WINDOWS
def test_a_word_is_chosen_by_keyboard_alone(page, book):
    page.locator(".widget-toggle-buttons:visible").nth(1).locator("button").nth(
        0
    ).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert is_frame(page, book, 0, 1)


@WINDOWS
def test_exactly_one_word_is_pressed(page):
    words = page.locator(".widget-toggle-buttons:visible").nth(1).locator("button")
    for n in range(words.count()):
        words.nth(n).click()
        assert is_pressed(page, words, n)


@WINDOWS
def test_the_map_follows_at_once(page):
    frames = page.evaluate(
        """async () => {
            const visible = () => [...document.querySelectorAll(".stepper img")]
                .find(image => image.offsetParent).src;
            const words = [...document.querySelectorAll(".stepper button")];
            const before = visible();
            words.find(word => !word.classList.contains("mod-active")).click();
            let frames = 0;
            for (; visible() === before; frames++)
                await new Promise(requestAnimationFrame);
            return frames;
        }"""
    )
    assert frames < 10


@WINDOWS
def test_the_mouse_drags_the_slider(page, book):
    box = page.locator(".noUi-target:visible").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2)
    last = len(list(book.glob("0-*.jpg"))) - 1
    assert is_frame(page, book, 0, last)


@WINDOWS
def test_play_runs_to_the_end(page, book):
    last = len(list(book.glob("0-*.jpg"))) - 1
    page.locator(".widget-play:visible button").first.click()
    assert is_frame(page, book, 0, last, milliseconds=60_000)


@WINDOWS
def test_the_other_picture(page, book):
    page.locator(".widget-toggle-buttons:visible").first.locator("button").nth(
        1
    ).click()
    assert is_frame(page, book, 1, 0)


@WINDOWS
def test_names_and_roles(page):
    assert slider(page).get_attribute("aria-label") == "word"
    assert slider(page).get_attribute("aria-valuetext") == "picture"
    assert (
        page.get_by_role("button", name="sits").count()
        or page.get_by_role("button", name="red").count()
    )
    assert page.locator("img.widget-image:not([alt])").count() == 0


@WINDOWS
def test_nothing_is_wider_than_the_window(page):
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0


@WINDOWS
def test_controls_that_need_python_are_not_shown(page):
    assert page.locator(".needs-python").count() > 0
    assert page.locator(".needs-python:visible").count() == 0


@WINDOWS
def test_formulas_are_set(page):
    page.wait_for_selector("mjx-container", timeout=10_000)


def test_without_scripts_a_plain_figure_is_shown(book, chromium):
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((book / "_build/html/page.html").as_uri())
    figure = tab.locator(".without-script img")
    assert figure.is_visible() and ": the picture" in figure.get_attribute("alt")
    context.close()


@WINDOWS
def test_the_plain_figure_is_hidden_where_scripts_run(page):
    assert not page.locator(".without-script").is_visible()
    page.emulate_media(media="print")
    assert page.locator(".without-script").is_visible()


def test_a_page_keeps_its_size(book):
    html = (book / "_build/html/page.html").stat().st_size
    assert html < 2 * 400_000 + 100_000


@WINDOWS
@pytest.mark.skipif(
    not (ROOT / "_build/html/_static/widgets/embed.js").exists(),
    reason="the book is not built with BOOK_SCRIPTS=npm",
)
@pytest.mark.parametrize(
    "name",
    [
        "index",
        "explorer",
        "maps",
        "figures",
        "lstm",
        "beam_search",
        "grounding",
        "caption",
        "card",
    ],
)
def test_the_pages_of_the_book(name, chromium, width, colours):
    path = ROOT / "_build" / "html" / "chapters" / f"{name}.html"
    with opened(path, chromium, width, colours) as tab:
        if name not in ("grounding", "caption", "card"):
            tab.wait_for_selector(".stepper img", timeout=20_000)
        tab.wait_for_timeout(500)
        test_nothing_is_wider_than_the_window(tab)
