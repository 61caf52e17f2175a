# Written by `python -m satlib.tangle` from chapters/maps.md: edit that.
# chapters/maps.md: Maps: a caption as figure, stepper, film
"""Views of a caption: a figure with a map per word, a stepper, files to keep."""

import base64
import html
import io
import json
from math import exp
from pathlib import Path

import ipywidgets
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from satlib.figures import (
    Stepper,
    clear,
    heat_layer,
    jpeg,
    lettered,
    overlay,
    panels,
    shortened,
    showable,
)
from satlib.files import replacing, tidy
from satlib.photographs import open_photograph


# chapters/maps.md: The photograph, as it was
def as_shown(photograph, side=320):
    """Return a photograph as a PIL RGB image whose longer side has `side` pixels.

    `photograph` is a path, a PIL image or an array. Raises the errors of
    `load_photograph`.
    """
    image = open_photograph(photograph, side)
    scale = side / max(image.size)
    return image.resize(tuple(max(1, round(scale * length)) for length in image.size))


# chapters/maps.md: A figure: one panel per word
def attention_figure(
    caption, image: str | Path | Image.Image | np.ndarray, columns: int = 5
) -> Figure:
    """Draw a photograph, and over it the map of each word of its `Caption`.

    The number beside a word is its probability. Returns a matplotlib figure.
    """
    titles = [
        f"{shortened(showable(word), 16)} {exp(log_prob):.2f}"
        for word, log_prob in zip(caption.doubted, caption.word_log_probs, strict=True)
    ]
    pictures = [as_shown(image)] * (1 + len(titles))
    return panels(pictures, ["", *titles], [None, *caption.alphas], columns, width=1.5)


# chapters/maps.md: What goes with a word
def seen_so_far(alphas):
    """Return how few regions hold 9/10 of the attention up to each word.

    `alphas` (T, rows, columns) gives T shares from 0 to 1, the sums of maps growing.
    """
    steps, rows, columns = alphas.shape
    sums = np.cumsum(alphas.reshape(steps, rows * columns), axis=0)
    held = np.cumsum(-np.sort(-sums, axis=1), axis=1) / sums.sum(1, keepdims=True)
    return ((held < 0.9).sum(1) + 1) / sums.shape[1]


# chapters/maps.md: What goes with a word
def percent(share):
    """Return a share between 0 and 1 in percent, as HTML; never as 0 or 100."""
    if share < 0.01:
        return "under 1&nbsp;%"
    return "over 99&nbsp;%" if share > 0.99 else f"{100 * share:.0f}&nbsp;%"


def word_details(caption):
    """Return a list: each word of a `Caption`, described in a line or two of HTML."""
    rows = zip(
        caption.words,
        caption.word_log_probs,
        caption.rivals,
        caption.gates,
        caption.chances,
        seen_so_far(caption.alphas),
        strict=True,
    )
    return [
        f"<b>{_word(word)}</b>, sure: {percent(exp(log_prob))}. {_worth(chance)}"
        f"{_instead(rivals)}"
        f"<br><small>Of what it saw for this word, {percent(gate)} was let through to "
        f"the sentence. So far it has looked mostly at {percent(seen)} of the picture."
        "</small>"
        for word, log_prob, rivals, gate, chance, seen in rows
    ]


DOUBT = "more likely wrong than right"


def _worth(chance):
    if chance is None:
        return ""
    doubt = f", so it is {DOUBT}" * (chance < 0.5)
    return f"Of words as sure as this, {percent(chance)} are right{doubt}. "


def _instead(rivals):
    found = [f"{_word(word)} {percent(p)}" for word, p in rivals if p >= 0.01]
    if not found:
        return "Nothing else came close."
    return f"It might have said: {', '.join(found)}."


def _word(word):
    return f"<bdi>{html.escape(showable(word))}</bdi>"


# chapters/maps.md: One picture, one caption
def mark_doubts(buttons, chances):
    """Mark the buttons of doubted words; return the widget with the style for it.

    `buttons` are a `Stepper`'s, the first for the photograph; `chances` the words'.
    """
    doubts = [chance is not None and chance < 0.5 for chance in chances]
    buttons.tooltips = ["", *(DOUBT * doubt for doubt in doubts)]
    name = f"of-{buttons.model_id}"
    buttons.add_class(name)
    places = [n for n, doubt in enumerate(doubts, 2) if doubt]
    which = ", ".join(f".{name} button:nth-of-type({n})" for n in places)
    wavy = f"{which} {{ text-decoration: underline wavy 1px !important; }}"
    style = f"<style>{wavy}</style>" if places else ""
    return ipywidgets.HTML(style, layout={"display": "none"})


# chapters/maps.md: One picture, one caption
ALONE = "the photograph alone"
HINT = "Choose a word: where did the program look when it said it?"


class WordView(ipywidgets.VBox):
    """The words of a `Caption` of a photograph, each with its map and its details.

    `image` is a path, a PIL image or an array; `name`, if given, stands above it;
    `drawing` are options of `heat_layer`, and `one_scale`.
    """

    def __init__(self, caption, image, name="", **drawing):
        super().__init__()
        self.picture, self.drawing = as_shown(image, 640), drawing
        self.heading = ipywidgets.HTML(f"<b>{html.escape(showable(name))}</b>")
        self.heading.layout.display = None if name else "none"
        self.stepper = None
        self.hear(caption)

    def hear(self, caption):
        """Take another caption of the same photograph, with its beams."""
        self.captions = [caption, *caption.beams]
        options = [(showable(str(c)), n) for n, c in enumerate(self.captions)]
        self.beams = ipywidgets.Dropdown(options=options, description="beams")
        self.beams.layout = {"width": "auto", "max_width": "44rem"}
        self.beams.style = {"description_width": "auto"}
        self.beams.add_class("needs-python")
        self.beams.layout.display = "none" if len(options) == 1 else None
        self.beams.observe(lambda change: self.show(), "value")
        self.show()

    def show(self):
        """Show the words of the chosen caption, and keep the place in the sentence."""
        self.caption = self.captions[self.beams.value]
        words = self.caption.words
        at = min(self.stepper.choice.index, len(words)) if self.stepper else 0
        details = [HINT if words else "", *word_details(self.caption)]
        parts = self.layers(), [ALONE, *self.caption.doubted], "word", details
        self.stepper = Stepper(*parts, ground=self.picture, start=at)
        marks = mark_doubts(self.stepper.buttons, self.caption.chances)
        listed = ipywidgets.HTML(self.others(), layout={"display": "none"})
        listed.add_class("for-pages")
        self.children = [self.heading, self.stepper, self.beams, marks, listed]

    def others(self):
        """Return the captions that are not shown as HTML, a list under a fold."""
        first, *rest = [showable(str(c)) for c in [self.caption, *self.captions]]
        lines = [f"<li>{html.escape(line)}</li>" for line in rest if line != first]
        fold = "<details><summary>other beams</summary><ul>{}</ul></details>"
        return fold.format("".join(lines)) if lines else ""

    def layers(self):
        """Return PIL images to lay over the photograph: a clear one, and each map."""
        how, alphas = dict(self.drawing), self.caption.alphas
        how["scale"] = alphas.max(initial=0) if how.pop("one_scale", False) else None
        return [clear(), *(heat_layer(alpha, **how) for alpha in alphas)]

    def draw(self, **drawing):
        """Draw the maps in another way: by options of `heat_layer`, or `one_scale`."""
        self.drawing = drawing
        self.stepper.redraw(self.layers())


# chapters/maps.md: To keep
def save(caption, image, path):
    """Keep the maps of a `Caption` as a file: .png, .svg, .pdf, .gif or .html.

    Raises ValueError for another ending, FileNotFoundError where its folder is not.
    """
    path, kinds = Path(path).expanduser(), (".png", ".svg", ".pdf", ".gif", ".html")
    kind = path.suffix.lower()
    if kind not in kinds:
        raise ValueError(f"{path}: the name must end with one of {', '.join(kinds)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent.resolve()}")
    tidy(path.parent)
    with replacing(path) as partial:
        if kind == ".gif":
            first, *others = film(caption, image)
            how = {"append_images": others, "duration": 900, "loop": 0}
            first.save(partial, "GIF", save_all=True, **how)
        elif kind == ".html":
            partial.write_text(page(caption, image), encoding="utf-8")
        else:
            figure = attention_figure(caption, image)
            figure.savefig(partial, format=kind[1:], dpi=200)


# chapters/maps.md: To keep
def overlays(caption, image, side=320):
    """Return PIL images: the photograph, and for each word its map over it."""
    picture = as_shown(image, side)
    return [picture, *(overlay(picture, alpha) for alpha in caption.alphas)]


def film(caption, image):
    """Return PIL images: the photograph and each word's map, the word beneath."""
    pictures = overlays(caption, image)
    frames = []
    for picture, word in zip(pictures, ["", *caption.doubted], strict=True):
        frame = Image.new("RGB", (picture.width, picture.height + 28), "white")
        frame.paste(lettered(word, picture.width), (0, picture.height))
        frame.paste(picture)
        frames.append(frame)
    return frames


# chapters/maps.md: To keep
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>body {{ font: 1.1em sans-serif; max-width: 30em; margin: auto; padding: 1em }}
body {{ overflow-wrap: anywhere }}
img, input {{ width: 100% }}</style><main dir="auto"><h1>{title}</h1>
<img id="picture" alt="">
<input id="word" type="range" min="0" value="0" aria-label="word">
<p id="details" dir="ltr"></p></main><script>
const {{frames, labels, details}} = {data}, word = document.getElementById("word");
function show() {{
  const picture = document.getElementById("picture"), n = word.value;
  picture.src = "data:image/jpeg;base64," + frames[n];
  picture.alt = labels[n];
  word.setAttribute("aria-valuetext", labels[n]);
  document.getElementById("details").innerHTML = details[n];
}}
word.max = frames.length - 1; word.oninput = show; show();
</script></html>
"""


# chapters/maps.md: To keep
def page(caption, image):
    """Return an HTML page with a slider over the words, which needs nothing else."""
    pictures = overlays(caption, image, 640)
    frames = [base64.b64encode(jpeg(picture)).decode() for picture in pictures]
    labels = ["the picture", *map(showable, caption.doubted)]
    data = {"frames": frames, "labels": labels}
    data["details"] = [HINT, *word_details(caption)]
    safe = json.dumps(data).replace("<", "\\u003c")
    return PAGE.format(title=html.escape(showable(str(caption))), data=safe)


# chapters/maps.md: Without Python, without a widget
def veil(alpha, darkness=0.75):
    """Return the PNG bytes of a black picture, clear where the map `alpha` is largest.

    `alpha` (rows, columns) holds weights, each shown by one pixel; `darkness`, from 0
    to 1, is how much is taken from a region without any.
    """
    light = np.sqrt(np.asarray(alpha) / (np.max(alpha) or 1.0))
    pixels = np.zeros((*light.shape, 2), np.uint8)  # grey, opacity
    pixels[..., 1] = (255 * darkness * (1 - light)).round()
    file = io.BytesIO()
    Image.fromarray(pixels, "LA").save(file, "PNG")
    return file.getvalue()


# chapters/maps.md: Without Python, without a widget
EXHIBIT = """<form class="exhibit" autocomplete="off"><fieldset>
<legend>{sentence}: choose a word to see where the program looked</legend>
<img class="seen" alt="{alt}" width="{width}" height="{height}"
 src="data:image/jpeg;base64,{picture}">
<div class="said" dir="auto">{words}</div></fieldset><p>{note}</p></form>"""
WORD = """<label><input type="radio" name="word"{checked}><span>{word}</span>
<img alt="" style="aspect-ratio: {width} / {height}"
 src="data:image/png;base64,{map}"></label>"""


def exhibit(caption, image, alt, first=0, note=""):
    """Return a picture with the words of its `Caption` to choose from, as HTML.

    `alt` says what the picture shows, `first` is the number of the word that is chosen
    at first, and `note` a piece of HTML to stand below.
    """
    picture = as_shown(image, 480)
    size = {"width": picture.width, "height": picture.height}
    words = [
        WORD.format(
            checked=" checked" * (number == first),
            word=html.escape(showable(word)),
            map=base64.b64encode(veil(alpha)).decode(),
            **size,
        )
        for number, (word, alpha) in enumerate(
            zip(caption.doubted, caption.alphas, strict=True)
        )
    ]
    return EXHIBIT.format(
        sentence=html.escape(showable(str(caption))),
        alt=html.escape(alt),
        picture=base64.b64encode(jpeg(picture)).decode(),
        words="\n".join(words),
        note=note,
        **size,
    )


# chapters/maps.md: Without Python, without a widget
STYLE = """<style>
.showcase { display: flex; flex-wrap: wrap; gap: 0 1.5rem; max-width: 60rem }
.exhibit { flex: 1 1 17rem; min-width: 0; margin: 0 }
.exhibit fieldset { position: relative; border: 0; margin: 0; padding: 0; min-width: 0 }
.exhibit legend, .exhibit input { position: absolute; opacity: 0; width: 1px;
 height: 1px; margin: 0; overflow: hidden; white-space: nowrap }
.showcase .exhibit img { background: none; filter: none; padding: 0; margin: 0;
 border-radius: 0.4rem; width: 100%; max-width: 100%; height: auto }
.exhibit .seen { display: block }
.exhibit label img { position: absolute; top: 0; left: 0; opacity: 0;
 pointer-events: none; transition: opacity 0.4s }
.exhibit :checked ~ img { opacity: 1 }
.exhibit .said { font-size: 1.25em; line-height: 1.5; margin-top: 0.4rem }
.exhibit label { margin: 0 }
.exhibit span { padding: 0.1em 0.2em; border-radius: 0.3em; cursor: pointer }
.exhibit span:hover { text-decoration: underline }
.exhibit :checked + span { background: #0b5fbf; color: white }
.exhibit :focus-visible + span { outline: 3px solid #e69f00; outline-offset: 1px }
.exhibit p, .showcase > p { font-size: 0.9em; margin: 0.2rem 0 0.6rem }
.showcase > p { flex-basis: 100% }
.showcase button { font: inherit; padding: 0.1em 0.8em; min-height: 1.8rem;
 color: inherit; background: none; border: 1px solid; border-radius: 0.3em }
@media (prefers-reduced-motion: reduce) { .exhibit label img { transition: none } }
</style>"""
SCRIPT = """<script>
for (const showcase of document.querySelectorAll(".showcase:not([data-ready])")) {
  const forms = [...showcase.querySelectorAll("form")];
  const walk = forms.flatMap(({word}) => [...word, [...word].find(w => w.checked)]);
  const button = showcase.querySelector("button");
  let timer = 0, place = 0;
  const stop = () => {
    clearInterval(timer);
    timer = place = 0;
    button.textContent = "Play again";
  };
  const play = () => {
    button.textContent = "Stop";
    timer = setInterval(() => {
      if (place < walk.length) walk[place++].checked = true;
      else stop();
    }, 900);
  };
  showcase.dataset.ready = true;
  showcase.addEventListener("change", stop);
  showcase.addEventListener("pointerdown", event => event.target !== button && stop());
  button.addEventListener("click", () => timer ? stop() : play());
  button.hidden = false;
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches)
    requestAnimationFrame(play);
}
</script>"""


def showcase(*exhibits):
    """Return what `exhibit` gave, side by side, as HTML that needs nothing else."""
    button = '<p><button type="button" hidden>Play</button></p>'
    return f'<div class="showcase">{"".join(exhibits)}{button}{STYLE}{SCRIPT}</div>'
