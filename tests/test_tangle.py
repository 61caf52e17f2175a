"""Chapters write the library: what is written, what is refused, who imports whom."""

import ast
import re
import runpy
import shutil
import subprocess
import sys

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

# The rooms in the book's order, but for the appendix, which stands first. A module
# imports only what its row names; "above" allows every room above it.
ROOMS = {
    "tangle": "",
    "site": "",
    "figures": "",
    "backbone": "",
    "encoder": "backbone",
    "attention": "figures",
    "lstm": "figures",
    "initialization": "figures",
    "recurrence": "",
    "decoder": "attention lstm initialization recurrence",
    "stickers": "",
    "storybook": "stickers",
    "scenes": "stickers storybook",
    "caption_files": "",
    "photographs": "",
    "dataset": "caption_files photographs",
    "batches": "encoder dataset photographs",
    "training": "decoder batches",
    "concepts": "training",
    "bleu": "",
    "beam_search": "decoder",
    "validation": "decoder training bleu beam_search",
    "self_critical": "training bleu beam_search validation",
    "configuration": "encoder photographs",
    "model": "encoder decoder photographs configuration",
    "learner": "training concepts model",
    "fit": "above",
    "captioner": "above",
    "maps": "figures photographs",
    "explorer": "figures maps",
    "grounding": "above",
    "card": "above",
    "ablation": "above",
    "benchmark": "above",
    "speed": "above",
    "scale": "above",
}
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
    assert capsys.readouterr().out == "chapters/eyes.md -> satlib/eyes.py\n"
    assert project.module("eyes").read_text() == (
        "# Written by `python -m satlib.tangle` from chapters/eyes.md: edit that.\n"
        "import math\n\n\ndef look():\n    return math.pi\n"
    )
    assert [path.name for path in project.module("eyes").parent.iterdir()] == [
        "eyes.py"
    ]

    assert project.main() == 0 == project.main("--check")
    assert capsys.readouterr().out == ""


def test_check_names_what_is_stale_and_leaves_it(project, capsys):
    project.chapter("eyes", cell("# satlib/eyes.py\nA = 1"))
    project.chapter("ears", cell("# satlib/ears.py\nB = 1"))
    project.main()
    project.module("eyes").write_text("A = 2\n", encoding="utf-8")
    project.module("ears").unlink()
    capsys.readouterr()

    assert project.main("--check") == 1
    out = capsys.readouterr().out
    assert "satlib/eyes.py is not what chapters/eyes.md writes" in out
    assert "satlib/ears.py is not what chapters/ears.md writes" in out
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
    project.chapter("eyes", cell("# satlib/eyes.py\nA = 2"))
    assert project.names["fingerprint"]() == before
    project.main()
    assert project.names["fingerprint"]() != before


def test_the_library_is_what_the_chapters_write(capsys):
    assert tangle.main(["--check"]) == 0, capsys.readouterr().out


def test_every_module_but_init_has_a_chapter():
    assert sorted(path.stem for path in tangle.tangle()) == MODULES


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


def test_the_rooms_stand_in_the_order_of_the_book():
    toc = (tangle.ROOT / "_toc.yml").read_text(encoding="utf-8")
    pages = re.findall(r"file: chapters/(\w+)", toc.partition("Appendix")[0])
    rooms = [page for page in pages if page in MODULES]
    assert rooms
    assert sorted(rooms, key=[*ROOMS].index) == rooms


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


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_rooms_above_it(name):
    assert name in ROOMS, "a new room: give it its place in the table above"
    above = [*ROOMS][: [*ROOMS].index(name)]
    allowed = above if ROOMS[name] == "above" else ROOMS[name].split()
    assert set(allowed) <= set(above)
    source = (tangle.ROOT / "satlib" / f"{name}.py").read_text(encoding="utf-8")
    assert imported_rooms(source) <= set(allowed)
