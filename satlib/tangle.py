# Written by `python -m satlib.tangle` from chapters/tangle.md: edit that.
# chapters/tangle.md: Reading a chapter
"""Write `satlib/` and the pages of names and faults, or check them."""

import argparse
import ast
import hashlib
import re
import sys
from itertools import groupby, pairwise
from pathlib import Path
from textwrap import fill

import jupytext
from markdown_it import MarkdownIt

import satlib

ROOT = Path(satlib.__file__).resolve().parent.parent
HEADER = "# Written by `python -m satlib.tangle` from chapters/{}.md: edit that.\n"
EXPORT = re.compile(r"# satlib/(\w+)\.py\n")
FENCE = re.compile(r"^```\{code-cell\}", re.MULTILINE)


class TangleError(Exception):
    """A chapter that cannot be written as a module."""


# chapters/tangle.md: Reading a chapter
def headed_cells(chapter):
    """List the code cells of the path `chapter`, each as (heading above it, source).

    Raises TangleError if jupytext would read the chapter as markdown because its
    header does not name the format.
    """
    cells, heading = [], ""
    for cell in jupytext.read(chapter, fmt="md:markdown").cells:  # or MyST: its header
        if cell.cell_type == "code":
            cells.append((heading, cell.source))
        else:
            for opening, content in pairwise(MarkdownIt().parse(cell.source)):
                if opening.type == "heading_open":
                    heading = content.content
    fences = len(FENCE.findall(chapter.read_text(encoding="utf-8")))
    if len(cells) != fences:
        raise TangleError(
            f"{chapter}: jupytext finds {len(cells)} of {fences} code cells; under "
            "text_representation put 'extension: .md' and 'format_name: myst'"
        )
    return cells


# chapters/tangle.md: Reading a chapter
def exported_cells(chapter):
    """List what the path `chapter` gives its module: cells, their origin above them.

    Raises TangleError if a cell names another module.
    """
    exported = []
    for heading, cell in headed_cells(chapter):
        if not (match := EXPORT.match(cell + "\n")):
            continue
        if match[1] != chapter.stem:
            raise TangleError(
                f"{chapter}: a cell names satlib/{match[1]}.py, but this chapter "
                f"writes satlib/{chapter.stem}.py:\n{cell}"
            )
        origin = f"# chapters/{chapter.name}: {heading}\n"
        exported.append(origin + cell[match.end() :].strip("\n"))
    return exported


# chapters/tangle.md: The page of names
def defined_names(source):
    """List the public names that a module's source defines: (name, what it is)."""
    found = []
    for node in ast.parse(source).body:
        match node:
            case ast.ClassDef(name) | ast.FunctionDef(name):
                what = (ast.get_docstring(node) or "").partition("\n")[0]
            case ast.Assign([ast.Name(name)]) | ast.AnnAssign(ast.Name(name)):
                what = "a constant."
            case _:
                continue
        if not name.startswith("_"):
            found.append((name, what))
    return found


# chapters/tangle.md: The page of names
NAMES = """\
% Written by `python -m satlib.tangle` from all chapters: edit them.

# Names: what is defined where

Every public class, function and constant of `satlib`, with the chapter that defines it.
A chapter and its module have the same name: what is in [decoder](decoder.md) is
imported from `satlib.decoder`.
"""
PLAIN = re.compile(r"(`[^`]*`)|([<\[*$|])")


def _plain(text):
    return PLAIN.sub(lambda match: match[1] or "\\" + match[2], text)


# chapters/tangle.md: The page of names
def page_of_names(modules):
    """Return the page that lists what `modules`, sources by path, define."""
    names = [
        (name, path.stem, _plain(what))
        for path, source in modules.items()
        for name, what in defined_names(source)
    ]
    names.sort(key=lambda row: (row[0].lower(), row))
    lines = [NAMES]
    for letter, rows in groupby(names, key=lambda row: row[0][0].upper()):
        lines.append(f"## {letter}\n")
        for name, page, what in rows:
            row = f"- `{name}` in [{page}]({page}.md): {what}"
            lines.append(fill(row, 120, subsequent_indent="  ", break_on_hyphens=False))
        lines.append("")
    return "\n".join(lines)


# chapters/tangle.md: The page of faults
FAULTS = """\
% Written by `python -m satlib.tangle` from the tests: edit them.

# Faults: what is thrown at the library, and what happens

Each row is a test, many of them with several inputs: `pytest -k "fault or fuzz"` throws
them all, and inputs made at random, too, and processes that are killed or that start
together; its last line says how many there were. The last column names a test of the
file that stands above the table.
"""
TABLE = "| What is thrown at it | What happens | Test |\n| --- | --- | --- |"


def page_of_faults(tests):
    """Return the page that lists what `tests`, sources by path, throw at the library.

    Raises TangleError where a test does not say what it throws and what happens.
    """
    lines = [FAULTS]
    for path, source in tests.items():
        module = ast.parse(source)
        kind = _summary(module).rstrip(".")
        lines += [f"## {kind}\n", f"`tests/{path.name}`\n", TABLE]
        for test in module.body:
            if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                thrown, colon, happens = _summary(test).partition(": ")
                if not colon:
                    raise TangleError(f"{path}: {test.name} says not what happens")
                lines.append(f"| {thrown} | {happens} | `{test.name}` |")
        lines.append("")
    return "\n".join(lines)


def _summary(node):
    first = (ast.get_docstring(node) or "").partition("\n\n")[0]
    return re.sub(r"(?<!\\)\|", r"\|", _plain(" ".join(first.split())))


# chapters/tangle.md: Writing the modules
def tangle(root=ROOT):
    """Map the path of all that the chapters under `root` write to its text.

    Raises TangleError where there are none.
    """
    modules, chapters = {}, sorted((root / "chapters").glob("*.md"))
    if not chapters:
        raise TangleError(
            f"{root / 'chapters'}: no chapters there; the book is made in its own "
            "folder, after: pip install -e ."
        )
    for chapter in chapters:
        cells = exported_cells(chapter)
        if cells:
            path = root / "satlib" / f"{chapter.stem}.py"
            modules[path] = HEADER.format(chapter.stem) + "\n\n\n".join(cells) + "\n"
    pages = {root / "chapters" / "names.md": page_of_names(modules)}
    tests = sorted((root / "tests").glob("test_faults_*.py"))
    if tests:
        sources = {path: path.read_text(encoding="utf-8") for path in tests}
        pages[root / "chapters" / "faults.md"] = page_of_faults(sources)
    return modules | pages


# chapters/tangle.md: Writing the modules
def stale_files(root=ROOT):
    """Map the path of each file that the chapters under `root` write differently.

    To its text, or to None if it is to go.
    """
    files = tangle(root)
    orphans = [
        path
        for path in sorted((root / "satlib").glob("*.py"))
        if path not in files and _read(path).startswith(HEADER.format(path.stem))
    ]
    stale = {path: text for path, text in files.items() if _read(path) != text}
    return stale | dict.fromkeys(orphans)


def _read(path):
    return path.read_text(encoding="utf-8") if path.exists() else ""


# chapters/tangle.md: Writing the modules
def main(arguments=None):
    """Run `python -m satlib.tangle [--check]`; return its exit code."""
    parser = argparse.ArgumentParser("python -m satlib.tangle", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1")
    check = parser.parse_args(arguments).check
    try:
        stale = stale_files()
    except TangleError as error:
        print(error)
        return 1
    for path, text in stale.items():
        name = f"{path.parent.name}/{path.name}"
        if check:
            print(f"{name} is not what the chapters write")
        elif text is None:
            path.unlink()
            print(f"{name} removed: no chapter writes it")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"{name} written")
    return int(check and len(stale) > 0)


# chapters/tangle.md: No stale page
def fingerprint(root=ROOT):
    """Return eight hex digits that change whenever the code of `satlib` does."""
    modules = sorted((root / "satlib").glob("*.py"))
    code = "\0".join(ast.dump(ast.parse(path.read_bytes())) for path in modules)
    return hashlib.sha256(code.encode()).hexdigest()[:8]


def setup(app):
    """Tie the execution cache of a Sphinx build to the state of the library."""
    app.connect("config-inited", _tie_cache, priority=1)
    return {"parallel_read_safe": True}


def _tie_cache(app, config):
    if stale := stale_files():
        names = ", ".join(path.name for path in stale)
        raise TangleError(f"run python -m satlib.tangle first; stale: {names}")
    cache = Path(app.outdir).parent / ".jupyter_cache" / fingerprint()
    config.nb_execution_cache_path = str(cache)


# chapters/tangle.md: No stale page
if __name__ == "__main__":
    sys.exit(main())
