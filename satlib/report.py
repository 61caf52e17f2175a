# Written by `python -m satlib.tangle` from chapters/report.md: edit that.
# chapters/report.md: Report: a notebook that was run, as one page
"""A notebook that was run as one HTML page: `python -m satlib.report`."""

import argparse
import base64
import html
import io
import re
from pathlib import Path

import nbformat
from IPython.display import HTML
from markdown_it import MarkdownIt

from satlib.files import write_text


# chapters/report.md: What a notebook shows
def framed(figure, alt, caption):
    """Return a matplotlib figure as HTML, with a text that says what it shows."""
    file, (width, _) = io.BytesIO(), figure.get_size_inches()
    figure.savefig(file, format="jpeg", dpi=144, pil_kwargs={"quality": 80})
    data = base64.b64encode(file.getvalue()).decode()
    return HTML(
        '<figure style="margin: 1em 0; overflow-x: auto" tabindex="0">'
        f'<img style="width: {width:.2f}in; min-width: min({width:.2f}in, 34rem); '
        f'max-width: 100%" alt="{html.escape(alt)}" '
        f'src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


# chapters/report.md: Cell by cell
WITHIN = re.compile(r"\[([^\]]+)\]\((?![a-z]+://)[^)\s]+\)")  # links to pages beside it


DROPDOWN = re.compile(r"^:::\{dropdown\} (.+)\n((?:.*\n)*?):::$", re.MULTILINE)


def of_text(source):
    """Return markdown as HTML, without links that lead elsewhere in the book."""
    text = DROPDOWN.sub(
        lambda found: folded(found[1], f"\n{found[2]}\n"), WITHIN.sub(r"\1", source)
    )
    return MarkdownIt("commonmark").enable("table").render(text)


# chapters/report.md: Cell by cell
def folded(name, content):
    """Return HTML under a fold."""
    return f"<details><summary>{name}</summary>\n{content}</details>\n"


def of_code(cell):
    """Return a cell of code with its outputs as HTML, hidden as its tags say."""
    tags, code = {*cell.metadata.get("tags", [])}, verbatim(cell.source)
    outputs = "".join(of_output(output, cell) for output in cell.outputs)
    if "injected-parameters" not in tags:
        code = folded("code", code)
    if not cell.source.strip() or tags & {"remove-input", "remove-cell"}:
        code = ""
    if outputs and tags & {"hide-output", "hide-cell"}:
        outputs = folded("output", outputs)
    return code + ("" if tags & {"remove-output", "remove-cell"} else outputs)


def verbatim(text, kind=""):
    """Return a text as HTML that keeps its lines; without the colours of terminals."""
    plain = re.sub("\x1b\\[[0-9;]*m", "", text)
    return f'<pre tabindex="0"{kind}>{html.escape(plain)}</pre>\n'


# chapters/report.md: Cell by cell
def of_output(output, cell):
    """Return one output of a cell as HTML."""
    if output.output_type == "error":
        return verbatim("\n".join(output.traceback), ' class="error"')
    if output.output_type == "stream":
        return verbatim(output.text) if output.name == "stdout" else ""
    data = output.data
    if "text/html" in data:
        return f"<div>{data['text/html']}</div>\n"
    if "text/markdown" in data:
        return of_text(data["text/markdown"])
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return of_image(kind, data[kind], cell.metadata.get("mystnb", {}))
    return verbatim(data.get("text/plain", ""))


def of_image(kind, data, told):
    """Return an image, in base64, as HTML; `told` is what MyST-NB is told of it."""
    alt = told.get("image", {}).get("alt", "")
    caption = told.get("figure", {}).get("caption", "")
    image = f'<img alt="{html.escape(alt)}" src="data:{kind};base64,{data.strip()}">'
    return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>\n"


# chapters/report.md: The page
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>{title}</title><style>
body {{ font: 1.05em/1.5 system-ui, sans-serif; max-width: 52em; margin: auto }}
body {{ padding: 1em; color: CanvasText; background: Canvas }}
h1, h2 {{ line-height: 1.2; margin: 1.5em 0 .5em }}
figure {{ margin: 1em 0; overflow-x: auto }} img {{ max-width: 100%; height: auto }}
figcaption, caption {{ font-size: .9em; opacity: .8; text-align: left }}
pre, code {{ font: .9em/1.4 ui-monospace, monospace }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere }}
pre {{ padding: .5em; border-left: 3px solid #8888 }}
summary {{ font-size: .8em; opacity: .7; cursor: pointer }}
details {{ margin: .3em 0 }} .error {{ border-color: #c00 }}
table {{ border-collapse: collapse; margin: 1em 0 }}
th, td {{ text-align: left; padding: .2em .8em; border-bottom: 1px solid #8884 }}
</style><main>
{body}</main></html>
"""


def report(path):
    """Write the page of a notebook beside it, and return its path.

    Raises ValueError where the file is no notebook.
    """
    path = Path(path)
    try:
        notebook = nbformat.read(path, as_version=4)
    except (ValueError, AttributeError, nbformat.ValidationError) as error:
        raise ValueError(f"{path} is no notebook") from error
    make = {"markdown": lambda cell: of_text(cell.source), "code": of_code}
    body = "".join(make[c.cell_type](c) for c in notebook.cells if c.cell_type in make)
    heading = re.search(r"^# (.+)", "\n".join(c.source for c in notebook.cells), re.M)
    title = html.escape(heading[1] if heading else path.stem)
    page = path.with_suffix(".html")
    write_text(page, PAGE.format(title=title, body=body))
    return page


# chapters/report.md: The page
def main(arguments=None):
    """Run `python -m satlib.report NOTEBOOK …`."""
    parser = argparse.ArgumentParser("python -m satlib.report", description=__doc__)
    parser.add_argument("notebooks", metavar="NOTEBOOK", nargs="+")
    for path in parser.parse_args(arguments).notebooks:
        try:
            print(report(path))
        except (OSError, ValueError) as error:
            parser.error(str(error))


# chapters/report.md: The page
if __name__ == "__main__":
    main()
