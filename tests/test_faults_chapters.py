"""A chapter or a test that cannot be written as it should."""

import pytest

from satlib.tangle import TangleError, exported_cells, page_of_faults

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
    with pytest.raises(TangleError, match="eyes.md: jupytext finds 0 of 1 code cells"):
        exported_cells(chapter)


@pytest.mark.parametrize("docstring", ["", '"""A wolf."""', '"""A wolf; it eats."""'])
def test_a_fault_without_an_outcome(chapter, docstring):
    """A test of faults that says not what happens: refused, by its name."""
    source = f'"""Wolves."""\ndef test_a_wolf():\n    {docstring}\n    assert True'
    with pytest.raises(TangleError, match="eyes.md: test_a_wolf says not"):
        page_of_faults({chapter: source})
