# Written by `python -m satlib.tangle` from chapters/captioner.md: edit that.
# chapters/captioner.md: Captioner: a photograph in, a caption out
"""Caption photographs with a trained model: `load_captioner`, `Captioner`."""

import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from math import exp, log1p
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from satlib.beam_search import FUNCTION, beam_search
from satlib.configuration import check_choices, check_known, checked, number
from satlib.files import SHIPPED_DATA, progress
from satlib.model import choose_device, load_model, threads, threads_for
from satlib.photographs import (
    FORMATS,
    check_photograph,
    endings,
    file_of,
    load_photograph,
    read_ahead,
    shown,
)

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
    chances: list[float | None] = field(default_factory=list)  # T, that it is right

    def __post_init__(self):
        self.chances = self.chances or [None] * len(self.words)

    @property
    def doubted(self):
        """T words, with "?" behind each that is more likely wrong than right."""
        pairs = zip(self.words, self.chances, strict=True)
        return [word + "?" * (p is not None and p < 0.5) for word, p in pairs]

    def __str__(self):
        return " ".join(self.doubted)


# chapters/captioner.md: What a caption brings along
def log_odds(log_prob):
    """Return ln(p / (1 - p)) of a probability that is given as ln p; 14 at most."""
    log_prob = min(log_prob, -1e-6)
    return log_prob - log1p(-exp(log_prob))


def chance(odds, calibration):
    """Return how probably a word is right that was said with these log odds.

    `calibration` holds two numbers, (a, b), and the chance is sigmoid(a · odds + b), of
    a number or an array. Source: Platt 1999.
    """
    a, b = calibration
    return 1 / (1 + np.exp(np.clip(-a * odds - b, -700, 700)))


def chances_of(words, log_probs, calibration):
    """Return the `chance` of each content word of a caption, None of the others."""
    chances = [None] * len(words)
    for place, (word, log_prob) in enumerate(zip(words, log_probs, strict=True)):
        if calibration and word not in FUNCTION:
            chances[place] = float(chance(log_odds(log_prob), calibration))
    return chances


# chapters/captioner.md: What a caption brings along
def caption_from(hypotheses, words, calibration=None):
    """Make a `Caption` of an image's hypotheses, best first; `words` names ids."""
    captions = []
    for found in hypotheses:
        side, said = int(found.alphas.shape[1] ** 0.5), [words[i] for i in found.words]
        captions.append(
            Caption(
                said,
                found.alphas.reshape(-1, side, side).float().numpy(),
                found.log_prob,
                found.word_log_probs,
                [[(words[i], exp(p)) for i, p in row] for row in found.rivals],
                found.gates,
                found.finished,
                chances=chances_of(said, found.word_log_probs, calibration),
            )
        )
    captions[0].beams = captions[1:]
    return captions[0]


# chapters/captioner.md: Captioning a list of photographs
def as_list(images, on_error="raise"):
    """Return photographs as a list, when each is known to be one, and to be there.

    With `on_error="skip"` a path may lead nowhere. Raises TypeError for a single
    photograph and for what is none, FileNotFoundError or ValueError for a path.
    """
    single = isinstance(images, (str, bytes, os.PathLike)) or hasattr(images, "convert")
    if single or hasattr(images, "read") or getattr(images, "ndim", 1) in (0, 2, 3):
        raise TypeError("caption takes a list of photographs: [photograph]")
    if not isinstance(images, Iterable):
        raise TypeError(f"caption takes a list of photographs, not {images!r}")
    images = list(images)
    for i, image in enumerate(images):
        check_photograph(image, f"images[{i}]")
        if on_error == "raise" and isinstance(image, (str, os.PathLike)):
            file_of(image)
    return images


# chapters/captioner.md: Captioning a list of photographs
def _usable(squares, on_error, problems):
    for i, square in enumerate(squares):
        if not isinstance(square, Exception):
            yield i, square
        elif on_error == "raise":
            raise ValueError(f"images[{i}]: {square}") from square
        else:
            print(f"left out: {square}")
            problems.append(square)


# chapters/captioner.md: Captioning a list of photographs
@contextmanager
def one_ahead(items):
    """Take each item of an iterator in another thread, while the one before is used.

    For a `with` block, at whose end the thread ends; yields an iterator of the items,
    none of which is None.
    """

    def in_order():
        waiting = pool.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = pool.submit(next, items, None)
            yield item

    with ThreadPoolExecutor(1) as pool:
        yield in_order()


# chapters/captioner.md: Captioning a list of photographs
class Captioner:
    """A trained model that captions photographs, on the fastest device there is.

    `image_size` is the side, in pixels, of the squares that the encoder takes;
    `length_power` and `max_length`, in words, those of beam search; `calibration` the
    two numbers of `chance`, if it has any.
    """

    calibration = None

    def __init__(
        self, encoder, decoder, word_map, image_size, length_power=0.7, max_length=50
    ):
        self.device = choose_device()
        self.encoder = encoder.to(self.device).eval()
        self.decoder = decoder.to(self.device).eval()
        self.word_map, self.image_size = word_map, image_size
        self.length_power, self.max_length = length_power, max_length

    def _cells(self, squares):
        return self.encoder(torch.from_numpy(np.stack(squares)).to(self.device))

    @torch.inference_mode()
    def look(self, images):
        """Return the cells (B, C, D) of photographs."""
        return self._cells([load_photograph(i, self.image_size) for i in images])

    def _batches(self, usable, batch_size, cores):
        while batch := list(islice(usable, batch_size)):
            places, squares = zip(*batch, strict=True)
            with threads(cores), torch.inference_mode():
                cells = self._cells(squares)
            yield places, cells

    def _search(self, cells, beam_size):
        most, power = self.max_length, self.length_power
        what = self.decoder, cells, self.word_map, beam_size
        return beam_search(*what, most, length_power=power)

    @torch.inference_mode()
    def caption(
        self,
        images: Iterable[str | Path | Image.Image | np.ndarray],
        beam_size: int = 5,
        batch_size: int = 16,
        on_error: str = "raise",
    ) -> list[Caption]:
        """Caption a list of photographs; return a list of `Caption`.

        `images` holds paths, PIL images, or arrays (H, W, 3). Raises ValueError for a
        photograph that is broken; with `on_error="skip"` it is named, its caption is
        None, and the error comes only where no photograph can be read. Before any work,
        raises the errors of `as_list`, and ValueError for a wrong value of the others.
        """
        beam_size = checked("beam_size", beam_size, int, 1, 1000)
        batch_size = checked("batch_size", batch_size, int, 1)
        check_known("on_error", on_error, ["raise", "skip"])
        images = as_list(images, on_error)
        words = {number: word for word, number in self.word_map.items()}
        captions, problems = [None] * len(images), []
        several = 2 if len(images) > batch_size else 1  # threads share the cores
        cores = max(torch.get_num_threads() // several, 1)
        with ExitStack() as threads_end:
            squares = threads_end.enter_context(read_ahead(images, self.image_size))
            squares = progress(squares, len(images), "captions")
            usable = _usable(squares, on_error, problems)
            batches = self._batches(usable, batch_size, cores)
            for places, cells in threads_end.enter_context(one_ahead(batches)):
                with threads_for(self.decoder, cores):
                    found = self._search(cells, beam_size)
                for i, hypotheses in zip(places, found, strict=True):
                    captions[i] = caption_from(hypotheses, words, self.calibration)
        if images and len(problems) == len(images):
            why = f"none of {len(images)} photographs can be read"
            raise ValueError(f"{why}, first {problems[0]}")
        return captions


# chapters/captioner.md: Captioning a list of photographs
def kind_of(path, known):
    """Say what there is at a path: "photograph" where its ending is a `known` one."""
    if path.name.startswith("."):
        return "hidden"
    if path.is_dir():
        return "folder"
    if not path.is_file():
        return "link to nowhere, pipe or device"
    ending = path.suffix.lower()
    return "photograph" if ending in known else ending or "without an ending"


# chapters/captioner.md: Captioning a list of photographs
def find_photographs(path):
    """List a photograph, or those of a folder in the order of their names, as Paths.

    What else is in the folder is counted and named. Raises FileNotFoundError, or
    ValueError for an address, a pipe, or a folder without any photograph.
    """
    path = Path(os.path.expanduser(checked("path", path, str)))
    if not os.path.isdir(path):
        return [Path(file_of(path))]
    known, kinds = endings(), defaultdict(list)
    for file in sorted(path.iterdir()):
        kinds[kind_of(file, known)].append(file)
    found, told = kinds.pop("photograph", []), []
    for kind, others in kinds.items():
        names = ", ".join(shown(other.name) for other in others[:5])
        told.append(f"{kind} × {len(others)} ({names}{', …' * (len(others) > 5)})")
    if not found:
        holds = ", ".join(told) or "nothing"
        problem = f"no photograph ({', '.join(FORMATS)}) in this folder; it holds"
        raise ValueError(f"{shown(path)}: {problem} {holds}")
    if told:
        print("passed over:", ", ".join(told))
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
    path = checked("path", path, str | None)
    path = SHIPPED if path is None else Path(os.path.expanduser(path))
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise FileNotFoundError(
            f"{path}: no captioner there; chapters/train.ipynb trains one and prints "
            "the path of its checkpoint, for load_captioner(path)"
        )
    model = load_model(path)
    config = model.config
    how = config.image_size, config.length_power, config.max_length - 2
    captioner = Captioner(model.encoder, model.decoder, model.word_map, *how)
    captioner.calibration = model.calibration
    return captioner
