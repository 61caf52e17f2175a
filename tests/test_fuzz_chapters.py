"""Chapters made at random: what is put in comes back, and what is broken is refused."""

import random
import warnings

import jupytext
import pytest

from satlib.tangle import TangleError, exported_cells, headed_cells, module_of

HEADS = [
    "---\njupytext:\n  text_representation:\n    extension: .md\n"
    "    format_name: myst\n---\n",
    "---\njupytext: {text_representation: {extension: .md, format_name: myst}}\n"
    "orphan: true\n---\n\n",
]
CODE = [
    "A = 1",
    "# a comment",
    "def look(at):\n    return at",
    'class Eye:\n    """An `# satlib/eyes.py`."""\n\n    def see(self):\n        pass',
    "x = '```{code-cell}'",
    "kept = '# satlib/eyes.py'",
    "словарь = {'犬': '🐕', 'e\\u0301': \"it's\"}",
    "y = '''\n# Heading?\n\n- item\n'''",
    "if x:\n\n    y = 2\n\n\n    z = 3",
    "print(1)  # <!-- -->",
    "f = lambda: (yield)",
    "'$\\\\frac{1}{2}$'",
]
TITLES = ["Title", "A `word`, and *more*", "Заголовок", "犬", "$x^2$ # 1", "1. First"]
PROSE = [
    "Text about `# satlib/ears.py`, which is text.",
    "```sh\n# no heading\n```",
    "```python\n# satlib/ears.py\nA = 1\n```",
    "````{note}\n# satlib/ears.py\n````",
    "- an item\n- another\n\n  of two paragraphs",
    "> a quotation",
    "| a | b |\n| - | - |\n| 1 | 2 |",
    "$$\na + b\n$$",
    "(a-label)=",
    "+++",
    "<!-- a comment -->",
    "% not shown",
    "    # an indented block is no heading",
    "Много слов\nin two lines \\# with signs & <b>.",
    "~~~\n# in tildes\n~~~",
]
OPTIONS = [
    *("", "", "\n", ":tags: [hide-input]\n", ":tags: [a, b]\n:name: c\n\n"),
    "---\nmystnb:\n  image: {alt: 'A: `b`, \"犬\"'}\ntags: [a]\n---\n",
    "---\nmystnb:\n  figure:\n    caption: |\n      Two\n      lines.\n---\n\n",
]


def make(rng):
    """Make a chapter; return its parts as text, and its cells as (heading, source)."""
    parts, cells, heading = [], [], ""
    for _ in range(rng.randint(1, 7)):
        what = rng.random()
        if what < 0.25:
            heading = rng.choice(TITLES)
            lines = f"{heading}\n{rng.choice('=-') * 5}"
            hashes = f"{'#' * rng.randint(1, 5)} {heading}"
            parts.append(
                lines if heading != "1. First" and rng.random() < 0.2 else hashes
            )
        elif what < 0.5:
            parts.append(rng.choice(PROSE))
        else:
            mark = "# satlib/eyes.py\n" if rng.random() < 0.7 else ""
            code = "\n".join(rng.choices(CODE, k=rng.randint(1, 3)))
            options = rng.choice(OPTIONS)
            fence = rng.choice(["```", "````", "~~~"])
            info = rng.choice(["{code-cell}", "{code-cell} ipython3"])
            cells.append((heading, mark + code))
            parts.append(f"{fence}{info}\n{options}{mark}{code}\n{fence}")
    return parts, cells


def exports(cells):
    """List what the cells with a mark give to the module."""
    return [
        f"# chapters/eyes.md: {heading}\n{source.partition(chr(10))[2]}"
        for heading, source in cells
        if source.startswith("# satlib/eyes.py\n")
    ]


def cell(code):
    return f"```{{code-cell}}\n{code}\n```"


BROKEN = [  # each breaks any chapter
    lambda head, text: text + "\n\n" + cell("A = 1"),  # no header
    lambda head, text: head.replace("myst", "markdown") + text + "\n\n" + cell("A"),
    lambda head, text: (
        head.replace("format_name", "format") + text + "\n\n" + cell("A")
    ),
    lambda head, text: head.replace(": .md", ": .py") + text + "\n\n" + cell("A"),
    lambda head, text: head.replace("---\n", "---\n{[: \n", 1) + text,
    lambda head, text: head.replace("---\n", "---\n- a\nb: c\n", 1) + text,
    lambda head, text: head + text + "\n\n" + cell("# satlib/ears.py\nA = 1"),
    lambda head, text: head + text + "\n\n```{code-cell}\n# satlib/eyes.py\nA = 1\n",
    lambda head, text: head + text + "\n\n````{code-cell}\nA = 1\n```",
    lambda head, text: head + text + "\n\n- ```{code-cell}\n  A = 1\n  ```",
    lambda head, text: head + text + "\n\n> " + cell("A = 1").replace("\n", "\n> "),
    lambda head, text: head + text + "\n\n````{note}\n" + cell("A = 1") + "\n````",
    lambda head, text: head + text + "\n\n" + cell("\n:tags: [x]\n\nA = 1"),
    *(
        lambda head, text, start=start: head + text + "\n\n" + cell(start + "A = 1")
        for start in (
            "---\ntags: [x\n---\n",
            "---\ntags: [x]\n",
            "---\ntags\n---\n",
            "\n---\ntags: [x]\n---\n",
            ":tags: [x]\n---\nname: y\n---\n",
        )
    ),
    lambda head, text: head + text + "\n\n" + cell("A = 1\nB = '\x0c'"),
    lambda head, text: head + text + "\n\n" + cell("A = '\u2028'"),
    lambda head, text: head + text + "\n\n" + cell("# satlib/eyes.py\nA = (1"),
    lambda head, text: head + text + "\n\n" + cell("# satlib/eyes.py\n  A = 1\nB = 2"),
    lambda head, text: head + text + "\n\n" + cell("# satlib/eyes.py\n%time A"),
    lambda head, text: head + text + "\n\n" + cell("# satlib/eyes.py\nA = '\0'\n)"),
    *(
        lambda head, text, line=line: head + text + "\n\n" + cell(f"{line}\nA = 1")
        for line in (
            "#satlib/eyes.py",
            "# satlib/eyes.py ",
            "# satlib/eyes",
            "# Satlib/eyes.py",
            "## satlib/eyes.py",
            "# satlib.eyes",
            "# satlib\\eyes.py",
            "\n\n# satlib/eyes.py",
            "import math\n# satlib/eyes.py",
            " # satlib/eyes.py",
        )
    ),
]


@pytest.fixture
def chapter(tmp_path):
    (tmp_path / "chapters").mkdir()
    return tmp_path / "chapters" / "eyes.md"


def write(chapter, text, rng):
    """Write a chapter, with the line ends of one system or another."""
    end = rng.choice(["\n", "\n", "\r\n"])
    chapter.unlink(missing_ok=True)  # to write into a file that is there takes longer
    chapter.write_bytes(text.replace("\n", end).encode())


def test_chapters_give_back_what_was_put_in(chapter, tried):
    rng = random.Random(28)
    for _ in range(7000):
        parts, cells = make(rng)
        write(chapter, rng.choice(HEADS) + "\n\n".join(parts) + "\n", rng)
        assert headed_cells(chapter) == cells
    tried["chapters"] += 7000


def test_chapters_write_their_module(chapter, tried):
    rng = random.Random(29)
    for _ in range(500):
        parts, cells = make(rng)
        write(chapter, rng.choice(HEADS) + "\n\n".join(parts) + "\n", rng)
        assert exported_cells(chapter) == exports(cells)
        source = module_of(chapter)
        assert bool(source) == bool(exports(cells))
        compile(source, "eyes.py", "exec")
    tried["chapters"] += 500


def test_broken_chapters_are_refused_by_name(chapter, tried):
    rng = random.Random(30)
    for number in range(1500):
        parts, _ = make(rng)
        text = BROKEN[number % len(BROKEN)](rng.choice(HEADS), "\n\n".join(parts))
        write(chapter, text, rng)
        with pytest.raises(TangleError) as error:
            pytest.fail(f"accepted: {module_of(chapter)}\n{text}")
        assert str(error.value).startswith(str(chapter)), text
    tried["chapters"] += 1500


def mutated(text, rng):
    """Change a text in one place: leave out, double, or exchange a few signs."""
    at, length = rng.randrange(len(text)), rng.choice([1, 1, 3, 20])
    new = ["", text[at : at + length] * 2, rng.choice("`~:#-\n\t\x0c \0{}é")]
    return text[:at] + rng.choice(new) + text[at + length :]


def as_jupytext(chapter):
    """List the sources of a notebook's code cells; None where it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cells = jupytext.read(chapter, fmt="md:markdown").cells
    except Exception:  # of many kinds
        return None
    return [cell.source for cell in cells if cell.cell_type == "code"]


def test_chapters_with_a_slip_are_read_as_notebooks_are_or_refused(chapter, tried):
    rng, compared = random.Random(31), 0
    for number in range(1000):
        parts, _ = make(rng)
        text = HEADS[0] + mutated("\n\n".join(parts) + "\n", rng)
        write(chapter, text, rng)
        try:
            cells = headed_cells(chapter)
        except TangleError as error:
            assert str(error).startswith(str(chapter))
            continue
        if number % 5 == 0 and (read := as_jupytext(chapter)) is not None:
            assert [source for _, source in cells] == read, text
            compared += 1
    assert compared > 90
    tried["chapters"] += 1000
