# Written by `python -m satlib.tangle` from chapters/site.md: edit that.
# chapters/site.md: Site: pages that work without a network
"""The site: scripts from npm for reading without a network, each page's module."""

import os
import shutil
import subprocess
from pathlib import Path, PurePosixPath

from docutils import nodes

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
    """Name each page's module; add the book's script, or with BOOK_SCRIPTS=npm all."""
    app.connect("config-inited", _use_scripts, priority=1)
    app.connect("doctree-read", _name_module)
    app.connect("html-page-context", _drop_doubles, priority=900)
    app.add_js_file("book.js", priority=1)
    return {"parallel_read_safe": True}
