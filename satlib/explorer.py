# Written by `python -m satlib.tangle` from chapters/explorer.md: edit that.
# chapters/explorer.md: Explorer: see where it looks
"""The explorer: choose a picture, a word, a model, and see where it looks."""

import base64
import html
import io
from collections.abc import Sequence

import ipywidgets
from IPython.display import HTML, display

from satlib.figures import COLOURS, jpeg
from satlib.maps import WordView, as_shown, attention_figure, save

WRAP = {"flex_flow": "wrap"}


# chapters/explorer.md: What needs Python
class Controls(ipywidgets.VBox):
    """What can be changed while Python runs.

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
        self.upload = ipywidgets.FileUpload(accept="image/*", description="your own")
        self.message = ipywidgets.HTML()
        looks = [self.opacity, self.colours, self.smooth, self.one_scale]
        for control in looks:
            control.observe(lambda change: draw(), "value")
        self.beam_size.observe(lambda change: search(), "value")
        self.upload.observe(lambda change: take(change.new), "value")
        super().__init__([*looks, self.beam_size, self.upload, self.message])
        self.add_class("needs-python")

    def drawing(self):
        """Return the options for drawing as they are now."""
        names = ("opacity", "colours", "smooth", "one_scale")
        return {name: getattr(self, name).value for name in names}

    def refuse(self, name):
        """Say that a file is no photograph."""
        self.message.value = f"{html.escape(name)} is no photograph that can be read"


# chapters/explorer.md: Many pictures, several models
class Explorer:
    """Captions of photographs to explore; it shows itself, `widget` is all of it.

    `captioners` is one captioner or a list, `images` paths, PIL images or arrays.
    """

    def __init__(self, captioners, images, beam_size=5, side_by_side=False):
        self.captioners = [captioners] if hasattr(captioners, "caption") else captioners
        self.images, self.views = [], []
        self.controls = Controls(beam_size, self.draw, self.search, self.take)
        self.thumbnails = ipywidgets.HBox(layout=WRAP)
        self.choice = ipywidgets.ToggleButtons(style={"button_width": "72px"})
        if side_by_side:
            self.stack, chooser = ipywidgets.HBox(layout=WRAP), []
        else:
            self.stack, chooser = ipywidgets.Stack(), [self.thumbnails, self.choice]
            ipywidgets.jslink((self.choice, "index"), (self.stack, "selected_index"))
        self.widget = ipywidgets.VBox([*chooser, self.stack, self.controls])
        self.add(images)

    def captions(self, images):
        """Caption images by all captioners; return a tuple of `Caption`s for each."""
        self.controls.message.value = f"captioning {len(images)} …"
        size = self.controls.beam_size.value
        found = [c.caption(images, size) for c in self.captioners]
        self.controls.message.value = ""
        return list(zip(*found, strict=True))

    def add(self, images):
        """Add photographs, as `images` of the class, and choose the first of them."""
        for image, captions in zip(images, self.captions(images), strict=True):
            views = [WordView(c, image, **self.controls.drawing()) for c in captions]
            small = ipywidgets.Image(value=jpeg(as_shown(image, 72)), format="jpeg")
            self.thumbnails.children += (small,)
            self.stack.children += (ipywidgets.HBox(views, layout=WRAP),)
            self.images, self.views = [*self.images, image], [*self.views, views]
        self.choice.options = [str(n) for n in range(1, len(self.images) + 1)]
        self.choice.index = len(self.images) - len(images)
        if isinstance(self.stack, ipywidgets.Stack):
            self.stack.selected_index = self.choice.index

    def search(self):
        """Caption all photographs again, with the beam size as it is now."""
        for views, captions in zip(self.views, self.captions(self.images), strict=True):
            for view, caption in zip(views, captions, strict=True):
                view.hear(caption)

    def draw(self):
        """Draw all maps as the controls say."""
        for view in sum(self.views, []):
            view.draw(**self.controls.drawing())

    def take(self, files):
        """Add uploaded files; say so where one is no photograph."""
        for file in files:
            try:
                self.add([as_shown(io.BytesIO(file["content"]), 1024)])
            except ValueError:
                self.controls.refuse(file["name"])

    def save(self, path):
        """Keep the maps of the chosen picture as a file, as `maps.save` does."""
        chosen = self.choice.index
        save(self.views[chosen][0].caption, self.images[chosen], path)

    def _ipython_display_(self):
        plain = plain_figure(self.views[0][0].caption, self.images[0])
        display(self.widget, HTML(plain))


# chapters/explorer.md: Many pictures, several models
def plain_figure(caption, image):
    """Return the HTML of a figure that shows only where no script does."""
    file = io.BytesIO()
    attention_figure(caption, image).savefig(file, format="jpeg", dpi=80)
    source = base64.b64encode(file.getvalue()).decode()
    words = html.escape(str(caption))
    return (
        f'<figure class="without-script" style="display: none"><img alt="{words}: the '
        f'picture, and for each word a map of where the model looked" '
        f'src="data:image/jpeg;base64,{source}"></figure><noscript><style>'
        ".without-script { display: block !important }</style></noscript>"
    )


def explore(
    captioners, images: Sequence, beam_size: int = 5, side_by_side: bool = False
) -> Explorer:
    """Caption photographs and return an `Explorer` of the maps.

    `captioners` is one, or a list to be compared; `images` holds paths, PIL images or
    arrays. `side_by_side` shows all at once. Raises the errors
    of `load_photograph`.
    """
    return Explorer(captioners, images, beam_size, side_by_side)
