"""The captioner in a web page says what it says in Python, and asks nobody else."""

import base64
import io
import json
import shutil
from contextlib import contextmanager
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from conftest import CHROMIUM, SENTENCES, spotted
from PIL import Image
from playwright.sync_api import expect

from satlib import live
from satlib.beam_search import beginning, without_repeats
from satlib.captioner import load_captioner
from satlib.live import (
    Graphs,
    as_byte,
    as_half,
    caption_by,
    check_graph,
    export,
    graphs_of,
    smaller,
    step_of,
)
from satlib.photographs import load_photograph
from satlib.scenes import make_scene

pytestmark = pytest.mark.timeout(300)
IN_A_PAGE = pytest.mark.skipif(
    not (CHROMIUM and shutil.which("npm")), reason="needs chromium and npm"
)


@pytest.fixture(scope="module")
def graphs(captioner):
    """The two graphs of the captioner, and what they were tried with."""
    return graphs_of(captioner)


def peaks(caption):
    return [tuple(divmod(int(a.argmax()), a.shape[1])) for a in caption.alphas]


@pytest.mark.parametrize("keep", [None, as_half, as_byte])
def test_captions_by_the_graphs_are_those_of_the_captioner(
    captioner, pictures, graphs, keep
):
    models = [smaller(model, keep) if keep else model for model in graphs[0]]
    for picture in pictures:
        expected = captioner.caption([picture], beam_size=3)[0]
        found = caption_by(Graphs(*models), captioner, picture, beam_size=3)
        assert found.words == expected.words and len(found.words) >= 3
        assert peaks(found) == peaks(expected)
        near = 1e-4 if keep is None else 0.2
        assert found.log_prob == pytest.approx(expected.log_prob, abs=near)
        assert found.gates == pytest.approx(expected.gates, abs=near)


def test_planted_regions_without_pooling_and_with(planted):
    """Cells that are regions, and cells that are pooled, look where they must."""
    models, _ = graphs_of(planted)
    picture = Image.fromarray(spotted())
    found = caption_by(Graphs(*models), planted, picture)
    assert found.words == ["red", "blue"]
    assert peaks(found) == [(3, 10), (8, 2)]


def test_a_captioner_that_looks_with_an_earlier_stage(captioner):
    from satlib.captioner import Captioner
    from satlib.decoder import Decoder
    from satlib.encoder import build_encoder

    torch.manual_seed(1)
    encoder = build_encoder(image_size=64, output_stride=16, look_stage=5)
    words, sizes = captioner.word_map, (encoder.encoder_dim, 0.5, encoder.pool)
    decoder = Decoder(16, 16, 32, len(words), *sizes, encoder.look_dim)
    other = Captioner(encoder, decoder, words, 64, max_length=5)
    models, _ = graphs_of(other)
    picture = Image.fromarray(spotted(size=70))
    expected = other.caption([picture], beam_size=2)[0]
    found = caption_by(Graphs(*models), other, picture, beam_size=2)
    assert found.words == expected.words
    np.testing.assert_allclose(found.alphas, expected.alphas, atol=1e-4)


def test_a_mask_takes_the_weight_away(graphs):
    (look, speak), tried = graphs
    *_, (function, example) = tried
    with torch.no_grad():
        found = dict(zip(function.outputs, function(*example), strict=True))
    assert (found["alpha"][:, 0] == 0).all()
    assert found["alpha"].sum(1).tolist() == pytest.approx([1, 1])
    names = [output.name for output in speak.graph.output]
    assert names == [*function.outputs]


def test_weights_are_kept_in_fewer_bits(graphs):
    (_, speak), _ = graphs
    sizes = [len(m.SerializeToString()) for m in (speak, smaller(speak, as_half))]
    assert sizes[1] < 0.75 * sizes[0]
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    values[1] = 0
    kept, nodes = as_byte("w", values)
    assert kept["w_byte"].dtype == np.int8 and [n.op_type for n in nodes][-1] == "Mul"
    apart = abs(kept["w_byte"] * kept["w_scale"] - values)
    assert (apart <= abs(values).max(1, keepdims=True) / 254 + 1e-7).all()


def test_a_graph_that_says_something_else_is_refused(graphs):
    (look, _), tried = graphs
    wrong = onnx.ModelProto()
    wrong.CopyFrom(look)
    weights = [w for w in wrong.graph.initializer if w.name.endswith("init_h.weight")]
    values = onnx.numpy_helper.to_array(weights[0]) + 0.1
    weights[0].CopyFrom(onnx.numpy_helper.from_array(values, weights[0].name))
    with pytest.raises(RuntimeError, match="graph of Look gives hidden that"):
        check_graph(wrong, *tried[0])


def test_the_command_names_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit):
        live.main([str(tmp_path / "out"), "--captioner", str(tmp_path / "none.pt")])
    assert "no captioner there" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        live.main(["--photograph", "a.png"])
    assert "tell where, with FOLDER" in capsys.readouterr().err


def test_without_a_folder_the_pages_of_the_site_are_written(
    tmp_path, captioner, monkeypatch
):
    monkeypatch.setattr(live, "fit", lambda config: SimpleNamespace(best="scenes"))
    monkeypatch.setattr(live, "load_captioner", lambda path: captioner)
    monkeypatch.setattr(live, "data_folder", lambda: tmp_path)
    monkeypatch.setattr(live, "addresses", lambda folder, choice, scripts: {})
    monkeypatch.setattr(live, "SCENES", live.SCENES[:2])
    live.main([])
    names = {path.name for path in (tmp_path / "live" / "scenes").iterdir()}
    assert names == {*("index.html", "page.js", "model.js", "look.js", "speak.js")}
    assert names | {"scenes"} == {p.name for p in (tmp_path / "live").iterdir()}
    gallery = (tmp_path / "live" / "scenes" / "index.html").read_text()
    for seed in live.SCENES:
        things = [thing.phrase for thing in make_scene(seed).objects]
        assert f'alt="{" and ".join(things)}"' in gallery


def test_the_prepared_step_is_that_of_the_decoder(captioner, pictures):
    expected = captioner.caption([pictures[1]])[0]
    for place in (0, 2):
        found = step_of(captioner, pictures[1], expected.words[:place])
        alpha = expected.alphas[place].flatten()
        np.testing.assert_allclose(found["alpha"], alpha, atol=1e-3)
        assert np.mean(found["gate"]) == pytest.approx(expected.gates[place], abs=1e-3)
        best = max(range(len(found["scores"])), key=found["scores"].__getitem__)
        assert [*captioner.word_map][best] == expected.words[place]
        assert len(found["first"]) == 8 <= found["width"]
        energies = torch.tensor(found["energies"])
        np.testing.assert_allclose(energies.softmax(0), alpha, atol=1e-3)


def exported(captioner, folder, *example):
    """Write the page of a captioner with its runtime; skip where npm cannot get it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOOK_SCRIPTS", "npm")
        try:
            return export(captioner, folder, *example).parent
        except RuntimeError as error:
            if "BOOK_SCRIPTS" not in str(error):
                raise
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def folder(captioner, pictures, tmp_path_factory):
    """The page of the captioner, as it is put on a web host."""
    return exported(captioner, tmp_path_factory.mktemp("live"), pictures[0], "One.")


OWN = ("file:", "blob:", "data:")


@contextmanager
def opened(folder, chromium, asked=None):
    """Open the page from the disk; it may ask for nothing from elsewhere."""
    context, asked = chromium.new_context(), [] if asked is None else asked
    tab, errors = context.new_page(), []
    tab.on("pageerror", lambda error: errors.append(error))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((folder / "index.html").as_uri())
    try:
        yield tab
    finally:
        context.close()
    assert errors == []
    assert [url for url in asked if not url.startswith(OWN)] == []


def wait(tab, state="done"):
    tab.wait_for_function(
        "state => document.getElementById('live-caption').dataset.state === state",
        arg=state,
        timeout=120_000,
    )


def load(tab):
    tab.locator("#live-load").click()
    wait(tab)


def give(tab, path, state="done"):
    tab.locator("#live-file").set_input_files(path)
    wait(tab, state)


def told(tab):
    """Return the caption's words and peaks, as the page has them."""
    buttons = tab.locator("#live-caption button").all()
    words = [button.get_attribute("data-word") for button in buttons]
    text = tab.locator("#live-caption").text_content()
    assert text == " ".join(words)
    places = [button.get_attribute("data-peak").split(",") for button in buttons]
    return words, [tuple(map(int, place)) for place in places]


@IN_A_PAGE
def test_an_example_is_there_and_nothing_heavy(folder, chromium):
    asked = []
    with opened(folder, chromium, asked) as tab:
        assert told(tab)[0] == SENTENCES[1].split()
        assert [url.rpartition("/")[2] for url in asked] == ["index.html", "page.js"]
        assert "MB" in tab.locator("#live-load").text_content()
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size < 45e6


@IN_A_PAGE
def test_the_page_says_what_python_says(
    folder, chromium, captioner, pictures, tmp_path
):
    with opened(folder, chromium) as tab:
        load(tab)
        assert told(tab)[0] == SENTENCES[1].split()
        for number, picture in enumerate(pictures):
            path = tmp_path / f"{number}.png"
            picture.save(path)
            give(tab, path)
            for width in (1, 3, 10):
                tab.locator("#live-beams").fill(str(width))
                wait(tab)
                expected = captioner.caption([path], beam_size=width)[0]
                assert told(tab) == (expected.words, peaks(expected))
                beams = tab.locator("#live-others button").all_text_contents()
                texts = [" ".join(b.words) for b in [expected, *expected.beams]]
                assert beams == texts


@IN_A_PAGE
def test_photographs_are_turned_and_squashed_as_in_python(
    folder, chromium, captioner, pictures, tmp_path
):
    """Turned by the camera's note, with transparency, with a profile of colours."""
    one = pictures[1]
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [tmp_path / name for name in ("turned.jpg", "clear.png", "wide.webp")]
    one.rotate(90, expand=True).save(paths[0], exif=exif, quality=95)
    clear = one.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(one.size))
    clear.save(paths[1])
    one.resize((700, 300)).save(paths[2], lossless=True)
    with opened(folder, chromium) as tab:
        load(tab)
        for path in paths:
            give(tab, path)
            expected = captioner.caption([path])[0]
            assert told(tab) == (expected.words, peaks(expected))


@IN_A_PAGE
def test_what_is_no_picture_gets_a_sentence(folder, chromium, pictures, tmp_path):
    (tmp_path / "diary.jpg").write_text("Dear diary")
    pictures[2].save(tmp_path / "good.png")
    with opened(folder, chromium) as tab:
        tab.locator("#live-file").set_input_files(tmp_path / "good.png")
        assert "press the button" in tab.locator("#live-status").text_content()
        load(tab)
        assert told(tab)[0] == SENTENCES[3].split()  # the file that waited
        give(tab, tmp_path / "diary.jpg", "error")
        error = tab.locator("#live-error").text_content()
        assert "diary.jpg is no picture" in error and "JPEG" in error
        give(tab, tmp_path / "good.png")
        assert told(tab)[0] == SENTENCES[3].split()
        assert tab.locator("#live-error").text_content() == ""


@IN_A_PAGE
def test_a_browser_that_lacks_something_is_told(folder, chromium):
    with opened(folder, chromium) as tab:
        tab.evaluate("delete window.DecompressionStream")
        tab.locator("#live-load").click()
        wait(tab, "error")
        error = tab.locator("#live-error").text_content()
        assert "no DecompressionStream" in error and "newer browser" in error


KEYS = ("ArrowRight", 1), ("End", 4), ("ArrowLeft", 3), ("Home", 0)


@IN_A_PAGE
def test_keys_go_from_word_to_word(folder, chromium):
    with opened(folder, chromium) as tab:
        words = tab.locator("#live-caption button")
        words.first.focus()
        for key, number in (
            ("ArrowRight", 1),
            ("End", 4),
            ("ArrowLeft", 3),
            ("Home", 0),
        ):
            tab.keyboard.press(key)
            tab.keyboard.press("Alt+ArrowRight")  # is the browser's
            pressed = [w.get_attribute("aria-pressed") for w in words.all()]
            assert pressed.index("true") == number and pressed.count("true") == 1
            active = tab.evaluate("document.activeElement.textContent")
            assert active == SENTENCES[1].split()[number]
        about = tab.locator("#live-about").text_content()
        assert about.startswith("a: ") and "It looks upper " in about


SIZES = (40, 90, 24), (11, 7, 24), (300, 50, 32), (24, 24, 24), (68, 50, 32)


@IN_A_PAGE
def test_squares_are_those_of_pillow(chromium):
    """Shrunk and enlarged, tall and wide, byte for byte; old Pillows never turn."""
    random, tab, cubic = np.random.default_rng(0), chromium.new_page(), 3
    for height, width, size in SIZES:
        colours = random.integers(0, 256, (height, width, 3), np.uint8)
        clear = np.dstack([colours, np.full((height, width), 255, np.uint8)])
        found = tab.evaluate(
            f"([data, width, height, size]) => {{ {live.SQUASH}"
            "return [...squash({data, width, height}, size)]; }",
            [clear.flatten().tolist(), width, height, size],
        )
        found = np.array(found).reshape(3, size, size).transpose(1, 2, 0)
        half = (width, size) if height == 300 else (size, height)
        picture = Image.fromarray(colours).resize(half, cubic)
        assert (found == np.asarray(picture.resize((size, size), cubic))).all()
        expected = load_photograph(colours, size).transpose(1, 2, 0)
        assert abs(found - expected).mean() < 1
    tab.close()


@IN_A_PAGE
def test_nothing_is_said_twice(chromium):
    content = torch.tensor([False, False, False, True, True, True])
    random, tab = np.random.default_rng(0), chromium.new_page()
    seen = set()
    for _ in range(200):
        row = random.integers(1, 6, random.integers(0, 8)).tolist()
        said = beginning(1, 0)
        for word in row:
            said = said.then(torch.tensor([word]), content)
        free = without_repeats(torch.zeros(1, 6), said, content)[0]
        found = tab.evaluate(
            f"""said => {{ {live.REPEATS}
            const values = [0, 0, 0, 0, 0, 0];
            withoutRepeats(values, said, (id) => id > 2);
            return values.map((value) => value === -Infinity); }}""",
            [0, *row],
        )
        assert found == free.isinf().tolist()
        seen.add(tuple(found))
    assert {sum(each) for each in seen} == {0, 1, 2, 4, 5}
    tab.close()


@IN_A_PAGE
def test_photographs_by_the_captioner_that_ships(chromium, tmp_path):
    captioner = load_captioner()
    exported(captioner, tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 45e6
    with opened(tmp_path, chromium) as tab:
        load(tab)
        for name in ("coffee.png", "rocket.jpg", "astronaut.png"):
            path = files("skimage") / "data" / name
            give(tab, str(path))
            expected = captioner.caption([path])[0]
            assert told(tab) == (expected.words, peaks(expected))
            doubts = tab.locator("#live-caption .live-doubted").all_text_contents()
            pairs = zip(expected.words, expected.chances, strict=True)
            sure = [(word, p) for word, p in pairs if p and abs(p - 0.5) > 0.05]
            assert all((word in doubts) == (p < 0.5) for word, p in sure)


def test_settings_are_those_of_the_captioner(captioner):
    known = json.loads(json.dumps(live.settings(captioner)))
    assert [known["words"][known["special"][n]] for n in ("pad", "end")] == [
        "<pad>",
        "<end>",
    ]
    assert [known["words"][n] for n in known["functions"]] == ["a", "and", "here"][:2]


def paint(tab, row, column, side=14):
    """Click on a region of the photograph."""
    tab.locator("#live-brush").scroll_into_view_if_needed()
    box = tab.locator("#live-brush").bounding_box()
    x = box["x"] + (column + 0.5) / side * box["width"]
    tab.mouse.click(x, box["y"] + (row + 0.5) / side * box["height"])
    wait(tab)


@IN_A_PAGE
def test_the_gaze_is_where_it_is_held(folder, chromium):
    """By the mouse and by the keys, from the chosen word on; and then let go."""
    with opened(folder, chromium) as tab:
        assert tab.locator("[name=live-tool]").first.is_disabled()
        load(tab)
        words, looks = told(tab)
        tab.locator("#live-caption button").nth(1).click()
        tab.get_by_label("hold the gaze").check()
        paint(tab, 12, 1)
        held = told(tab)
        assert held[0][0] == words[0] and held[1][0] == looks[0]
        for row, column in held[1][1:]:
            assert 11 <= row <= 13 and 0 <= column <= 2
        text = tab.locator("#live-contrast").text_content()
        assert f"says {held[0][1]} (" in text and f"it said {words[1]} (" in text
        tab.get_by_role("button", name="Start anew").click()
        wait(tab)
        assert told(tab) == (words, looks)
        assert tab.locator("#live-contrast").text_content() == ""

        tab.locator("#live-brush").focus()
        for key in ("Home", *["ArrowUp"] * 14, *["ArrowLeft"] * 14, "ArrowRight", " "):
            tab.keyboard.press(key)
        wait(tab)
        assert tab.locator("#live-status").text_content().endswith(" ms")
        assert all(row <= 1 and column <= 2 for row, column in told(tab)[1][1:])


@IN_A_PAGE
def test_a_quick_stroke_leaves_no_gap(folder, chromium):
    """In one move of the mouse; and one from outside begins where it comes in."""
    with opened(folder, chromium) as tab:
        load(tab)
        tab.get_by_label("hold the gaze").check()
        brush = tab.locator("#live-brush")
        brush.scroll_into_view_if_needed()
        box = brush.bounding_box()

        def stroke(*places):
            for number, (row, column) in enumerate(places):
                x = box["x"] + (column + 0.5) / 14 * box["width"]
                tab.mouse.move(x, box["y"] + (row + 0.5) / 14 * box["height"])
                if number == 0:
                    tab.mouse.down()
            tab.mouse.up()
            wait(tab)
            return [row.count(True) for row in brush.evaluate(ALPHAS)]

        assert stroke((12, -1), (12, 12)) == [0] * 11 + [3] * 3
        assert stroke((1, 1), (1, 12)) == [14] * 3 + [0] * 8 + [3] * 3


ALPHAS = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, 14, 14);
  const at = (row) => (_, column) => data[4 * (14 * row + column) + 3] > 0;
  return Array.from({ length: 14 }, (_, row) => Array.from({ length: 14 }, at(row)));
}"""
AT_ONCE = """text => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const given = new DataTransfer(), input = document.getElementById("live-file");
  given.items.add(new File([bytes], "1.png", { type: "image/png" }));
  input.files = given.files;
  input.dispatchEvent(new Event("change"));
  const canvas = document.getElementById("live-brush");
  const { x, y } = canvas.getBoundingClientRect();
  const place = { clientX: x + 5, clientY: y + 5 };
  const stroke = new PointerEvent("pointerdown", { buttons: 1, ...place });
  canvas.parentElement.dispatchEvent(stroke);
}"""


@IN_A_PAGE
def test_another_photograph_begins_anew(folder, chromium, pictures):
    """A stroke that comes before its caption holds nothing."""
    file = io.BytesIO()
    pictures[1].save(file, "PNG")
    with opened(folder, chromium) as tab:
        load(tab)
        tab.get_by_label("hold the gaze").check()
        tab.evaluate(AT_ONCE, base64.b64encode(file.getvalue()).decode())
        wait(tab)
        assert told(tab)[0] == SENTENCES[2].split()
        assert tab.locator("#live-contrast").text_content() == ""


@IN_A_PAGE
def test_the_beam_that_is_shown_is_held(folder, chromium):
    with opened(folder, chromium) as tab:
        load(tab)
        tab.locator("#live-others").evaluate("list => list.parentElement.open = true")
        others = tab.locator("#live-others button")
        others.nth(2).click()
        assert others.nth(2).get_attribute("aria-pressed") == "true"
        shown = told(tab)[0]
        tab.locator("#live-caption button").last.click()
        tab.get_by_label("hold the gaze").check()
        paint(tab, 3, 3)
        held, last = told(tab)[0], len(shown) - 1
        assert held[:last] == shown[:last]
        text = tab.locator("#live-contrast").text_content()
        assert f"from word {last + 1} on" in text and f"it said {shown[-1]} (" in text


@IN_A_PAGE
def test_a_picture_that_the_browser_cannot_draw_gets_a_sentence(
    folder, chromium, tmp_path
):
    Image.new("RGB", (70_000, 20), "red").save(tmp_path / "long.png")
    with opened(folder, chromium) as tab:
        load(tab)
        give(tab, tmp_path / "long.png", "error")
        error = tab.locator("#live-error").text_content()
        assert "70000 x 20 pixels, more than this browser can draw" in error
        assert tab.locator("#live-told").text_content() == ""


@IN_A_PAGE
def test_what_is_rubbed_out_is_not_seen(folder, chromium, captioner, pictures):
    """The page takes regions away as one would with a picture in Python."""
    with opened(folder, chromium) as tab:
        load(tab)
        words, _ = told(tab)
        tab.locator("#live-caption button").nth(2).click()
        tab.get_by_role("button", name="Rub out what the word").click()
        wait(tab)
        text = tab.locator("#live-contrast").text_content()
        lost = [word for word in words if word not in told(tab)[0]]
        assert f"{len(words) - len(lost)} are said without" in text
        assert all(word in text for word in lost)
        tab.get_by_role("button", name="Start anew").click()
        wait(tab)
        tab.get_by_label("rub out", exact=True).check()
        paint(tab, 7, 7)
        src = tab.locator("#live-photograph").get_attribute("src")
        square = load_photograph(
            io.BytesIO(base64.b64decode(src.partition(",")[2])), 64
        )
        place = np.arange(64) * 14 // 64
        gone = np.outer(abs(place - 7) <= 1, abs(place - 7) <= 1)
        for colour in square:
            colour[gone] = int(colour.mean())
        expected = captioner.caption([square.transpose(1, 2, 0)])[0]
        assert told(tab) == (expected.words, peaks(expected))


@IN_A_PAGE
def test_the_whole_step_shows_its_numbers(folder, chromium, captioner, pictures):
    """At the chosen word, those that PyTorch computes; of one, before it is loaded."""
    with opened(folder, chromium) as tab:
        boxes, words = (
            tab.locator("#live-boxes > li"),
            tab.locator("#live-caption button"),
        )
        tab.locator("#live-step > summary").click()
        expect(boxes).to_have_count(7)
        prepared = boxes.all_text_contents()
        words.nth(2).click()
        expect(boxes).to_contain_text("as soon as the captioner is loaded")
        load(tab)
        expect(boxes.nth(2)).to_have_text(prepared[2])
        words.nth(2).click()
        names = boxes.locator("a").all_text_contents()
        assert names[:4] == ["cells", "scores", "weights", "context"]
        assert boxes.locator("a[href]").count() == 0  # no chapter lies beside it
        shown = pictures[0].copy()
        expected = captioner.caption([shown])[0]
        weight, gate = expected.alphas[2].max(), expected.gates[2]
        expect(boxes.nth(2)).to_contain_text(f"The largest: {100 * weight:.0f} %")
        assert f"open {100 * gate:.0f} %" in boxes.nth(4).text_content()
        assert f"{expected.words[2]} " in boxes.nth(6).text_content()
        assert boxes.nth(5).locator("canvas").count() == 4


@IN_A_PAGE
@pytest.mark.parametrize("width", [320, 380, 1280])
def test_nothing_is_cut_or_too_small_for_a_finger(folder, chromium, width):
    with opened(folder, chromium) as tab:
        tab.set_viewport_size({"width": width, "height": 900})
        load(tab)
        tab.locator("#live-step > summary").click()
        tab.locator("#live-boxes > li").nth(6).wait_for()
        wide = "document.documentElement.scrollWidth - innerWidth"
        assert tab.evaluate(wide) <= 0
        for part in tab.locator(".live button:visible, #live-beams").all():
            box = part.bounding_box()
            assert box["height"] >= 24 and box["x"] + box["width"] <= width


@IN_A_PAGE
def test_a_gallery_gives_its_pictures(captioner, pictures, tmp_path, chromium):
    gallery = [(picture, f"scene {n}") for n, picture in enumerate(pictures)]
    exported(captioner, tmp_path, *gallery[0], gallery)
    with opened(tmp_path, chromium) as tab:
        load(tab)
        for number, said in enumerate(SENTENCES.values()):
            tab.get_by_role("button", name=f"scene {number}").click()
            wait(tab)
            assert told(tab)[0] == said.split()
