# Written by `python -m satlib.tangle` from chapters/figures.md: edit that.
# chapters/figures.md: Figures: the drawing parts
"""The drawing parts of the book: heat maps over pictures, panels, a linked slider."""

import html
import io
import re
import unicodedata
import warnings
from functools import cache
from itertools import zip_longest

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

COLOURS = ("inferno", "viridis", "cividis")  # maps that colour-blind readers can read
ORANGE, BLUE, GREEN, PINK = "#E69F00", "#0072B2", "#009E73", "#CC79A7"  # and lines


# chapters/figures.md: A heat map over a picture
def stretch(alpha, size, smooth=True):
    """Stretch a map (rows, columns) to `size`, (width, height); return (height, width).

    Smoothly, that is bilinearly, or so that each cell shows as a rectangle.
    """
    grid = Image.fromarray(np.asarray(alpha, dtype=np.float32))
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(grid.resize(size, how))


def overlay(image, alpha, opacity=0.6, scale=None, smooth=True, colours="inferno"):
    """Lay the heat map of `alpha` (rows, columns; at least 0) over a picture.

    `image` is a PIL image or a uint8 array (height, width, 3); the full colour stands
    for `scale`, by default the largest weight. Returns a PIL image of its size.
    """
    picture = as_picture(image)
    alpha = np.asarray(alpha, dtype=np.float32)
    scale = scale or alpha.max() or 1.0
    strength = stretch(alpha, picture.size, smooth) / scale
    heat = plt.get_cmap(colours)(strength)[..., :3] * 255
    mixed = (1 - opacity) * np.asarray(picture) + opacity * heat
    return Image.fromarray(mixed.round().astype(np.uint8))


def as_picture(image):
    """Return a PIL RGB image from one, or from a uint8 array (height, width, 3)."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.asarray(image))
    return image.convert("RGB")


# chapters/figures.md: Words in any letters
MARKS = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
NO_SIGNS = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def showable(text):
    """Return a text in one line, without signs that figures and pages cannot show."""
    line = " ".join(MARKS.sub("", text).split())
    return NO_SIGNS.sub("\ufffd", line)


def shortened(text, width):
    """Return a text, cut to `width` letters of the Latin kind; wide ones count two."""
    wide = [1 + (unicodedata.east_asian_width(sign) in "WF") for sign in text]
    if sum(wide) <= width:
        return text
    return text[: int((np.cumsum(wide) < width).sum())] + "…"


# chapters/figures.md: Words in any letters
@cache
def _fonts():
    """List the fonts of this machine, those without serifs first."""
    known = {font.fname for font in font_manager.fontManager.ttflist}
    for path in {*font_manager.findSystemFonts()} - known:  # newer than the list
        try:
            font_manager.fontManager.addfont(path)
        except (OSError, RuntimeError):
            continue  # a bitmap font, or a broken file
    found = {font.name: font for font in font_manager.fontManager.ttflist}
    names = [name for name in found if not name.startswith("Last Resort")]
    names.sort(key=lambda name: ("Sans" not in name, "Mono" in name, name))
    return [(name, found[name].fname) for name in names]


@cache
def _letters(path):
    return frozenset(font_manager.get_font(path).get_charmap())


# chapters/figures.md: Words in any letters
@cache
def _family(letter):
    """Return the first family of fonts that has a letter; None where none has."""
    usual = font_manager.findfont(font_manager.FontProperties())
    if ord(letter) in _letters(usual) or letter.isspace():
        return ""
    for name, path in _fonts():
        if ord(letter) in _letters(path):
            return name
    warnings.filterwarnings("ignore", f"Glyph {ord(letter)} ")
    return None


TOLD = set()  # scripts of which the reader knows that no font has them


def families(text):
    """Return the fonts to show a text with; warn, once, of scripts that none has."""
    found, new = {letter: _family(letter) for letter in dict.fromkeys(text)}, {}
    for letter in (letter for letter in found if found[letter] is None):
        script = unicodedata.name(letter, "UNNAMED").split()[0]
        if script not in TOLD:
            new[letter] = script
    if new:
        TOLD.update(new.values())
        warnings.warn(
            f"no font here has {' '.join(new)} ({', '.join({*new.values()})}): figures "
            "show boxes; install one that has, from the Noto fonts for example",
            stacklevel=2,
        )
    return [*plt.rcParams["font.family"], *dict.fromkeys(filter(None, found.values()))]


# chapters/figures.md: Panels
def heat_map(image, alpha, ax=None, title="", opacity=0.6, scale=None):
    """Draw a picture and the map `alpha` over it into axes `ax`; return the axes."""
    ax = ax or plt.subplots(figsize=(3, 3), layout="constrained")[1]
    picture = as_picture(image)
    ax.imshow(picture if alpha is None else overlay(picture, alpha, opacity, scale))
    title = "\n".join(showable(line) for line in title.split("\n"))
    ax.set_title(title, fontsize=9, family=families(title), parse_math=False)
    ax.axis("off")
    return ax


# chapters/figures.md: Panels
def panels(images, titles=None, alphas=None, columns=6, width=1.8, scale=None):
    """Draw pictures in rows of `columns`, each `width` inches wide; return the figure.

    `alphas`, if given, holds a map (rows, columns) or None for each picture. Raises
    ValueError where there are no pictures.
    """
    images = list(images)
    if not images:
        raise ValueError("panels needs at least one picture")
    titles = titles or [""] * len(images)
    alphas = [None] * len(images) if alphas is None else alphas
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * width, rows * (width + 0.3)),
        layout="constrained",
        squeeze=False,
    )
    for ax in axes.flat[len(images) :]:
        ax.axis("off")
    for ax, image, title, alpha in zip(axes.flat, images, titles, alphas, strict=False):
        heat_map(image, alpha, ax, title, scale=scale)
    plt.close(figure)
    return figure


# chapters/figures.md: Boxes and arrows
def arrow(*points):
    """Draw a line through points (x, y) with a head at its end, on pyplot's axes."""
    plt.plot(*zip(*points, strict=True), color="black", linewidth=1.3, zorder=1)
    style = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}
    plt.annotate("", points[-1], points[-2], arrowprops=style, zorder=1)


def part(x, y, text, color="0.85", shape="round,pad=0.4"):
    """Draw a box, or another shape of matplotlib's, with a text in it, at (x, y)."""
    ink = "white" if color == BLUE else "0.1"
    box = {"boxstyle": shape, "facecolor": color, "edgecolor": "none"}
    plt.text(x, y, text, ha="center", va="center", color=ink, bbox=box)


# chapters/figures.md: Tables
NUMBER = re.compile(r"–|[+−-]?\d[\d,.]*(e[+−-]?\d+)?[  ]?%?")


def table(header, rows, caption=""):
    """Return a table as HTML: a header, and rows that begin with their names.

    What is no text is shown as `str` does. Raises ValueError where there is no row, or
    one is not as long as the header.
    """
    rows = [[showable(str(content)) for content in row] for row in rows]
    columns = [*zip(*rows, strict=True)]
    if len(columns) != len(header):
        raise ValueError(f"{len(columns)} columns under {len(header)} names")
    right = [all(map(NUMBER.fullmatch, column)) for column in columns]
    header = [showable(name) for name in header]
    head = _row(header, right, ["col"] * len(header))
    body = "".join(_row(row, right, ["row"]) for row in rows)
    parts = f"<thead>{head}</thead><tbody>{body}</tbody>"
    if caption:
        parts = f"<caption>{html.escape(showable(caption))}</caption>{parts}"
    return HTML(f'<table class="table">{parts}</table>')


def _row(contents, right, scopes):
    cells = []
    for content, to_the_right, scope in zip_longest(contents, right, scopes):
        side = ' style="text-align: right"' if to_the_right else ""
        kind = f'th scope="{scope}"' if scope else "td"
        cells.append(f"<{kind}{side}>{html.escape(content)}</{kind[:2]}>")
    return f"<tr>{''.join(cells)}</tr>"


# chapters/figures.md: Stepping through a stack of pictures
STYLE = """
.stepper {
  --jp-widgets-slider-handle-size: 24px;
  width: 100%; max-width: 44rem; overflow: visible; }
.stepper .jupyter-widgets { overflow: visible; }
.stepper img.widget-image {
  display: block; width: 100%; height: auto; margin: 0; padding: 0; }
.stepper.on-ground .frames { position: relative; }
.stepper.on-ground .frames img.widget-image {
  position: absolute; inset: 0; height: 100%; }
.stepper .widget-toggle-buttons { width: auto; height: auto; margin: 8px 0 4px; }
.stepper .widget-toggle-buttons > .widget-label { display: none; }
.stepper button.widget-toggle-button.jupyter-button {
  width: auto; min-width: 24px; max-width: 100%; height: auto; margin: 1px;
  padding: 2px 5px; border: 0; border-radius: 4px; box-shadow: none;
  background: none; color: inherit; font-size: 1.2rem; line-height: 1.4;
  white-space: normal; overflow-wrap: anywhere;
  text-decoration: underline dotted 1px; text-underline-offset: 0.25em; }
.stepper button.widget-toggle-button.jupyter-button:hover {
  text-decoration: underline 2px; }
.stepper button.widget-toggle-button.jupyter-button.mod-active {
  background: var(--jp-brand-color1); color: var(--jp-layout-color0);
  text-decoration: none; }
.stepper button.widget-toggle-button.jupyter-button:focus-visible {
  outline: 3px solid var(--jp-brand-color1); outline-offset: 2px; }
.stepper.on-ground button.widget-toggle-button:first-child {
  font-size: 0; vertical-align: bottom; }
.stepper.on-ground button.widget-toggle-button:first-child::before {
  content: ""; display: block; box-sizing: border-box; width: 1.5rem;
  height: 1.2rem; margin: 0.25rem 0.1rem; border: 2px solid; border-radius: 3px;
  background: linear-gradient(currentColor 0 0) bottom / 100% 35% no-repeat; }
.stepper .widget-play { width: auto; }
.stepper .widget-play button { width: 40px; }
.stepper .noUi-handle { background: var(--jp-brand-color1); border: 0; }
.stepper .widget-html-content {
  font-size: 1rem; line-height: 1.5; overflow-wrap: anywhere; }
"""


# chapters/figures.md: Stepping through a stack of pictures
NAMES = """((style) => {
const stepper = style.closest(".stepper"), called = style.dataset.name;
const KEEPS = "data-lm-suppress-shortcuts";
const all = (what) => [...stepper.querySelectorAll(what)];
const words = () => all(".widget-toggle-button");
const name = (part, text) => part.setAttribute("aria-label", text);
const update = () => {
  const pressed = words().find((word) => word.classList.contains("mod-active"));
  const label = pressed?.textContent ?? "";
  for (const word of words()) {
    word.setAttribute("aria-pressed", word === pressed);
    word.tabIndex = word === (pressed ?? words()[0]) ? 0 : -1;
  }
  for (const group of all(".widget-toggle-buttons")) {
    group.setAttribute("role", "group");
    name(group, called);
  }
  for (const handle of all("[role=slider]")) {
    name(handle, called);
    handle.setAttribute("aria-valuetext", label);
  }
  const first = stepper.matches(".on-ground") && pressed === words()[0];
  const kind = stepper.matches(".on-ground") ? "the picture, map of the " : "";
  for (const image of all("img.widget-image")) {
    const alone = first ? label : `${kind}${called}: ${label}`;
    image.alt = image.closest(".frames") ? alone : "";
  }
  for (const button of all(".widget-play button")) {
    const shows = (sign) => button.querySelector(`.fa-${sign.toLowerCase()}`);
    name(button, ["Play", "Pause", "Stop"].find(shows) ?? "Repeat");
  }
};
stepper.addEventListener("keydown", (event) => {
  const row = words(), at = row.indexOf(event.target), last = row.length - 1;
  const to = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last}[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  row[to]?.focus();
  row[to]?.click();
});
const keep = ({target, key}) => {
  if (!stepper.isConnected) window.removeEventListener("keydown", keep, true);
  const ours = /^(Arrow|Home|End|Page)/.test(key);
  if (stepper.contains(target)) target.toggleAttribute(KEEPS, ours);
};
window.addEventListener("keydown", keep, true);
const changes = {subtree: true, childList: true, attributeFilter: ["class"]};
new MutationObserver(update).observe(stepper, changes);
update();
})(this)"""


# chapters/figures.md: Stepping through a stack of pictures
class Stepper(ipywidgets.VBox):
    """Words to press, a slider and Play, linked in the browser to a stack of pictures.

    It works in a notebook, and in the static page without Python. `frames` are PIL
    images or uint8 arrays, each with its label and, if given, a piece of HTML to show
    beneath it; they are stretched over `ground`, a PIL image, if there is one. `start`
    is the number of the frame that is shown first. Raises ValueError unless there are
    as many labels as frames, and at least one.
    """

    def __init__(
        self, frames, labels, description="word", details=(), ground=None, start=0
    ):
        frames = list(frames)
        labels = [shortened(showable(str(label)), 40) for label in labels]
        if not frames or len(frames) != len(labels):
            raise ValueError(f"{len(frames)} frames for {len(labels)} labels")
        self.buttons = ipywidgets.ToggleButtons(
            options=_numbered(told_apart(labels)), index=start
        )
        self.choice = ipywidgets.SelectionSlider(
            options=_numbered(labels),
            index=start,
            description=description,
            readout=False,
            style={"description_width": "auto"},
            layout={"width": "auto", "flex": "1 1 8em", "margin": "0 16px"},
        )
        self.play = ipywidgets.Play(
            value=start, max=len(labels) - 1, interval=1200, show_repeat=False
        )
        self.pictures, stage = staged(frames, ground, start)
        plain, stacks = ipywidgets.Layout(), [stage.children[-1]]
        texts = [ipywidgets.HTML(text, layout=plain) for text in details]
        if texts:
            stacks.append(ipywidgets.Stack(texts, selected_index=start))
        ends = [(stack, "selected_index") for stack in stacks]
        for end in [*ends, (self.buttons, "index"), (self.play, "value")]:
            ipywidgets.jslink((self.choice, "index"), end)
        controls = ipywidgets.Box(
            [self.play, self.choice], layout={"align_items": "center"}
        )
        style = ipywidgets.HTML(_style(description), layout={"display": "none"})
        super().__init__([style, stage, self.buttons, controls, *stacks[1:]])
        self.add_class("stepper")
        if ground is not None:
            self.add_class("on-ground")

    def redraw(self, frames):
        """Put other pictures in the place of the frames."""
        for widget, frame in zip(self.pictures, frames, strict=True):
            widget.value = _encoded(frame)


# chapters/figures.md: Stepping through a stack of pictures
def staged(frames, ground, start):
    """Return the widgets of frames, and the stage: a grid whose last child stacks them.

    `ground` is a PIL image that lies beneath them, or None; frame `start` is shown.
    """
    cell = ipywidgets.Layout(grid_area="1 / 1", width="100%", height="100%")
    layers = [] if ground is None else [_widget(ground, cell)]
    pictures = [_widget(frame, cell) for frame in frames]
    stack = ipywidgets.Stack(pictures, selected_index=start, layout=cell)
    layers.append(stack.add_class("frames"))
    width, height = as_picture(frames[0] if ground is None else ground).size
    wide = f"min(100%, {75 * width / height:.1f}vh)"
    return pictures, ipywidgets.GridBox(layers, layout={"width": wide})


def _style(name):
    return (
        f'<style data-name="{html.escape(name)}" onload="{html.escape(NAMES)}">'
        f"{STYLE}</style>"
    )


# chapters/figures.md: Stepping through a stack of pictures
def jpeg(frame, quality=80):
    """Return a picture as the bytes of a JPEG file."""
    file = io.BytesIO()
    as_picture(frame).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _encoded(frame):
    if "transparency" not in getattr(frame, "info", {}):
        return jpeg(frame)
    file = io.BytesIO()
    frame.save(file, "PNG", optimize=True)
    return file.getvalue()


def _widget(frame, layout):
    value = _encoded(frame)
    kind = "png" if value.startswith(b"\x89PNG") else "jpeg"
    return ipywidgets.Image(value=value, format=kind, layout=layout)


# chapters/figures.md: Stepping through a stack of pictures
def heat_layer(alpha, opacity=0.6, scale=None, smooth=True, colours="inferno"):
    """Return the heat map of `alpha` as a PIL image to be laid over a picture.

    The options are those of `overlay`, and so is the result, once it is stretched over
    the picture and mixed with it. The image has 16 × 16 points for each region.
    """
    alpha = np.asarray(alpha, dtype=np.float32)
    rows, columns = alpha.shape
    size = (16 * columns, 16 * rows)
    strength = stretch(alpha, size, smooth) / (scale or alpha.max() or 1.0)
    image = Image.fromarray((strength.clip(0, 1) * 255).round().astype(np.uint8), "P")
    heat = plt.get_cmap(colours)(np.arange(256) / 255)[:, :3] * 255
    image.putpalette(heat.round().astype(np.uint8).tobytes())
    image.info["transparency"] = bytes([round(255 * opacity)] * 256)
    return image


def clear():
    """Return a PIL image of one point through which everything is seen."""
    image = Image.new("P", (1, 1))
    image.info["transparency"] = bytes([0])
    return image


# chapters/figures.md: Stepping through a stack of pictures
def told_apart(labels):
    """Return the labels, with a space of no width for each time one came before."""
    apart = {}
    for label in labels:
        while label in apart:
            label += "\u200b"
        apart[label] = True
    return [*apart]


def _numbered(labels):
    return [(label, number) for number, label in enumerate(labels)]


# chapters/figures.md: Stepping through a stack of pictures
def rendered(figure):
    """Return a matplotlib figure as a PIL image, and close it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80, facecolor="white")
    plt.close(figure)
    return Image.open(file).convert("RGB")


def lettered(text, width, height=28):
    """Return a text, in one line, as a PIL image of `width` × `height` pixels."""
    figure = Figure(figsize=((width + 0.5) / 80, (height + 0.5) / 80))
    text = shortened(showable(text), width // 9)
    how = {"fontsize": 14, "va": "center", "parse_math": False}
    figure.text(6 / width, 0.5, text, family=families(text), **how)
    return rendered(figure)
