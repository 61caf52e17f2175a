# Written by `python -m satlib.tangle` from chapters/figures.md: edit that.
# chapters/figures.md: Figures: the drawing parts
"""The drawing parts of the book: heat maps over pictures, panels, a linked slider."""

import io

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
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


# chapters/figures.md: Panels
def heat_map(image, alpha, ax=None, title="", opacity=0.6, scale=None):
    """Draw a picture and the map `alpha` over it into axes `ax`; return the axes."""
    ax = ax or plt.subplots(figsize=(3, 3), layout="constrained")[1]
    picture = as_picture(image)
    ax.imshow(picture if alpha is None else overlay(picture, alpha, opacity, scale))
    ax.set_title(title, fontsize=9)
    ax.axis("off")
    return ax


# chapters/figures.md: Panels
def panels(images, titles=None, alphas=None, columns=6, width=1.8, scale=None):
    """Draw pictures in rows of `columns`, each `width` inches wide; return the figure.

    `alphas`, if given, holds a map (rows, columns) or None for each picture.
    """
    images = list(images)
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


# chapters/figures.md: Stepping through a stack of pictures
class Stepper(ipywidgets.VBox):
    """Buttons, a slider and Play, linked in the browser to a stack of pictures.

    It works in a notebook, and in the static page without Python. `frames` are PIL
    images or uint8 arrays, kept as JPEG of quality 80, each with its label and, if
    given, a piece of HTML to show beneath it. Raises ValueError unless there are as
    many labels as frames, and at least one.
    """

    def __init__(self, frames, labels, description="word", details=()):
        frames, labels = list(frames), [str(label) for label in labels]
        if not frames or len(frames) != len(labels):
            raise ValueError(f"{len(frames)} frames for {len(labels)} labels")
        self.buttons = ipywidgets.ToggleButtons(
            options=_numbered(told_apart(labels)), style={"button_width": "auto"}
        )
        self.choice = ipywidgets.SelectionSlider(
            options=_numbered(labels),
            description=description,
            layout={"width": "min(100%, 30em)"},
        )
        self.play = ipywidgets.Play(
            max=len(labels) - 1, interval=1200, show_repeat=False
        )
        self.pictures = [_widget(frame) for frame in frames]
        texts = [ipywidgets.HTML(text) for text in details]
        stacks = [ipywidgets.Stack(part) for part in (self.pictures, texts) if part]
        ends = [(stack, "selected_index") for stack in stacks]
        for end in [*ends, (self.buttons, "index"), (self.play, "value")]:
            ipywidgets.jslink((self.choice, "index"), end)
        for stack in stacks:
            stack.selected_index = 0
        wrap = {"flex_flow": "wrap"}
        controls = ipywidgets.Box([self.play, self.choice], layout=wrap)
        super().__init__([self.buttons, controls, *stacks])
        self.add_class("stepper")

    def redraw(self, frames):
        """Put other pictures in the place of the frames."""
        for widget, frame in zip(self.pictures, frames, strict=True):
            widget.value = jpeg(frame)


# chapters/figures.md: Stepping through a stack of pictures
def jpeg(frame, quality=80):
    """Return a picture as the bytes of a JPEG file."""
    file = io.BytesIO()
    as_picture(frame).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _widget(frame):
    picture = ipywidgets.Image(value=jpeg(frame), format="jpeg")
    picture.layout.max_width = "100%"
    return picture


# chapters/figures.md: Stepping through a stack of pictures
def told_apart(labels):
    """Return the labels, with a space of no width for each time one came before."""
    before = [labels[:n].count(label) for n, label in enumerate(labels)]
    return [a + "\u200b" * count for a, count in zip(labels, before, strict=True)]


def _numbered(labels):
    return [(label, number) for number, label in enumerate(labels)]


# chapters/figures.md: Stepping through a stack of pictures
def rendered(figure):
    """Return a matplotlib figure as a PIL image, and close it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    plt.close(figure)
    return Image.open(file).convert("RGB")
