# Written by `python -m satlib.tangle` from chapters/explorer.md: edit that.
"""Views of a caption: a figure with a map per word, and a slider over the words."""

from math import exp

import ipywidgets
import numpy as np
from PIL import Image

from satlib.figures import overlay, panels, slider
from satlib.photographs import load_photograph


def as_shown(photograph, side=320):
    """Give a photograph (path, PIL image, array) in colour, `side` pixels long."""
    square = Image.fromarray(load_photograph(photograph, side).transpose(1, 2, 0))
    width, height = _proportions(photograph)
    scale = side / max(width, height)
    return square.resize((max(1, round(width * scale)), max(1, round(height * scale))))


def _proportions(photograph):
    if isinstance(photograph, np.ndarray):
        return photograph.shape[1::-1]
    if not isinstance(photograph, Image.Image):
        with Image.open(photograph) as image:
            return _proportions(image)
    turned = photograph.getexif().get(0x0112, 1) >= 5  # the orientation tag
    return photograph.size[::-1] if turned else photograph.size


def attention_figure(caption, image, columns=5):
    """Draw a photograph, and over it the map of each word of its `Caption`.

    The number beside a word is its probability. Gives a matplotlib figure.
    """
    titles = [
        f"{word} {exp(log_prob):.2f}"
        for word, log_prob in zip(caption.words, caption.word_log_probs, strict=True)
    ]
    pictures = [as_shown(image)] * (1 + len(titles))
    return panels(pictures, ["", *titles], [None, *caption.alphas], columns, width=1.5)


def word_slider(caption, image):
    """Link a slider over the words of a `Caption` to the picture with their maps."""
    picture = as_shown(image)
    maps = [overlay(picture, alpha) for alpha in caption.alphas]
    view = slider([picture, *maps], ["the picture", *caption.words])
    return ipywidgets.VBox([ipywidgets.HTML(f"<b>{caption}</b>"), view])


def explore(captioner, images, beam_size=5):
    """Caption photographs and show them in tabs, each with a slider over its words."""
    views = map(word_slider, captioner.caption(images, beam_size), images)
    numbers = [str(number) for number in range(1, len(images) + 1)]
    return ipywidgets.Tab(list(views), titles=numbers)
