"""Chapters write the library: what is written, what is refused, who imports whom."""

import ast
import importlib
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
import types

import pytest

import satlib
from satlib import tangle

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  name: python3
---
"""

# What each module imports of the others, in the order of imports: each stands below
# all that it imports, so there is no circle. A test compares it with the modules, and
# where they differ it prints the table as it should be.
ARROWS = """
tangle:
figures:
backbone:
encoder: backbone
attention:
lstm:
initialization:
decoder: attention lstm initialization
recurrence: attention lstm decoder
stickers:
storybook: stickers
caption_files:
bleu:
beam_search:
files:
report: files
scenes: stickers storybook files
site: storybook files scenes
configuration: encoder caption_files files
model: encoder decoder recurrence files configuration
scale: files
training: scale
concepts: scale training
validation: bleu beam_search scale training
self_critical: bleu beam_search scale training validation
benchmark: encoder decoder recurrence beam_search training
photographs: files scale
dataset: caption_files files scale photographs
batches: encoder files scenes scale dataset
maps: figures files photographs
explorer: figures configuration maps
learner: model scale training concepts
fit: bleu files scenes configuration model scale training concepts validation
    self_critical dataset batches learner
captioner: beam_search files configuration model photographs
speed: encoder decoder beam_search files scenes training benchmark photographs dataset
    batches captioner
grounding: bleu beam_search files scenes configuration model validation learner fit
    captioner
calibration: caption_files beam_search files model captioner
card: bleu beam_search files model captioner grounding calibration
ablation: files configuration fit captioner calibration card
phrases: caption_files files model captioner grounding calibration
pointing: files model training validation learner fit captioner grounding calibration
    card ablation phrases
live: figures decoder beam_search files scenes site configuration photographs maps fit
    captioner
"""
INIT = {"__version__"}  # what may be imported from satlib itself
MODULES = sorted(path.stem for path in tangle.ROOT.glob("satlib/[a-z]*.py"))


def cell(source, tags=""):
    return f"\n```{{code-cell}}\n{tags}{source}\n```\n"


class Project:
    """A book of its own in a folder, with the functions of `tangle` bound to it."""

    def __init__(self, root, monkeypatch):
        self.root = root
        (root / "chapters").mkdir()
        (root / "satlib").mkdir()
        monkeypatch.setattr(satlib, "__file__", str(root / "satlib" / "__init__.py"))
        self.names = runpy.run_path(tangle.__file__, run_name="tangle")

    def chapter(self, name, *parts, header=HEADER):
        path = self.root / "chapters" / f"{name}.md"
        path.write_text(header + "\n# Title\n" + "".join(parts), encoding="utf-8")
        return path

    def module(self, name):
        return self.root / "satlib" / f"{name}.py"

    def main(self, *arguments):
        return self.names["main"](arguments)


@pytest.fixture
def project(tmp_path, monkeypatch):
    return Project(tmp_path, monkeypatch)


def test_writes_the_exported_cells_in_order(project, capsys):
    project.chapter(
        "eyes",
        cell("# satlib/eyes.py\nimport math"),
        cell("print(1)"),
        "\nText about `# satlib/eyes.py` is text.\n",
        cell("# satlib/eyes.py\ndef look():\n    return math.pi", ":tags: [x]\n\n"),
    )
    project.chapter("index", "Only text.\n")

    assert project.main() == 0
    assert capsys.readouterr().out == (
        "satlib/eyes.py written\nchapters/names.md written\n"
    )
    assert project.module("eyes").read_text() == (
        "# Written by `python -m satlib.tangle` from chapters/eyes.md: edit that.\n"
        "# chapters/eyes.md: Title\n"
        "import math\n\n\n"
        "# chapters/eyes.md: Title\n"
        "def look():\n    return math.pi\n"
    )
    assert [path.name for path in project.module("eyes").parent.iterdir()] == [
        "eyes.py"
    ]

    assert project.main() == 0 == project.main("--check")
    assert capsys.readouterr().out == ""


def test_a_cell_stands_below_its_heading(project):
    project.chapter(
        "eyes",
        cell('# satlib/eyes.py\n"""See."""'),
        "\n## Looking `closely`\n\nText.\n",
        "\n```sh\n# no heading\n```\n",
        cell("# satlib/eyes.py\nA = 1"),
        cell("# not the module\n"),
        cell("# satlib/eyes.py\nB = 2"),
        "\n### Further on\n",
        cell("# satlib/eyes.py\nC = 3"),
    )
    project.main()
    lines = project.module("eyes").read_text().splitlines()
    assert [line for line in lines[1:] if line] == [
        "# chapters/eyes.md: Title",
        '"""See."""',
        "# chapters/eyes.md: Looking `closely`",
        "A = 1",
        "# chapters/eyes.md: Looking `closely`",
        "B = 2",
        "# chapters/eyes.md: Further on",
        "C = 3",
    ]
    module = ast.parse(project.module("eyes").read_text())
    assert ast.get_docstring(module) == "See."


def test_the_page_of_names(project, capsys):
    project.chapter(
        "eyes",
        cell("# satlib/eyes.py\nimport math\nfrom math import pi\n_HIDDEN = 1"),
        cell(
            '# satlib/eyes.py\nclass Look:\n    """Look at `<a>`, <b>.\n\n    More."""'
        ),
        cell("# satlib/eyes.py\nbare = lambda: 1\nleft, _own = 1, 2\ndef _own(): ..."),
        cell("def shown(): ..."),
    )
    project.chapter("ears", cell("# satlib/ears.py\nLOUD: int = 1\ndef bang(): ..."))
    page = project.root / "chapters" / "names.md"
    assert project.main("--check") == 1 and not page.exists()
    assert "chapters/names.md is not what" in capsys.readouterr().out
    project.main()
    assert re.findall("^(?:- |##).*", page.read_text(), re.MULTILINE) == [
        "## B",
        "- `bang` in [ears](ears.md):",
        "- `bare` in [eyes](eyes.md): a constant.",
        "## L",
        "- `left` in [eyes](eyes.md): a constant.",
        "- `Look` in [eyes](eyes.md): Look at `<a>`, \\<b>.",
        "- `LOUD` in [ears](ears.md): a constant.",
    ]

    capsys.readouterr()
    project.chapter("ears", cell("# satlib/ears.py\nLOUD = 2"))
    assert project.main() == 0 == project.main("--check")
    assert "bang" not in page.read_text()


def test_the_page_of_names_has_all_classes_and_functions_and_nothing_else():
    page = (tangle.ROOT / "chapters" / "names.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- `(\w+)` in \[(\w+)\]\(\2\.md\)", page, re.MULTILINE)
    assert listed == sorted(set(listed), key=lambda row: (row[0].lower(), row))
    modules = {name: importlib.import_module(f"satlib.{name}") for name in MODULES}
    assert all(hasattr(modules[module], name) for name, module in listed)
    defined = {
        (name, module)
        for module in MODULES
        for name, value in vars(modules[module]).items()
        if not name.startswith("_")
        and isinstance(value, type | types.FunctionType)
        and value.__module__ == f"satlib.{module}"
    }
    assert len(defined) > 200 and defined <= set(listed)


def test_the_page_of_faults(project, capsys):
    tests = project.root / "tests"
    tests.mkdir()
    (tests / "test_faults_wolves.py").write_text(
        '"""Wolves | dogs.\n\nMore."""\ndef test_a_wolf(door):\n'
        '    """A `wolf|dog` at the <door>\n    at night: it stays out."""\n'
        "def helper():\n    pass\n"
    )
    (tests / "test_others.py").write_text("def test_a_sheep():\n    pass\n")
    page = project.chapter("index").with_name("faults.md")
    assert project.main("--check") == 1 and not page.exists()
    assert "chapters/faults.md is not what" in capsys.readouterr().out
    assert project.main() == 0 == project.main("--check")
    assert page.read_text().split("\n## ")[1].splitlines() == [
        "Wolves \\| dogs",
        "",
        "`tests/test_faults_wolves.py`",
        "",
        "| What is thrown at it | What happens | Test |",
        "| --- | --- | --- |",
        "| A `wolf\\|dog` at the \\<door> at night | it stays out. | `test_a_wolf` |",
    ]


def test_check_names_what_is_stale_and_leaves_it(project, capsys):
    project.chapter("eyes", cell("# satlib/eyes.py\nA = 1"))
    project.chapter("ears", cell("# satlib/ears.py\nB = 1"))
    project.main()
    project.module("eyes").write_text("A = 2\n", encoding="utf-8")
    project.module("ears").unlink()
    capsys.readouterr()

    assert project.main("--check") == 1
    out = capsys.readouterr().out
    assert "satlib/eyes.py is not what the chapters write" in out
    assert "satlib/ears.py is not what the chapters write" in out
    assert project.module("eyes").read_text() == "A = 2\n"
    assert not project.module("ears").exists()

    assert project.main() == 0 == project.main("--check")
    assert project.module("ears").read_text().endswith("\nB = 1\n")


def test_a_module_that_no_chapter_writes_any_more_is_removed(project, capsys):
    project.chapter("eyes", cell("# satlib/eyes.py\nA = 1"))
    project.main()
    project.module("hand").write_text("BY_HAND = True\n", encoding="utf-8")
    project.chapter("eyes", cell("A = 1"))
    capsys.readouterr()

    assert project.main("--check") == 1
    assert "satlib/eyes.py" in capsys.readouterr().out
    assert project.main() == 0
    assert "satlib/eyes.py removed" in capsys.readouterr().out
    assert not project.module("eyes").exists()
    assert project.module("hand").exists()


def test_refuses_a_cell_that_names_another_module(project, capsys):
    project.chapter("ears", cell("# satlib/ears.py\nB = 1"))
    path = project.chapter("eyes", cell("# satlib/ears.py\nA = 1"))

    with pytest.raises(project.names["TangleError"], match="satlib/ears.py, but this"):
        project.names["exported_cells"](path)
    for arguments in ([], ["--check"]):
        assert project.main(*arguments) == 1
        out = capsys.readouterr().out
        assert "eyes.md" in out and "satlib/eyes.py" in out and "A = 1" in out
    assert not project.module("ears").exists()


@pytest.mark.parametrize(
    "header",
    [
        "",
        HEADER.replace("    format_name: myst\n", ""),
        HEADER.replace("format_name: myst", "format_name: markdown"),
    ],
    ids=["no header", "no format_name", "markdown"],
)
def test_refuses_a_chapter_whose_header_does_not_name_the_format(
    project, header, capsys
):
    project.chapter("eyes", cell("# satlib/eyes.py\nA = 1"), header=header)

    assert project.main() == 1
    out = capsys.readouterr().out
    assert "eyes.md" in out and "0 of 1" in out and "format_name: myst" in out
    assert not project.module("eyes").exists()


def test_refuses_a_cell_that_is_hidden_inside_another_directive(project, capsys):
    nested = f"````{{note}}\n{cell('# satlib/eyes.py')}\n````\n"
    project.chapter("eyes", cell("# satlib/eyes.py\nA = 1"), nested)

    assert project.main() == 1
    assert "1 of 2" in capsys.readouterr().out


def test_a_change_in_the_library_changes_the_fingerprint(project):
    project.chapter("eyes", cell("# satlib/eyes.py\nA = 1"))
    project.main()
    before = project.names["fingerprint"]()
    project.chapter("eyes", "\n## Another heading\n", cell("# satlib/eyes.py\nA = 1"))
    project.main()
    assert "Another heading" in project.module("eyes").read_text()
    assert project.names["fingerprint"]() == before
    project.chapter("eyes", cell("# satlib/eyes.py\nA = 2"))
    assert project.names["fingerprint"]() == before
    project.main()
    assert project.names["fingerprint"]() != before


def test_the_library_is_what_the_chapters_write(capsys):
    assert tangle.main(["--check"]) == 0, capsys.readouterr().out


def test_every_module_but_init_has_a_chapter():
    modules = [path.stem for path in tangle.tangle() if path.suffix == ".py"]
    assert sorted(modules) == MODULES


def test_every_module_imports_alone_and_without_chapters(tmp_path):
    shutil.copytree(tangle.ROOT / "satlib", tmp_path / "satlib")
    script = f"""
import importlib, sys
for name in {MODULES}:
    for loaded in [m for m in sys.modules if m.split(".")[0] == "satlib"]:
        del sys.modules[loaded]
    try:
        module = importlib.import_module("satlib." + name)
        assert module.__file__.startswith({str(tmp_path)!r}), module.__file__
    except Exception as error:
        sys.exit(f"import satlib.{{name}}: {{error!r}}")
"""
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def imported_rooms(source):
    """Give the rooms that a module's source imports, at its top or anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = [name.split(".") for name in names]
    assert not any(first == "" for first, *_ in parts), "a relative import"
    return {rest[0] for first, *rest in parts if first == "satlib" and rest} - INIT


def test_imported_rooms():
    source = (
        "import satlib\nfrom satlib.a import b\ndef f():\n    import satlib.c as d\n"
    )
    assert imported_rooms(source + "from satlib import e\nimport os") == {"a", "c", "e"}


def table(imports):
    """Write what rooms import, each below all that it imports, else as in ARROWS."""
    waiting = [name for name in re.findall(r"^\w+", ARROWS, re.M) if name in imports]
    waiting += sorted(imports.keys() - set(waiting))
    placed, rows = [], []
    while waiting:
        ready = [room for room in waiting if imports[room] <= {*placed}]
        assert ready, f"a circle, or what is no module: {waiting}"
        row = " ".join([f"{ready[0]}:", *sorted(imports[ready[0]], key=placed.index)])
        rows.append(textwrap.fill(row, 88, subsequent_indent="    "))
        waiting.remove(ready[0])
        placed.append(ready[0])
    return "\n".join(["", *rows, ""])


def test_table():
    imports = {"bleu": {"tangle", "a"}, "a": {"tangle"}, "tangle": set()}
    assert table(imports) == "\ntangle:\na: tangle\nbleu: tangle a\n"
    with pytest.raises(AssertionError, match="a circle.*bleu"):
        table(imports | {"tangle": {"bleu"}})


def test_the_arrows_are_what_the_modules_import():
    found = table(
        {
            name: imported_rooms((tangle.ROOT / f"satlib/{name}.py").read_text("utf-8"))
            for name in MODULES
        }
    )
    assert found == ARROWS, f"ARROWS should be:\n{found}"
