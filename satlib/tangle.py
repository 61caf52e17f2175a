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

import yaml
from markdown_it import MarkdownIt

import satlib

ROOT = Path(satlib.__file__).resolve().parent.parent
HEADER = "# Written by `python -m satlib.tangle` from chapters/{}.md: edit that.\n"
MYST = {"extension": ".md", "format_name": "myst"}
MARKDOWN = MarkdownIt().disable("inline", True)  # the blocks are enough


class TangleError(Exception):
    """A chapter that cannot be written as a module."""


def parts(chapter):
    """Return whether a chapter's header names the format, the header, and the text.

    Raises TangleError where it is no UTF-8, or the header no YAML.
    """
    try:
        text = chapter.read_text(encoding="utf-8")
        head = re.match(r"---\n(.*?\n)---\n", text, re.DOTALL)
        said = yaml.safe_load(head[1]) if head else None
    except (ValueError, yaml.YAMLError) as error:
        raise TangleError(f"{chapter}: {error}") from error
    for name in ("jupytext", "text_representation"):
        said = said.get(name) if isinstance(said, dict) else None
    named = isinstance(said, dict) and MYST.items() <= said.items()
    start = head.end() if head else 0
    return named, text[:start], text[start:]


# chapters/tangle.md: Reading a chapter
OPTIONS = re.compile(r"(?:---\n((?:.*\n)*?)---\n|(?::[\w-]+:.*\n)*)\n?")


def code_of(fence, lines, where):
    """Return the code in a fence, a token of markdown, without the cell's options.

    `lines` are those of the text. Raises TangleError, with `where` it stands.
    """
    options = OPTIONS.match(fence.content)
    code = fence.content[options.end() :]
    last = lines[fence.map[1] - 1].strip()
    if not last.startswith(fence.markup) or {*last} != {fence.markup[0]}:
        raise TangleError(f"{where}: the cell does not end, with {fence.markup}")
    if code.lstrip().startswith((":", "---")):
        raise TangleError(f"{where}: options go first in a cell, as :name: value")
    try:
        header = yaml.safe_load(options[1] or "{}")
    except yaml.YAMLError as error:
        raise TangleError(f"{where}: the cell's header is no YAML: {error}") from error
    if not isinstance(header, dict):
        raise TangleError(f"{where}: the cell's header has no names")
    if len(fence.content.splitlines()) != fence.content.count("\n"):
        raise TangleError(f"{where}: a form feed or such; write it as an escape")
    return code.removesuffix("\n")


# chapters/tangle.md: Reading a chapter
FENCE = re.compile(r"^[^\w`~]*(?:`{3,}|~{3,}) *\{code-cell\}", re.MULTILINE)


def headed_cells(chapter):
    """List the code cells of the path `chapter`, each as (heading above it, source).

    Raises TangleError where a notebook would be read otherwise.
    """
    (named, head, text), cells, heading = parts(chapter), [], ""
    lines, above = text.split("\n"), head.count("\n") + 1
    for token, content in pairwise([*MARKDOWN.parse(text), None]):
        if token.type == "heading_open" and token.level == 0:
            heading = " ".join(content.content.split())
        cell = token.type == "fence" and token.info.startswith("{code-cell}")
        if cell and named and token.level == 0:
            where = f"{chapter}, line {token.map[0] + above}"
            cells.append((heading, code_of(token, lines, where)))
    fences = len(FENCE.findall(text))
    if len(cells) != fences:
        raise TangleError(
            f"{chapter}: a notebook has {len(cells)} of {fences} code cells; no cell "
            "lies in another directive or a list, and the header needs, under "
            "text_representation, 'extension: .md' and 'format_name: myst'"
        )
    return cells


# chapters/tangle.md: Reading a chapter
EXPORT = re.compile(r"# satlib/(\w+)\.py\n")
ALMOST = re.compile(r"^\s*#+ *satlib *[/\\.] *\w+[ .]*(?:py)?\s*$", re.MULTILINE | re.I)


def exported_cells(chapter):
    """List what the path `chapter` gives its module: cells, their origin above them.

    Raises TangleError if a cell names another module, or almost this one.
    """
    exported = []
    for heading, cell in headed_cells(chapter):
        if not (match := EXPORT.match(cell + "\n")):
            if almost := ALMOST.search(cell):
                raise TangleError(
                    f"{chapter}: {almost[0].strip()!r}: a cell of the module begins "
                    f"with the line '# satlib/{chapter.stem}.py'"
                )
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
                found.append((name, what))
            case ast.Assign([target]) | ast.AnnAssign(target):
                each = target.elts if isinstance(target, ast.Tuple) else [target]
                names = [one.id for one in each if isinstance(one, ast.Name)]
                found += [(name, "a constant.") for name in names]
    return [(name, what) for name, what in found if not name.startswith("_")]


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

Each row is a test, many of them with several inputs: `pytest -k "faults_ or fuzz_"`
throws them all, and inputs made at random, too, and processes that are killed or that
start together; its last line says how many there were. The last column names a test
of the file that stands above the table.
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
def module_of(chapter):
    """Return the source of the module of the path `chapter`; "" where it has none.

    Raises TangleError where that is no Python.
    """
    if not (cells := exported_cells(chapter)):
        return ""
    source = HEADER.format(chapter.stem) + "\n\n\n".join(cells) + "\n"
    try:
        ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise TangleError(f"{chapter}: its module is no Python: {error}") from error
    return source


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
        if source := module_of(chapter):
            modules[root / "satlib" / f"{chapter.stem}.py"] = source
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
    told = "write nothing; exit 1 where a file is stale"
    parser.add_argument("--check", action="store_true", help=told)
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
