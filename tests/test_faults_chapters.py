"""A chapter or a test that cannot be written as it should."""

import pytest
from test_fuzz_chapters import BROKEN, HEADS

from satlib.tangle import TangleError, exported_cells, module_of, page_of_faults, tangle

HEADER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  name: python3
  display_name: Python 3
---

# Eyes
"""
CELL = "\n```{{code-cell}}\n# satlib/{}.py\nA = 1\n```\n"


@pytest.fixture
def chapter(tmp_path):
    """The path of a chapter that is to be written."""
    return tmp_path / "eyes.md"


def test_a_cell_of_another_module(chapter):
    """A cell that names the module of another chapter: refused, with the cell."""
    chapter.write_text(HEADER + CELL.format("eyes") + CELL.format("ears"))
    with pytest.raises(TangleError, match="eyes.md: a cell names satlib/ears.py"):
        exported_cells(chapter)


def test_a_header_without_a_format(chapter):
    """A chapter whose header names no format: refused, with the lines that it needs."""
    chapter.write_text(
        HEADER.replace("    format_name: myst\n", "") + CELL.format("eyes")
    )
    with pytest.raises(TangleError, match="eyes.md: a notebook has 0 of 1 code cells"):
        exported_cells(chapter)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_slip(chapter, broken):
    """A fence that never ends, a cell in a list, a mark with a slip, …: refused."""
    chapter.write_text(broken(HEADS[0], "# Eyes"), encoding="utf-8")
    with pytest.raises(TangleError, match="eyes.md"):
        module_of(chapter)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", "é".encode("latin-1"), b"\x80"])
def test_another_encoding(chapter, content):
    """A chapter that is not in UTF-8: refused, by its name."""
    chapter.write_bytes(content)
    with pytest.raises(TangleError, match="eyes.md.*utf-8"):
        module_of(chapter)


def test_a_heading_of_two_lines(chapter):
    """A heading of two lines above a cell: the comment with it has one."""
    text = HEADER + "\nOne\ntwo\n---\n" + CELL.format("eyes")
    chapter.write_text(text)
    assert exported_cells(chapter) == ["# chapters/eyes.md: One two\nA = 1"]


def test_no_chapters(chapter):
    """No chapter in the folder: refused, and no module is taken for an orphan."""
    with pytest.raises(TangleError, match="no chapters there"):
        tangle(chapter.parent)


@pytest.mark.parametrize("docstring", ["", '"""A wolf."""', '"""A wolf; it eats."""'])
def test_a_fault_without_an_outcome(chapter, docstring):
    """A test of faults that says not what happens: refused, by its name."""
    source = f'"""Wolves."""\ndef test_a_wolf():\n    {docstring}\n    assert True'
    with pytest.raises(TangleError, match="eyes.md: test_a_wolf says not"):
        page_of_faults({chapter: source})
