# Written by `python -m satlib.tangle` from chapters/figures.md: edit that.
"""The drawing parts of the book: heat maps over pictures, panels, a linked slider."""

import io

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

COLOURS = plt.get_cmap("inferno")


def stretch(alpha, size):
    """Stretch a map (rows, columns) to `size` = (width, height), bilinearly."""
    grid = Image.fromarray(np.asarray(alpha, dtype=np.float32))
    return np.asarray(grid.resize(size, Image.Resampling.BILINEAR))


def overlay(image, alpha, opacity=0.6, scale=None):
    """Lay the heat map of `alpha` (rows, columns; at least 0) over a picture.

    `image` is a PIL image or a uint8 array (height, width, 3); the full colour stands
    for `scale`, by default the largest weight. Gives a PIL image of the picture's size.
    """
    picture = as_picture(image)
    alpha = np.asarray(alpha, dtype=np.float32)
    scale = scale or alpha.max() or 1.0
    heat = COLOURS(stretch(alpha, picture.size) / scale)[..., :3] * 255
    mixed = (1 - opacity) * np.asarray(picture) + opacity * heat
    return Image.fromarray(mixed.round().astype(np.uint8))


def as_picture(image):
    """Give a PIL RGB image from one, or from a uint8 array (height, width, 3)."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.asarray(image))
    return image.convert("RGB")


def heat_map(image, alpha, ax=None, title="", opacity=0.6, scale=None):
    """Draw a picture with the map `alpha` over it into the axes `ax`; give the axes."""
    ax = ax or plt.subplots(figsize=(3, 3), layout="constrained")[1]
    picture = as_picture(image)
    ax.imshow(picture if alpha is None else overlay(picture, alpha, opacity, scale))
    ax.set_title(title, fontsize=9)
    ax.axis("off")
    return ax


def panels(images, titles=None, alphas=None, columns=6, width=1.8, scale=None):
    """Draw pictures in rows of `columns`, each `width` inches wide; give the figure.

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


def slider(frames, labels, description="word"):
    """Link a slider over `labels` to a stack of pictures, one for each label.

    The link works in the browser: in a notebook, and in the static page without Python.
    `frames` are PIL images or uint8 arrays; they are kept as JPEG of quality 80.
    """
    frames, labels = list(frames), list(labels)
    if not frames or len(frames) != len(labels):
        raise ValueError(f"{len(frames)} frames for {len(labels)} labels")
    stack = ipywidgets.Stack([_widget(frame) for frame in frames], selected_index=0)
    choice = ipywidgets.SelectionSlider(
        options=[(label, number) for number, label in enumerate(labels)],
        description=description,
        layout=ipywidgets.Layout(width="100%", max_width="480px"),
    )
    ipywidgets.jslink((choice, "index"), (stack, "selected_index"))
    return ipywidgets.VBox([choice, stack])


def _widget(frame):
    file = io.BytesIO()
    as_picture(frame).save(file, "JPEG", quality=80)
    picture = ipywidgets.Image(value=file.getvalue(), format="jpeg")
    picture.layout.max_width = "100%"
    return picture
