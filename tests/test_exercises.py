"""Each chapter of the course says what it is for, and ends with exercises, solved.

That a solution runs is the build's to see: it stops at a cell that fails.
"""

import ast
import re

import jupytext
import pytest
from test_book import COURSE, TEXTS

WITHOUT = {"caption", "train"}  # papermill runs them: see their own tests
DONE = [name for name in COURSE if name not in WITHOUT]
KINDS = "By hand.", "Predict, then run.", "Change the code."
EXERCISE = re.compile(r"^\*\*(\d+)\. ([^*]+)\*\*", re.M)
QUESTION = re.compile(r"^:::\{dropdown\} ([^\n]+)\n(.+?)^:::$", re.M | re.S)
ANSWER = re.compile(r"^:::\{dropdown\} Answer\n(.+?)^:::$", re.M | re.S)
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.M | re.S)


def sections(text):
    """Return the parts of a page by their titles, code and all; the first is ""."""
    parts = re.split(r"^## ([^\n]+)\n", text, flags=re.M)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def exercises(section):
    """List the exercises of a section, each a (kind, text, with its solution)."""
    parts = EXERCISE.split(section)[1:]
    assert [*map(int, parts[::3])] == [*range(1, len(parts) // 3 + 1)]
    return [*zip(parts[1::3], parts[2::3], strict=True)]


def is_solution(cell):
    """Tell whether a cell is folded, and its end asserts what the build then checks."""
    last = ast.walk(ast.parse(cell.source).body[-1])
    asserts = any(isinstance(node, ast.Assert) for node in last)
    return cell.metadata.get("tags") == ["hide-cell"] and asserts


def solutions(text):
    """List the code cells of an exercise's text."""
    cells = jupytext.reads(text, fmt="md:myst").cells
    return [cell for cell in cells if cell.cell_type == "code"]


def faults(text):
    """Say what the end of a page lacks, of all that a chapter of the course has."""
    found = sections(text)
    for opening in ("**You will**", "**You need**"):
        if opening not in found[""]:
            yield f"no {opening} at its beginning"
    ends = ["Summary", "Exercises", "As an examiner would ask"]
    if [*found][-3:] != ends:
        yield f"does not end with {', '.join(ends)}"
        return
    if len(re.findall(r"^- ", found["Summary"], re.M)) < 2:
        yield "its summary is no list"
    done = exercises(found["Exercises"])
    for kind in KINDS:
        if kind not in [which for which, _ in done]:
            yield f"no exercise **{kind}**"
    for number, (_, told) in enumerate(done, 1):
        cells = solutions(told)
        if len(cells) != 1 or not is_solution(cells[0]):
            yield f"exercise {number} has not one folded solution that asserts"
        words = [len(answer.split()) for answer in ANSWER.findall(told)]
        if len(words) != 1 or words[0] < 5:
            yield f"exercise {number} has not one folded answer in words"
        if CELL.sub("", ANSWER.sub("", told)).strip().count("\n\n"):
            yield f"exercise {number} tells something that is not folded"
    asked = QUESTION.findall(found["As an examiner would ask"])
    if len(asked) != 3:
        yield f"{len(asked)} questions of an examiner, not three"
    for question, answer in asked:
        if not question.endswith("?"):
            yield f"not a question: {question}"
        if not 2 <= len(re.findall(r"[.!?:](?=\s|$)", answer)) <= 6:
            yield f"not two to five sentences: {question}"


@pytest.mark.parametrize("name", DONE)
def test_a_chapter_has_exercises_with_solutions_and_questions_with_answers(name):
    assert [*faults(TEXTS[name])] == []


def test_the_list_of_chapters_without_exercises_only_shrinks():
    assert {*COURSE} >= WITHOUT
    done = [name for name in WITHOUT if "## Exercises" in TEXTS[name]]
    assert not done, f"take them out of WITHOUT: {done}"


HEAD = """---
jupytext: {formats: md:myst}
---

# A chapter

**You will** learn. **You need** nothing.

## Summary

- All.
- And more.

## Exercises

"""
SOLVED = """**{number}. {kind}** How much is it?

:::{{dropdown}} Answer
One and one more are two.
:::

```{{code-cell}}
:tags: [hide-cell]

x = 1 + 1
assert x == 2
```

"""
ASKED = """## As an examiner would ask

:::{dropdown} Why?
It is so. It must be.
:::

:::{dropdown} How?
So. And so.
:::

:::{dropdown} How much?
Two. And no more.
:::
"""
WHOLE = HEAD + "".join(SOLVED.format(number=n, kind=k) for n, k in enumerate(KINDS, 1))
WHOLE += ASKED


@pytest.mark.parametrize(
    "old, new",
    [
        ("", ""),
        ("**You need**", "You need"),
        ("## Summary", "## The end"),
        ("- All.\n- And", "- All. - And"),
        ("By hand.", "By heart."),
        ("[hide-cell]", "[hide-input]"),
        ("[hide-cell]", "[hide-cell, skip-execution]"),
        ("assert x == 2", "x == 2"),
        ("Answer", "So much"),
        ("One and one more are two.", "Two."),
        ("How much is it?", "How much is it?\n\nTwo."),
        (":::{dropdown} Why?\nIt is so. It must be.\n:::\n", ""),
        ("Why?", "Why."),
        ("It is so. It must be.", "It is so."),
    ],
)
def test_the_measure_of_exercises_sees(old, new):
    assert bool([*faults(WHOLE.replace(old, new, 1))]) is bool(old)
