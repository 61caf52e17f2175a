# Written by `python -m satlib.tangle` from chapters/explorer.md: edit that.
# chapters/explorer.md: Explorer: see where it looks
"""The explorer: choose a picture, a word, a model, and see where it looks."""

import base64
import html
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import ipywidgets
from IPython.display import HTML, display
from traitlets import Tuple

from satlib.configuration import checked
from satlib.figures import COLOURS, jpeg, showable
from satlib.maps import WordView, as_shown, attention_figure, save

WRAP = {"flex_flow": "wrap", "overflow": "visible"}
COLUMNS = {
    "grid_template_columns": "repeat(auto-fit, minmax(min(100%, 280px), 1fr))",
    "grid_gap": "8px 24px",
    "overflow": "visible",
}


# chapters/explorer.md: A photograph on its way
SMALLER = """
const smaller = async (file) => {
  const canvas = document.createElement("canvas");
  const image = await createImageBitmap(file);
  const scale = Math.min(1, 1024 / Math.max(image.width, image.height));
  canvas.width = Math.max(1, scale * image.width);
  canvas.height = Math.max(1, scale * image.height);
  const context = canvas.getContext("2d");
  context.fillStyle = "white";  // behind what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
};"""


# chapters/explorer.md: A photograph on its way
POST = """
const inbox = input.closest(".upload").querySelector("textarea");
const taken = async () => {
  while (inbox.value) await new Promise((next) => setTimeout(next, 50));
};
const post = async (message) => {
  await taken();
  inbox.value = JSON.stringify(message);
  inbox.dispatchEvent(new Event("change", {bubbles: true}));
  await taken();
};
const text = (blob) => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.split(",")[1] ?? "");
  reader.onerror = () => failed(reader.error);
  reader.readAsDataURL(blob);
});"""


# chapters/explorer.md: A photograph on its way
CHOSEN = f"""(async (input) => {{{SMALLER}{POST}
const piece = 600000, most = 1e8, files = [...input.files];
input.value = "";  // so that the same file can be chosen again
const send = async (file) => {{
  const {{name, size}} = file;
  const large = size > piece || /[.]hei[cf]$/i.test(name);
  try {{
    const small = large ? await smaller(file).catch(() => file) : file;
    if (small.size > most) throw new Error(`${{size}} bytes are too many for a browser`
      + ": save it smaller, or give explore its path");
    for (let at = 0; at === 0 || at < small.size; at += piece) {{
      const content = await text(small.slice(at, at + piece));
      await post({{name, at, size: small.size, content}});
    }}
  }} catch (error) {{
    await post({{name, error: error.message || String(error)}});
  }}
}};
inbox.waiting = files.reduce(
  (last, file) => last.then(() => send(file)), inbox.waiting ?? Promise.resolve());
}})(this)"""


# chapters/explorer.md: A photograph on its way
class Upload(ipywidgets.VBox):
    """A button for photographs of one's own; `value` holds what was chosen last.

    `value` is a tuple of dictionaries, with "name" and "content", or "error".
    """

    value = Tuple()

    def __init__(self, description):
        button = (
            '<button type="button" class="jupyter-widgets jupyter-button widget-button '
            'widget-upload" onclick="this.nextElementSibling.click()" '
            f'style="width: auto">{html.escape(description)}</button>'
            '<input type="file" accept="image/*" multiple hidden '
            f'onchange="{html.escape(CHOSEN)}">'
        )
        self.inbox = ipywidgets.Textarea(continuous_update=False)
        self.inbox.layout.display, self.content = "none", b""
        self.inbox.observe(self.receive, "value")
        super().__init__([ipywidgets.HTML(button), self.inbox])
        self.add_class("upload")

    def receive(self, change):
        """Take a piece of a file from the inbox; with the last one, set `value`."""
        if not change.new:
            return
        try:
            piece = json.loads(change.new)
            if "error" in piece:
                self.value = (piece,)
                return
            before = self.content if piece["at"] else b""
            self.content = before + base64.b64decode(piece["content"])
            if len(self.content) == piece["size"]:
                self.value = ({"name": piece["name"], "content": self.content},)
        finally:
            self.inbox.value = ""  # the browser waits for this


# chapters/explorer.md: A photograph on its way
def opened(name, content=b"", error="", **about):
    """Return an uploaded file as a PIL image of 1024 pixels.

    Raises ValueError with what is wrong and what to do, or with the browser's `error`.
    """
    if error or not content:
        raise ValueError(error or "it is empty: is it all there yet?")
    file = io.BytesIO(content)
    try:
        return as_shown(file, 1024)
    except (ValueError, OSError) as reason:
        said = str(reason.__cause__ or reason).replace(f" {file}", "")
        told = "as JPEG" in said
        advice = "" if told else ": what a viewer opens, it can save as JPEG"
        raise ValueError(said + advice) from reason


# chapters/explorer.md: What needs Python
class Controls(ipywidgets.VBox):
    """What can be changed while Python runs, and what is told about it.

    Calls `draw()` where the look of the maps changes, `search()` where the beam size
    does, and `take(files)` with the files that are uploaded.
    """

    def __init__(self, beam_size, draw, search, take):
        self.opacity = ipywidgets.FloatSlider(0.6, min=0, max=1, description="opacity")
        self.colours = ipywidgets.Dropdown(options=COLOURS, description="colours")
        self.smooth = ipywidgets.Checkbox(True, description="smooth")
        self.one_scale = ipywidgets.Checkbox(False, description="all on one scale")
        self.beam_size = ipywidgets.IntSlider(
            beam_size,
            1,
            max(10, beam_size),
            description="beam size",
            continuous_update=False,
        )
        self.upload = Upload("photographs of your own …")
        self.status, self.message = ipywidgets.HTML(), ipywidgets.HTML()
        self.seen = ipywidgets.Button(description="seen", layout={"display": "none"})
        self.seen.on_click(lambda button: self.forget())
        looks = [self.opacity, self.colours, self.smooth, self.one_scale]
        for control in looks:
            control.observe(lambda change: draw(), "value")
        for control in [*looks, self.beam_size]:
            control.style.description_width = "auto"
            sliding = control in (self.opacity, self.beam_size)
            control.layout.width = "260px" if sliding else "auto"
        self.beam_size.observe(lambda change: search(), "value")
        self.upload.observe(lambda change: take(change.new), "value")
        told = [self.status, self.message, self.seen]
        rows = [looks, [self.beam_size, self.upload]]
        rows = [ipywidgets.Box(row, layout=WRAP) for row in rows]
        super().__init__([*rows, *told])
        self.add_class("needs-python")

    def drawing(self):
        """Return the options for drawing as they are now."""
        names = ("opacity", "colours", "smooth", "one_scale")
        return {name: getattr(self, name).value for name in names}

    def tell(self, text):
        """Add a line to the message, which stays until it has been seen."""
        self.message.value += f'<div role="alert">{html.escape(showable(text))}</div>'
        self.seen.layout.display = None

    @contextmanager
    def saying(self, what):
        """Say what is going on, while a `with` block runs."""
        self.status.value = what
        try:
            yield
        finally:
            self.status.value = ""

    @contextmanager
    def telling(self, what):
        """Tell of an error in a `with` block, instead of raising it."""
        try:
            yield
        except Exception as error:
            self.tell(f"{what}: {str(error) or type(error).__name__}")

    def forget(self):
        """Take the message away."""
        self.message.value, self.seen.layout.display = "", "none"


# chapters/explorer.md: Many pictures, several models
THUMBNAILS = """
.photographs.widget-toggle-buttons { width: auto; height: auto; }
.photographs .widget-label { display: none; }
.photographs button.widget-toggle-button.jupyter-button {
  width: 76px; height: 76px; margin: 2px 4px 2px 2px; border: 2px solid transparent;
  border-radius: 6px; background: center / cover no-repeat; font-size: 0; }
.photographs button.widget-toggle-button.jupyter-button:focus-visible,
.photographs button.widget-toggle-button.jupyter-button.mod-active {
  outline: 3px solid var(--jp-brand-color1); outline-offset: -1px; }
"""
PRESSED = """((style) => {
const box = style.closest(".widget-vbox");
const update = () => {
  const group = box.querySelector(".photographs");
  group?.setAttribute("role", "group");
  group?.setAttribute("aria-label", "photographs");
  for (const button of group?.querySelectorAll("button") ?? []) {
    button.setAttribute("aria-pressed", button.classList.contains("mod-active"));
  }
};
const changes = {subtree: true, childList: true, attributeFilter: ["class"]};
new MutationObserver(update).observe(box, changes);
update();
})(this)"""


class Photographs(ipywidgets.VBox):
    """Thumbnails, one of which is pressed; `choice.index` is its number."""

    def __init__(self):
        self.choice, self.style = ipywidgets.ToggleButtons(), ipywidgets.HTML()
        self.style.layout.display = "none"
        self.choice.add_class("photographs").add_class(f"of-{self.choice.model_id}")
        self.small = []
        super().__init__([self.style, self.choice], layout={"display": "none"})

    def add(self, images):
        """Add PIL images, paths or arrays, and choose the first of them."""
        before = len(self.small)
        pictures = [jpeg(as_shown(image, 152)) for image in images]
        self.small += [base64.b64encode(picture).decode() for picture in pictures]
        rules = (
            f".of-{self.choice.model_id} button:nth-of-type({n}) "
            f"{{ background-image: url(data:image/jpeg;base64,{small}) !important; }}"
            for n, small in enumerate(self.small, 1)
        )
        style = f'<style onload="{html.escape(PRESSED)}">'
        self.style.value = f"{style}{THUMBNAILS}{''.join(rules)}</style>"
        self.choice.options = [f"photograph {n + 1}" for n in range(len(self.small))]
        self.choice.index = before
        self.layout.display = None if len(self.small) > 1 else "none"


# chapters/explorer.md: Many pictures, several models
class Explorer:
    """Captions of photographs to explore; it shows itself, `widget` is all of it.

    `captioners` is a list, with as many `names`; `images` are paths, PIL images or
    arrays, or none.
    """

    def __init__(self, captioners, names, images, beam_size=5, side_by_side=False):
        self.captioners, self.names = captioners, names
        self.images, self.views = [], []
        beam_size = checked("beam_size", beam_size, int, 1, 1000)
        self.controls = Controls(beam_size, self.draw, self.search, self.take)
        self.photographs = Photographs()
        self.choice = self.photographs.choice
        if side_by_side:
            self.stack, chooser = ipywidgets.GridBox(layout=COLUMNS), []
        else:
            self.stack, chooser = ipywidgets.Stack(), [self.photographs]
            ipywidgets.jslink((self.choice, "index"), (self.stack, "selected_index"))
        self.widget = ipywidgets.VBox([*chooser, self.stack, self.controls])
        self.add(images)

    def captions(self, images):
        """Caption images by all captioners; return a tuple of `Caption`s for each."""
        size = self.controls.beam_size.value
        with self.controls.saying("captioning …"):
            found = [c.caption(images, size) for c in self.captioners]
        return list(zip(*found, strict=True))

    def add(self, images):
        """Add photographs, as `images` of the class, and choose the first of them."""
        rows, how = self.captions(images), self.controls.drawing()
        views = [
            [WordView(c, image, n, **how) for c, n in zip(row, self.names, strict=True)]
            for image, row in zip(images, rows, strict=True)
        ]
        if not views:
            return
        grids = [ipywidgets.GridBox(row, layout=COLUMNS) for row in views]
        self.stack.children += tuple(grids)
        self.photographs.add(images)
        self.images, self.views = [*self.images, *images], [*self.views, *views]
        if isinstance(self.stack, ipywidgets.Stack):
            self.stack.selected_index = self.choice.index

    def search(self):
        """Caption all photographs again, with the beam size as it is now."""
        with self.controls.telling("the captioner failed, the captions are as before"):
            found = self.captions(self.images)
            for views, captions in zip(self.views, found, strict=True):
                for view, caption in zip(views, captions, strict=True):
                    view.hear(caption)

    def draw(self):
        """Draw all maps as the controls say."""
        for view in sum(self.views, []):
            view.draw(**self.controls.drawing())

    def take(self, files):
        """Add uploaded files; tell of each that cannot be added whose fault it is."""
        for file in files:
            name, telling = file["name"], self.controls.telling
            with telling(f"{name} cannot be read"):
                picture = opened(**file)
                with telling(f"{name} is in order, but the captioner failed"):
                    self.add([picture])
        self.controls.upload.value = ()

    def save(self, path):
        """Keep the maps of the chosen picture as a file, as `maps.save` does.

        Raises ValueError where there is no picture yet.
        """
        if not self.images:
            raise ValueError("there is no photograph yet whose maps could be kept")
        chosen = self.choice.index
        save(self.views[chosen][0].caption, self.images[chosen], path)

    def _ipython_display_(self):
        display(self.widget)
        if self.images:
            display(HTML(plain_figure(self.views[0][0].caption, self.images[0])))


# chapters/explorer.md: Many pictures, several models
def plain_figure(caption, image):
    """Return the HTML of a figure that shows only where no script does."""
    file = io.BytesIO()
    attention_figure(caption, image).savefig(file, format="jpeg", dpi=80)
    source = base64.b64encode(file.getvalue()).decode()
    words = html.escape(showable(str(caption)))
    return (
        f'<figure class="without-script" style="display: none"><img alt="{words}: the '
        f'picture, and for each word a map of where the model looked" '
        f'src="data:image/jpeg;base64,{source}"></figure><noscript><style>'
        ".without-script { display: block !important }</style></noscript>"
    )


# chapters/explorer.md: Many pictures, several models
def explore(
    captioners,
    images: Iterable,
    beam_size: int = 5,
    side_by_side: bool = False,
    names: list[str] | None = None,
) -> Explorer:
    """Caption photographs and return an `Explorer` of the maps.

    `captioners` is one, or a list to be compared, with `names` to tell them apart;
    `images` holds paths, PIL images or arrays, or nothing yet. `side_by_side` shows all
    at once. Raises the errors of `load_photograph`, and ValueError without a captioner,
    or for a wrong `beam_size` or number of `names`.
    """
    many = isinstance(captioners, Iterable)
    captioners = list(captioners) if many else [captioners]
    if not captioners or not all(hasattr(each, "caption") for each in captioners):
        problem = "explore needs a captioner, or a list of them"
        raise ValueError(f"{problem}; load_captioner(path) opens a checkpoint")
    count = len(captioners)
    numbered = [f"captioner {n}" for n in range(1, count + 1)] if count > 1 else [""]
    names = list(names or numbered)
    if len(names) != count:
        raise ValueError(f"{len(names)} names for {count} captioners")
    images = list(images) if isinstance(images, Iterator) else images
    return Explorer(captioners, names, images, beam_size, side_by_side)
