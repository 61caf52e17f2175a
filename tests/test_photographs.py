"""The photographs room: any picture becomes a square of bytes, thousands a file."""

import gc
import threading
import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from satlib import photographs
from satlib.photographs import (
    file_sizes,
    load_photograph,
    open_photograph,
    read_ahead,
    write_images,
)


@pytest.fixture(scope="module")
def picture():
    """A smooth colourful picture, wider than high, darker on the left and on top."""
    y, x = np.mgrid[0:1:180j, 0:1:320j]
    return Image.fromarray(np.uint8(255 * np.stack([x, y, (x + y) / 2], axis=2)))


def close(a, b, most):
    return np.abs(a.astype(int) - b.astype(int)).mean() < most


def grey_of(square):
    return np.asarray(Image.fromarray(square.transpose(1, 2, 0)).convert("L"))


def test_squashed_not_cropped_and_antialiased(picture):
    square = load_photograph(picture)
    assert square.shape == (3, 256, 256) and square.dtype == np.uint8
    assert square.flags.c_contiguous
    corners = square[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    original = np.asarray(picture).transpose(2, 0, 1)
    assert close(corners, original[:, [0, 0, -1, -1], [0, -1, 0, -1]], 2)
    stripes = np.zeros((1024, 1024), np.uint8)
    stripes[:, ::2] = 255
    inner = load_photograph(stripes, 64)[:, 8:-8, 8:-8].astype(int)
    assert np.abs(inner - 127).max() <= 2
    assert load_photograph(picture, 100).shape == (3, 100, 100)


def test_every_mode_becomes_rgb(picture, tmp_path):
    square = load_photograph(picture)
    grey = picture.convert("L")
    wide = np.asarray(grey).astype(np.uint16) * 257
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    saved = {
        "grey.png": (grey, {}),
        "bits16.png": (Image.fromarray(wide), {}),
        "bits16.tif": (Image.fromarray(wide), {}),
        "bits32.tif": (Image.fromarray(wide.astype(np.int32)), {}),
        "float.tif": (Image.fromarray(np.float32(wide / 65535)), {}),
        "cmyk.jpg": (picture.convert("CMYK"), {"quality": 95}),
        "cmyk.tif": (picture.convert("CMYK"), {}),
        "opaque.png": (picture.convert("RGBA"), {}),
        "usual.jpg": (picture, {"quality": 95}),
        "usual.webp": (picture, {"quality": 95}),
    }
    for name, (image, options) in saved.items():
        image.save(tmp_path / name, **options)
        with Image.open(tmp_path / name) as image:
            is_grey = image.mode in ("L", "I", "F", "I;16", "I;16B")
        loaded = load_photograph(tmp_path / name)
        truth = np.stack([grey_of(square)] * 3) if is_grey else square
        assert close(loaded, truth, 3), name
    palette.save(tmp_path / "palette.png")
    left_and_right = load_photograph(tmp_path / "palette.png")[:, 0, [0, -1]]
    assert left_and_right.T.tolist() == [[255, 0, 0], [0, 0, 255]]
    assert close(load_photograph(picture.convert("YCbCr")), square, 3)
    bilevel = load_photograph(Image.new("1", (3, 2), 1))
    assert (bilevel == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_transparent_is_white(mode, tmp_path):
    if mode in ("RGBA", "LA"):
        Image.new("LA", (4, 4), (0, 0)).convert(mode).save(tmp_path / "clear.png")
    else:  # one colour is declared transparent
        clear = (0, 0, 0) if mode == "RGB" else 0
        Image.new(mode, (4, 4), clear).save(tmp_path / "clear.png", transparency=clear)
    assert (load_photograph(tmp_path / "clear.png", 8) == 255).all()


def test_half_transparent_is_mixed_with_white():
    half = Image.new("RGBA", (4, 4), (0, 100, 200, 128))
    assert load_photograph(half, 4)[:, 0, 0].tolist() == [127, 177, 227]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(picture, tmp_path, orientation):
    undo = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = undo[orientation](picture)
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert close(load_photograph(tmp_path / "turned.jpg"), load_photograph(picture), 2)
    upright = open_photograph(tmp_path / "turned.jpg", 256)
    assert upright.size == picture.size and upright.mode == "RGB"


def test_arrays(picture):
    square, array = load_photograph(picture), np.asarray(picture)
    for same in (
        array.astype(np.int64),
        array / 255,
        (array / 255).astype(np.float32),
        array.astype(np.uint16) * 257,
        array.astype(">u2") * 257,
        array.astype(float),
        np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]),
    ):
        assert np.array_equal(load_photograph(same), square)
    grey = array[..., 0]
    same = load_photograph(np.dstack([grey] * 3))
    assert np.array_equal(load_photograph(grey), same)
    assert (load_photograph(np.ones((2, 2), bool)) == 255).all()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 8, 8)),
        np.zeros((8, 8, 2)),
        np.zeros(8),
        np.zeros((0, 5, 3)),
        np.full((8, 8, 3), -0.5),
        np.full((8, 8, 3), 300),
        np.full((8, 8), np.nan),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array):
    with pytest.raises(ValueError, match="expected"):
        load_photograph(array)


def test_the_callers_picture_is_not_changed(picture, tmp_path):
    before = picture.tobytes()
    load_photograph(picture)
    assert picture.tobytes() == before
    picture.resize((2000, 2000)).save(tmp_path / "large.jpg")
    with Image.open(tmp_path / "large.jpg") as image:
        load_photograph(image)
        assert image.size == (2000, 2000)


def test_the_jpeg_shortcut_is_as_good(picture, tmp_path):
    noise = np.random.RandomState(0).randint(0, 256, (96, 128, 3), np.uint8)
    large = Image.fromarray(noise).resize((2400, 1800), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=90)
    assert open_photograph(tmp_path / "large.jpg", 256).size == (1200, 900)
    assert open_photograph(tmp_path / "large.jpg", 100).size == (300, 225)
    with Image.open(tmp_path / "large.jpg") as image:
        exact = load_photograph(image)
    assert close(load_photograph(tmp_path / "large.jpg"), exact, 1)


def test_bad_files_are_named(picture, tmp_path, monkeypatch):
    picture.save(tmp_path / "good.jpg")
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    picture.save(tmp_path / "good.png")
    png = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(png[: len(png) // 2])
    for name in ("cut.jpg", "empty.jpg", "text.jpg", "cut.png"):
        with pytest.raises(ValueError, match=name):
            load_photograph(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        load_photograph(tmp_path / "nowhere.jpg")
    monkeypatch.setattr(photographs, "MAX_PIXELS", 320 * 180 - 1)
    with pytest.raises(ValueError, match=r"good\.jpg.*pixels"):
        load_photograph(str(tmp_path / "good.jpg"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_file_that_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    Image.new("1", (12_000, 10_000)).save(tmp_path / "bomb.png")

    def unpacked(*_):
        raise AssertionError("it was unpacked")

    monkeypatch.setattr(Image.Image, "load", unpacked)
    monkeypatch.setattr(ImageFile.ImageFile, "load", unpacked)
    with pytest.raises(ValueError, match=r"bomb\.png.*is over 100,000,000 pixels"):
        load_photograph(tmp_path / "bomb.png")


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_gives_a_picture_or_a_value_error(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    ending = data.draw(st.sampled_from(["jpg", "png", "gif", "bmp", "webp", "tif"]))
    path = folder / f"damaged.{ending}"
    Image.radial_gradient("L").resize((24, 16)).convert("RGB").save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
            st.integers(0, 255)
        )
    path.write_bytes(content)
    try:
        assert load_photograph(path, 16).shape == (3, 16, 16)
    except ValueError as error:
        assert path.name in str(error)


def test_read_ahead_keeps_the_order_and_stays_bounded(monkeypatch):
    """However late the first comes: it waits for another to begin."""
    begun, lock, full = [], threading.Lock(), threading.Event()

    def load(path, size):
        number = int(path)
        with lock:
            begun.append(number)
            if len(begun) >= 2:
                full.set()
        if number == 0:
            assert full.wait(60)  # a later one is loaded before the first has come
        if number == 7:
            raise ValueError("seven")
        return number

    monkeypatch.setattr(photographs, "load_photograph", load)
    monkeypatch.setattr(photographs.os, "cpu_count", lambda: 4)
    asked = []

    def paths():
        for n in range(60):
            asked.append(n)
            yield str(n)

    with read_ahead(paths(), ahead=8) as results:
        assert next(results) == 0
        assert asked == [*range(8)]
        rest = list(results)
    assert str(rest.pop(6)) == "seven"
    assert rest == [n for n in range(1, 60) if n != 7]
    assert sorted(begun) == [*range(60)]


def test_what_may_stand_in_a_list_twice_is_loaded_when_its_turn_comes(monkeypatch):
    """Two threads that read one open picture would read each other's bytes."""
    found = []

    def load(photograph, size):
        found.append((photograph, threading.current_thread()))
        return photograph

    monkeypatch.setattr(photographs, "load_photograph", load)
    picture, main = Image.new("RGB", (2, 2)), threading.current_thread()
    with read_ahead([picture, "a.png", picture]) as results:
        assert [*results] == [picture, "a.png", picture]
    assert [who is main for what, who in found if what is picture] == [True, True]
    assert [who is main for what, who in found if what == "a.png"] == [False]


def test_no_thread_outlives_a_broken_photograph(picture, tmp_path):
    picture.save(tmp_path / "0.png")
    (tmp_path / "1.png").write_text("none")
    names, before = ["0.png", "1.png"] + 30 * ["0.png"], threading.active_count()
    gc.disable()  # it would end them some time, in whichever thread it runs
    try:
        with pytest.raises(ValueError, match="1.png"):
            write_images(tmp_path / "images.hdf5", tmp_path, names, 1)
        assert threading.active_count() == before
    finally:
        gc.enable()


@pytest.fixture
def folder(tmp_path):
    for number in range(9):
        Image.new("RGB", (20 + number, 30), (number, 0, 0)).save(
            tmp_path / f"{number}.png"
        )
    return tmp_path


def test_write_images_file_and_fingerprint(folder):
    names = [f"{n}.png" for n in (3, 1, 4, 1)]
    assert write_images(folder / "a.hdf5", folder, names, 5, size=16) == names
    with h5py.File(folder / "a.hdf5") as file:
        images = file["images"][:]
        assert images.shape == (4, 3, 16, 16) and images.dtype == np.uint8
        assert images[:, 0, 0, 0].tolist() == [3, 1, 4, 1]
        assert file.attrs["captions_per_image"] == 5
        fingerprint = file.attrs["sha256"]
    assert len(fingerprint) == 64

    def fingerprint_of(names):
        write_images(folder / "b.hdf5", folder, names, 2, size=16)
        with h5py.File(folder / "b.hdf5") as file:
            return file.attrs["sha256"]

    assert fingerprint_of(names) == fingerprint
    assert fingerprint_of(names[::-1]) != fingerprint
    Image.new("RGB", (9, 9), (4, 0, 1)).save(folder / "4.png")
    assert fingerprint_of(names) != fingerprint
    assert write_images(folder / "none.hdf5", folder, [], 5) == []
    with h5py.File(folder / "none.hdf5") as file:
        assert file["images"].shape == (0, 3, 256, 256)


def test_write_images_raises_or_skips(folder, capsys):
    (folder / "bad.png").write_text("no")
    names = ["0.png", "bad.png", "missing.png", "2.png"]
    with pytest.raises(ValueError, match=r"bad\.png"):
        write_images(folder / "a.hdf5", folder, names, 5)
    assert not list(folder.glob("a.hdf5*"))
    assert write_images(folder / "a.hdf5", folder, names, 5, 16, True) == [
        "0.png",
        "2.png",
    ]
    out = capsys.readouterr().out
    assert "bad.png" in out and "missing.png" in out
    assert "left out 2 of 4 photographs" in out
    with h5py.File(folder / "a.hdf5") as file:
        assert file["images"][:, 0, 0, 0].tolist() == [0, 2]


def test_memory_does_not_grow_with_the_number_of_photographs(folder):
    def peak(count):
        tracemalloc.start()
        write_images(folder / "a.hdf5", folder, ["1.png"] * count, 5, size=64)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(100)
    square = 3 * 64 * 64
    assert peak(800) < peak(200) + 100 * square  # 600 more would take 600 squares


def test_file_sizes(folder):
    names = ["0.png", "1.png"]
    assert file_sizes(folder, names) == [(folder / n).stat().st_size for n in names]
    with pytest.raises(FileNotFoundError, match=r"1 of 3.*missing.*gone\.png.*skip"):
        file_sizes(folder, [*names, "gone.png"])
    assert file_sizes(str(folder), ["gone.png"], skip=True) == [None]
