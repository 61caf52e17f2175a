# Written by `python -m satlib.tangle` from chapters/tangle.md: edit that.
"""Write `satlib/` from the chapters, or check that it is up to date."""

import argparse
import hashlib
import re
import sys
from pathlib import Path

import jupytext

import satlib

ROOT = Path(satlib.__file__).resolve().parent.parent
HEADER = "# Written by `python -m satlib.tangle` from chapters/{}.md: edit that.\n"
EXPORT = re.compile(r"# satlib/(\w+)\.py\n")
FENCE = re.compile(r"^```\{code-cell\}", re.MULTILINE)


class TangleError(Exception):
    """A chapter that cannot be written as a module."""


def exported_cells(chapter):
    """List the source of the cells of the path `chapter` that belong to its module.

    Raises TangleError if a cell names another module, or if jupytext would read the
    chapter as markdown because its header does not name the format.
    """
    notebook = jupytext.read(chapter, fmt="md:markdown")  # MyST if the header says so
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    fences = len(FENCE.findall(chapter.read_text(encoding="utf-8")))
    if len(cells) != fences:
        raise TangleError(
            f"{chapter}: jupytext finds {len(cells)} of {fences} code cells; under "
            "text_representation put 'extension: .md' and 'format_name: myst'"
        )
    exported = [(EXPORT.match(cell + "\n"), cell) for cell in cells]
    for match, cell in exported:
        if match and match[1] != chapter.stem:
            raise TangleError(
                f"{chapter}: a cell names satlib/{match[1]}.py, but this chapter "
                f"writes satlib/{chapter.stem}.py:\n{cell}"
            )
    return [cell[match.end() :].strip("\n") for match, cell in exported if match]


def tangle(root=ROOT):
    """Map the path of every module under `root` to the source its chapter gives it."""
    modules = {}
    for chapter in sorted((root / "chapters").glob("*.md")):
        cells = exported_cells(chapter)
        if cells:
            path = root / "satlib" / f"{chapter.stem}.py"
            modules[path] = HEADER.format(chapter.stem) + "\n\n\n".join(cells) + "\n"
    return modules


def stale_modules(root=ROOT):
    """List the paths of modules under `root` that their chapters write differently."""
    modules = tangle(root)
    orphans = [
        path
        for path in sorted((root / "satlib").glob("*.py"))
        if path not in modules and _read(path).startswith(HEADER.format(path.stem))
    ]
    return [path for path, source in modules.items() if _read(path) != source] + orphans


def _read(path):
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main(arguments=None):
    """Run `python -m satlib.tangle [--check]`; return its exit code."""
    parser = argparse.ArgumentParser("python -m satlib.tangle", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1")
    check = parser.parse_args(arguments).check
    try:
        modules, stale = tangle(), stale_modules()
    except TangleError as error:
        print(error)
        return 1
    for path in stale:
        chapter = f"chapters/{path.stem}.md"
        if check:
            print(f"satlib/{path.name} is not what {chapter} writes")
        elif path in modules:
            print(f"{chapter} -> satlib/{path.name}")
            path.write_text(modules[path], encoding="utf-8")
        else:
            print(f"satlib/{path.name} removed: no cell of {chapter} writes it")
            path.unlink()
    return int(check and bool(stale))


def fingerprint(root=ROOT):
    """Return eight hex digits that change whenever a module of `satlib` does."""
    sources = sorted((root / "satlib").glob("*.py"))
    return hashlib.sha256(b"\0".join(p.read_bytes() for p in sources)).hexdigest()[:8]


def setup(app):
    """Tie the execution cache of a Sphinx build to the state of the library."""
    app.connect("config-inited", _tie_cache, priority=1)
    return {"parallel_read_safe": True}


def _tie_cache(app, config):
    if stale := stale_modules():
        names = ", ".join(path.name for path in stale)
        raise TangleError(f"run python -m satlib.tangle first; stale: {names}")
    cache = Path(app.outdir).parent / ".jupyter_cache" / fingerprint()
    config.nb_execution_cache_path = str(cache)


if __name__ == "__main__":
    sys.exit(main())
