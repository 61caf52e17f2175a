"""A tiny captioned world for tests: flat pictures, captions that name the colour."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads only wait

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from satlib.captioner import Captioner  # noqa: E402
from satlib.configuration import Config  # noqa: E402
from satlib.decoder import Decoder  # noqa: E402
from satlib.encoder import Encoder, build_encoder  # noqa: E402
from satlib.fit import fit  # noqa: E402
from satlib.scenes import draw, make_scene  # noqa: E402
from satlib.tangle import ROOT  # noqa: E402
from satlib.training import caption_loss  # noqa: E402

TRIED = pytest.StashKey()
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def pytest_configure(config):
    config.stash[TRIED] = Counter()


@pytest.fixture(scope="session")
def tried(request):
    """How many of each kind of thing were tried: the last line of a run tells it."""
    return request.config.stash[TRIED]


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of several processes
        session.config.workeroutput["tried"] = dict(session.config.stash[TRIED])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    if not error:
        node.config.stash[TRIED].update(node.workeroutput["tried"])


def pytest_terminal_summary(terminalreporter, config):
    passed = terminalreporter.getreports("passed")
    faults = sum("/test_faults_" in f"/{report.nodeid}" for report in passed)
    counts = {"faults": faults} | config.stash[TRIED]
    told = ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)
    if told:
        terminalreporter.write_line(f"tried: {told}")


COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220)}


def write_world(folder, count=32):
    """Write `count` pictures, a caption table and split lists; return the folder."""
    images = folder / "Images"
    images.mkdir(parents=True)
    names, lines = [], ["image,caption"]
    for number in range(count):
        colour, rgb = list(COLOURS.items())[number % 3]
        name = f"{number:03}.png"
        picture = np.full((48, 64, 3), rgb, np.uint8)
        picture[10:20, number % 20 : number % 20 + 20] = 255 - number
        Image.fromarray(picture).save(images / name)
        lines += [
            f"{name},This picture is all {colour}.",
            f"{name},It is {colour} here.",
        ]
        names.append(name)
    (folder / "captions.csv").write_text("\n".join(lines))
    cuts = {"train": names[:-8], "val": names[-8:-4], "test": names[-4:]}
    for split, own in cuts.items():
        (folder / f"{split}.txt").write_text("\n".join(own))
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The folder of a tiny captioned world: Images/, captions.csv, train.txt, …"""
    return write_world(tmp_path_factory.mktemp("world") / "small")


@pytest.fixture(scope="session")
def flickr(tmp_path_factory):
    """The folder of a tiny world under the names that Flickr8k's files have."""
    folder = write_world(tmp_path_factory.mktemp("flickr") / "small")
    colours = list(COLOURS) * 11
    lines = [
        f"{number:03}.png#{k}\tThis picture is {colours[number]}, all of it{k}."
        for number in range(32)
        for k in range(5)
    ]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines))
    return folder


class Pixels(torch.nn.Linear):
    """An encoder whose cells are made of pixels; it tells images from cached cells."""

    def forward(self, images):
        assert images.dtype == torch.uint8
        return super().forward(images.flatten(2).transpose(1, 2).float() / 255)

    def finish(self, cells):
        assert cells.dtype == torch.float32
        return super().forward(cells)


SENTENCES = {  # of the scenes with these seeds
    1: "a red cat sits here",
    2: "here sits a blue ball",
    3: "a red cat and a blue ball",
}
PLACES = [(0, 4), (9, 1), (4, 9), (10, 5), (1, 7), (6, 0), (3, 10)]  # row, column


def tiny_captioner():
    """Train a captioner, about a second, to say a sentence for each scene.

    It is also taught where to look: for each word at another place, none of them on a
    diagonal or in the middle.
    """
    torch.manual_seed(0)
    words = ["<pad>", "a", "red", "blue", "cat", "ball", "and", "sits", "here"]
    words += ["<start>", "<end>", "<unk>"]
    word_map = {word: number for number, word in enumerate(words)}
    encoder = build_encoder(image_size=64, stage=5)
    decoder = Decoder(16, 16, 32, len(words), encoder.encoder_dim, pool=encoder.pool)
    captioner = Captioner(encoder, decoder, word_map, 64)
    device = captioner.device
    said = [["<start>", *text.split(), "<end>"] for text in SENTENCES.values()]
    lengths = torch.tensor([len(row) for row in said], device=device)
    rows = torch.zeros(len(said), max(map(len, said)), dtype=torch.long, device=device)
    for row, text in zip(rows, said, strict=True):
        row[: len(text)] = torch.tensor([word_map[word] for word in text])
    cells = captioner.look([draw(make_scene(seed))[0] for seed in SENTENCES]).clone()
    optimizer = torch.optim.Adam(decoder.parameters(), 0.01)
    looks = torch.zeros(7, 14, 14, device=device)
    for look, (row, column) in zip(looks, PLACES, strict=True):
        look[row : row + 4, column : column + 4] = 1
    for _ in range(80):
        decoded = decoder(cells, rows, lengths)
        step = decoded.step.clamp(max=len(looks) - 1)
        maps = decoded.alphas[decoded.caption, decoded.step]
        held = (maps * looks[step].flatten(1)).sum(1)
        loss = caption_loss(decoded, 0.0)[0] - held.log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return captioner


@pytest.fixture(scope="session")
def pictures():
    """The pictures that the tiny captioner has learnt to caption."""
    return [draw(make_scene(seed))[0] for seed in SENTENCES]


@pytest.fixture(scope="session")
def captioner(pictures):
    """A captioner that says sentences, and looks elsewhere for each word."""
    captioner = tiny_captioner()
    captions = captioner.caption(pictures)
    assert [str(caption) for caption in captions] == [*SENTENCES.values()]
    for alphas in (caption.alphas for caption in captions):
        assert differ(alphas[0], alphas[1]) and differ(alphas[-1], alphas[-2])
        for alpha in alphas:
            assert differ(alpha, alpha.T)
            assert differ(alpha, alpha[::-1]) and differ(alpha, alpha[:, ::-1])
    return captioner


def differ(a, b):
    """Tell whether a map is clearly another one."""
    return abs(a - b).max() > 2 / 196


RED, BLUE = (3, 10), (8, 2)  # of 14 × 14 regions: row, column


def spotted(red=RED, blue=BLUE, cells=14, size=224):
    """Paint a black picture with a red and a blue cell; take (row, column) of each."""
    picture = np.zeros((size, size, 3), np.uint8)
    for channel, (row, column) in ((0, red), (2, blue)):
        rows = slice(row * size // cells, (row + 1) * size // cells)
        columns = slice(column * size // cells, (column + 1) * size // cells)
        picture[rows, columns, channel] = 255
    return picture


def planted_captioner(size=224):
    """Make a captioner by hand that says "red blue" and looks at a cell of each colour.

    Its encoder gives the mean colour of each cell, 14 × 14 for a size of 224, 8 × 8 for
    one of 256. Its decoder counts the words in its second unit; its first unit holds
    what it has just seen, and without that it would rather say "a".
    """
    words = ["<pad>", "a", "red", "blue", "<start>", "<end>", "<unk>"]
    same = [torch.nn.Conv2d(3, 3, 1, bias=False) for _ in range(3)]
    for layer in same:
        torch.nn.init.dirac_(layer.weight)
    network = torch.nn.Sequential(torch.nn.AvgPool2d(16 if size == 224 else 32), *same)
    encoder = Encoder("spots", network, (0.0,) * 3, (1.0,) * 3, size)
    decoder = Decoder(2, 1, 2, len(words), 3, pool=encoder.pool)
    for parameter in decoder.parameters():
        torch.nn.init.zeros_(parameter)
    attention, cell, fc = decoder.attention, decoder.decode_step, decoder.fc
    with torch.no_grad():
        attention.encoder_att.weight[0, 0] = attention.encoder_att.weight[1, 2] = 1
        attention.decoder_att.weight[:, 1] = torch.tensor([-10.0, 10.0])
        attention.decoder_att.bias[1] = -1
        attention.full_att.weight[:] = 20
        decoder.f_beta.bias[:] = 20
        cell.weight_ih[4, 1:] = 10  # the candidate of the first unit: what is seen
        cell.bias_ih[:] = torch.tensor([20.0, 0, -20, 20, 0, 10, 20, 20])
        fc.weight[2, 0] = fc.weight[3, 0] = 10
        fc.weight[:, 1] = torch.tensor([0.0, 53, 0, 80, 0, 300, 0])
        fc.bias[:] = torch.tensor([0.0, -20.5, 0, -45, 0, -225, 0])
    return Captioner(encoder, decoder, {w: n for n, w in enumerate(words)}, size)


@pytest.fixture(scope="session")
def planted():
    """A captioner made by hand, of which is known where it must look."""
    return planted_captioner()


@pytest.fixture(scope="session")
def done(world, tmp_path_factory):
    """The configuration of a run of one epoch, which is done."""
    paths = {"captions": world / "captions.csv", "images": world / "Images"}
    paths |= {"splits": world, "output": tmp_path_factory.mktemp("done") / "run"}
    paths = {name: str(path) for name, path in paths.items()}
    choices = {"min_freq": 0, "image_size": 64, "stage": 5, "epochs": 1}
    choices |= {"attention_dim": 8, "embed_dim": 8, "decoder_dim": 8, "batch_size": 4}
    config = Config(dataset="world", **paths, **choices)
    fit(config)
    return config


@pytest.fixture
def copied(done, tmp_path):
    """The same run in a folder of its own, to be spoilt: (configuration, folder)."""
    shutil.copytree(done.output, tmp_path / "run")
    return replace(done, output=str(tmp_path / "run")), tmp_path / "run"


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


def small_book(folder, page, **scripts):
    """Build a book of one page in a folder, as ours is built; return the page."""
    page = textwrap.dedent(page).replace("TESTS", repr(str(ROOT / "tests")))
    (folder / "page.md").write_text(page)
    (folder / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    config = (ROOT / "_config.yml").read_text()
    config = re.sub(r"\bchapters/(?=_|references)", f"{ROOT}/chapters/", config)
    (folder / "_config.yml").write_text(config)
    command = [Path(sys.executable).with_name("jupyter-book"), "build", folder]
    chosen = {key: value for key, value in os.environ.items() if key != "BOOK_SCRIPTS"}
    how = {"capture_output": True, "text": True, "timeout": 250}
    run = subprocess.run(command, env=chosen | scripts, **how)
    path = folder / "_build/html/page.html"
    assert path.exists(), run.stdout + run.stderr
    return path
