"""The book as a whole: its measures, notebooks, links, words, works, and commands."""

import ast
import os
import re
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import jupytext
import nbformat
import pytest
import yaml

from satlib import site
from satlib.tangle import ROOT

CHAPTERS = {path.stem: path for path in sorted(ROOT.glob("chapters/*.md"))}
NOTEBOOKS = sorted(ROOT.glob("chapters/*.ipynb"))
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in CHAPTERS.items()}
MODULES = sorted(ROOT.glob("satlib/*.py"))
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


def code_lines(source):
    """Count the lines of code: without blank lines and docstrings."""
    tree, lines = ast.parse(source), source.splitlines()
    dropped = {number for number, line in enumerate(lines, 1) if not line.strip()}
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if documented and ast.get_docstring(node):
            dropped |= {*range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    return len(lines) - len(dropped)


def is_module_cell(cell):
    """Tell whether a cell (type, source, tags) is written into the chapter's module."""
    return cell[0] == "code" and bool(EXPORT.match(cell[1] + "\n"))


NO_PROSE = re.compile(r"^```.*?^```|\$\$.*?\$\$|\$[^$]+\$|^#+ [^\n]*", re.M | re.S)


def words_of_prose(cells):
    """Count the words of the markdown cells: without headings, formulas, directives."""
    texts = [NO_PROSE.sub("", source) for kind, source, _ in cells if kind != "code"]
    return sum(len(re.findall(r"\w*[^\W\d_]\S*", text)) for text in texts)


def wordless(cells):
    """List the first lines of module cells that follow another without a sentence."""
    told = [cell for cell in cells if cell[0] == "code" or words_of_prose([cell])]
    return [
        EXPORT.sub("", cell[1], count=1).splitlines()[0]
        for before, cell in pairwise(told)
        if is_module_cell(before) and is_module_cell(cell)
    ]


def module_lines(cells):
    """Count the lines of code of the module cells."""
    return sum(code_lines(cell[1]) - 1 for cell in cells if is_module_cell(cell))


def too_wide(text):
    """List the numbers of lines of more than 120 characters that could be broken.

    A row of a table could not.
    """
    lines = enumerate(text.splitlines(), 1)
    long = [(n, line.strip()) for n, line in lines if len(line) > 120]
    return [n for n, line in long if " " in line and not line.startswith("| ")]


def public(tree):
    """Yield (name, node, docstring) of the public functions, classes and methods.

    What `__init__` raises is told where its class is.
    """
    for node in tree.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name[0] == "_":
            continue
        yield node.name, node, ast.get_docstring(node)
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            name = getattr(method, "name", "_")
            if name == "__init__" or name[0] != "_":
                of = node if name == "__init__" else method
                yield f"{node.name}.{name}", method, ast.get_docstring(of)


def raises(node):
    """Tell whether a function raises an error itself, not a function inside it."""
    return any(
        isinstance(child, ast.Raise) or raises(child)
        for child in ast.iter_child_nodes(node)
        if not isinstance(child, (ast.FunctionDef, ast.ClassDef))
    )


def untold(source):
    """Say what the docstrings of a module's public functions and classes lack."""
    for name, node, told in public(ast.parse(source)):
        if not told:
            yield f"{name} has no docstring"
        elif told.startswith("Give"):
            yield f"{name}: Return or Yield, not Give"
        elif not re.search(r"\bRaises?\b", told) and raises(node):
            yield f"{name} raises an error that its docstring does not name"


def listed(offenders):
    """Return one line for each offender (name, what is wrong)."""
    return "".join(f"\n{name}: {wrong}" for name, wrong in offenders)


def test_no_cell_is_longer_than_a_page():
    lengths = [(n, c.splitlines()[0], code_lines(c)) for n in TEXTS for c in code_of(n)]
    long = [(name, f"{n} lines, {line}") for name, line, n in lengths if n > 60]
    assert not long, listed(long)


def test_a_sentence_stands_between_two_cells_of_a_module():
    cells = [(n, line) for n in TEXTS for line in wordless(cells_of(CHAPTERS[n]))]
    assert not cells, listed(cells)


def test_the_course_has_five_words_for_each_line_of_its_modules():
    few = []
    for name in COURSE:
        cells = cells_of(CHAPTERS[name])
        words, lines = words_of_prose(cells), module_lines(cells)
        if words < 5 * lines:
            few.append((name, f"{words} words for {lines} lines, {5 * lines} needed"))
    assert not few, listed(few)


def test_lines_have_at_most_120_characters():
    wide = [(name, f"line {n}") for name in TEXTS for n in too_wide(TEXTS[name])]
    assert not wide, listed(wide)


def test_docstrings_say_what_comes_back_and_what_is_raised():
    modules = [(p.name, p.read_text(encoding="utf-8")) for p in MODULES]
    wrong = [(name, lack) for name, source in modules for lack in untold(source)]
    assert not wrong, listed(wrong)


def test_the_measures_of_teaching_see():
    x, y = (("code", f"# satlib/a.py\n{name} = 1\n", []) for name in "xy")
    title = ("markdown", "# A title\n\n```{math}\na + b\n```\n\n$$a + b$$", [])
    sentence = ("markdown", "## So\n\nOne *word*, $x = 2$, `two` of the 3.", [])
    assert wordless([x, title, y]) == ["y = 1"]
    assert wordless([x, sentence, y, ("code", "z", []), x]) == []
    assert words_of_prose([title, sentence, x]) == 5
    assert module_lines([x, title, y, ("code", "z = 1", [])]) == 2
    lines = ["a " * 60, "a " * 61, "a" * 130, "| " * 61]
    assert too_wide("\n".join(lines)) == [2]


@pytest.mark.parametrize(
    "source, lacks",
    [
        ("def f(): pass", True),
        ("def _f(): pass", False),
        ("class A:\n  'An a.'\n  def f(self): pass", True),
        ("def f():\n  'Give x.'", True),
        ("def f():\n  'Return x.'\n  if x:\n    raise ValueError", True),
        ("def f():\n  'Return x. Raises ValueError.'\n  raise ValueError", False),
        ("def f():\n  'Return g.'\n  def g():\n    raise ValueError", False),
        ("class A:\n  'An a.'\n  def __init__(self):\n    raise ValueError", True),
        ("class A:\n  'An a.'\n  def __init__(self): pass", False),
    ],
)
def test_the_measure_of_docstrings_sees(source, lacks):
    assert bool([*untold(source)]) is lacks


def parts():
    """List the parts of the table of contents: (caption, numbered or not, pages)."""
    return [
        (
            part.get("caption"),
            part.get("numbered", False),
            [page["file"].removeprefix("chapters/") for page in part["chapters"]],
        )
        for part in yaml.safe_load(text_of("_toc.yml"))["parts"]
    ]


PAGES = [page for _, _, pages in parts() for page in pages]
PARTS = [page for page in PAGES if page.startswith("part_")]
COURSE = [page for _, numbered, pages in parts() if numbered for page in pages]
BACK = parts()[-1][2]  # glossary, names, faults, bibliography


def test_every_page_is_in_the_table_of_contents():
    assert sorted([*PAGES, "index"]) == sorted(CHAPTERS)


def test_the_course_comes_first_and_alone_has_numbers():
    numbered = [page for page in PAGES if page not in PARTS]
    assert numbered[: len(COURSE)] == COURSE
    assert COURSE[0] == "encoder" and COURSE[-1] == "card"


def test_each_part_of_the_course_has_a_page_that_asks_and_names_its_chapters():
    found = [pages for _, numbered, pages in parts() if numbered or pages[0] in PARTS]
    asked, answers = found[::2], found[1::2]
    assert asked == [[page] for page in PARTS] and len(asked) == len(answers) == 5
    for (page,), chapters in zip(asked, answers, strict=True):
        assert TEXTS[page].splitlines()[0].endswith("?")
        rows = re.findall(r"^- \[.+\]\((\w+)\.md\): .+", TEXTS[page], re.M)
        assert rows == chapters
        assert f"]({page}.md)" in TEXTS["index"]


@pytest.mark.parametrize("name", sorted({*PAGES} - {*BACK, *PARTS}))
def test_a_title_begins_with_the_name_of_the_module(name):
    title = cells_of(CHAPTERS[name])[0][1].splitlines()[0].removeprefix("# ")
    word, colon, rest = title.partition(": ")
    assert re.sub("[ -]", "_", word).lower() == name and rest, title


def test_a_page_says_which_module_it_writes(tmp_path, monkeypatch):
    monkeypatch.delenv("BOOK_SCRIPTS", raising=False)  # their own pages lie in between
    for page in ("index", "chapters/decoder", "chapters/other"):
        path = tmp_path / f"{page}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text("---\norphan: true\n---\n# A title\n\nText.\n\n## More\n")
    build = [
        sys.executable,
        "-m",
        "sphinx",
        "-qWCb",
        "text",
        tmp_path,
        tmp_path / "out",
    ]
    subprocess.run([*build, "-Dextensions=myst_parser,satlib.site"], check=True)
    line = 'This page writes "satlib/decoder.py"'
    pages = {path.stem: path.read_text() for path in tmp_path.glob("out/**/*.txt")}
    assert re.findall(r".+", pages["decoder"])[2:5] == [line, "Text.", "More"]
    assert "writes" not in pages["index"] + pages["other"]
    letters = tmp_path / "chapters" / "notation.md"
    letters.write_text("---\norphan: true\n---\n# Letters\n")
    subprocess.run([*build, "-Dextensions=myst_parser,satlib.site", "-E"], check=True)
    text = (tmp_path / "out" / "chapters" / "decoder.txt").read_text()
    assert f"{line}. Letters: notation" in text.splitlines()


def test_a_label_in_a_docstring_becomes_the_number_of_its_equation():
    formula = '<div class="math" id="equation-a-step">\n<span class="eqno">(4.1)<a></a>'
    body = site.numbered(f'{formula}\n"""A step: equation (a-step), not (b-step)."""')
    assert body.startswith(formula)
    assert body.endswith('(<a href="#equation-a-step">4.1</a>), not (b-step)."""')


def test_what_is_romanian_is_marked():
    def corrected(body, meta=None):
        context = {"body": body, "meta": meta}
        site._correct_names(None, "page", "page.html", context, None)
        return context["body"]

    said = "<p><em>Română:</em> da</p><p>Română</p>"
    assert corrected(said) == said.replace("<p>", '<p lang="ro">', 1)
    page = '<section id="a"><section id="b">'
    assert corrected(page, {"lang": "ro"}) == '<section lang="ro" ' + page[9:]
    assert corrected(page) == page


def test_the_book_is_one_page_for_paper():
    page = '<head href="../_static/a.css"></head><nav>{0}</nav>'
    page += '<article class="bd-article">'
    page += '<h2 id="summary"><a href="#summary">{0}</a></h2><use href="#{0}-x"/>'
    page += '<a href="b.html">b</a><a href="a.html#summary">a</a><a href="c.html">c</a>'
    page += "<script>1</script><details><summary>{0}</summary></details></article>"
    text = site.whole({name: page.format(name) for name in "ab"})
    assert 'href="../html/_static/a.css"' in text and "<script>" not in text
    assert text.count("<nav>") == 1 and text.count("<details open>") == 2
    names = re.findall(r' id="([^"]+)"', text)
    assert names == ["a", "a--summary", "b", "b--summary"]
    links = re.findall(r'href="(#[^"]+|c.html)"', text)
    assert links[:5] == ["#a--summary", "#a--a-x", "#b", "#a--summary", "c.html"]
    assert {link[1:] for link in links} - {*names} == {"a--a-x", "b--b-x", ".html"}


def test_pages_run_ahead_and_those_that_show_the_captioner_wait_for_it(
    tmp_path, monkeypatch
):
    pages = {"a": "from satlib.fit import fit\n", "b": "", "batches": "practice_set"}
    pages |= {"c": "practice_set()", "fit": "", "z": ""}
    pages = {f"chapters/{name}": text for name, text in pages.items()}
    (tmp_path / "chapters").mkdir()
    for name, text in pages.items():
        (tmp_path / f"{name}.md").write_text(text)
    ran = []

    config = SimpleNamespace(execution_mode="cache", execution_cache_path=tmp_path)
    env = SimpleNamespace(
        mystnb_config=config, doc2path=lambda name: tmp_path / f"{name}.md"
    )
    for name in ("OMP_NUM_THREADS", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "")  # to be put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(site.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(site, "_run", lambda env, name: ran.append(name))
    site._run_ahead(None, env, [*pages])
    assert ran == [f"chapters/{name}" for name in ("batches", "fit", *"bzac")]
    assert os.environ["OMP_NUM_THREADS"] == os.environ["TQDM_DISABLE"] == "1"

    config.execution_mode = "off"
    site._run_ahead(None, env, ["chapters/b"])
    assert len(ran) == len(pages)


def test_the_map_of_the_book_has_every_page_under_its_title_and_number():
    row = re.compile(r"^(\d+\.|-) \[(.+)\]\((\w+)\.md\)$", re.MULTILINE)
    rows = row.findall(TEXTS["index"])
    assert sorted(page for _, _, page in rows) == sorted({*PAGES} - {*PARTS})
    for mark, title, page in rows:
        assert f"\n# {title}\n" in "\n" + TEXTS[page]
        assert mark == (f"{COURSE.index(page) + 1}." if page in COURSE else "-")


def needs(text):
    """List the pages that a chapter needs: the links in "**You need** …" up to "."."""
    paragraph = re.search(r"^\*\*You need\*\*.*?(?=\n\n)", text, re.M | re.S)
    needed = re.split(r"\.(?=\s)", paragraph[0] + "\n")[0] if paragraph else ""
    return re.findall(r"\]\((\w+)\.md", needed)


def test_needs():
    text = "**You need** [a](aa.md) and\n[b](bb.md). Also [c](cc.md).\n\n[d](dd.md)."
    assert needs(text) == ["aa", "bb"] and needs("[a](aa.md)\n\n") == []


@pytest.mark.parametrize("name", COURSE)
def test_a_chapter_of_the_course_needs_only_what_comes_before_it(name):
    assert {*needs(TEXTS[name])} <= {*COURSE[: COURSE.index(name)]}


def test_the_address_of_a_page_that_moved_leads_to_one_that_is_there():
    config = yaml.safe_load(text_of("_config.yml"))["sphinx"]
    assert "sphinx_reredirects" in config["extra_extensions"]
    moved = {
        page.removeprefix("chapters/"): target.removesuffix(".html")
        for page, target in config["config"]["redirects"].items()
    }
    assert {"captions", "features", "session", "shared", "views"} <= moved.keys()
    assert moved.keys() & {*PAGES} == set()
    assert set(moved.values()) <= {*PAGES}


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
