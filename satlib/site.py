# Written by `python -m satlib.tangle` from chapters/site.md: edit that.
# chapters/site.md: Site: pages that run side by side, and work without a network
"""The site: scripts that no page waits for, pages run ahead, each page's module."""

import base64
import hashlib
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from textwrap import shorten, wrap
from typing import NamedTuple

import jupytext
import nbformat
from docutils import nodes
from jupyter_cache import get_cache
from matplotlib import font_manager
from myst_nb.core.execute import create_client
from myst_nb.core.read import create_nb_reader
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from sphinx.addnodes import pending_xref
from sphinx.util import logging

from satlib.files import SHIPPED_DATA, data_folder
from satlib.scenes import draw
from satlib.storybook import make_scene

LOGGER = logging.getLogger(__name__)


# chapters/site.md: The scripts
class Script(NamedTuple):
    """A script of an npm package: its folder there, its file, what goes with it."""

    package: str
    folder: str
    file: str
    others: str
    hash: str

    @property
    def address(self):
        """Return where the public server has it."""
        return f"{CDN}{self.package}/{self.folder}/{self.file}"


CDN = "https://cdn.jsdelivr.net/npm/"
SCRIPTS = {
    "widgets": Script(
        "@jupyter-widgets/html-manager@1.0.15",
        "dist",
        "embed.js",
        "embed.js.LICENSE.txt",
        "sha384-BhIlHV0bCNC00G3UVIEIJKhEHXPQXX90znOSkFJNUoe/L1UByfxdu2lxB3Kdgrpu",
    ),
    "formulas": Script(
        "mathjax@3.2.2",
        "es5",
        "tex-chtml.js",
        "output/chtml/fonts/woff-v2/*",
        "sha384-AHAnt9ZhGeHIrydA1Kp1L7FN+2UosbF7RQg6C+9Is/a7kDpQ1684C2iH2VWil6r4",
    ),
}


# chapters/site.md: The scripts
RUNTIME = {
    "runtime": Script(
        "onnxruntime-web@1.30.0",
        "dist",
        "ort.wasm.bundle.min.mjs",
        "",
        "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    ),
    "wasm": Script(
        "onnxruntime-web@1.30.0",
        "dist",
        "ort-wasm-simd-threaded.wasm",
        "",
        "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
    ),
}


# chapters/site.md: The scripts
def fetch_scripts(folder, scripts=None):
    """Put the scripts into a folder, from npm, unless they are there; return it.

    Raises RuntimeError where there is no npm, or it fails.
    """
    scripts = scripts or SCRIPTS
    folder = Path(folder)
    names = [*dict.fromkeys(script.package for script in scripts.values())]
    complete, content = folder / "complete", " ".join(names)
    if complete.exists() and complete.read_text() == content:
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("there is no npm, which comes with Node.js")
    shutil.rmtree(folder, ignore_errors=True)
    store = folder / "npm"
    store.mkdir(parents=True)
    options = ["--ignore-scripts", "--no-audit", "--fetch-retries=1"]
    command = [npm, "install", "--prefix", str(store), *options, *names]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {run.stderr.strip()}")
    for target, script in scripts.items():
        package = store / "node_modules" / script.package.rpartition("@")[0]
        _take(package / script.folder, script, folder / "static" / target)
    complete.write_text(content)
    return folder


def _take(source, script, target):
    for pattern in filter(None, (script.file, script.others)):
        found = list(source.glob(pattern))
        if not found:
            raise RuntimeError(f"{source} has no {pattern}")
        for path in found:
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    if integrity(target / script.file) != script.hash:
        raise RuntimeError(f"{source / script.file} is not the file it was")


def integrity(path):
    """Return the hash of a file as a browser wants it: SHA-384, in base64."""
    digest = hashlib.sha384(Path(path).read_bytes()).digest()
    return f"sha384-{base64.b64encode(digest).decode()}"


# chapters/site.md: The scripts
def addresses(folder, choice="", scripts=None):
    """Return where pages find each script; fetch them into `folder` where npm can.

    `choice` is "npm", "cdn", or "" for npm if it works and else the public server.
    Raises RuntimeError where npm is the choice and does not work.
    """
    if choice not in ("", "npm", "cdn"):
        raise ValueError(f"BOOK_SCRIPTS={choice}: must be npm, cdn, or not set")
    scripts = scripts or SCRIPTS
    if choice != "cdn":
        try:
            fetch_scripts(folder, scripts)
            return {name: f"{name}/{each.file}" for name, each in scripts.items()}
        except RuntimeError as error:
            if choice == "npm":
                raise RuntimeError(f"BOOK_SCRIPTS=npm: {error}") from error
            LOGGER.info("scripts from %s, as npm did not give them: %s", CDN, error)
    return {name: each.address for name, each in scripts.items()}


# chapters/site.md: No page waits
def _leave_formulas(app, config):
    config.mathjax_inline = config.mathjax_display = ["", ""]
    config.myst_update_mathjax = False
    config.nb_ipywidgets_js = {}


def _offer_scripts(app):
    if app.builder.format != "html":
        return
    folder = Path(app.outdir).parent / "scripts"
    found = addresses(folder, os.environ.get("BOOK_SCRIPTS", ""))
    app.config.html_static_path.append(str(folder / "static"))
    about = {f"data-{name}": address for name, address in found.items()}
    if found["widgets"].startswith(CDN):
        about |= {f"data-{name}-hash": each.hash for name, each in SCRIPTS.items()}
    app.add_js_file("book.js", loading_method="defer", **about)


# chapters/site.md: No page waits
MARKS = {  # of scripts, by what they have in their names or texts: their use in a page
    r"mathjax|window\.MathJax": r"(?!)",  # never: book.js asks for it
    r"thebe": r"thebe-launch",
    r"design-tabs": r"sd-tab",
    r"toggle(button|Hint|Open)": r'"toggle|admonition dropdown',
}


def _drop_scripts(app, pagename, templatename, context, doctree):
    """Keep one of each script that a page uses; Sphinx may list it as None and ""."""
    body, kept = context.get("body", ""), {}

    def is_used(text):
        found = [mark for name, mark in MARKS.items() if re.search(name, text)]
        return all(re.search(mark, body) for mark in found)

    for script in context.get("script_files", []):
        about = dict(script.attributes)
        if about.get("type") == STATE or is_used(
            f"{script.filename} {about.get('body')}"
        ):
            kept.setdefault((script.filename or "", str(about)), script)
    context["script_files"] = list(kept.values())
    styles = context.get("css_files", [])
    context["css_files"] = [each for each in styles if is_used(str(each.filename))]


# chapters/site.md: No page waits
def _fetch_late(app, pagename, templatename, context, doctree):
    """Let the browser fetch a page's pictures when the reader comes near them."""
    if "body" in context:
        some = re.compile("<img (?![^>]*loading=)")
        context["body"] = some.sub('<img loading="lazy" ', context["body"])


# chapters/site.md: A picture before the widget
STATE = "application/vnd.jupyter.widget-state+json"
VIEW = re.compile(r'<script type="[\w./]+widget-view\+json">(.*?)</script>')


def _lay_out(app, pagename, templatename, context, doctree):
    """Make files of the pictures of a page's widgets, and show these plainly."""
    scripts = context.get("script_files", [])
    states = [each for each in scripts if each.attributes.get("type") == STATE]
    if not states:
        return
    context["script_files"] = [each for each in scripts if each not in states]
    state = json.loads(states[0].attributes["body"])
    models, images = state["state"], Path(app.outdir) / "_images"
    links = {
        number: _to_file(model, images, context["pathto"]("_images", 1))
        for number, model in models.items()
        if model["model_name"] == "ImageModel" and "buffers" in model
    }
    body = context["body"]
    strips = VIEW.sub(lambda view: view[0] + _strip(models, links, view), body)
    safe = json.dumps(state).replace("<", "\\u003c")
    context["body"] = f'{strips}<script type="{STATE}">{safe}</script>'


def _to_file(model, folder, address):
    """Make a file of a picture, to which its model then refers; return the link."""
    buffer = next(each for each in model["buffers"] if each["path"] == ["value"])
    picture, state = base64.b64decode(buffer["data"]), model["state"]
    size = zip(("width", "height"), Image.open(io.BytesIO(picture)).size, strict=True)
    state |= {name: str(length) for name, length in size if not state.get(name)}
    name = f"{hashlib.sha256(picture).hexdigest()[:32]}.{state.get('format', 'png')}"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(picture)
    link = f"{address}/{name}"
    buffer["data"] = base64.b64encode(link.encode()).decode()
    state["format"] = "url"
    return link


# chapters/site.md: A picture before the widget
def _strip(models, links, view):
    """Return the strip of pictures for a widget's place in the page, as HTML."""
    cell = re.split(r'<div class="cell ', view.string[view.end() :], maxsplit=1)[0]
    parts = [json.loads(view[1])["model_id"]]
    for part in parts:  # which grows
        parts += _children(models, part)
    stacks = [_children(models, part) for part in parts if _is_stack(models, part)]
    stack = next((each for each in stacks if {*each} <= {*links}), [])
    if "without-script" in cell or not stack:
        return ""
    beneath = [part for part in _beside(models, parts, stack) if part in links]
    figures = [
        _figure([links[part] for part in (*beneath, top)], name)
        for top, name in zip(stack, _names(models, parts, len(stack)), strict=True)
    ]
    how = 'class="without-script strip" role="group" tabindex="0" aria-label="pictures"'
    return f"<div {how}>{''.join(figures)}</div>"


def _children(models, part):
    children = models[part]["state"].get("children", [])
    return [child.removeprefix("IPY_MODEL_") for child in children]


def _is_stack(models, part):
    return models[part]["model_name"] == "StackModel"


def _beside(models, parts, stack):
    rows = [_children(models, part) for part in parts]
    return next(
        row for row in rows if stack in [_children(models, part) for part in row]
    )


def _names(models, parts, count):
    """Return what the pictures of a stack show, by the labels of the slider."""
    for state in (models[part]["state"] for part in parts):
        labels = state.get("_options_labels", [])
        if len(labels) == count and state.get("description"):
            return [f"{state['description']}: {label}" for label in labels]
    return [str(number) for number in range(1, count + 1)]


def _figure(links, name):
    name, (first, *others) = html.escape(name), links
    over = "".join(f'<img src="{link}" alt="" loading="lazy">' for link in others)
    first = f'<img src="{first}" alt="{name}" loading="lazy">'
    return f"<figure><div>{first}{over}</div><figcaption>{name}</figcaption></figure>"


# chapters/site.md: Pages that run side by side
MAKERS = {"chapters/fit": "satlib.fit import", "chapters/batches": "practice_set"}


def _run_ahead(app, env, names):
    if not _is_cached(env):
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the pages' own processes
    os.environ.setdefault("TQDM_DISABLE", "1")  # nobody waits for a page
    cache = env.mystnb_config.execution_cache_path
    get_cache(cache).list_cache_records()  # before two pages make it
    late = [name for name in names if name not in MAKERS and _waits(env, name)]
    early = sorted({*names} - {*late}, key=lambda name: (name not in MAKERS, name))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for group in (early, late):
            list(pool.map(partial(_run, env), group))


def _is_cached(env):
    config = getattr(env, "mystnb_config", None)  # none without myst-nb
    return config is not None and config.execution_mode == "cache"


def _waits(env, name):
    return any(made in _text(env, name) for made in MAKERS.values())


def _text(env, name):
    return Path(env.doc2path(name)).read_text(encoding="utf-8")


def _run(env, name):
    """Run a page, unless the cache has it; return it as a notebook with its outputs."""
    path, text = env.doc2path(name), _text(env, name)
    reader = create_nb_reader(path, env.myst_config, env.mystnb_config, text)
    if reader:
        LOGGER.info("running %s", name)
        notebook, of = reader.read(text), (env.mystnb_config, LOGGER, reader.read_fmt)
        with create_client(notebook, path, *of) as client:
            return client.notebook


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
                if isinstance(image.parent, nodes.figure) and image.parent["ids"]:
                    _offer_file(app, image.parent, path, name)
                image.replace_self(nodes.raw("", figure, format="html"))


def _offer_file(app, figure, path, name):
    """Copy a figure's file into the site, and put a link to it behind the caption."""
    target = Path(app.outdir, "_images", f"{figure['ids'][0]}.svg")
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, target)
    link = f"{'../' * name.count('/')}_images/{target.name}"
    about = 'class="headerlink file" title="Keep this figure as an SVG file" download'
    link = nodes.raw("", f'<a {about} href="{link}">SVG</a>', format="html")
    figure.next_node(nodes.caption).append(link)


def _use_drawings(app):
    app.connect("config-inited", _draw_lines)
    app.connect("doctree-resolved", _insert_drawings)
    app.add_js_file("scroll.js", loading_method="defer")


# chapters/site.md: Figures on any screen
def _keep_together(app, doctree, name):
    for formula in [*doctree.findall(nodes.math)]:
        text = formula.next_node(descend=False, siblings=True)
        if isinstance(text, nodes.Text) and (mark := re.match(r"[^\s\w]+", text)):
            whole = nodes.inline(classes=["whole"])
            formula.parent.replace(text, nodes.Text(text[mark.end() :]))
            formula.replace_self(whole)
            whole += [formula, nodes.Text(mark[0])]


# chapters/site.md: The page that captions
def _bring_live(app, exception):
    if exception or "chapters/live" not in app.env.found_docs:
        return
    made = data_folder() / "live"
    last = "wasm.js" if os.environ.get("BOOK_SCRIPTS") == "npm" else "index.html"
    shipped = (SHIPPED_DATA / "captioner.pt").stat().st_mtime
    found = [path for path in (made / last, made / "scenes" / last) if path.exists()]
    if len(found) < 2 or any(path.stat().st_mtime < shipped for path in found):
        subprocess.run([sys.executable, "-m", "satlib.live"], check=True)
    shutil.copytree(made, Path(app.outdir, "_static", "live"), dirs_exist_ok=True)


# chapters/site.md: Which module is this?
def _name_module(app, doctree):
    module = f"{PurePosixPath(app.env.docname).name}.py"
    title = doctree.next_node(nodes.title)
    if title is not None and Path(__file__).with_name(module).exists():
        line = nodes.paragraph("", "This page writes ", classes=["writes"])
        line += nodes.literal("", f"satlib/{module}")
        if "chapters/notation" in app.env.found_docs:
            line += [nodes.Text(". Letters: "), _link_to(app.env, "notation")]
        title.parent.insert(title.parent.index(title) + 1, line)


def _link_to(env, page):
    """Return a link to another page of the book, which Sphinx will resolve."""
    what = {"refdomain": "std", "reftype": "doc", "reftarget": f"/chapters/{page}"}
    how = {"refdoc": env.docname, "refexplicit": True, "refwarn": True}
    return pending_xref("", nodes.inline("", page), **what, **how)


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
    _print(app)
    if root != "index":
        (folder / "index.html").write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8">'
            f'<title>{title}</title><meta name="description" content="{ABOUT}">'
            f'<meta http-equiv="refresh" content="0; url={root}.html">'
            f'<p><a href="{root}.html">{title}</a></p></html>\n',
            encoding="utf-8",
        )


# chapters/site.md: The book on paper
ARTICLE = re.compile(r'(<article class="bd-article">)(.*?)(</article>)', re.S)
ASIDE = re.compile(r"<script.*?</script>| loading=\"lazy\"", re.S)
NAMED = re.compile(r' id="|(?<=href=")#|(?<=url\()#')


def whole(pages):
    """Return HTML of all pages as one, of a dict of each page's name and its HTML."""
    parts = [_within(name, ARTICLE.search(page)[2]) for name, page in pages.items()]
    every = "|".join(map(re.escape, pages))
    text = re.sub(rf'href="(?:\./)?({every})\.html#', r'href="#\1--', "".join(parts))
    text = re.sub(rf'href="(?:\./)?({every})\.html"', r'href="#\1"', text)
    frame = next(iter(pages.values()))
    one = ARTICLE.sub(lambda match: match[1] + text + match[3], frame)
    return one.replace('"../_', '"../html/_')


def _within(name, body):
    """Return a page's HTML with its name before each name in it, and all folds open."""
    body = NAMED.sub(lambda match: f"{match[0]}{name}--", ASIDE.sub("", body))
    body = body.replace("<details", "<details open")
    return f'<div class="page" id="{name}">{body}</div>'


def _print(app):
    root = PurePosixPath(app.config.root_doc)
    names = [str(root), *app.env.toctree_includes.get(str(root), [])]
    paths = [Path(app.outdir, f"{name}.html") for name in names]
    pages = {path.stem: path.read_text("utf-8") for path in paths}
    if all(map(ARTICLE.search, pages.values())):
        target = Path(app.outdir).parent / "print" / "book.html"
        target.parent.mkdir(exist_ok=True)
        target.write_text(whole(pages), encoding="utf-8")


# chapters/site.md: Sources, and corrected names
def _know_addresses(app, config):
    """Take the addresses of the site and of its repository, where there are any."""
    base = os.environ.get("BOOK_URL", "")
    config.html_baseurl = base and base.rstrip("/") + "/"
    repository = os.environ.get("BOOK_REPOSITORY") or _origin(app.confdir)
    if repository:
        buttons = "use_edit_page_button", "use_repository_button"
        options = {"repository_url": repository, "repository_branch": "main"}
        config.html_theme_options |= options | dict.fromkeys(buttons, True)


def _origin(folder):
    command = ["git", "-C", str(folder), "remote", "get-url", "origin"]
    with suppress(OSError):  # no git
        found = subprocess.run(command, capture_output=True, text=True).stdout
        return web_address(found.strip())


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
        has_run = _run(app.env, pagename) if _is_cached(app.env) else None
        nbformat.write(has_run or jupytext.reads(text, fmt="md:myst"), target)
        context["ipynb_source"] = f"{pagename}.ipynb"


# chapters/site.md: Sources, and corrected names
MISNAMED = re.compile(
    '(<summary) aria-label="Toggle hidden content"|(<div) role="list"(?= class="cit)'
)


EQUATION = re.compile(r'id="equation-([\w-]+)">\s*<span class="eqno">\(([\d.]+)\)')
ROMANIAN = re.compile(r"<p>(?=<em>Română:</em>)")


def _correct_names(app, pagename, templatename, context, doctree):
    if "body" in context:
        body = MISNAMED.sub(r"\1\2", numbered(context["body"]))
        body = ROMANIAN.sub('<p lang="ro">', body)
        if language := (context.get("meta") or {}).get("lang"):
            body = body.replace("<section ", f'<section lang="{language}" ', 1)
        context["body"] = body


def numbered(body):
    """Return a page's HTML with numbers in the place of its equations' labels."""
    for label, number in EQUATION.findall(body):
        link = f'(<a href="#equation-{label}">{number}</a>)'
        body = body.replace(f"({label})", link)
    return body


def _furnish(app):
    """Give the pages their heads, downloads and names."""
    app.connect("config-inited", _know_addresses)
    for furnish in (_describe, _offer_notebook, _correct_names):
        app.connect("html-page-context", furnish, priority=400)  # before the theme
    for finish in (_finish, _bring_live):
        app.connect("build-finished", finish, priority=400)  # before the contents


# chapters/site.md: Sources, and corrected names
def setup(app):
    """Run the pages, name their modules; let them load scripts when they are drawn."""
    app.connect("config-inited", _leave_formulas, priority=1)
    app.connect("builder-inited", _offer_scripts)
    app.connect("env-before-read-docs", _run_ahead)
    app.connect("doctree-read", _name_module)
    _use_drawings(app)
    app.connect("doctree-resolved", _keep_together)
    app.connect("html-page-context", _drop_scripts, priority=900)
    app.connect("html-page-context", _fetch_late, priority=900)
    app.connect("html-page-context", _lay_out, priority=901)
    _furnish(app)
    return {"parallel_read_safe": True}
