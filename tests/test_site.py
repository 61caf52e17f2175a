"""Pages with widgets and formulas in a real browser, with their scripts and without."""

import gzip
import re
import shutil
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest
from conftest import CHROMIUM, small_book
from docutils import nodes

from satlib import site
from satlib.tangle import ROOT

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

    :::{div} with-widget
    Move the slider:
    :::

    ```{code-cell}
    import sys
    sys.path.insert(0, TESTS)
    from conftest import tiny_captioner
    from satlib.explorer import explore
    from satlib.figures import Stepper
    from satlib.scenes import draw, make_scene

    pictures = [draw(make_scene(seed))[0] for seed in (1, 2)]
    explorer = explore(tiny_captioner(), pictures, beam_size=1)
    for n, (view,) in enumerate(explorer.views):
        for k, picture in enumerate(view.stepper.pictures):
            open(f"{HERE}/{n}-{k}.image", "wb").write(picture.value)
    explorer
    ```

    ```{code-cell}
    Stepper(pictures, ["one", "two"], "scene")
    ```

    ```{code-cell}
    ---
    mystnb:
      image: {alt: "A line that rises."}
      figure: {name: fig-line, caption: "A line."}
    ---
    import matplotlib.pyplot as plt

    plt.plot([0, 1])
    plt.show()
    ```

    $$
    y = \\frac{1}{x}
    $$ (inverse)
"""


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The folder of a small book, built as it is by default: with scripts from npm."""
    folder = tmp_path_factory.mktemp("book")
    small_book(folder, PAGE.replace("{HERE}", str(folder)))
    return folder


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """The folder of a small book that takes its scripts from the public server."""
    folder = tmp_path_factory.mktemp("public")
    small_book(folder, PAGE.replace("{HERE}", str(folder)), BOOK_SCRIPTS="cdn")
    return folder


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def served(folder):
    """Serve a folder on this machine while a `with` block runs; give its address."""
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def opened(path, chromium, width, colours):
    """Open a page from the disk; an error, or a request for another machine, fails."""
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=colours, has_touch=True
    )
    tab, errors = context.new_page(), []
    tab.on("console", lambda m: m.type == "error" and errors.append(m.text))
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
        woken(tab)
        yield tab


def woken(tab):
    """Scroll to the widgets of a page and wait until they are there."""
    tab.locator(".cell_output:has(.without-script)").first.scroll_into_view_if_needed()
    tab.wait_for_selector(".widget-image:visible", timeout=20_000)


def shown(tab):
    """The file of the map that is shown when the page has come to rest."""
    source = tab.evaluate(
        """async () => {
            const frame = () => new Promise(requestAnimationFrame);
            await frame();
            await frame();
            const images = [...document.querySelectorAll("img.widget-image")];
            const stepper = images.find(image => image.checkVisibility()
                && image.closest(".stepper")).closest(".stepper");
            return images.filter(image => image.checkVisibility()
                && stepper.contains(image)).at(-1).src;
        }"""
    )
    return Path(unquote(urlparse(source).path)).read_bytes()


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
    expected = (book / f"{picture}-{word}.image").read_bytes()
    for _ in range(milliseconds // 50):
        tab.wait_for_timeout(50)
        if shown(tab) == expected:
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
            const stepper = [...document.querySelectorAll(".stepper")]
                .find(stepper => stepper.checkVisibility());
            const visible = () => [...stepper.querySelectorAll("img")].at(-1).src;
            const words = [...stepper.querySelectorAll(".widget-toggle-button")];
            const before = visible();
            words.find(word => !word.classList.contains("mod-active")).click();
            let frames = 0;
            for (; visible() === before && frames < 100; frames++)
                await new Promise(requestAnimationFrame);
            return frames;
        }"""
    )
    assert frames < 10


@WINDOWS
def test_the_mouse_drags_the_slider(page, book):
    box = page.locator(".noUi-target:visible").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2)
    last = len(list(book.glob("0-*.image"))) - 1
    assert is_frame(page, book, 0, last)


@WINDOWS
def test_play_runs_to_the_end(page, book):
    last = len(list(book.glob("0-*.image"))) - 1
    page.locator(".widget-play:visible button").first.click()
    assert is_frame(page, book, 0, last, milliseconds=60_000)


@WINDOWS
def test_the_other_picture(page, book):
    page.locator(".widget-toggle-buttons:visible").first.locator("button").nth(
        1
    ).click()
    assert is_frame(page, book, 1, 0)


@WINDOWS
def test_a_finger_chooses_a_word_and_moves_the_slider(page, book):
    words = page.locator(".widget-toggle-buttons:visible").nth(1).locator("button")
    words.nth(2).tap()
    assert is_frame(page, book, 0, 2)
    slider(page).scroll_into_view_if_needed()
    box = page.locator(".noUi-target:visible").first.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2)
    assert is_frame(page, book, 0, words.count() - 1)


@WINDOWS
def test_names_say_what_is_shown_and_follow_what_is_done(page, book):
    alone = "(the )?(picture|photograph alone)"
    for word, text in ((0, alone), (2, "red"), (3, "cat")):
        words = page.locator(".widget-toggle-buttons:visible").nth(1).locator("button")
        words.nth(word).click()
        assert is_frame(page, book, 0, word)
        assert slider(page).get_attribute("aria-label") == "word"
        assert re.fullmatch(text, slider(page).get_attribute("aria-valuetext"))
        name = f"^the picture, map of the word: {text}$" if word else f"^{alone}$"
        assert page.get_by_role("img", name=re.compile(name)).is_visible()
    groups = page.locator(".widget-toggle-buttons[role=group]:visible")
    names = [group.get_attribute("aria-label") for group in groups.all()]
    assert all(names) and names[1:] == ["word", "scene"]
    assert page.locator("img.widget-image:not([alt])").count() == 0
    assert page.get_by_role("img", name="scene: one", exact=True).is_visible()


def signs(tab):
    """What stands on the buttons of the first Play that is seen, and their names."""
    return tab.evaluate(
        """() => [...[...document.querySelectorAll(".widget-play")]
            .find(play => play.checkVisibility()).querySelectorAll("button")]
            .filter(button => button.checkVisibility())
            .map(button => {
                const sign = button.querySelector("i");
                const before = getComputedStyle(sign, "::before");
                return [button.ariaLabel, before.maskImage, before.content,
                        parseFloat(before.width), button.querySelectorAll("*").length];
            })"""
    )


@WINDOWS
def test_play_pause_and_stop_look_the_same_before_and_after_a_touch(page, book):
    before = signs(page)
    assert [name for name, *_ in before] == ["Play", "Stop"]
    page.get_by_role("button", name="Play").first.click()
    page.wait_for_selector("[aria-label=Pause]")
    playing = signs(page)
    assert [name for name, *_ in playing] == ["Pause", "Stop"]
    assert is_frame(page, book, 0, 1)
    for _, sign, content, width, parts in (*before, *playing):
        assert sign.startswith("url(") and content == '""' and width > 8 and parts == 1
    assert len({sign for _, sign, *_ in (*before, *playing)}) == 3
    page.get_by_role("button", name="Pause").first.click()
    page.wait_for_selector("[aria-label=Pause]", state="detached")
    assert signs(page) == before
    page.get_by_role("button", name="Stop").first.click()
    assert is_frame(page, book, 0, 0) and signs(page) == before


LIGHT = """colour => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255);
    const [r, g, b] = parts.map(
        part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}"""


def contrast(tab, *colours):
    """The contrast of two colours as CSS writes them, from 1 to 21."""
    dark, light = sorted(tab.evaluate(LIGHT, colour) for colour in colours)
    return (light + 0.05) / (dark + 0.05)


def style(element, name):
    return element.evaluate(f"element => getComputedStyle(element)['{name}']")


@WINDOWS
def test_the_pressed_word_and_the_focus_are_clearly_seen(page):
    ground = style(page.locator("body"), "backgroundColor")
    words = page.locator(".widget-toggle-buttons:visible").nth(1).locator("button")
    words.nth(1).click()
    assert is_pressed(page, words, 1)
    pressed, other = (style(words.nth(n), "backgroundColor") for n in (1, 2))
    assert contrast(page, pressed, style(words.nth(1), "color")) >= 4.5
    if other != "rgba(0, 0, 0, 0)":
        assert contrast(page, pressed, other) >= 3
    assert contrast(page, pressed, ground) >= 3
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    for focused in (words.nth(1), slider(page)):
        focused.focus()
        assert float(style(focused, "outlineWidth").removesuffix("px")) >= 2
        assert contrast(page, style(focused, "outlineColor"), ground) >= 3


@WINDOWS
def test_a_finger_finds_the_handle_of_the_slider(page):
    box = slider(page).bounding_box()
    assert box["width"] >= 24 and box["height"] >= 24


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


def is_plain(tab):
    """Tell whether the page shows text and figures and promises nothing else."""
    tab.wait_for_timeout(300)
    figures = tab.locator(".without-script")
    seen = figures.locator("img").evaluate_all(
        "images => images.every(i => i.complete && i.naturalWidth && i.offsetWidth)"
    )
    return (
        tab.locator("h1:visible").count() == 1
        and figures.count() == 2
        and tab.locator(".without-script:visible").count() == 2
        and seen
        and tab.get_by_text("Move the slider").is_hidden()
        and tab.locator("span.math").inner_text() == "x^2"
        and "mono" in style(tab.locator("span.math"), "fontFamily").lower()
        and tab.locator(".jupyter-widgets").count() == 0
    )


def is_alive(tab):
    """Tell whether widgets and formulas have taken the places of what was plain."""
    woken(tab)
    tab.wait_for_selector("span.math mjx-container")
    tab.wait_for_selector("div.math mjx-container")
    tab.wait_for_function("document.querySelectorAll('.stepper').length === 2")
    return (
        tab.locator(".without-script:visible").count() == 0
        and tab.get_by_text("Move the slider").is_visible()
    )


def test_where_no_script_may_run_the_page_is_plain(book, chromium):
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((book / "_build/html/page.html").as_uri())
    figure = tab.locator(".without-script img").first
    assert figure.is_visible() and ": the picture" in figure.get_attribute("alt")
    assert tab.locator(".strip img").last.get_attribute("alt") == "scene: two"
    assert tab.get_by_text("Move the slider").is_hidden()
    assert tab.locator("span.math").inner_text() == "x^2"
    context.close()


def from_npm(folder, change=b""):
    """Answer as the public server does, with the files of the npm packages."""

    def answer(route):
        path = urlparse(route.request.url).path.removeprefix("/npm/")
        path = re.sub(r"@[\d.]+/", "/", unquote(path))
        content = (folder / "_build/scripts/npm/node_modules" / path).read_bytes()
        headers = {"Access-Control-Allow-Origin": "*"}
        route.fulfill(body=content + change, headers=headers)

    return answer


ANSWERS = {  # of the public server
    "itself": from_npm,
    "changed": lambda folder: from_npm(folder, b"/* not what was tried */"),
    "none": lambda folder: lambda route: route.abort(),
    "never": lambda folder: lambda route: None,
}


@pytest.mark.parametrize("place", ["disk", "server"])
@pytest.mark.parametrize("answer", list(ANSWERS))
def test_no_page_waits_for_the_public_server(book, public, chromium, place, answer):
    context = chromium.new_context(viewport={"width": 1000, "height": 900})
    context.route(re.compile("^https:"), ANSWERS[answer](book))
    tab, errors = context.new_page(), []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda m: m.type == "error" and errors.append(m.text))
    asked = []
    tab.on("request", lambda r: r.url.startswith("https") and asked.append(r.url))
    html = public / "_build/html"
    with served(html) as address:
        root = html.as_uri() if place == "disk" else address
        tab.goto(f"{root}/page.html", wait_until="load", timeout=15_000)
        tab.locator(
            ".cell_output:has(.without-script)"
        ).first.scroll_into_view_if_needed()
        wanted = {script.address for script in site.SCRIPTS.values()}
        for _ in range(100):
            if wanted <= {*asked}:
                break
            tab.wait_for_timeout(50)
        assert wanted <= {*asked}
        if answer == "itself":
            assert is_alive(tab) and errors == []
            assert [name for name, *_ in signs(tab)] == ["Play", "Stop"]
        else:
            tab.wait_for_timeout(1000)
            assert is_plain(tab)
            browsers = ("Failed to load resource", "Failed to find a valid digest")
            assert [e for e in errors if not e.startswith(browsers)] == []
    context.close()


@pytest.mark.parametrize("place", ["disk", "server"])
def test_by_default_the_site_has_its_scripts(book, chromium, place):
    context = chromium.new_context(viewport={"width": 1000, "height": 900})
    context.route(re.compile("^https:"), lambda route: route.abort())
    tab, asked = context.new_page(), []
    tab.on("request", lambda r: r.url.startswith("https") and asked.append(r.url))
    html = book / "_build/html"
    with served(html) as address:
        tab.goto(f"{html.as_uri() if place == 'disk' else address}/page.html")
        assert is_alive(tab) and asked == []
    context.close()


def test_a_full_stop_stays_with_its_formula():
    parts = (
        nodes.Text("up to "),
        nodes.math("", "n"),
        nodes.Text(". All "),
        nodes.math("", "k"),
    )
    paragraph = nodes.paragraph("", "", *parts, nodes.Text(" of them"))
    site._keep_together(None, paragraph, "page")
    assert paragraph.astext() == "up to n. All k of them"
    (whole,) = paragraph.findall(nodes.inline)
    assert whole["classes"] == ["whole"] and whole.astext() == "n."


def test_the_scripts_of_npm_have_the_hashes_that_browsers_ask_for(book):
    for script in site.SCRIPTS.values():
        name = re.sub(r"@[\d.]+$", "", script.package)
        package = book / "_build/scripts/npm/node_modules" / name
        assert site.integrity(package / script.folder / script.file) == script.hash


def test_a_script_that_is_not_the_one_we_tried_is_an_error(tmp_path, monkeypatch):
    script = site.SCRIPTS["formulas"]
    (tmp_path / "others").touch()
    (tmp_path / script.file).write_text("alert(1)")
    with pytest.raises(RuntimeError, match="is not the file it was"):
        site._take(tmp_path, script._replace(others="others"), tmp_path / "to")
    with pytest.raises(RuntimeError, match="has no missing"):
        site._take(tmp_path, script._replace(others="missing"), tmp_path / "to")


def test_without_npm_the_addresses_are_those_of_the_public_server(
    tmp_path, monkeypatch
):
    expected = {name: script.address for name, script in site.SCRIPTS.items()}
    assert site.addresses(tmp_path, "cdn") == expected
    monkeypatch.setattr(site.shutil, "which", lambda name: None)
    assert site.addresses(tmp_path) == expected
    with pytest.raises(RuntimeError, match="BOOK_SCRIPTS=npm: there is no npm"):
        site.addresses(tmp_path, "npm")
    with pytest.raises(ValueError, match="BOOK_SCRIPTS=other"):
        site.addresses(tmp_path, "other")


@WINDOWS
def test_the_plain_figure_is_hidden_where_scripts_run(page):
    assert page.locator(".without-script:visible").count() == 0
    page.emulate_media(media="print")
    assert page.locator(".without-script:visible").count() == 2


def test_a_page_holds_no_pictures_of_its_widgets(book):
    html = (book / "_build/html/page.html").read_text()
    head, body = html.split("</head>")
    assert "widget-state" not in head and body.index("</h1>") < body.index("state+json")
    state = body[body.index("state+json") :]
    assert not re.search(r'"data": "(?!X2ltYWdlcy)', state)  # base64 of _images/


def weights(tab, address):
    """What a page asks for until it rests: gzipped bytes by name, and where from."""
    answers = []
    tab.on("response", lambda answer: answers.append(answer))
    tab.goto(address, wait_until="networkidle")
    sizes = {}
    for answer in answers:
        if answer.url.startswith("http"):
            sizes[answer.url] = len(gzip.compress(answer.body()))
    return sizes


@pytest.mark.skipif(
    not (ROOT / "_build/html/_static/signs.css").exists(),
    reason="the book is not built",
)
def test_no_page_is_heavy_or_asks_for_what_it_does_not_use(chromium):
    html = ROOT / "_build" / "html"
    heavy, idle = {}, {}
    with served(html) as address:
        for path in sorted((html / "chapters").glob("*.html")):
            if 'http-equiv="refresh"' in path.read_text():  # a page that has moved
                continue
            context = chromium.new_context(viewport={"width": 1280, "height": 900})
            tab = context.new_page()
            sizes = weights(tab, f"{address}/chapters/{path.name}")
            most = 1_200_000 if path.stem == "index" else 1_000_000
            if sum(sizes.values()) > most:
                heavy[path.stem] = sizes
            text = path.read_text()
            unused = ["fontawesome", "webfonts", "thebe", "searchindex"]
            unused += [] if 'class="math' in text else ["formulas"]
            unused += [] if "widget-view" in text else ["widgets"]
            found = [u for u in sizes if any(part in u for part in unused)]
            if found:
                idle[path.stem] = found
            context.close()
    assert heavy == {} and idle == {}


def test_a_page_is_offered_as_the_notebook_that_has_run(book):
    notebook = nbformat.read(
        book / "_build/html/_sources/page.ipynb", as_version=nbformat.NO_CONVERT
    )
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) == 3 and all(cell.outputs for cell in code)
    assert notebook.cells[0].source.startswith("# A page")


def test_a_figure_can_be_kept_as_a_file(book):
    page = (book / "_build/html/page.html").read_text()
    (link,) = re.findall(
        r'<a class="headerlink file"[^>]+ href="([^"]+)">SVG</a>', page
    )
    file = (book / "_build/html" / link).read_text()
    assert link.endswith("fig-line.svg") and "<svg" in file


def test_the_book_for_paper_has_the_page(book):
    paper = (book / "_build/print/book.html").read_text()
    assert 'id="page--a-page"' in paper and "without-script strip" in paper
    for link in re.findall(r'src="(\.\./html/[^"]+)"', paper):
        assert (book / "_build/print" / link).exists()


def test_every_sign_is_drawn(book):
    drawn = re.findall(
        r"\.fa-([\w-]+)", (ROOT / "chapters/_static/signs.css").read_text()
    )
    pages = [book / "_build/html/page.html", *ROOT.glob("_build/html/**/*.html")]
    used = {
        name
        for path in pages
        for names in re.findall(r'class="([^"]*\bfa[srb]?[ -][^"]*)"', path.read_text())
        for name in re.findall(r"fa-([\w-]+)", names)
    }
    assert "magnifying-glass" in used
    assert used - {*drawn, "solid", "regular", "brands", "lg", "fw", "2x"} == set()


@WINDOWS
@pytest.mark.skipif(
    not (ROOT / "_build/html/_static/widgets/embed.js").exists(),
    reason="the book is not built with scripts from npm",
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
        if name in ("explorer", "maps", "figures", "lstm", "beam_search"):
            woken(tab)
        tab.wait_for_timeout(500)
        test_nothing_is_wider_than_the_window(tab)
