# Written by `python -m satlib.tangle` from chapters/photographs.md: edit that.
# chapters/photographs.md: Photographs: any picture file, one square of bytes
"""Photographs of any kind as squares of bytes, one or 100,000 of them."""

import hashlib
import os
import re
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import h5py
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from satlib.files import progress, replacing, reserve
from satlib.scale import gathered, join_parts, once, part_of, share, wait

MAX_PIXELS = 100_000_000
ORIENTATION, SAMPLE_FORMAT = ExifTags.Base.Orientation, 339


# chapters/photographs.md: Squash, do not crop
TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
TURNS |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}


def _turned(image):
    try:
        note = image.getexif().get(ORIENTATION)
    except Exception:  # which one depends on the bytes
        note = None
    if note not in TURNS:
        return image
    turned = image.transpose(Image.Transpose[TURNS[note]])
    turned.info = {k: v for k, v in image.info.items() if k == "transparency"}
    return turned


# chapters/photographs.md: Squash, do not crop
def _upright(image):
    if 0 in image.size:
        raise ValueError("it has no pixel")
    image.load()
    image = _turned(image)
    if image.mode[0] in "IF":  # 16 or 32 bits
        image = _picture(*_deep(image))
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


# chapters/photographs.md: Squash, do not crop
def _deep(image):
    values = np.asarray(image)
    if getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT) == (1,) and image.mode == "I":
        values = values.view(np.uint32)
    most = values.max().item()
    whites = (1, 255, 65535) if image.mode == "F" else (65535,)
    return values, next((white for white in whites if most // 1 <= white), most)


# chapters/photographs.md: Squash, do not crop
def _picture(values, white=None):
    colours = values.ndim > 1 and values.shape[2:] in ((), (3,), (4,))
    if not (colours and values.size and values.dtype.kind in "buif"):
        raise ValueError(
            "expected numbers of shape (H, W), (H, W, 3) or (H, W, 4); where colours "
            "come first, transpose(1, 2, 0) puts them last"
        )
    least, most = values.min().item(), values.max().item()
    if white is None:
        usual = 1 if values.dtype.kind == "f" and most < 2 else 255
        white = {"u2": 65535, "b1": 1}.get(values.dtype.str[1:], usual)
    if not (least >= 0 and most // 1 <= white):
        raise ValueError(
            f"values from {least} to {most}: expected bytes from 0 to 255, numbers of "
            "16 bits, or fractions from 0.0 to 1.0"
        )
    values = np.minimum(values * (255 / white), 255)
    return Image.fromarray(np.rint(values).astype(np.uint8))


# chapters/photographs.md: Which files are opened
FORMATS = ["JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM"]
FORMATS += ["JPEG2000", "AVIF"]
with suppress(ImportError):
    import_module("pillow_heif").register_heif_opener()
    FORMATS.append("HEIF")


def endings():
    """Return the endings of the formats that are read, in lower case, with the dot."""
    known = Image.registered_extensions()
    return [ending for ending, of in known.items() if of in FORMATS]


# chapters/photographs.md: Which files are opened
HEIF = "export it as JPEG, or pip install pillow-heif and start again"
SIGNS = {
    b"<html": "a web page",
    b"<svg": "a drawing (SVG)",
    b"%pdf-": "a PDF",
    b"%!ps": "a PostScript file",
    b"pk\x03\x04": "a ZIP archive: unpack it",
    b"version https://git-lfs": "a pointer of Git LFS: fetch it with git lfs pull",
    b"ftyphei": f"a HEIC picture, as iPhones keep them: {HEIF}",
    b"ftypmif1": f"a HEIF picture: {HEIF}",
    b"ftypavif": "an AVIF picture, which this Pillow does not read",
    b"ftyp": "a film, or a picture of a camera's own format: save it as JPEG",
}


def _what_is(start):
    if not start:
        return "it is empty"
    found = [what for sign, what in SIGNS.items() if sign in start.lower()]
    found.append(f"damaged, or of no kind that is read: {', '.join(FORMATS)}")
    return f"it is {found[0]}"


# chapters/photographs.md: Which files are opened
def shown(photograph):
    """Return the name of a photograph, or what stands for it, in one line of text."""
    if isinstance(photograph, np.ndarray):
        return f"an array of {photograph.dtype} {photograph.shape}"
    name = str(getattr(photograph, "filename", "") or photograph)[:1000]
    return name if name and name.isprintable() else repr(name)


# chapters/photographs.md: Which files are opened
def file_of(path):
    """Return the path of a file, `~` written out.

    Raises FileNotFoundError, or ValueError for a folder, a pipe, or an address.
    """
    found = os.path.expanduser(path)
    if re.match(r"\w\w+:/", str(path)) and not os.path.exists(found):
        raise ValueError(f"{shown(path)} is an address: download it and name a file")
    if not os.path.exists(found):
        raise FileNotFoundError(f"{shown(path)}: there is no such file")
    if not os.path.isfile(found):
        raise ValueError(f"{shown(path)} is no file but a folder, a pipe or a device")
    return found


# chapters/photographs.md: Which files are opened
def _read(file, size):
    Image.init()  # so that `OPEN` has all formats that this Pillow knows
    try:
        image = Image.open(file, formats=[f for f in FORMATS if f in Image.OPEN])
    except UnidentifiedImageError:
        file.seek(0)
        raise ValueError(_what_is(file.read(1024))) from None
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.size} is over {MAX_PIXELS:,} pixels")
    image.draft(None, (2 * size, 2 * size))
    return _upright(image)


# chapters/photographs.md: Which files are opened
def check_photograph(photograph, name="a photograph"):
    """Raise TypeError for what is no path, open file, PIL image or array."""
    kinds = str, os.PathLike, Image.Image, np.ndarray
    if not (isinstance(photograph, kinds) or hasattr(photograph, "read")):
        raise TypeError(
            f"{name} must be a path, an open file, a PIL image or a NumPy array, not "
            f"{type(photograph).__name__}"
        )


def open_photograph(photograph, size):
    """Return a photograph as an upright PIL image in RGB, to be shrunk to `size`.

    `photograph` is a path, an open file, a PIL image, or an array (H, W), (H, W, 3) or
    (H, W, 4) of bytes, 16-bit numbers, or floats up to 1. Every colour mode becomes
    RGB, what is transparent white, and the camera's orientation is applied. A large
    JPEG comes smaller, but no side below 2 · `size`. Raises ValueError with the name of
    a file that is broken, of another format, or has over MAX_PIXELS; FileNotFoundError;
    TypeError for what is no photograph at all.
    """
    check_photograph(photograph)
    if isinstance(photograph, (str, os.PathLike)):
        photograph = file_of(photograph)
    try:
        if hasattr(photograph, "read"):
            return _read(photograph, size)
        if isinstance(photograph, Image.Image):
            return _upright(photograph)
        if isinstance(photograph, np.ndarray):
            return _upright(_picture(photograph))
        with open(photograph, "rb") as file:
            return _read(file, size)
    except Exception as error:
        why = getattr(error, "strerror", None) or str(error) or repr(error)
        problem = f"{shown(photograph)}: not a usable photograph: {why}"
        raise ValueError(problem) from error


# chapters/photographs.md: Which files are opened
def load_photograph(photograph, size=256):
    """Return a photograph as uint8 RGB (3, size, size), squashed to the square.

    It is taken, and errors are raised, as by `open_photograph`.
    """
    image = open_photograph(photograph, size)
    square = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.stack([np.asarray(colour) for colour in square.split()])


# chapters/photographs.md: Thousands of them, on all cores
@contextmanager
def read_ahead(photographs, size=256, ahead=64):
    """Load photographs on all cores; for a `with` block, at whose end the threads end.

    Yields an iterator over the squares in order, or for each the error that it met.
    What is no path, and may stand in the list twice, is loaded when its turn comes.
    """

    def load(photograph):
        try:
            return load_photograph(photograph, size)
        except (OSError, ValueError) as error:
            return error

    def in_order():
        waiting = deque()
        for photograph in photographs:
            if isinstance(photograph, (str, os.PathLike)):
                waiting.append(pool.submit(load, photograph).result)
            else:
                waiting.append(partial(load, photograph))
            if len(waiting) == ahead:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()

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
    path, names, shape, kept, sums = Path(path), share(names), (3, size, size), [], []
    options = {"chunks": (1, *shape), "maxshape": (None, *shape)}
    room = len(names) * (3 * size**2 + 64) + 2**13  # the index of the chunks, too
    with (
        read_ahead([Path(folder, name) for name in names], size) as squares,
        replacing(part_of(path)) as temporary,
        h5py.File(reserve(temporary, room), "w", locking=False) as file,
    ):
        images = file.create_dataset("images", (len(names), *shape), "u1", **options)
        squares = progress(squares, len(names), part_of(path).name)
        for name, square in zip(names, squares, strict=True):
            if isinstance(square, Exception):
                if not skip:
                    raise square
                print(f"left out: {square}")
                continue
            images.id.write_direct_chunk((len(kept), 0, 0, 0), square.tobytes())
            sums.append(zlib.crc32(square).to_bytes(4, "little"))
            kept.append(name)
        if len(kept) < len(names):
            print(f"left out {len(names) - len(kept)} of {len(names)} photographs")
            images.resize(len(kept), axis=0)
        kept, sums = gathered(kept, sums)
        file.attrs["captions_per_image"] = captions_per_image
        file.attrs["sha256"] = hashlib.sha256(b"".join(sums)).hexdigest()
    wait()  # for all parts
    once(lambda: join_parts(path, "images"))
    return kept
