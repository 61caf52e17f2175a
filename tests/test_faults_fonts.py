"""Languages: figures and films in letters other than Latin."""

import io
import warnings

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image
from test_faults_exports import caption_of

from satlib import figures
from satlib.figures import families, heat_map, lettered
from satlib.maps import attention_figure, film, save

PICTURE = Image.new("RGB", (48, 32), "green")
ALWAYS = {  # matplotlib brings a font that has them
    "Russian": ["собака", "кошка"],
    "Greek": ["σκύλος", "γάτα"],
    "Arabic": ["كلب", "قطة"],
    "Hebrew": ["כלב", "חתול"],
    "Armenian": ["շուն", "կատու"],
    "Georgian": ["ძაღლი", "კატა"],
    "Vietnamese": ["chó", "mèo"],
    "Romanian": ["câine", "pisică"],
    "Polish": ["żółw", "źrebię"],
    "Turkish": ["köpek", "ağaç"],
}
NONE = "\ue000"  # a letter of no script, so no font has it
RARE = {"Chinese": "犬", "Korean": "개", "Hindi": "क", "Thai": "ห", "Amharic": "ው"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Fonts as a new process finds them; every warning is an error."""
    found = [*font_manager.fontManager.ttflist]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", found)
    monkeypatch.setattr(figures, "TOLD", {"UNNAMED"})  # that of the letter NONE
    for function in (figures._fonts, figures._family, figures._letters):
        function.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", f"Glyph {ord(NONE)} ")
        warnings.filterwarnings("ignore", "Matplotlib currently")  # before 3.11
        yield
    for function in (figures._fonts, figures._family):
        function.cache_clear()


@pytest.fixture
def only(monkeypatch):
    """A machine that has no fonts but matplotlib's, and those whose paths are given."""

    def machine(*paths):
        own = [f for f in font_manager.fontManager.ttflist if "mpl-data" in f.fname]
        monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [*map(str, paths)])

    return machine


def make_font(path, name, letters):
    """Write a font whose letters are rectangles, each of another height."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    names = [".notdef", *(f"u{ord(letter):x}" for letter in letters)]
    glyphs = {}
    for number, glyph in enumerate(names):
        pen, height = TTGlyphPen(None), 200 + 500 * number / len(names)
        for move in ((50, 0), (50, height), (450, height), (450, 0)):
            (pen.lineTo if move != (50, 0) else pen.moveTo)(move)
        pen.closePath()
        glyphs[glyph] = pen.glyph()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap(dict(zip(map(ord, letters), names[1:], strict=True)))
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics({glyph: (500, 50) for glyph in names})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": name, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return path


def ink(text):
    return np.asarray(lettered(text, 320).convert("L"))


@pytest.mark.parametrize("words", ALWAYS.values(), ids=ALWAYS)
def test_letters_that_are_always_there(words, only):
    """Words of many languages in a film: their letters, on every machine."""
    only()
    frames = film(caption_of(words), PICTURE)
    first, second = (np.asarray(frame)[213:] for frame in frames[1:])
    assert (first != second).any()
    boxes = ink(NONE * len(words[0]))
    assert (ink(words[0]) != boxes).mean() > 0.005


@pytest.mark.parametrize("words", ALWAYS.values(), ids=ALWAYS)
def test_a_figure_in_other_letters(words, only):
    """Words of many languages above panels: they are drawn without a warning."""
    only()
    figure = attention_figure(caption_of(words), PICTURE)
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    assert [ax.get_title()[:2] for ax in figure.axes[1:]] == [w[:2] for w in words]


@pytest.mark.parametrize("letter", RARE.values(), ids=RARE)
def test_letters_of_a_font_that_is_there(letter, only, tmp_path):
    """Letters of one font only, which is newer than matplotlib's list: it is used."""
    only(
        make_font(tmp_path / "other.ttf", "Other Sans", "☃x"),
        make_font(tmp_path / "right.ttf", "Right", letter + "猫"),
    )
    assert families(f"dog {letter}")[1:] == ["Right"]
    assert (ink(letter) != ink("猫")).any()
    save(caption_of([f"dog{letter}"]), PICTURE, tmp_path / "maps.svg")


def test_a_font_without_serifs_comes_first(only, tmp_path):
    """Two fonts have a letter: the one without serifs is taken."""
    names = ["A Serif", "Q Sans Mono", "Z Sans"]
    only(*(make_font(tmp_path / f"{name}.ttf", name, "犬") for name in names))
    assert families("犬")[1:] == ["Z Sans"]


def test_a_font_file_that_is_broken(only, tmp_path):
    """A broken font file among those of the machine: the others are used."""
    (tmp_path / "broken.ttf").write_bytes(b"no font" * 100)
    only(tmp_path / "broken.ttf", make_font(tmp_path / "b.ttf", "Good", "犬"))
    assert families("犬")[1:] == ["Good"]


@pytest.mark.parametrize("letter", RARE.values(), ids=RARE)
def test_letters_of_no_font(letter, only):
    """Letters that no font of the machine has: one warning names them, then silence."""
    only()
    with pytest.warns(UserWarning, match=f"no font here has {letter} ") as told:
        frames = film(caption_of([letter, letter]), PICTURE)
        figure = attention_figure(caption_of([letter]), PICTURE)
        figure.savefig(io.BytesIO(), format="svg")
    said = [str(warning.message) for warning in told]
    assert len([text for text in said if "no font here" in text]) == 1
    assert not [text for text in said if "Glyph" in text] and len(frames) == 3
    assert figure.axes[1].get_title() == f"{letter} 0.37"


def test_one_warning_for_a_script(only):
    """A thousand letters of a script that no font has: one warning."""
    only()
    with pytest.warns(UserWarning, match=r"\(CJK\)") as told:
        for number in range(0x4E00, 0x4E00 + 1000):
            families(chr(number))
    assert len(told) == 1


def test_a_title_keeps_its_lines():
    """A title of several lines, one with a formula's signs: as it was given."""
    title = "$x\nсобака_$\n\n{犬"
    figures.TOLD.add("CJK")
    assert heat_map(PICTURE, None, title=title).get_title() == title
    figures.plt.close("all")
