"""The way there: uploads, and an explorer that goes on."""

import base64
import io
import json
import os
import shutil
from contextlib import closing, contextmanager

import numpy as np
import pytest
from PIL import Image

from satlib.captioner import Caption
from satlib.explorer import explore


class Fixed:
    """A captioner that says the same of every picture, or fails when it is told to."""

    failure = None

    def caption(self, images, beam_size):
        if self.failure:
            raise self.failure
        alphas, one = np.full((1, 2, 2), 0.25), [-1.0]
        return [Caption(["dog"], alphas, -1.0, one, [[]], [0.5], True) for _ in images]


def encoded(kind="PNG", size=(40, 30), colour="red", **how):
    """Return the bytes of a picture file."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind, **how)
    return file.getvalue()


PICTURE = Image.new("RGB", (40, 30), "green")
PNG = encoded()
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
NAMES = [
    "صورة.png",
    "तस्वीर.png",
    "犬.png",
    "<img src=x onerror=alert(1)>.png",
    "",
    "a\0b",
]
NAMES += ["$x$.png", "a" * 300, "two\nlines.png", "\ud83d.png", "&amp;.png", "%s{0}"]


def noisy():
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, "JPEG")
    return file.getvalue()


BROKEN = {
    "text": b"no photograph",
    "empty": b"",
    "cut in half": noisy()[: len(noisy()) // 2],
    "only its beginning": noisy()[:200],
    "a program": b"MZ" + bytes(100),
    "a page": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "zeros": bytes(1000),
    "a damaged picture": PNG[:40] + bytes(20) + PNG[60:],
}


@pytest.fixture
def explorer():
    return explore(Fixed(), [PICTURE])


def upload(explorer, *files):
    """Upload files (name, content) as FileUpload and Python would."""
    explorer.controls.upload.value = tuple(
        {"name": name, "type": "", "size": len(content), "content": memoryview(content)}
        for name, content in files
    )
    return explorer.controls.message.value


def post(explorer, name, content, piece=7):
    """Upload a file as the browser does, in pieces; each must be taken at once."""
    inbox = explorer.controls.upload.inbox
    for at in range(0, max(1, len(content)), piece):
        text = base64.b64encode(content[at : at + piece]).decode()
        whole = {"name": name, "at": at, "size": len(content), "content": text}
        inbox.value = json.dumps(whole)
        assert inbox.value == ""


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_what_is_no_photograph_is_told_by_its_name(explorer, content):
    """A file that is no photograph, or a broken one: it is named, and none is added."""
    told = upload(explorer, ("mine.jpg", content))
    assert "mine.jpg cannot be read: " in told
    assert "captioner" not in told and "BytesIO" not in told
    assert len(explorer.images) == len(explorer.choice.options) == 1
    upload(explorer, ("next.png", PNG))
    assert len(explorer.images) == 2 and explorer.choice.index == 1


def test_a_photograph_of_an_iphone(explorer):
    """HEIC, where this Python cannot read it: it is named, with what to do."""
    told = upload(explorer, ("phone.heic", b"\0\0\0\x18ftypheic" + bytes(2000)))
    assert "phone.heic cannot be read: it is a HEIC picture, as iPhones" in told
    assert "export it as JPEG, or pip install pillow-heif" in told
    assert len(explorer.images) == 1


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_what_to_do_is_told(explorer, content):
    """What cannot be read: it is told what can be done."""
    told = upload(explorer, ("mine.jpg", content))
    assert "JPEG" in told or "is it all there yet?" in told


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name(explorer, name):
    """A name with marks of HTML, breaks or signs: taken; in messages it is escaped."""
    assert upload(explorer, (name, PNG)) == "" and len(explorer.images) == 2
    told = upload(explorer, (name, b"?"))
    told.encode()
    assert "<img" not in told and told.count("<div") == 1 and "\0" not in told


KINDS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("piece", [7, 10**6])
def test_pieces_make_a_file(explorer, kind, piece):
    """A file that the browser sends in pieces: it is put together and added."""
    post(explorer, "mine", encoded(kind), piece)
    assert len(explorer.images) == 2 and explorer.controls.message.value == ""
    assert explorer.images[1].size == (1024, 768)


def test_a_file_that_breaks_off_is_forgotten(explorer):
    """A page that is closed while it sends: the next file is not mixed with it."""
    inbox = explorer.controls.upload.inbox
    piece = {"name": "first.png", "at": 0, "size": 99, "content": "iVBORw0KGgo="}
    inbox.value = json.dumps(piece)
    post(explorer, "second.png", PNG)
    assert len(explorer.images) == 2 and explorer.controls.message.value == ""


@pytest.mark.parametrize("said", ["Error: 999 bytes are too many", "NotReadableError"])
def test_what_went_wrong_in_the_browser_is_told(explorer, said):
    """A file that the browser cannot send: the reason is told, with the name."""
    value = json.dumps({"name": "film.mov", "error": said})
    explorer.controls.upload.inbox.value = value
    assert f"film.mov cannot be read: {said}" in (explorer.controls.message.value)
    post(explorer, "next.png", PNG)
    assert len(explorer.images) == 2


def test_two_at_once(explorer):
    """Two files at once: both are added, the last is chosen."""
    upload(explorer, ("a.png", PNG), ("b.png", encoded(colour="blue")))
    assert len(explorer.images) == len(explorer.stack.children) == 3
    assert explorer.choice.index == explorer.stack.selected_index == 2


def test_good_ones_among_broken_ones(explorer):
    """A broken file among good ones: they are added, and it is still named then."""
    told = upload(explorer, ("a.png", PNG), ("b.png", b"?"), ("c.png", PNG), ("d", b""))
    assert len(explorer.images) == 3
    assert told.count("<div") == 2 and "b.png" in told and "d cannot be read" in told


@pytest.mark.parametrize("way", [upload, lambda explorer, file: post(explorer, *file)])
def test_the_same_twice(explorer, way):
    """The same file twice: it is taken twice; a broken one is told twice."""
    for count in (2, 3):
        way(explorer, ("a.png", PNG))
        assert len(explorer.images) == count
    for count in (1, 2):
        way(explorer, ("b.png", b"?"))
        assert explorer.controls.message.value.count("b.png") == count


EVENTS = {
    "another upload": lambda explorer: upload(explorer, ("a.png", PNG)),
    "another beam size": lambda explorer: setattr(
        explorer.controls.beam_size, "value", 3
    ),
    "other colours": lambda explorer: setattr(
        explorer.controls.colours, "value", "viridis"
    ),
    "another picture": lambda explorer: explorer.add([PICTURE]),
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_a_message_stays_until_it_has_been_seen(explorer, event):
    """Something else happens after a message: it stays until `seen` is pressed."""
    controls = explorer.controls
    assert controls.seen.layout.display == "none"
    upload(explorer, ("mine.jpg", b"?"))
    event(explorer)
    assert "mine.jpg" in controls.message.value and controls.status.value == ""
    assert controls.seen.layout.display is None
    controls.seen.click()
    assert controls.message.value == "" and controls.seen.layout.display == "none"


FAILURES = [ValueError("odd <size>"), RuntimeError("out of memory"), MemoryError()]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_the_captioner_is_to_blame(explorer, failure):
    """The captioner fails on a good file: it is blamed, the explorer is as before."""
    (captioner,) = explorer.captioners
    captioner.failure = failure
    told = upload(explorer, ("mine.png", PNG))
    assert "mine.png is in order, but the captioner failed: " in told
    assert (str(failure) or "MemoryError").replace("<size>", "&lt;size&gt;") in told
    assert "cannot be read" not in told and explorer.controls.status.value == ""
    assert len(explorer.images) == len(explorer.views) == 1
    assert len(explorer.photographs.small) == len(explorer.stack.children) == 1
    captioner.failure = None
    upload(explorer, ("mine.png", PNG))
    assert len(explorer.images) == 2


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_another_beam_size_fails(explorer, failure):
    """The captioner fails with another beam size: it is told, the captions stay."""
    explorer.captioners[0].failure = failure
    before = explorer.views[0][0].caption
    explorer.controls.beam_size.value = 9
    assert "the captioner failed, the captions are as before: " in (
        explorer.controls.message.value
    )
    assert explorer.views[0][0].caption is before


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("captioners", [1, 2])
def test_an_explorer_begins_with_an_upload(captioners, side_by_side, capsys):
    """`explore(captioner, [])`: an explorer of no picture yet, which takes one."""
    both = [Fixed() for _ in range(captioners)]
    explorer = explore(both, [], side_by_side=side_by_side)
    explorer._ipython_display_()
    explorer.controls.beam_size.value = 3
    explorer.controls.opacity.value = 0.1
    assert explorer.controls.message.value == "" and explorer.images == []
    with pytest.raises(ValueError, match="no photograph yet"):
        explorer.save("maps.html")
    upload(explorer, ("notes.txt", b"?"))
    assert "notes.txt" in explorer.controls.message.value
    upload(explorer, ("mine.png", PNG))
    assert [len(views) for views in explorer.views] == [captioners]
    assert explorer.choice.index == 0 and len(explorer.stack.children) == 1
    explorer._ipython_display_()


@pytest.mark.parametrize("given", [[], None, "best.pt", 3, ["best.pt"], {"a": Fixed()}])
def test_no_captioner(given):
    """No captioner, or the path of one: refused, with what opens it."""
    with pytest.raises(ValueError, match="needs a captioner.*load_captioner"):
        explore(given, [PICTURE])


def test_photographs_and_captioners_that_come_one_by_one():
    """Generators of photographs and captioners: each is captioned by each."""
    explorer = explore((Fixed() for _ in "ab"), (PICTURE for _ in "abc"))
    assert [len(views) for views in explorer.views] == [2, 2, 2]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def shown(upload):
    """Show an upload's button in a browser; a function to choose files there."""
    from playwright.sync_api import sync_playwright

    button = upload.children[0].value
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        with closing(browser):
            tab = browser.new_page()
            tab.set_content(f'<div class="upload">{button}<textarea></textarea></div>')
            tab.expose_function(
                "python", lambda text: setattr(upload.inbox, "value", text)
            )
            tab.evaluate(
                """() => {
                    const inbox = document.querySelector("textarea");
                    inbox.addEventListener("change", async () => {
                        await python(inbox.value);
                        inbox.value = "";
                    });
                }"""
            )

            def choose(*paths):
                with tab.expect_file_chooser() as chooser:
                    tab.get_by_role("button", name="of your own").click()
                chooser.value.set_files(paths)
                tab.evaluate("document.querySelector('textarea').waiting")
                assert tab.locator("input").input_value() == ""  # so it can come again

            yield choose


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.timeout(120)
def test_a_browser_makes_it_smaller(explorer, tmp_path):
    """Files as people have them, in a browser: small ones arrive as they are, others
    smaller and upright, and what it cannot draw comes in pieces.
    """
    rng, sent = np.random.default_rng(0), []
    noise = Image.fromarray(rng.integers(0, 256, (900, 1600, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = noise.copy()
    clear.putalpha(Image.new("L", noise.size))
    noise.save(tmp_path / "large.jpg", quality=97, exif=turned)
    clear.save(tmp_path / "clear.png")
    noise.save(tmp_path / "large.tif")
    (tmp_path / "صورة.png").write_bytes(PNG)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "broken.jpg").write_bytes(os.urandom(2_000_000))
    names = [path.name for path in sorted(tmp_path.iterdir())]
    upload = explorer.controls.upload
    upload.observe(lambda change: sent.extend(change.new), "value")
    upload.inbox.observe(lambda change: sizes.append(len(change.new)), "value")
    sizes = []
    with shown(upload) as choose:
        choose(*(tmp_path / name for name in names))
        choose(tmp_path / "صورة.png")
    assert [file["name"] for file in sent] == [*names, "صورة.png"]
    assert max(sizes) < 1e6
    content = {file["name"]: file["content"] for file in sent}
    assert content["صورة.png"] == PNG
    assert content["large.tif"] == (tmp_path / "large.tif").read_bytes()
    large, clear = (
        Image.open(io.BytesIO(content[name])) for name in ("large.jpg", "clear.png")
    )
    assert large.size == (576, 1024) and clear.size == (1024, 576)
    assert np.asarray(clear).min() > 250
    assert len(explorer.images) == 1 + len(names) + 1 - 2
    told = explorer.controls.message.value
    assert "empty.jpg cannot be read: it is empty" in told
    assert "broken.jpg" in told and told.count("<div") == 2
