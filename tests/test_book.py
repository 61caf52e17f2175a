"""The book as a whole: its measures, notebooks, links, words, works, and commands."""

import ast
import re

import jupytext
import nbformat
import pytest

from satlib.tangle import ROOT

CHAPTERS = {path.stem: path for path in sorted(ROOT.glob("chapters/*.md"))}
NOTEBOOKS = sorted(ROOT.glob("chapters/*.ipynb"))
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in CHAPTERS.items()}
EXPORT = re.compile(r"# satlib/\w+\.py\n")


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def cells_of(path):
    """List the cells of a notebook or chapter as (type, source, tags)."""
    cells = jupytext.read(path).cells
    return [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in cells]


def code_of(name):
    """List the code cells of a chapter, without the line that names their module.

    A list of parameters is as long as it is, and left out.
    """
    return [
        EXPORT.sub("", source, 1)
        for kind, source, tags in cells_of(CHAPTERS[name])
        if kind == "code" and "parameters" not in tags
    ]


def prose_of(text):
    """Give a page's text without its code, in one line."""
    code = r"^```(\{code-cell\}[^\n]*|\w*)\n.*?^```$"
    return " ".join(re.sub(code, "", text, flags=re.DOTALL | re.MULTILINE).split())


def glossary_terms():
    """List the terms of the glossary, in lower case: its lines without indent."""
    body = re.search(r"^```\{glossary\}\n(.*?)^```", TEXTS["glossary"], re.M | re.S)[1]
    lines = [line for line in body.splitlines() if line and line[0] not in ": "]
    return [line.strip().lower() for line in lines]


def roles(name, text):
    """List what `{name}` roles in a text point to."""
    contents = re.findall(rf"\{{{name}\}}`([^`]+)`", text)
    return [re.sub(r"^.*<(.*)>$", r"\1", content).strip() for content in contents]


# Functions that read best whole:
WHOLE = "build_encoder|create_input_files|fit|partly_saving_forward|search|"
WHOLE += "textbook_search|train|validate|write_images"


def code_lines(source):
    """Count the lines of code: without blank lines and docstrings."""
    tree, lines = ast.parse(source), source.splitlines()
    dropped = {number for number, line in enumerate(lines, 1) if not line.strip()}
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if documented and ast.get_docstring(node):
            dropped |= {*range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    return len(lines) - len(dropped)


def too_long(sources):
    """Give the first line and length of cells over 20 lines of code; 50 with a class.

    A few functions that read best in one piece may be as long as a class.
    """
    for source in sources:
        whole = rf"^(class \w|def ({WHOLE})\()"
        limit = 50 if re.search(whole, source, re.MULTILINE) else 20
        if (length := code_lines(source)) > limit:
            yield source.splitlines()[0], length


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_keeps_its_measure(name):
    assert len(TEXTS[name].splitlines()) <= 600
    assert len(code_of(name)) <= 35
    assert list(too_long(code_of(name))) == []
    module = ROOT / "satlib" / f"{name}.py"
    if module.exists():
        assert code_lines(module.read_text(encoding="utf-8")) <= 200


def test_too_long_sees_a_long_cell():
    assert list(too_long(["x\n" * 20, "class A:\n" + "  x\n" * 49])) == []
    assert list(too_long(["x\n" * 21])) == [("x", 21)]
    assert list(too_long(["class A:\n" + "  x\n" * 50])) == [("class A:", 51)]


def test_every_page_is_in_the_table_of_contents():
    pages = re.findall(r"(?:root|file): chapters/(\w+)", text_of("_toc.yml"))
    assert sorted(pages) == sorted(CHAPTERS)


def test_the_training_notebook_is_there():
    assert ROOT / "chapters" / "train.ipynb" in NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_equals_its_chapter_and_holds_no_output(path):
    write = f"jupytext --to ipynb --update chapters/{path.stem}.md"
    assert cells_of(path) == cells_of(path.with_suffix(".md")), write
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("name", CHAPTERS)
def test_words_and_works_are_known(name):
    prose = prose_of(TEXTS[name])
    known = [*glossary_terms()]
    terms = [term for term in roles("term", prose) if term.lower() not in known]
    assert terms == [], "not in chapters/glossary.md"

    keys = re.findall(r"^@\w+\{([^,\s]+),", text_of("chapters/references.bib"), re.M)
    cited = ",".join(roles("cite(?::\\w+)?", prose)).split(",")
    works = [key.strip() for key in cited if key.strip() and key.strip() not in keys]
    assert works == [], "not in chapters/references.bib"


@pytest.mark.parametrize(
    "path", ["README.md", "data/README.md", *(f"chapters/{n}.md" for n in CHAPTERS)]
)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", prose_of(text_of(path)))
    labels = re.findall(r"^\(([\w-]+)\)=$", "\n".join(TEXTS.values()), re.M)
    folder = (ROOT / path).parent
    missing = [
        link
        for link in links
        if "://" not in link
        and link not in labels
        and not (folder / link.split("#")[0]).exists()
    ]
    assert missing == []


def test_readme_has_two_commands_that_need_only_python():
    blocks = re.findall(r"^```bash\n(.*?)^```", text_of("README.md"), re.M | re.S)
    assert len(blocks) == 2
    for block in blocks:
        assert block.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert block.count("\n") == 1
    assert blocks[0].endswith(".venv/bin/jupyter-book build .\n")
    assert blocks[1].endswith(".venv/bin/python -m pytest\n")


def test_the_licence_names_both():
    licence = text_of("LICENSE")
    assert "MIT License" in licence
    assert "https://creativecommons.org/licenses/by/4.0/" in licence
