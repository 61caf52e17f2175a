# Written by `python -m satlib.tangle` from chapters/captioner.md: edit that.
# chapters/captioner.md: Captioner: a photograph in, a caption out
"""Caption photographs with a trained model: `load_captioner`, `Captioner`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from satlib.beam_search import beam_search
from satlib.configuration import check_choices, number
from satlib.files import SHIPPED_DATA, progress
from satlib.model import choose_device, load_model, threads_for
from satlib.photographs import load_photograph

SHIPPED = SHIPPED_DATA / "captioner.pt"


# chapters/captioner.md: What a caption brings along
@dataclass
class Caption:
    """What a captioner says of a photograph, in T words, and where it looked."""

    words: list[str]  # T, without `<end>`
    alphas: np.ndarray  # (T, rows, columns), the map of each word; each adds up to one
    log_prob: float  # of the caption
    word_log_probs: list[float]  # T, each given the words before
    rivals: list[list[tuple[str, float]]]  # T × up to 4 other words, with probability
    gates: list[float]  # T, the mean of the gate: how much of the context came through
    finished: bool  # False if the caption reached its greatest length
    beams: list["Caption"] = field(default_factory=list)  # the other beams, best first

    def __str__(self):
        return " ".join(self.words)


# chapters/captioner.md: What a caption brings along
def caption_from(hypotheses, words):
    """Make a `Caption` of an image's hypotheses, best first; `words` names ids."""
    captions = []
    for found in hypotheses:
        side = int(found.alphas.shape[1] ** 0.5)
        captions.append(
            Caption(
                [words[i] for i in found.words],
                found.alphas.reshape(-1, side, side).float().numpy(),
                found.log_prob,
                found.word_log_probs,
                [[(words[i], exp(p)) for i, p in row] for row in found.rivals],
                found.gates,
                found.finished,
            )
        )
    captions[0].beams = captions[1:]
    return captions[0]


# chapters/captioner.md: Captioning a list of photographs
class Captioner:
    """A trained model that captions photographs, on the fastest device there is.

    `image_size` is the side, in pixels, of the squares that the encoder takes;
    `length_power` that of beam search.
    """

    def __init__(self, encoder, decoder, word_map, image_size, length_power=0.7):
        self.device = choose_device()
        self.encoder = encoder.to(self.device).eval()
        self.decoder = decoder.to(self.device).eval()
        self.word_map, self.image_size = word_map, image_size
        self.length_power = length_power

    @torch.inference_mode()
    def look(self, images):
        """Return the cells (B, C, D) of photographs."""
        pictures = [load_photograph(image, self.image_size) for image in images]
        return self.encoder(torch.from_numpy(np.stack(pictures)).to(self.device))

    @torch.inference_mode()
    def caption(
        self,
        images: Sequence[str | Path | Image.Image | np.ndarray],
        beam_size: int = 5,
        batch_size: int = 16,
    ) -> list[Caption]:
        """Caption a list of photographs; return a list of `Caption`.

        `images` holds paths, PIL images, or arrays (H, W, 3). Raises the errors of
        `load_photograph`, and TypeError for a single photograph outside a list.
        """
        single = isinstance(images, (str, Path)) or hasattr(images, "convert")
        if single or getattr(images, "ndim", 4) < 4:
            raise TypeError("caption takes a list of photographs: [photograph]")
        words = {number: word for word, number in self.word_map.items()}
        captions, starts = [], range(0, len(images), batch_size)
        for start in progress(starts, len(starts), "captions"):
            cells = self.look(images[start : start + batch_size])
            what = self.decoder, cells, self.word_map, beam_size
            with threads_for(self.decoder):
                found = beam_search(*what, length_power=self.length_power)
            captions += [caption_from(hypotheses, words) for hypotheses in found]
        return captions


# chapters/captioner.md: Captioning a list of photographs
ENDINGS = [".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"]


def find_photographs(path):
    """List a photograph, or those of a folder in the order of their names, as Paths.

    Raises FileNotFoundError, or ValueError for a folder without any.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no photograph or folder there")
    if path.is_file():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
    if not found:
        raise ValueError(f"{path}: no photograph in this folder ({' '.join(ENDINGS)})")
    return found


# chapters/captioner.md: Captioning a list of photographs
@dataclass(frozen=True)
class CaptionChoices:
    """The parameters of caption.ipynb. Raises ValueError where one cannot be right."""

    images: str | None = None  # a photograph or a folder of them
    checkpoint: str | None = None  # a run's best.pt; by default the one that ships
    beam_size: int = number(5, 1, 1000)
    maps: int = number(12, 0)  # how many photographs are shown with their maps

    def __post_init__(self):
        check_choices(self)


# chapters/captioner.md: Loading one
def load_captioner(path: str | Path | None = None) -> Captioner:
    """Return the captioner of a checkpoint; without a path, the one that ships.

    Raises FileNotFoundError, or ValueError where the file is no checkpoint of satlib.
    """
    path = Path(path or SHIPPED)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no captioner there; chapters/train.ipynb trains one and prints "
            "the path of its checkpoint, for load_captioner(path)"
        )
    model = load_model(path)
    size, power = model.config.image_size, model.config.length_power
    return Captioner(model.encoder, model.decoder, model.word_map, size, power)
