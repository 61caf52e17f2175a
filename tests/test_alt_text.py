"""What figures and pages say: texts for those who see no picture, and no noise."""

import ast
import os
import re
import shutil
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import numpy as np
import pytest

from satlib.site import drawing
from satlib.tangle import ROOT

CHAPTERS = sorted(ROOT.glob("chapters/*.md"))
PAGES = sorted(ROOT.glob("_build/html/chapters/*.html"))
DRAWN = {"panels", "heat_map", "attention_figure"}  # by the last line of a cell
GROUNDS = "#ffffff", "#121212"  # of the theme's pages, light and dark
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
INKS = "#ffffff", "#1a1a1a"  # of words that stand on a coloured cell


def named(call):
    """Return the name of what a call calls: f of f(…), m.f of m.f(…)."""
    return ast.unparse(call.func) if isinstance(call, ast.Call) else ""


def draws(source):
    """Tell whether a cell shows a figure: it opens one, or its last line is one."""
    source = "\n".join("" if re.match(r"\s*[%!]", s) else s for s in source.split("\n"))
    body = ast.parse(source).body
    last = body[-1].value if body and isinstance(body[-1], ast.Expr) else None
    loose = [
        node for node in body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]
    calls = {named(node) for part in loose for node in ast.walk(part)}
    return bool(calls & {"plt.subplots", "plt.subplot_mosaic"}) or named(last) in DRAWN


def figures(path):
    """List the cells of a chapter that show a figure, or say what one shows."""
    return [
        (cell.source, cell.metadata.get("mystnb", {}))
        for cell in jupytext.read(path).cells
        if cell.cell_type == "code"
        and not cell.source.startswith("# satlib/")
        and ("image" in cell.metadata.get("mystnb", {}) or draws(cell.source))
    ]


@pytest.mark.parametrize(
    "source, shows",
    [
        ("figure, ax = plt.subplots()\nax.plot(x);", True),
        ("def f():\n    plt.subplots()\n\n\nf", False),
        ("for x in y:\n    plt.subplots()", True),
        ("panels(pictures)", True),
        ("rows = panels(pictures)", False),
        ("print(1)", False),
        ("%matplotlib inline\n", False),
    ],
)
def test_a_cell_that_draws_is_known(source, shows):
    assert draws(source) is shows


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_figure_has_a_text_and_a_caption(path):
    for source, told in figures(path):
        alt = told.get("image", {}).get("alt", "")
        figure = told.get("figure", {})
        assert len(alt.split()) >= 5, f"no alternative text:\n{source}"
        assert len(figure.get("caption", "").split()) >= 3, f"no caption:\n{source}"
        assert figure["name"].startswith(f"fig-{path.stem.replace('_', '-')}")


def test_figures_have_names_of_their_own():
    told = [told for path in CHAPTERS for _, told in figures(path)]
    names = [each["figure"]["name"] for each in told if "figure" in each]
    assert sorted({*names}) == sorted(names) and len(names) > 50


def drawn(**options):
    """Return a small figure of matplotlib's as an SVG file's text."""
    figure, ax = plt.subplots(figsize=(4, 2))
    ax.imshow(np.random.default_rng(0).random((30, 40, 3)))
    ax.set(xlabel="place", **options)
    path = Path(options["title"])
    figure.savefig(path, format="svg")
    plt.close(figure)
    return path.read_text("utf-8")


def test_a_drawing_is_a_part_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = (drawing(drawn(title=title), f"{title} <b>") for title in "ab")
    assert one.startswith('<div class="drawing"><svg ') and one.endswith("</div>")
    assert 'role="img" aria-label="a &lt;b&gt;"' in one
    assert 'style="max-width: 384px; min-width: 307px"' in one
    assert "<style" not in one and "<metadata" not in one and "<!--" not in one
    assert "image/png" not in one and one.count("data:image/webp;base64,") == 1
    assert 'class="patch"' in one and 'class="text"' in one
    ids = [set(re.findall(r' id="([^"]+)"', html)) for html in (one, two)]
    assert ids[0] and ids[0].isdisjoint(ids[1])
    for html, own in zip((one, two), ids, strict=True):
        assert {*re.findall(r'(?:href="#|url\(#)([^")]+)', html)} <= own


PAGE = """\
    ---
    jupytext:
      text_representation: {extension: .md, format_name: myst}
    kernelspec: {display_name: Python 3, language: python, name: python3}
    ---

    # A page

    ```{code-cell}
    ---
    mystnb:
      image:
        alt: "A line: it rises."
      figure:
        name: fig-line
        caption: "A *line*."
    tags: [hide-input]
    ---
    import matplotlib.pyplot as plt

    print("a long line " * 30)
    plt.subplots(figsize=(7, 2))[1].plot([1, 2]);
    ```

    See {numref}`fig-line`.
    """


CONF = """\
extensions = ["myst_nb", "satlib.site"]
root_doc = "page"
numfig = True
nb_execution_mode = "force"
nb_execution_raise_on_error = True
html_theme = "sphinx_book_theme"
html_static_path = [{static!r}]
html_css_files = ["book.css"]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a site with a single page, made as the book is."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "page.md").write_text(textwrap.dedent(PAGE))
    static = str(ROOT / "chapters" / "_static")
    (folder / "conf.py").write_text(CONF.format(static=static))
    command = [sys.executable, "-m", "sphinx", "-qW", folder, folder / "out"]
    env = os.environ | {"BOOK_SCRIPTS": "cdn", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder / "out"


def test_a_page_shows_a_figure_as_lines_with_text_and_number(built):
    page = (built / "page.html").read_text("utf-8")
    figure = re.search(r'<figure[^>]* id="fig-line">(.*?)</figure>', page, re.S)[1]
    assert figure.lstrip().startswith('<div class="drawing"><svg')
    assert 'role="img" aria-label="A line: it rises."' in figure
    assert "Fig. 1" in figure and "<em>line</em>" in figure
    body = page[page.index("</head>") :]
    files = [path.name for path in built.glob("_images/*.svg")]  # to take away
    assert files == ["fig-line.svg"] and body.count("Fig. 1") == 2


LOOK = """() => {
    const find = (what) => document.querySelector(what);
    const room = (what) => find(what).scrollWidth - find(what).clientWidth;
    const style = (what, name) => getComputedStyle(find(what)).getPropertyValue(name);
    return {
        page: room("html"), line: room(".cell_output pre"), figure: room(".drawing"),
        tab: find(".drawing").tabIndex,
        ink: style(".drawing svg", "fill"), text: style("article p", "color"),
    };
}"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_page_cuts_nothing_off_and_colours_its_figures(built):
    from playwright.sync_api import sync_playwright

    looks = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        for width, colours in ((1280, "light"), (1280, "dark"), (390, "light")):
            size = {"width": width, "height": 900}
            context = browser.new_context(viewport=size, color_scheme=colours)
            tab = context.new_page()
            tab.route("http*://**", lambda route: route.abort())
            tab.goto((built / "page.html").as_uri())
            tab.wait_for_timeout(500)
            looks[width, colours] = tab.evaluate(LOOK)
        browser.close()
    for look in looks.values():
        assert look["page"] <= 0 and look["line"] <= 0
        assert look["ink"] == look["text"]
    light, dark, narrow = looks.values()
    assert light["ink"] != dark["ink"]
    assert light["figure"] == 0 and light["tab"] == -1
    assert narrow["figure"] > 100 and narrow["tab"] == 0


class Page(HTMLParser):
    """What a built page holds: its pictures, figures, and the text of its outputs."""

    def __init__(self, path):
        super().__init__()
        self.pictures, self.lost, self.text, self.open = [], [], [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        if tag == "img":
            self.pictures.append(known.get("alt"))
        if tag == "svg" and known.get("role") == "img" and "style" in known:
            self.pictures.append(known.get("aria-label"))
            self.lost += ["figure" not in self.open]
        if tag in ("figure", "script", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and tag == self.open[-1]:
            self.open.pop()

    def handle_data(self, data):
        if not {"script", "style"} & {*self.open}:
            self.text.append(data)


NOISE = re.compile(
    rf"{re.escape(str(ROOT.parent))}|{re.escape(str(Path.home()))}/|running over TCP"
    r"|(?<!eight naps): [\d,]+ of [\d,]+, \d+ s$",
    re.MULTILINE,
)


@pytest.mark.skipif(not PAGES, reason="the book is not built")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_built_page_tells_what_it_shows_and_nothing_of_its_making(path):
    page = Page(path)
    for alt in page.pictures:
        assert alt is not None and not re.search(r"\w\.(png|svg|jpe?g)$", alt), alt
    assert not any(page.lost), "a figure without a caption"
    found = NOISE.search("".join(page.text))
    assert not found, found[0]


def lightness(colour):
    """Return the relative luminance of #rrggbb, as WCAG defines it."""
    parts = np.array([int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(one, two):
    """Return the contrast of two colours, from 1 to 21."""
    dark, light = sorted(map(lightness, (one, two)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.skipif(not PAGES, reason="the book is not built")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_words_in_figures_can_be_read_on_light_and_on_dark_pages(path):
    page = path.read_text("utf-8")
    inks = {*re.findall(r'<g class="text">\s*<g style="fill: (#\w{6})"', page)}
    for ink in inks - {*INKS}:
        assert min(contrast(ink, ground) for ground in GROUNDS) >= 4.5, ink
