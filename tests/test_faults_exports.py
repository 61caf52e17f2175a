"""Exports: any word, in every file that is kept."""

import io
import json
import os
import re
import warnings
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from satlib.captioner import Caption
from satlib.explorer import plain_figure
from satlib.figures import Stepper, panels, shortened, showable, told_apart
from satlib.maps import WordView, attention_figure, film, page, save, word_details

PICTURE = Image.new("RGB", (48, 32), "green")
WORDS = {
    "script": "<script>alert(1)</script>",
    "end of script": "</script>",
    "END OF SCRIPT": "</SCRIPT >",
    "comment": "<!--<script>",
    "end of comment": "-->",
    "cdata": "]]>",
    "tag with handler": "<img src=x onerror=alert(1)>",
    "double quotes": '"quoted"',
    "single quotes": "it's",
    "entity": "&lt;b&gt;&amp;&#0;",
    "backslashes": "\\u003c\\\\n\\",
    "dollars": "$x$",
    "two dollars": "$$",
    "one dollar": "$5",
    "formula": "$\\frac{1}{",
    "unknown command": "$\\unknown{x}$",
    "percent": "100%s %(a)d",
    "braces": "{title}{0}{{}}",
    "line break": "two\nlines\r\nand\x0bmore",
    "paragraph": "a\u2028b\u2029c\x85d",
    "zero byte": "a\0b",
    "controls": "\x01\x07\x08\x1b[31m\x7f",
    "lone surrogates": "\ud83d and \udc36",
    "no characters": "\ufffe\uffff\ufdd0",
    "byte order mark": "\ufeffdog",
    "turned": "\u202egod\u2066\u2067",
    "joined": "👩\u200d👧 e\u0301\u0301\u0301",
    "emoji": "🐕",
    "long": "a" * 300,
    "long and wide": "犬" * 300,
    "empty": "",
    "blank": " \t ",
    "marks only": "\u200b\u200e",
}
MEANT = {"line break": "two lines and more", "paragraph": "a b c d", "blank": ""}
MEANT |= {"zero byte": "a\ufffdb", "lone surrogates": "\ufffd and \ufffd"}
MEANT |= {"byte order mark": "dog", "turned": "god", "marks only": ""}
MEANT |= {"controls": "\ufffd" * 4 + "[31m\ufffd", "no characters": "\ufffd" * 3}
ANY_WORD = pytest.mark.parametrize(
    ("word", "meant"),
    [(word, MEANT.get(name, word)) for name, word in WORDS.items()],
    ids=WORDS,
)


def caption_of(words, beams=()):
    """Return a caption with these words; each has the first as its rival."""
    count, alphas = len(words), np.full((len(words), 2, 2), 0.25)
    rivals = [[(words[0], 0.1)] for _ in words]
    chances = [-1.0] * count
    found = Caption(list(words), alphas, -1.0, chances, rivals, [0.5] * count, True)
    found.beams = [caption_of(beam) for beam in beams]
    return found


@pytest.fixture(autouse=True)
def quiet():
    """Any warning is an error, except one for letters that no font here has."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "no font here has")
        warnings.filterwarnings("ignore", "Glyph ")
        yield


class Page(HTMLParser):
    """The elements of a page, and the text of each kind of them."""

    def __init__(self, text):
        super().__init__()
        self.inside, self.texts, self.tags = [], {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.inside.append(tag)
        self.texts.setdefault(tag, "")

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if self.inside:
            self.texts[self.inside[-1]] += data


PLAIN_TAGS = Page(page(caption_of(["dog"]), PICTURE)).tags


@ANY_WORD
def test_a_page_survives(word, meant):
    """A word with signs of HTML, JSON or Python, or none, in a page: it shows it."""
    text = page(caption_of(["dog", word], [[word, "cat"]]), PICTURE)
    text.encode()  # it can be written
    found = Page(text)
    assert found.tags == PLAIN_TAGS
    assert found.texts["h1"] == found.texts["title"] == f"dog {meant}".strip()
    data = re.search(r"labels, details\} = (\{.*?\}), word", text)[1]
    assert "<" not in data
    found = json.loads(data)
    assert found["labels"] == ["the picture", "dog", meant]
    details = Page(found["details"][2])
    assert {*details.tags} == {"b", "bdi", "br", "small"} and details.texts["bdi"][
        : len(meant)
    ] == meant


@ANY_WORD
def test_a_film_survives(word, meant):
    """Such a word in a film: it stands beneath its frame, which keeps its size."""
    frames = film(caption_of([word]), PICTURE)
    assert [frame.size for frame in frames] == [(320, 213 + 28)] * 2
    ink = np.asarray(frames[1].convert("L"))[213:].min()
    assert (ink < 200) == bool(meant)


@ANY_WORD
def test_a_figure_survives(word, meant):
    """Such a word above a panel: it is drawn, as text and not as a formula."""
    file = io.BytesIO()
    figure = attention_figure(caption_of([word]), PICTURE)
    figure.savefig(file, format="svg", dpi=20)
    tree = ElementTree.fromstring(file.getvalue())
    assert tree.tag.endswith("svg")
    title = figure.axes[1].get_title()
    assert title == showable(f"{shortened(meant, 16)} 0.37") or title[0] == " "


@ANY_WORD
def test_a_view_survives(word, meant):
    """Such a word in a notebook: the view can be sent, and shows it, escaped."""
    view = WordView(caption_of(["dog", word], [[word]]), PICTURE)
    json.dumps([w.get_state() for w in (view.beams, view.stepper.choice)], default=str)
    labels = [label for label, _ in view.stepper.choice.options]
    assert labels == ["the photograph alone", "dog", shortened(meant, 40)]
    assert view.beams.options[1][0] == meant
    view.beams.value = 1
    others = Page(view.others())
    assert others.texts["li"] == f"dog {meant}".strip()
    assert others.tags == ["details", "summary", "ul", "li"]


HEARD = [
    "script",
    "double quotes",
    "zero byte",
    "lone surrogates",
    "$5",
    "long",
    "empty",
]


@pytest.mark.parametrize("word", [WORDS.get(name, name) for name in HEARD], ids=HEARD)
def test_the_plain_figure_survives(word):
    """Such a word where no script runs: the figure's text for those who hear it."""
    text = plain_figure(caption_of([word]), PICTURE)
    text.encode()
    assert Page(text).tags == ["figure", "img", "noscript", "style"]


KINDS = ["png", "pdf", "svg", "gif", "html"]
COUNTS = [(kind, count) for kind in KINDS for count in (0, 1, len(WORDS))]


@pytest.mark.parametrize(("kind", "count"), [*COUNTS[:2], *COUNTS[3:]])
def test_a_file_is_kept(kind, count, tmp_path):
    """A caption of no word, of one, of all of those: kept, in each form."""
    save(caption_of([*WORDS.values()][:count]), PICTURE, tmp_path / f"maps.{kind}")
    assert (tmp_path / f"maps.{kind}").stat().st_size > 500


def test_no_words():
    """A caption without a word: its views show the picture."""
    view = WordView(caption_of([]), PICTURE, one_scale=True)
    assert len(view.stepper.pictures) == 1 and word_details(view.caption) == []


NAMES = [
    "<b>.html",
    "a b.html",
    "$x$.svg",
    "%s{0}.gif",
    "собака.html",
    "犬.PNG",
    "-.Gif",
]
NAMES += ['it\'s "quoted".pdf', "&amp;#.SVG", "..html.html", "a\nb.html"]


@pytest.mark.skipif(os.name == "nt", reason="such names are not allowed there")
@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_the_name_that_is_asked_for(name, tmp_path):
    """A file's name with such signs, or its ending in large letters: kept under it."""
    save(caption_of(["dog"]), PICTURE, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "name", ["maps", "maps.jpg", ".html", "maps.html.txt", "maps.", ""]
)
def test_another_ending_is_refused(name, tmp_path):
    """A file's name without one of the endings: refused, and the endings are told."""
    with pytest.raises(ValueError, match=r"must end with one of \.png"):
        save(caption_of(["dog"]), PICTURE, tmp_path / name)
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_is_not_there(tmp_path):
    """A folder that is not there: it is named."""
    with pytest.raises(FileNotFoundError, match="there is no folder .*none"):
        save(caption_of(["dog"]), PICTURE, tmp_path / "none" / "maps.html")


def test_the_home_folder(tmp_path, monkeypatch):
    """A path that begins with `~`: it lies in the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    save(caption_of(["dog"]), PICTURE, "~/maps.html")
    assert (tmp_path / "maps.html").exists()


def test_no_pictures():
    """No picture for a figure: refused."""
    with pytest.raises(ValueError, match="at least one picture"):
        panels([])


@pytest.mark.parametrize("labels", [["a\u200b", "a", "a"], ["", " ", "\0"], ["a"] * 60])
def test_buttons_are_told_apart(labels):
    """Words that differ by nothing that is seen: each button can still be pressed."""
    assert len({*told_apart(labels)}) == len(labels)
    stepper = Stepper([PICTURE] * len(labels), labels)
    assert len({label for label, _ in stepper.buttons.options}) == len(labels)
