"""Pictures in unusual forms, and files that are none."""

import importlib.util
import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from satlib.photographs import FORMATS, endings, load_photograph, open_photograph


@pytest.fixture(scope="module")
def picture():
    """A smooth colourful picture, wider than high."""
    y, x = np.mgrid[0:1:60j, 0:1:90j]
    return Image.fromarray(np.uint8(255 * np.stack([x, y, (x + y) / 2], axis=2)))


@pytest.fixture(scope="module")
def grey(picture):
    """The picture's greys as whole numbers (60, 90), up to 255."""
    values = np.asarray(picture.convert("L")).astype(np.int64)
    return values * 255 // values.max()


def square(photograph):
    return load_photograph(photograph, 32).astype(int)


def bytes_of(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def close(a, b, most=3):
    return np.abs(a - b).mean() < most


FOREIGN = {
    "empty": b"",
    "a web page": b"<!DOCTYPE html>\n<HTML><svg/></HTML>",
    "a drawing": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a PDF": b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n",
    "a PostScript file": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "a ZIP archive: unpack it": b"PK\x03\x04\x14\0\0\0",
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
    "HEIC picture, as iPhones keep.*JPEG": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "a HEIF picture": b"\0\0\0\x18ftypmif1\0\0\0\0mif1",
    "a film": b"\0\0\0\x18ftypmp42\0\0\0\0",
    "damaged, or of no kind": b"Dear diary,\n",
    "of no kind that is read: JPEG, ": bytes(1000),
}


def test_what_cannot_be_read_is_not_in_the_list_of_what_can():
    """A list of the kinds that are read: HEIF stands in it with pillow-heif only."""
    assert ("HEIF" in FORMATS) == (importlib.util.find_spec("pillow_heif") is not None)
    assert ("HEIF" in FORMATS) == (".heic" in endings())


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
@pytest.mark.parametrize("what", FOREIGN)
def test_a_file_that_is_no_photograph(what, name, tmp_path):
    """A PDF, a drawing, a web page, an archive called `x.jpg`: the error says so."""
    (tmp_path / name).write_bytes(FOREIGN[what])
    with pytest.raises(ValueError, match=f"{name}: not a usable photograph.*{what}"):
        square(tmp_path / name)


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PCX", "TGA", "SGI", "DDS", "MSP"])
def test_another_format_that_pillow_reads(kind, picture, tmp_path, monkeypatch):
    """A picture of a format that is not meant, called `x.jpg`: it is never opened."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", pytest.fail)
    image = picture.convert("1") if kind == "MSP" else picture
    (tmp_path / "x.jpg").write_bytes(bytes_of(image, kind))
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.format == kind not in FORMATS
    with pytest.raises(ValueError, match=r"x\.jpg: not a usable photograph: it is "):
        square(tmp_path / "x.jpg")


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x", "x.JFIF"])
@pytest.mark.parametrize("kind", [k for k in FORMATS if k not in ("MPO", "HEIF")])
def test_a_name_with_a_wrong_ending(kind, name, picture, tmp_path):
    """A PNG called `x.jpg`, and each format under each name: it is read."""
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    (tmp_path / name).write_bytes(bytes_of(picture, kind))
    assert close(square(tmp_path / name), square(picture))


MODES = ["L", "P", "RGBA", "CMYK", "YCbCr", "HSV", "LA", "PA", "RGBX", "1", "I", "F"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_a_picture(mode, picture):
    """A Pillow image of any mode: it has the colours, or the greys, of the picture."""
    way = {"PA": "P", "LA": "L", "I": "L", "F": "L"}.get(mode, "RGB")
    image = picture.convert(way).convert(mode)
    if mode == "I":
        image = image.point(lambda value: value * 257)
    expected = square(picture.convert("L" if mode in ("I", "F", "LA") else "RGB"))
    if mode == "1":
        assert {*square(image).flat} >= {0, 255}
    elif mode == "L":
        assert close(square(image), square(picture.convert("L").convert("RGB")), 1)
    else:
        assert close(square(image), expected, 12 if mode in ("P", "PA") else 4)


DEEP = {
    "16 bits in 32": (np.int32, 257),
    "31 bits": (np.int32, 8_421_504),
    "a few more than 16 bits": (np.int32, 300),
    "fractions": (np.float32, 1 / 255),
    "floats to 255": (np.float32, 1),
    "floats to 65,535": (np.float32, 257),
    "floats to 255 million": (np.float32, 1e6),
    "fractions a little above one": (np.float32, 1.004 / 255),
}


@pytest.mark.parametrize("form", ["image", "tif"])
@pytest.mark.parametrize("case", DEEP)
def test_a_picture_of_32_bits(case, form, grey, tmp_path):
    """Whole numbers or floats of 32 bits in any range: the same greys."""
    dtype, factor = DEEP[case]
    image = Image.fromarray((grey * factor).astype(dtype))
    if form == "tif":
        image.save(tmp_path / "x.tif")
        image = tmp_path / "x.tif"
    assert close(square(image), square(Image.fromarray(grey.astype(np.uint8))), 1)


def tiff(values, sample_format):
    """Write the bytes of a grey TIFF file of 32 bits: 1 unsigned, 2 signed, 3 float."""
    kind = {1: "<u4", 2: "<i4", 3: "<f4"}[sample_format]
    data, (height, width) = values.astype(kind).tobytes(), values.shape
    tags = [(256, width), (257, height), (258, 32), (259, 1), (262, 1), (273, 134)]
    tags += [(277, 1), (278, height), (279, len(data)), (339, sample_format)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return head + rows + bytes(4) + data


@pytest.mark.parametrize(
    ("factor", "sample_format"), [(16_843_009, 1), (9_000_000, 1), (8_421_504, 2)]
)
def test_a_tiff_of_32_bits_with_or_without_a_sign(factor, sample_format, grey):
    """A TIFF up to 4,294,967,295, half of it negative for Pillow: its greys."""
    file = io.BytesIO(tiff(grey * factor, sample_format))
    assert close(square(file), square(Image.fromarray(grey.astype(np.uint8))), 1)


@pytest.mark.parametrize("form", ["array", "image"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, -1e-9])
def test_pixels_that_are_no_brightness(value, form):
    """A NaN, infinite or negative pixel: an error, not a black picture."""
    values = np.full((4, 4), 0.5, np.float32)
    values[2, 1] = value
    with pytest.raises(ValueError, match="not a usable photograph: values from"):
        square(values if form == "array" else Image.fromarray(values))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 8, 8)),
        np.zeros((1, 8, 8)),
        np.zeros((8, 8, 2)),
        np.zeros((2, 8, 8, 3)),
        np.zeros((8,)),
        np.array(5),
        np.zeros((0, 8, 3)),
        np.zeros((8, 8), complex),
        np.array([["a", "b"]]),
        np.array([[None]]),
        np.zeros((4, 4), "M8[s]"),
        np.zeros((4, 4), [("red", "u1")]),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_an_array_of_a_wrong_shape_or_type(array):
    """Colours first, two colours, a batch, text: the error says the shape that fits."""
    with pytest.raises(ValueError, match=r"\(H, W, 3\).*transpose\(1, 2, 0\)"):
        square(array)


@pytest.mark.parametrize(
    "array",
    [
        np.full((4, 4), 300),
        np.full((4, 4), -1),
        np.full((4, 4), 256.0),
        np.full((4, 4), 70_000, np.uint32),
        np.full((4, 4), 2**63, np.uint64),
        np.full((4, 4, 3), -0.1),
        np.full((4, 4), -5, np.int8),
    ],
    ids=lambda array: f"{array.dtype}-{array.flat[0]}",
)
def test_an_array_out_of_range(array):
    """Numbers above 255, or normalised ones below zero: the error names them."""
    with pytest.raises(ValueError, match="values from .* expected bytes from 0 to 255"):
        square(array)


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (np.full((4, 4), 1.0000002, np.float32), 255),
        (np.full((4, 4), 1.3), 255),
        (np.full((4, 4), 2.0), 2),
        (np.full((4, 4), 255.4), 255),
        (np.full((4, 4), 0.5, np.float16), 128),
        (np.full((4, 4), 100, np.int8), 100),
        (np.full((4, 4), 100, np.uint64), 100),
        (np.full((4, 4), 257, ">u2"), 1),
        (np.ones((4, 4), bool), 255),
        (np.full((4, 4, 4), 255, np.uint8), 255),
        (np.zeros((4, 4, 4), np.uint8), 255),  # transparent
        (np.ones((1, 1, 3)), 255),
    ],
    ids=lambda x: f"{x.dtype}-{x.flat[0]}" if isinstance(x, np.ndarray) else "",
)
def test_an_array_of_an_unusual_type(array, value):
    """Half floats, signed bytes, fractions a little above one: the right brightness."""
    assert (square(array) == value).all()


@pytest.mark.parametrize("photograph", [None, 5, b"abc", [1, 2], {}, True, 2.5, object])
def test_what_is_no_photograph_at_all(photograph):
    """None, a number, a list, bytes: a TypeError that says what a photograph is."""
    with pytest.raises(TypeError, match="must be a path, an open file, a PIL image or"):
        square(photograph)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_notes_of_the_camera(kind, picture, tried):
    """A whole photograph whose EXIF is damaged: it is read, 100 times for a format."""
    notes, chance = Image.Exif(), random.Random(28)
    notes[0x0112], notes[0x010F], notes[0x011A] = 6, "Camera", 72.0
    notes.get_ifd(0x8769)[0x927C] = b"maker" * 20
    notes.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    small, whole = picture.resize((24, 16)), notes.tobytes()
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(6, len(whole))] = chance.randrange(256)
        damaged = damaged[
            : chance.choice([len(whole), chance.randrange(6, len(whole))])
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = io.BytesIO(bytes_of(small, kind, exif=bytes(damaged)))
            assert load_photograph(file, 16).std() > 20
    tried["damaged photographs"] += 100


@pytest.mark.parametrize("orientation", [0, 1, 6, 9, 300])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_note_how_to_turn_it(kind, orientation, picture):
    """A note in a PNG, WEBP or TIFF, or one that means nothing: turned, or left."""
    notes = Image.Exif()
    notes[0x0112] = orientation
    image = open_photograph(io.BytesIO(bytes_of(picture, kind, exif=notes)), 256)
    turned = picture.rotate(-90, expand=True) if orientation == 6 else picture
    assert image.size == turned.size
    assert close(square(image), square(turned))  # and is not turned once more


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_a_picture_that_moves(kind, picture):
    """An animation, or several pages: the first picture is taken."""
    rest = {"save_all": True, "append_images": [Image.new("RGB", picture.size)]}
    file = io.BytesIO(bytes_of(picture, kind, **rest))
    assert close(square(file), square(picture))


@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1), (3, 1000)])
def test_an_extreme_shape(size):
    """One pixel, or a line of 30,000: a square of its colour."""
    assert (square(Image.new("RGB", size, (9, 8, 7)))[:, 5, 5] == [9, 8, 7]).all()


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_a_picture_without_pixels(size):
    """An image of no width or height: an error, not a black picture."""
    with pytest.raises(ValueError, match="it has no pixel"):
        square(Image.new("RGB", size))


@pytest.mark.parametrize("behind", [b"PK\x03\x04", b"%PDF-1.4", b"<html>", bytes(99)])
def test_something_behind_a_photograph(behind, picture):
    """A photograph that is another file as well, from its end: it is the photograph."""
    whole = bytes_of(picture, "JPEG", icc_profile=b"no profile" * 9)
    assert np.array_equal(square(io.BytesIO(whole + behind)), square(io.BytesIO(whole)))


def promising(kind, side=60_000):
    """Write a small picture whose head says that it has `side` × `side` pixels."""
    whole = bytearray(bytes_of(Image.new("L", (2, 2)), kind))
    place, form = {"PNG": (16, ">II"), "GIF": (6, "<HH"), "BMP": (18, "<ii")}[kind]
    whole[place : place + struct.calcsize(form)] = struct.pack(form, side, side)
    if kind == "PNG":
        whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    return bytes(whole)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 60_000])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_a_head_that_promises_too_much(kind, side, tmp_path):
    """A few bytes that would unpack to gigabytes: refused before they are unpacked."""
    (tmp_path / "bomb.png").write_bytes(promising(kind, side))
    with pytest.raises(ValueError, match=r"bomb\.png: not a usable .*pixels"):
        square(tmp_path / "bomb.png")


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_file_that_breaks_off(kind, share, picture, tmp_path):
    """A photograph cut short, a little or nearly wholly: refused by its name."""
    whole = bytes_of(picture.resize((300, 200)), kind)
    (tmp_path / "cut.jpg").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"cut\.jpg: not a usable photograph: \w"):
        square(tmp_path / "cut.jpg")


def test_a_file_that_is_open(picture, tmp_path):
    """Bytes in memory or an open file: read; one that is closed or of text: refused."""
    picture.save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    assert np.array_equal(square(io.BytesIO(whole)), square(picture))
    with open(tmp_path / "a.png", "rb") as file:
        assert np.array_equal(square(file), square(picture))
    with open(tmp_path / "a.png", encoding="latin-1") as text:
        for no in (file, text, io.StringIO("a"), io.BytesIO(b"")):
            with pytest.raises(ValueError, match="not a usable photograph"):
                square(no)


def test_an_image_that_pillow_has_only_begun_to_read(picture, tmp_path):
    """A Pillow image whose file breaks off, or was closed: refused by its name."""
    picture.save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:700])
    image = Image.open(tmp_path / "cut.jpg")
    with image, pytest.raises(ValueError, match=r"cut\.jpg: not a usable.*truncated"):
        square(image)
    with pytest.raises(ValueError, match=r"cut\.jpg: not a usable photograph: \w"):
        square(image)  # the error that Pillow raises has no text
