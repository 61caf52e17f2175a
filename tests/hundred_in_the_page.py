"""Caption a hundred pictures in a page and in Python, and print how many are equal.

Run it as `python tests/hundred_in_the_page.py [FOLDER …]`, with folders of photographs.
It takes some minutes, needs Chromium and npm, and keeps what it found.
"""

import json
import sys
import tempfile
import time
from importlib.resources import files
from itertools import chain, islice
from pathlib import Path

import torch
from conftest import CHROMIUM
from playwright.sync_api import sync_playwright
from test_live import exported, give, load, opened, peaks, told

from satlib.captioner import load_captioner
from satlib.files import keep_results
from satlib.live import Graphs, as_byte, as_half, caption_by, graphs_of, smaller
from satlib.scenes import draw, make_scene

COUNT, SCENES, SEED = 100, 20, 3_200_000
FREE = "astronaut camera chelsea coffee horse rocket motorcycle_left retina text"


def pictures(folders, scratch):
    """List the paths of a hundred pictures: scikit-image's, drawn, from the folders."""
    names = [f"{name}.{end}" for name in FREE.split() for end in ("png", "jpg")]
    found = [Path(str(files("skimage") / "data" / name)) for name in names]
    found = [path for path in found if path.exists()]
    given = [sorted(Path(folder).glob("*.jpg")) for folder in folders]
    scenes = SCENES if given else COUNT - len(found)
    for number in range(scenes):
        path = Path(scratch, f"scene {number}.png")
        draw(make_scene(SEED + number))[0].save(path)
        found.append(path)
    some = [each[:: max(1, len(each) // COUNT)] for each in given]
    turns = chain.from_iterable(zip(*some, strict=False))
    return [*found, *islice(turns, COUNT - len(found))]


def blank():
    return {"pictures": 0, "captions": 0, "words": 0, "peaks": 0}


def count(found, words, places, expected):
    """Count a caption, and the peaks of its maps if it is equal; tell whether it is."""
    found["pictures"] += 1
    if words != expected.words:
        return False
    found["captions"] += 1
    found["words"] += len(words)
    pairs = zip(places, peaks(expected), strict=True)
    found["peaks"] += sum(a == b for a, b in pairs)
    return True


def compare(tab, captioner, graphs, paths):
    """Caption pictures in all ways; return the counts and the mean times in seconds."""
    equal = {name: blank() for name in ["the page", *graphs]}
    seconds = {"page": 0.0, "python": 0.0}
    for path in paths:
        give(tab, path)
        told_ms = int(tab.locator("#live-status").text_content().split()[0])
        start = time.perf_counter()
        expected = captioner.caption([path])[0]
        seconds["python"] += (time.perf_counter() - start) / len(paths)
        seconds["page"] += told_ms / 1000 / len(paths)
        if not count(equal["the page"], *told(tab), expected):
            print(f"{path.name}: {' '.join(told(tab)[0])} | {' '.join(expected.words)}")
        for name, each in graphs.items():
            by = caption_by(each, captioner, path)
            count(equal[name], by.words, peaks(by), expected)
    return {"equal": equal, "seconds": seconds}


def kept_in_bits(captioner):
    """Return the captioner's graphs, with weights of so many bits."""
    (look, speak), _ = graphs_of(captioner)
    half, byte = smaller(look, as_half), smaller(speak, as_byte)
    return {
        "graphs in 16 bits": Graphs(half, smaller(speak, as_half)),
        "the step in 8 bits": Graphs(half, byte),
        "both in 8 bits": Graphs(smaller(look, as_byte), byte),
    }


def main(folders):
    """Compare, print and keep."""
    torch.set_num_threads(1)
    captioner = load_captioner()
    graphs = kept_in_bits(captioner)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        paths = pictures(folders, scratch)
        folder = exported(captioner, Path(scratch, "page"))
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        with opened(folder, browser) as tab:
            load(tab)
            found = compare(tab, captioner, graphs, paths)
        browser.close()
    print(json.dumps(found, indent=1))
    keep_results("live", "python tests/hundred_in_the_page.py", SEED, **found)


if __name__ == "__main__":
    main(sys.argv[1:])
