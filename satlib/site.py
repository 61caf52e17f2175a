# Written by `python -m satlib.tangle` from chapters/site.md: edit that.
# chapters/site.md: Site: pages that run side by side, and work without a network
"""The site: scripts from npm for reading without a network, each page's module."""

import base64
import hashlib
import html
import io
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

from docutils import nodes
from jupyter_cache import get_cache
from myst_nb.core.execute import create_client
from myst_nb.core.read import create_nb_reader
from PIL import Image
from sphinx.util import logging

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
    os.environ.setdefault("TQDM_DISABLE", "1")  # nobody waits for a page
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


# chapters/site.md: Figures on any screen
KERNEL = """\
c.InlineBackend.figure_formats = {"svg"}
c.InlineBackend.rc = {
    "axes.facecolor": "none",
    "figure.dpi": 200,
    "figure.facecolor": "none",
    "legend.facecolor": "white",
    "svg.hashsalt": "book",
}
c.IPKernelApp.log_level = "ERROR"
"""


def _draw_lines(app, config):
    profile = Path(app.outdir).parent / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text(KERNEL, encoding="utf-8")
    os.environ["IPYTHONDIR"] = str(profile.parent)


# chapters/site.md: Figures on any screen
NOT_DRAWN = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.S)
PHOTOGRAPH = re.compile(r"data:image/png;base64,([^\"]+)")
SIZE = re.compile(r'width="([\d.]+)pt" height="[\d.]+pt"')


def drawing(svg, alt):
    """Return an SVG file of matplotlib's as HTML, described by the text `alt`."""
    svg = NOT_DRAWN.sub("", svg[svg.index("<svg") :])
    svg = re.sub(r'<g id="([\w.]+?)_\d+"', r'<g class="\1"', svg)
    svg = PHOTOGRAPH.sub(_as_webp, svg)
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{mark}-", svg)
    width = round(float(SIZE.search(svg)[1]) * 96 / 72)
    style = f"max-width: {width}px; min-width: {min(0.8 * width, 600):.0f}px"
    told = f'role="img" aria-label="{html.escape(alt)}" style="{style}"'
    return f'<div class="drawing">{SIZE.sub(told, svg, count=1)}</div>'


def _as_webp(match):
    picture, files = Image.open(io.BytesIO(base64.b64decode(match[1]))), []
    for how in ({"quality": 85}, {"lossless": True}):
        files.append(io.BytesIO())
        picture.save(files[-1], "WEBP", **how)
    smaller = min((file.getvalue() for file in files), key=len)
    return f"data:image/webp;base64,{base64.b64encode(smaller).decode()}"


# chapters/site.md: Figures on any screen
def _insert_drawings(app, doctree, name):
    if app.builder.format == "html":
        for image in [*doctree.findall(nodes.image)]:
            path = Path(app.srcdir, image["uri"])
            if path.suffix == ".svg" and "jupyter_execute" in path.parts:
                figure = drawing(path.read_text("utf-8"), image.get("alt", ""))
                image.replace_self(nodes.raw("", figure, format="html"))


def _use_drawings(app):
    app.connect("config-inited", _draw_lines)
    app.connect("doctree-resolved", _insert_drawings)
    app.add_js_file("scroll.js", loading_method="defer")


# chapters/site.md: Which module is this?
def _name_module(app, doctree):
    module = f"{PurePosixPath(app.env.docname).name}.py"
    title = doctree.next_node(nodes.title)
    if title is not None and Path(__file__).with_name(module).exists():
        line = nodes.paragraph("", "This page writes ", classes=["writes"])
        line += nodes.literal("", f"satlib/{module}")
        title.parent.insert(title.parent.index(title) + 1, line)


# chapters/site.md: Which module is this?
def setup(app):
    """Run the pages, name their modules; add the book's script, or from npm all."""
    app.connect("config-inited", _use_scripts, priority=1)
    app.connect("env-before-read-docs", _run_ahead)
    app.connect("doctree-read", _name_module)
    _use_drawings(app)
    app.connect("html-page-context", _drop_doubles, priority=900)
    app.add_js_file("book.js", priority=1)
    return {"parallel_read_safe": True}
