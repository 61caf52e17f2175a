# Written by `python -m satlib.tangle` from chapters/site.md: edit that.
# chapters/site.md: Site: pages that run side by side, and work without a network
"""The site: scripts from npm for reading without a network, each page's module."""

import html
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from textwrap import shorten, wrap

import jupytext
from docutils import nodes
from jupyter_cache import get_cache
from matplotlib import font_manager
from myst_nb.core.execute import create_client
from myst_nb.core.read import create_nb_reader
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from sphinx.util import logging

from satlib.scenes import draw
from satlib.storybook import make_scene

PACKAGES = {"@jupyter-widgets/html-manager": "1.0.15", "mathjax": "3.2.2"}
WANTED = {  # what the site takes of them
    "widgets": ("@jupyter-widgets/html-manager/dist", ("embed.js", "*.woff2")),
    "mathjax": ("mathjax/es5", ("tex-mml-chtml.js", "output/chtml/fonts/woff-v2/*")),
}


# chapters/site.md: The scripts
def fetch_scripts(folder):
    """Put the scripts into a folder, from npm, unless they are there; return it.

    Raises RuntimeError where there is no npm, or it fails.
    """
    folder = Path(folder)
    if (folder / "complete").exists():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("BOOK_SCRIPTS=npm needs npm, which comes with Node.js")
    store = folder / "npm"
    store.mkdir(parents=True, exist_ok=True)
    names = [f"{name}@{version}" for name, version in PACKAGES.items()]
    command = [npm, "install", "--prefix", str(store), "--ignore-scripts", *names]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {run.stderr.strip()}")
    for target, (source, patterns) in WANTED.items():
        _take(store / "node_modules" / source, patterns, folder / "static" / target)
    (folder / "complete").touch()
    return folder


# chapters/site.md: The scripts
def _take(source, patterns, target):
    for pattern in patterns:
        found = list(source.glob(pattern))
        if not found:
            raise RuntimeError(f"{source} has no {pattern}; BOOK_SCRIPTS=npm needs it")
        for path in found:
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


# chapters/site.md: The scripts
def _use_scripts(app, config):
    choice = os.environ.get("BOOK_SCRIPTS", "")
    if choice not in ("", "npm"):
        raise ValueError(f"BOOK_SCRIPTS={choice}: must be npm, or not set")
    if choice == "npm":
        folder = fetch_scripts(Path(app.outdir).parent / "scripts")
        config.html_static_path.append(str(folder / "static"))
        config.nb_ipywidgets_js = {"widgets/embed.js": {}}
        config.mathjax_path = "mathjax/tex-mml-chtml.js"


def _drop_doubles(app, pagename, templatename, context, doctree):
    """Keep one of each inline script; Sphinx may list it twice, as None and as ""."""
    kept = {}
    for script in context.get("script_files", []):
        kept.setdefault((script.filename or "", str(script.attributes)), script)
    context["script_files"] = list(kept.values())


# chapters/site.md: Pages that run side by side
MAKERS = {"chapters/fit": "satlib.fit import", "chapters/batches": "practice_set"}
LOGGER = logging.getLogger(__name__)


def _run_ahead(app, env, names):
    config = getattr(env, "mystnb_config", None)  # none without myst-nb
    if config is None or config.execution_mode != "cache":
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the pages' own processes
    get_cache(config.execution_cache_path).list_cache_records()  # before two make it
    late = [name for name in names if name not in MAKERS and _waits(env, name)]
    early = sorted({*names} - {*late}, key=lambda name: (name not in MAKERS, name))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for group in (early, late):
            list(pool.map(partial(_run, env), group))


def _waits(env, name):
    return any(made in _text(env, name) for made in MAKERS.values())


def _text(env, name):
    return Path(env.doc2path(name)).read_text(encoding="utf-8")


def _run(env, name):
    path, text = env.doc2path(name), _text(env, name)
    reader = create_nb_reader(path, env.myst_config, env.mystnb_config, text)
    if reader:
        LOGGER.info("running %s", name)
        notebook, of = reader.read(text), (env.mystnb_config, LOGGER, reader.read_fmt)
        with create_client(notebook, path, *of):
            pass  # it has run, or was in the cache


# chapters/site.md: Which module is this?
def _name_module(app, doctree):
    module = f"{PurePosixPath(app.env.docname).name}.py"
    title = doctree.next_node(nodes.title)
    if title is not None and Path(__file__).with_name(module).exists():
        line = nodes.paragraph("", "This page writes ", classes=["writes"])
        line += nodes.literal("", f"satlib/{module}")
        title.parent.insert(title.parent.index(title) + 1, line)


# chapters/site.md: What a page says of itself
ABOUT = "Image captioning with visual attention, by building it."


def _describe(app, pagename, templatename, context, doctree):
    """Write the page's description, and what a link to it shows, into its head."""
    base, theirs = app.config.html_baseurl, context["pathto"](f"_static/{COVER}", 1)
    if pagename == app.config.root_doc:
        context["docstitle"] = ""
    prose = doctree.findall(_is_prose) if doctree else ()
    about = " ".join(next((text.astext() for text in prose), ABOUT).split())
    title = context.get("title") or pagename.capitalize()  # Search, Genindex
    metas = {
        "name": {
            "description": shorten(about, 200, placeholder=" …"),
            "twitter:card": "summary_large_image",
        },
        "property": {
            "og:type": "website",
            "og:site_name": app.config.html_title,
            "og:title": html.unescape(re.sub("<[^>]+>", "", title)),
            "og:description": shorten(about, 200, placeholder=" …"),
            "og:image": f"{base}_static/{COVER}" if base else theirs,
            "og:image:alt": "The book's title, and a drawn scene, one thing in it lit.",
        },
    }
    context["metatags"] = context.get("metatags", "") + "".join(
        f'\n<meta {kind}="{name}" content="{html.escape(text)}">'
        for kind, texts in metas.items()
        for name, text in texts.items()
    )


def _is_prose(node):
    """Tell whether a node is a paragraph of the page's own, not of a cell's output."""
    return (
        isinstance(node, nodes.paragraph)
        and isinstance(node.parent, (nodes.section, nodes.document))
        and "writes" not in node["classes"]
    )


# chapters/site.md: What a page says of itself
COVER = "cover.png"


def cover(title, about, seed=4):
    """Draw the picture that links to the book show: PIL, 1200 × 630 pixels."""
    picture, masks = draw(make_scene(seed))
    lit = Image.fromarray(masks[0]).convert("L").filter(ImageFilter.GaussianBlur(5))
    picture = Image.composite(picture, picture.point(lambda v: v * 3 // 10), lit)
    page = Image.new("RGB", (1200, 630), "#14181f")
    page.paste(picture.resize((630, 630), Image.Resampling.BICUBIC), (570, 0))
    file = font_manager.findfont("DejaVu Sans")
    write = ImageDraw.Draw(page).multiline_text
    for size, text, top in ((64, title, 190), (30, about, 300)):
        lines = "\n".join(wrap(text, 1000 // size))
        write((40, top), lines, "white", ImageFont.truetype(file, size), spacing=10)
    return page


def _finish(app, exception):
    """Put the cover into the site, and at its root a page that leads to the first."""
    if exception or app.builder.format != "html":
        return
    folder, root, title = Path(app.outdir), app.config.root_doc, app.config.html_title
    cover(title, ABOUT).save(folder / "_static" / COVER)
    if root != "index":
        (folder / "index.html").write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8">'
            f'<title>{title}</title><meta name="description" content="{ABOUT}">'
            f'<meta http-equiv="refresh" content="0; url={root}.html">'
            f'<p><a href="{root}.html">{title}</a></p></html>\n',
            encoding="utf-8",
        )


# chapters/site.md: What a page says of itself
def _know_addresses(app, config):
    """Take the addresses of the site and of its repository, where there are any."""
    base = os.environ.get("BOOK_URL", "")
    config.html_baseurl = base and base.rstrip("/") + "/"
    remote = ["git", "-C", app.confdir, "remote", "get-url", "origin"]
    with suppress(OSError):  # no git
        found = subprocess.run(remote, capture_output=True, text=True).stdout
        repository = os.environ.get("BOOK_REPOSITORY") or web_address(found.strip())
        if repository:
            buttons = "use_edit_page_button", "use_repository_button"
            options = {"repository_url": repository, "repository_branch": "main"}
            config.html_theme_options |= options | dict.fromkeys(buttons, True)


def web_address(remote):
    """Return the page of a git remote at a large public place, None for others."""
    places = r"((?:github\.com|gitlab\.com|bitbucket\.org))[:/](.+?)(?:\.git)?/?"
    found = re.fullmatch(r"(?:\w+://)?(?:[^@/]+@)?" + places, remote)
    return f"https://{found[1]}/{found[2]}" if found else None


def _offer_notebook(app, pagename, templatename, context, doctree):
    source = app.env.doc2path(pagename) if doctree else ""
    if source and "\n```{code-cell}" in (text := Path(source).read_text("utf-8")):
        target = Path(app.outdir, "_sources", f"{pagename}.ipynb")
        target.parent.mkdir(parents=True, exist_ok=True)
        jupytext.write(jupytext.reads(text, fmt="md:myst"), target)
        context["ipynb_source"] = f"{pagename}.ipynb"


# chapters/site.md: What a page says of itself
def _name_folds(app, pagename, templatename, context, doctree):
    if "body" in context:
        fold = '<summary aria-label="Toggle hidden content">'
        context["body"] = context["body"].replace(fold, "<summary>")


def _furnish(app):
    """Give the pages their heads, downloads and names."""
    app.connect("config-inited", _know_addresses)
    for furnish in (_describe, _offer_notebook, _name_folds):
        app.connect("html-page-context", furnish, priority=400)  # before the theme
    app.connect("build-finished", _finish, priority=400)  # before the table of contents


# chapters/site.md: What a page says of itself
def setup(app):
    """Run the pages, name their modules; add the book's script, or from npm all."""
    app.connect("config-inited", _use_scripts, priority=1)
    app.connect("env-before-read-docs", _run_ahead)
    app.connect("doctree-read", _name_module)
    app.connect("html-page-context", _drop_doubles, priority=900)
    app.add_js_file("book.js", priority=1)
    _furnish(app)
    return {"parallel_read_safe": True}
