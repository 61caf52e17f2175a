# Written by `python -m satlib.tangle` from chapters/photographs.md: edit that.
# chapters/photographs.md: Photographs: any picture file, one square of bytes
"""Photographs of any kind as squares of bytes, one or 100,000 of them."""

import hashlib
import os
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from PIL import ExifTags, Image, ImageOps

from satlib.files import progress, replacing

MAX_PIXELS = 100_000_000
ORIENTATION = ExifTags.Base.Orientation


# chapters/photographs.md: Squash, do not crop
def _upright(image):
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _picture(np.asarray(image).clip(0, 65535).astype(np.uint16))
    elif image.mode == "F":
        image = _picture(np.asarray(image))
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()  # before its file is closed
    return image


# chapters/photographs.md: Squash, do not crop
def _picture(values):
    top = {"u2": 65535, "b1": 1}.get(values.dtype.str[1:], 255)
    if values.dtype.kind == "f" and values.max(initial=0) <= 1:
        top = 1
    colours = values.ndim > 1 and values.shape[2:] in ((), (3,), (4,)) and values.size
    if not (colours and values.min() >= 0 and values.max() <= top):
        raise ValueError(
            f"an array of {values.dtype} {values.shape}: expected (H, W), (H, W, 3) or "
            "(H, W, 4) with values from 0 to 255, of 16 bits, or from 0.0 to 1.0"
        )
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


# chapters/photographs.md: Squash, do not crop
def open_photograph(photograph, size):
    """Return a photograph as an upright PIL image in RGB, to be shrunk to `size`.

    `photograph` is a path, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4) of
    bytes, 16-bit numbers, or floats up to 1. Every colour mode becomes RGB, what is
    transparent white, and the camera's orientation is applied. A large JPEG comes
    smaller, but no side below 2 · `size`. Raises ValueError with the name of a file
    that is broken or has over MAX_PIXELS, or FileNotFoundError.
    """
    if isinstance(photograph, np.ndarray):
        photograph = _picture(photograph)
    if isinstance(photograph, Image.Image):
        return _upright(photograph)
    try:
        with Image.open(photograph) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.size} is over {MAX_PIXELS:,} pixels")
            image.draft(None, (2 * size, 2 * size))
            return _upright(image)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{photograph}: not a usable photograph: {error}") from error


# chapters/photographs.md: Squash, do not crop
def load_photograph(photograph, size=256):
    """Return a photograph as uint8 RGB (3, size, size), squashed to the square.

    It is taken, and errors are raised, as by `open_photograph`.
    """
    image = open_photograph(photograph, size)
    square = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.stack([np.asarray(colour) for colour in square.split()])


# chapters/photographs.md: Thousands of them, on all cores
@contextmanager
def read_ahead(paths, size=256, ahead=64):
    """Load photographs on all cores; for a `with` block, at whose end the threads end.

    Yields an iterator over the squares in order, or for each the error that it met.
    """

    def load(path):
        try:
            return load_photograph(path, size)
        except (OSError, ValueError) as error:
            return error

    def in_order():
        waiting = deque()
        for path in paths:
            waiting.append(pool.submit(load, path))
            if len(waiting) == ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield in_order()
    finally:
        pool.shutdown(cancel_futures=True)


# chapters/photographs.md: Into one file
def file_sizes(folder, names, skip=False):
    """Return the bytes of each file; None if missing, with `skip`.

    Raises FileNotFoundError, without `skip`, where files are missing.
    """
    paths = [os.path.join(folder, name) for name in names]
    sizes = [os.path.getsize(p) if os.path.isfile(p) else None for p in paths]
    missing = [name for name, size in zip(names, sizes, strict=True) if size is None]
    if missing and not skip:
        raise FileNotFoundError(
            f"{folder}: {len(missing)} of {len(names)} photographs are missing, first "
            f"{', '.join(missing[:3])}; on_error='skip' leaves them out"
        )
    return sizes


# chapters/photographs.md: Into one file
def write_images(path, folder, names, captions_per_image, size=256, skip=False):
    """Write the photographs `names` of `folder` to an HDF5 file; return the names kept.

    Dataset `images`: uint8 (N, 3, size, size). Attributes: `captions_per_image`, and
    `sha256`, that of the squares' CRC-32 sums. With `skip`, what cannot be read is left
    out. Raises ValueError or OSError for it without `skip`, and leaves no file behind.
    """
    shape, kept, digest = (3, size, size), [], hashlib.sha256()
    options = {"chunks": (1, *shape), "maxshape": (None, *shape)}
    with (
        read_ahead([Path(folder, name) for name in names], size) as squares,
        replacing(path) as temporary,
        h5py.File(temporary, "w", locking=False) as file,
    ):
        images = file.create_dataset("images", (len(names), *shape), "u1", **options)
        squares = progress(squares, len(names), Path(path).name)
        for name, square in zip(names, squares, strict=True):
            if isinstance(square, Exception):
                if not skip:
                    raise square
                print(f"left out: {square}")
                continue
            images.id.write_direct_chunk((len(kept), 0, 0, 0), square.tobytes())
            digest.update(zlib.crc32(square).to_bytes(4, "little"))
            kept.append(name)
        if len(kept) < len(names):
            print(f"left out {len(names) - len(kept)} of {len(names)} photographs")
            images.resize(len(kept), axis=0)
        file.attrs["captions_per_image"] = captions_per_image
        file.attrs["sha256"] = digest.hexdigest()
    return kept
