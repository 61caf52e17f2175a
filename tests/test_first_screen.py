"""The first page shows what the book is about at once; every page says what it is."""

import gzip
import io
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import yaml
from conftest import CHROMIUM, SENTENCES
from PIL import Image

from satlib.maps import exhibit, showcase, veil
from satlib.site import COVER, cover, web_address
from satlib.tangle import ROOT

SITE = ROOT / "_build" / "html"
in_browser = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
of_the_site = pytest.mark.skipif(
    not (SITE / "_static" / COVER).exists(), reason="the book is not built"
)
pytestmark = pytest.mark.timeout(300)


def opacity(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., 3]


def test_a_veil_is_clear_where_the_map_is_largest_and_dark_where_it_is_nothing():
    alpha = np.zeros((14, 14))
    alpha[3, 5], alpha[9, 2] = 0.8, 0.2
    found = opacity(veil(alpha, darkness=0.6))
    assert found.shape == (14, 14)
    assert found[3, 5] == 0 and found[0, 0] == 153
    assert found[9, 2] == 76  # the root of a quarter is a half
    assert (opacity(veil(np.zeros((14, 14)), darkness=1)) == 255).all()


def test_an_exhibit_escapes_what_it_is_told_and_holds_a_veil_for_each_word(
    captioner, pictures
):
    caption = captioner.caption(pictures[:1])[0]
    caption.words[0] = "<b>"
    told = exhibit(caption, pictures[0], 'a "quoted" cat', first=1, note="<i>x</i>")
    assert "<b>" not in told and "&lt;b&gt;" in told
    assert 'alt="a &quot;quoted&quot; cat"' in told and "<i>x</i>" in told
    assert told.count("data:image/png") == len(caption.words)
    before, after = told.split(" checked")
    assert before.count('type="radio"') == 2 and after.count('type="radio"') == 3


@pytest.fixture(scope="module")
def page(captioner, pictures, tmp_path_factory):
    """A file with a showcase of two captions, "a red cat …" and "here sits a …"."""
    captions = captioner.caption(pictures[:2])
    shown = zip(captions, pictures, ["One.", "Two."], [2, 4], strict=False)
    path = tmp_path_factory.mktemp("showcase") / "page.html"
    html = showcase(*[exhibit(*parts) for parts in shown])
    path.write_text(f'<!doctype html><html lang="en"><title>x</title>{html}</html>')
    return path


@pytest.fixture
def tab(page, chromium, request):
    """The page in a browser that has asked for less motion, unless told otherwise."""
    asked = {"reduced_motion": "reduce"} | getattr(request, "param", {})
    context = chromium.new_context(viewport={"width": 800, "height": 900}, **asked)
    tab, errors = context.new_page(), []
    tab.on("console", lambda m: m.type == "error" and errors.append(m.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda r: r.url.startswith("http") and errors.append(r.url))
    tab.clock.install()
    tab.goto(page.as_uri())
    yield tab
    assert errors == []
    context.close()


def pressed(tab):
    """List the words that are pressed, one for each picture."""
    return [
        radio.locator("xpath=following-sibling::span").inner_text()
        for radio in tab.locator("input").all()
        if radio.is_checked()
    ]


def lit(tab):
    """List the words whose veils are shown."""
    return tab.evaluate(
        """() => [...document.querySelectorAll("label")]
            .filter(label => getComputedStyle(label.querySelector("img")).opacity == 1)
            .map(label => label.querySelector("span").textContent)"""
    )


@in_browser
@pytest.mark.parametrize("tab", [{"reduced_motion": "no-preference"}], indirect=True)
def test_the_words_are_walked_through_once(tab):
    said = [SENTENCES[1].split(), SENTENCES[2].split()]
    tab.clock.run_for(50)
    assert pressed(tab) == ["cat", "ball"]
    button = tab.get_by_role("button")
    assert button.inner_text() == "Stop"
    for word in [*said[0], "cat"]:
        tab.clock.run_for(900)
        assert pressed(tab) == [word, "ball"]
    for word in [*said[1], "ball"]:
        tab.clock.run_for(900)
        assert pressed(tab) == ["cat", word]
    tab.clock.run_for(20_000)
    assert pressed(tab) == ["cat", "ball"] and button.inner_text() == "Play again"
    button.click()
    tab.clock.run_for(900)
    assert pressed(tab) == ["a", "ball"] and button.inner_text() == "Stop"
    button.click()
    tab.clock.run_for(5000)
    assert pressed(tab) == ["a", "ball"]


@in_browser
@pytest.mark.parametrize("tab", [{"reduced_motion": "no-preference"}], indirect=True)
def test_a_choice_ends_the_walk(tab):
    tab.clock.run_for(950)
    assert pressed(tab)[0] == "a"
    tab.get_by_text("blue", exact=True).click()
    tab.clock.run_for(5000)
    assert pressed(tab) == ["a", "blue"]
    assert tab.get_by_role("button").inner_text() == "Play again"


@in_browser
def test_nothing_moves_where_less_motion_is_asked_for(tab):
    tab.clock.run_for(20_000)
    assert pressed(tab) == lit(tab) == ["cat", "ball"]
    assert tab.get_by_role("button").inner_text() == "Play"


@in_browser
def test_a_word_is_chosen_by_mouse_and_by_keyboard_and_its_veil_is_shown(tab):
    tab.get_by_text("red", exact=True).click()
    assert pressed(tab) == lit(tab) == ["red", "ball"]
    tab.keyboard.press("ArrowRight")
    assert pressed(tab) == lit(tab) == ["cat", "ball"]
    tab.keyboard.press("Tab")
    tab.keyboard.press("ArrowLeft")
    assert pressed(tab) == lit(tab) == ["cat", "blue"]
    veils = tab.locator("form").first.locator("label img")
    picture = tab.locator(".seen").first.bounding_box()
    assert veils.nth(0).bounding_box() == pytest.approx(picture, abs=1)


@in_browser
@pytest.mark.parametrize("tab", [{"java_script_enabled": False}], indirect=True)
def test_without_scripts_words_can_be_chosen_all_the_same(tab):
    assert not tab.locator("button").is_visible()
    before = tab.locator("fieldset").first.screenshot()
    tab.get_by_text("sits", exact=True).first.click()
    assert pressed(tab) == ["sits", "ball"]
    assert tab.locator("fieldset").first.screenshot() != before


def test_the_cover_has_the_size_that_links_show():
    picture = cover("A title", "About.")
    assert picture.size == (1200, 630)
    assert picture.crop((0, 150, 560, 300)).getextrema() != ((20, 20),) * 3
    assert picture.getbbox()


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/who/what.git", "https://github.com/who/what"),
        ("https://name:token@gitlab.com/a/b/c", "https://gitlab.com/a/b/c"),
        ("git@github.com:who/what.git", "https://github.com/who/what"),
        ("ssh://git@bitbucket.org/who/what", "https://bitbucket.org/who/what"),
        ("/home/who/what.git", None),
        ("https://example.org/github.com/who", None),
        ("", None),
    ],
)
def test_a_remote_at_a_public_place_has_a_page(remote, address):
    assert web_address(remote) == address


PAGE = """---
orphan: true
---
# Decoder: a `title`

First *sentence*,
with "quotes". {long}

Second paragraph.
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Build a function that builds a small site, and gives its folder."""

    def build(**settings):
        folder = tmp_path_factory.mktemp("small")
        (folder / "chapters").mkdir()
        text = PAGE.replace("{long}", "word " * 60)
        (folder / "chapters" / "decoder.md").write_text(text)
        (folder / "chapters" / "index.md").write_text("# A book\n\nAbout it.\n")
        command = [sys.executable, "-m", "sphinx", "-qCb", "html", folder]
        names = {"extensions": "myst_parser,satlib.site", "root_doc": "chapters/index"}
        names |= {"html_title": "A book", "html_theme": "sphinx_book_theme"}
        options = [f"-D{name}={value}" for name, value in names.items()]
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)} | settings
        environment["BOOK_SCRIPTS"] = "cdn"
        run = [*command, folder / "out", *options]
        subprocess.run(run, check=True, capture_output=True, env=environment)
        return folder / "out"

    return build


class Head(HTMLParser):
    """What a page's head says: its title, descriptions, links; and all its links."""

    def __init__(self, path):
        super().__init__()
        self.path, self.title, self.metas, self.links = path, "", {}, []
        self.rels, self.names, self.classes = {}, set(), {}
        self.in_title = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.in_title |= tag == "title" and not self.title
        self.names |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "meta" and (name := found.get("name") or found.get("property")):
            self.metas[name] = found["content"]
        if tag == "link" and "rel" in found:
            self.rels[found["rel"]] = found["href"]
        address = found.get("href") or found.get("src")
        if address:
            self.links.append(address)
            for name in found.get("class", "").split():
                self.classes.setdefault(name, address)

    def handle_data(self, data):
        self.title += data if self.in_title else ""

    def handle_endtag(self, tag):
        self.in_title &= tag != "title"


def test_a_page_has_a_description_and_a_picture(small):
    folder = small()
    page = Head(folder / "chapters" / "decoder.html")
    assert page.title == "Decoder: a title — A book"
    about = page.metas["description"]
    assert about.startswith("First sentence, with “quotes”. word word")
    assert about.endswith("word …") and len(about) <= 200
    assert page.metas["og:title"] == "Decoder: a title"
    assert page.metas["og:description"] == about
    assert page.metas["og:image"] == f"../_static/{COVER}"
    assert Image.open(folder / "_static" / COVER).size == (1200, 630)
    assert "canonical" not in page.rels and "btn-source-edit-button" not in page.classes
    first = Head(folder / "chapters" / "index.html")
    assert first.title == "A book" and first.metas["description"] == "About it."
    root = Head(folder / "index.html")
    assert root.title == "A book" and "chapters/index.html" in root.links
    assert Head(folder / "search.html").metas["description"]


def test_a_site_that_knows_where_it_will_be_says_so(small):
    repository = "https://github.com/who/what"
    folder = small(BOOK_URL="https://example.org/b", BOOK_REPOSITORY=repository)
    page = Head(folder / "chapters" / "decoder.html")
    assert page.rels["canonical"] == "https://example.org/b/chapters/decoder.html"
    assert page.metas["og:image"] == f"https://example.org/b/_static/{COVER}"
    assert f"{repository}/edit/main/chapters/decoder.md" in page.links


def pages():
    """List the pages of the table of contents, in its order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [page["file"] for part in toc["parts"] for page in part["chapters"]]
    return [toc["root"], *files]


def heads():
    return {name: Head(SITE / f"{name}.html") for name in pages()}


@of_the_site
def test_every_page_has_a_title_of_its_own_a_description_and_a_picture():
    found = heads()
    for name, head in found.items():
        assert 20 < len(head.metas["description"]) <= 200, name
        assert "`" not in head.metas["description"], name
        path = SITE / name
        assert (path.parent / head.metas["og:image"]).exists(), name
        assert head.title.count("Where It Looks") == 1, name
    assert len({head.title for head in found.values()}) == len(found)
    assert len({head.metas["description"] for head in found.values()}) == len(found)


@of_the_site
def test_every_page_leads_to_the_one_before_and_the_one_after():
    names, found = pages(), heads()
    for before, after in zip(names, names[1:], strict=False):
        there = (SITE / f"{after}.html").resolve()
        here = (SITE / f"{before}.html").resolve()
        assert (here.parent / found[before].classes["right-next"]).resolve() == there
        assert (here.parent / found[after].classes["left-prev"]).resolve() == here


@of_the_site
def test_links_inside_the_site_hold():
    paths = [path for path in SITE.rglob("*.html") if "_static" not in path.parts]
    files = {path: Head(path) for path in paths}
    broken = []
    for path, head in files.items():
        for link in {*head.links}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve()
            target = target if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.exists():
                broken.append(f"{path.name}: {link}")
            elif target.suffix == ".html" and anchor:
                known = files.get(target)
                if known and anchor not in known.names:
                    broken.append(f"{path.name}: {link}")
    assert broken == []


@of_the_site
def test_every_page_can_be_downloaded_and_those_with_code_as_a_notebook():
    for name, head in heads().items():
        sources = [link for link in head.links if "_sources/" in link]
        kinds = {Path(link).suffix for link in sources}
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        assert kinds == ({".md", ".ipynb"} if "\n```{code-cell" in text else {".md"})


SIZES = pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])


@pytest.fixture
def index(chromium, width, height):
    context = chromium.new_context(
        viewport={"width": width, "height": height}, reduced_motion="reduce"
    )
    tab = context.new_page()
    tab.loaded = []
    tab.route("http*://**", lambda route: route.abort())
    tab.on("request", lambda request: tab.loaded.append(request.url))
    tab.goto((SITE / "chapters" / "index.html").as_uri(), wait_until="load")
    yield tab
    context.close()


@in_browser
@of_the_site
@SIZES
def test_the_first_screen_says_what_the_book_is_and_shows_it(index, width, height):
    ways = index.locator("main p").filter(has_text="for an examination").first
    seen, said = index.locator("#live-photograph"), index.locator("#live-caption")
    parts = [index.locator("h1").last, ways, seen, said]
    for part in parts:
        box = part.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= height, part
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, part
    assert ways.locator("a").count() == 3
    assert seen.bounding_box()["width"] >= 320
    assert index.locator("main pre:visible").count() == 1  # how to run it, far below
    assert index.locator("main pre").bounding_box()["y"] > height


@in_browser
@of_the_site
@SIZES
def test_there_is_one_field_to_search(index, width, height):
    index.wait_for_timeout(300)
    assert index.locator(".search-button__button:visible").count() == 1
    assert index.locator("input[type=search]:visible").count() == 0


@in_browser
@of_the_site
@pytest.mark.parametrize(("width", "height"), [(1280, 800)])
def test_the_keyboard_is_soon_at_the_words(index, width, height):
    index.keyboard.press("Tab")
    index.keyboard.press("Enter")  # skips to the main content
    for _ in range(10):
        index.keyboard.press("Tab")
        if index.evaluate("document.activeElement.matches('#live-caption button')"):
            break
    else:
        pytest.fail("ten times Tab, and no word is reached")


@in_browser
@of_the_site
@pytest.mark.parametrize(("width", "height"), [(1280, 800)])
def test_the_first_page_is_light(index, width, height):
    index.wait_for_timeout(500)
    paths = {unquote(urlsplit(url).path) for url in index.loaded if "file:" in url}
    weight = sum(len(gzip.compress(Path(path).read_bytes())) for path in paths)
    assert weight < 1.2e6, f"{weight / 1e6:.2f} MB"
