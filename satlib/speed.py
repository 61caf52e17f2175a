# Written by `python -m satlib.tangle` from chapters/speed.md: edit that.
# chapters/speed.md: Speed: the same mathematics, in a fraction of the time
"""All ratios to the textbook's form in one run: `python -m satlib.speed`."""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from satlib import benchmark as race
from satlib.batches import CaptionDataset, batches, cache_features
from satlib.beam_search import beam_search
from satlib.captioner import load_captioner
from satlib.dataset import Files, create_input_files
from satlib.decoder import pack, textbook_forward
from satlib.encoder import build_encoder
from satlib.files import keep_results
from satlib.photographs import write_images
from satlib.scenes import write_scenes
from satlib.training import mixed_precision, train

COMMAND = "python -m satlib.speed"


# chapters/speed.md: An epoch on photographs
def epoch_data(folder, encoder, name, count=60):
    """Write scenes and their cells as data files; return both kinds of dataset."""
    scenes = write_scenes(folder / "scenes", count)
    source = scenes / "captions.txt", scenes / "images", folder
    base = create_input_files("scenes", *source, min_freq=0, splits=scenes)
    files = Files(folder, base)
    images = files.path("images", "TRAIN")
    cells = cache_features(encoder, images, folder / f"{name}.hdf5")
    return [CaptionDataset(files, "TRAIN", path) for path in (None, cells)]


# chapters/speed.md: An epoch on photographs
def textbook_epoch(decoder, optimizer, encoder, images):
    """Train for one epoch as the textbook does: the encoder runs for each caption."""
    for rows in torch.randperm(5 * len(images)).split(80):
        items = [(*images[row // 5], row % 5) for row in rows.tolist()]
        pictures = torch.stack([picture for picture, *_ in items])
        captions = torch.stack([texts[k] for _, texts, _, k in items])
        lengths = torch.stack([lengths[k] for _, _, lengths, k in items])
        with torch.no_grad():
            regions = decoder.pool @ encoder(pictures)
        forward = partial(textbook_forward, decoder, regions)
        race.training_step(forward, optimizer, captions, lengths)


# chapters/speed.md: An epoch on photographs
def epoch_products(sizes, dataset):
    """List the matrix products of an epoch of ours: (how many at once, r, s, t)."""
    found = []
    for _, captions, lengths, *_ in batches(dataset, 16, seed=0):
        images = len(captions) // 5
        these = replace(sizes, images=images, per_image=5)
        found += race.products(these, pack(captions, lengths).batch_sizes)
    return found


# chapters/speed.md: An epoch on photographs
def epoch_times(sizes, encoder_name="efficientnet_b4", repeats=5):
    """Return the seconds of epochs from the second on, the textbook's and ours."""
    decoder, *_ = race.example(sizes)
    optimizer = race.adam(decoder)
    encoder = build_encoder(encoder_name, pretrained=False)

    def ours():
        loader = batches(cells, 16, seed=0)
        with redirect_stdout(io.StringIO()):
            train(loader, None, decoder, None, optimizer, epoch=1)

    with tempfile.TemporaryDirectory() as folder:
        images, cells = epoch_data(Path(folder), encoder, encoder_name)
        textbook = partial(textbook_epoch, decoder, optimizer, encoder, images)
        forms = {"textbook": textbook, "ours": ours}
        forms["in bfloat16"] = race.in_bfloat16(ours)
        forms["products alone"] = race.only_products(epoch_products(sizes, cells))
        return race.compare(forms, repeats)


# chapters/speed.md: Writing the data files
def made_up_photographs(folder, count, width=500, seed=28):
    """Write JPEGs, smooth with some noise, 3/4 as high as wide; return their names."""
    random, names = np.random.default_rng(seed), [f"{i}.jpg" for i in range(count)]
    size = width, 3 * width // 4
    for name in names:
        colours = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        smooth = Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth) + random.normal(0, 8, (*size[::-1], 1))
        picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        picture.save(folder / name, quality=90)
    return names


# chapters/speed.md: Writing the data files
def file_times(count=1000, repeats=5):
    """Return the seconds of reading photographs by Pillow alone, and writing them."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        names = made_up_photographs(folder, count)

        def square(name):
            with Image.open(folder / name) as image:
                size, filtering = (256, 256), Image.Resampling.BICUBIC
                return np.asarray(image.convert("RGB").resize(size, filtering))

        def pillow():
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                return sum(1 for _ in pool.map(square, names))

        ours = partial(write_images, folder / "images.hdf5", folder, names, 5)
        with redirect_stdout(io.StringIO()):
            return race.compare({"Pillow alone": pillow, "ours": ours}, repeats)


# chapters/speed.md: A folder of photographs
def folder_times(count=64, width=4000, repeats=3):
    """Return the seconds of captioning a folder: textbook, ours in turn, and ours."""
    captioner = load_captioner()
    size, pool = captioner.image_size, captioner.decoder.pool

    def square(path):
        with Image.open(path) as image:
            image = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    @torch.inference_mode()
    def textbook(paths):
        for path in paths:
            (cells,) = captioner.encoder(square(path)[None])
            regions = cells if pool is None else pool @ cells
            race.textbook_search(captioner.decoder, regions, captioner.word_map, 5, 50)

    @torch.inference_mode()
    def in_turn(paths):
        for start in range(0, len(paths), 16):
            cells = captioner.look(paths[start : start + 16])
            beam_search(captioner.decoder, cells, captioner.word_map, 5, 50)

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        names = made_up_photographs(Path(folder), count, width)
        paths = [Path(folder, name) for name in names]
        ways = {"textbook": textbook, "in turn": in_turn, "ours": captioner.caption}
        ways = {name: partial(way, paths) for name, way in ways.items()}
        return race.compare(ways, repeats)


# chapters/speed.md: Several processes
SHARED_RUN = {"scenes": 320, "stage": 8, "image_size": 256, "min_freq": 0, "epochs": 2}
SHARED_RUN |= {"batch_size": 32, "attention_dim": 512, "embed_dim": 512}
SHARED_RUN |= {"decoder_dim": 512}


def process_times(pairs=((1, 1), (1, 2), (2, 1))):
    """Return the seconds of a step for each pair: processes, and threads of each."""
    found = {}
    for processes, threads in pairs:
        with tempfile.TemporaryDirectory() as folder:
            run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            run += [f"--nproc-per-node={processes}", "-m", "satlib.fit"]
            for name, value in (SHARED_RUN | {"output": folder}).items():
                run += ["-p", name, str(value)]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            subprocess.run(run, env=environment, check=True, capture_output=True)
            rows = Path(folder, "log.jsonl").read_text().splitlines()
        name = f"{processes} × {threads} threads"
        found[name] = json.loads(rows[-1])["train_batch_time"]
    return found


# chapters/speed.md: Memory, and straight lines
def peak_memory(function):
    """Return the most bytes that the tensors made by a function take at once."""
    with torch.profiler.profile(profile_memory=True) as profiler:
        function()
    events = profiler.profiler.kineto_results.events()
    memory = [event for event in events if event.name() == "[memory]"]
    memory.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in memory))


# chapters/speed.md: Memory, and straight lines
def peaks(sizes):
    """Return the peak memory of a training step of the textbook's, and of ours."""
    decoder, cells, *captions = race.example(sizes)
    optimizer, forms = race.adam(decoder), race.forms_of_forward(decoder, cells)
    textbook, *_, ours = (
        partial(race.training_step, forward, optimizer, *captions)
        for forward in forms.values()
    )
    textbook()  # Adam's own memory comes with the first step
    found = {}
    for name, step in {"textbook": textbook, "ours": ours}.items():
        optimizer.zero_grad()  # an older step's gradients would be freed in this one
        found[name] = peak_memory(step)
    return found


# chapters/speed.md: Memory, and straight lines
GROWTH = {
    "images": (8, 16, 32, 64),
    "side": (7, 10, 12, 16),
    "words": (5, 10, 20, 40),
    "vocab_size": (1250, 2500, 5000, 10_000),
}


def growth(sizes, name, values, repeats=5):
    """Return the median seconds of our training step for each value of a size."""
    found = []
    for value in values:
        length = {"shortest": value, "longest": value}
        changed = replace(sizes, **(length if name == "words" else {name: value}))
        decoder, cells, *captions = race.example(changed)
        forward, optimizer = partial(decoder, cells), race.adam(decoder)
        step = partial(race.training_step, forward, optimizer, *captions)
        found.append(np.median(race.compare({"step": step}, repeats)["step"]))
    return found


# chapters/speed.md: Everything, at the textbook's sizes
def limit(sizes):
    """Return a training step's operations, and how many a second a square makes."""
    *_, captions, lengths = race.example(sizes)
    shapes = race.products(sizes, pack(captions, lengths).batch_sizes)
    multiply = race.only_products([(1, 2048, 2048, 2048)])
    square = np.median(race.compare({"square": multiply})["square"])
    return {
        "operations": race.operations(shapes),
        "square, operations a second": 2 * 2048**3 / square,
    }


BEAMS = (1, 2, 5, 10)


def search_growth(sizes, repeats=5):
    """Return the median seconds of our beam search for an image, for each beam size."""
    some = replace(sizes, images=20)
    times = [race.search_times(some, beam_size=k, repeats=repeats) for k in BEAMS]
    return [np.median(found["ours"]) / some.images for found in times]


# chapters/speed.md: Everything, at the textbook's sizes
def measure(sizes, images=100, photographs=1000, repeats=5):
    """Run all benchmarks; return their figures, times in seconds, memory in bytes."""
    return {
        "training": race.training_times(sizes, repeats),
        "limit": limit(sizes),
        "five": race.training_times(replace(sizes, per_image=5), repeats=3),
        "book": race.training_times(race.BOOK, repeats),
        "book, search": race.search_times(replace(race.BOOK, images=20)),
        "operations": race.operation_times(repeats),
        "search": race.search_times(replace(sizes, images=images), repeats=repeats),
        "epoch": epoch_times(sizes, repeats=repeats),
        "files": file_times(photographs, repeats),
        "folder": folder_times(),
        "processes": process_times(),
        "memory": peaks(sizes),
        "beams": search_growth(sizes),
        "growth": {name: growth(sizes, name, v) for name, v in GROWTH.items()},
    }


# chapters/speed.md: Everything, at the textbook's sizes
def table(found):
    """Return rows of the table: what, the ratio or share, the smallest, the largest."""
    first, last = "textbook", "shared operations"
    pairs = {
        "training step": (found["training"], first, last),
        "training step, five captions an image": (found["five"], first, last),
        "epoch on photographs": (found["epoch"], "textbook", "ours"),
        "captions with beam 5": (found["search"], "textbook", "ours"),
        "captioning a folder": (found["folder"], "textbook", "ours"),
        "a folder, in turn or side by side": (found["folder"], "in turn", "ours"),
        "beam 5, times beam 1": (found["search"], "ours", "beam 1"),
        "writing files, times Pillow alone": (found["files"], "ours", "Pillow alone"),
        "share of the matrix speed": (found["training"], "products alone", last),
    }
    rows = [(what, *race.ratios(*pair)) for what, pair in pairs.items()]
    one, two = (found["processes"][f"{n} × 1 threads"] for n in (1, 2))
    memory = found["memory"]["ours"] / found["memory"]["textbook"]
    once = {"two processes, a thread each": one / two}
    once["peak memory, share of the textbook's"] = memory
    return [*rows, *((what, *[ratio] * 3) for what, ratio in once.items())]


def print_table(rows):
    """Print the rows of the table."""
    for what, middle, least, most in rows:
        print(f"{what:40} {middle:6.2f}  ({least:.2f} to {most:.2f})")


# chapters/speed.md: Everything, at the textbook's sizes
def limits(found):
    """Return rows: what, how many times as long as ours the textbook's form takes.

    And the same, in the place of ours, for each of `OTHERS`.
    """
    measured = {
        "training step": (found["training"], "shared operations"),
        "training step, five captions an image": (found["five"], "shared operations"),
        "epoch on photographs": (found["epoch"], "ours"),
        "captions with beam 5": (found["search"], "ours"),
    }
    return [
        (what, *(race.ratios(times, "textbook", form)[0] for form in (ours, *OTHERS)))
        for what, (times, ours) in measured.items()
    ]


OTHERS = "in bfloat16", "products alone"


# chapters/speed.md: On a GPU
def gpu_peak(function):
    """Return the most bytes of a CUDA device that are taken while a function runs."""
    torch.cuda.reset_peak_memory_stats()
    function()
    return torch.cuda.max_memory_allocated()


def gpu_busy(function):
    """Return the seconds for which a CUDA device is at work while a function runs."""
    with torch.profiler.profile() as profiler:
        function()
        race.wait()
    on_device = [
        event.self_device_time_total
        for event in profiler.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
        and not event.is_user_annotation
    ]
    return sum(on_device) / 1e6


# chapters/speed.md: On a GPU
def gpu_steps(sizes, device, repeats=5):
    """Return of a training step in three forms: seconds, those at work, peak bytes."""
    with device:
        decoder, cells, *captions = race.example(sizes)
    textbook, *_, ours = race.forms_of_forward(decoder, cells).values()
    forms = {"textbook": textbook, "ours": ours}
    forms["ours, mixed precision"] = mixed_precision(device)(ours)
    optimizer = race.adam(decoder)
    steps = {
        name: partial(race.training_step, forward, optimizer, *captions)
        for name, forward in forms.items()
    }
    return {
        "seconds": race.compare(steps, repeats),
        "at work": {name: gpu_busy(step) for name, step in steps.items()},
        "bytes": {name: gpu_peak(step) for name, step in steps.items()},
    }


# chapters/speed.md: On a GPU
def gpu_encoding(device, name, *choices, images=128):
    """Return the seconds that an encoder takes for each of `images` pictures."""
    encoder = build_encoder(name, False, *choices).to(device)
    shape = images, 3, encoder.image_size, encoder.image_size
    pictures = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    with torch.inference_mode():
        times = race.compare({"encoder": partial(encoder, pictures)})["encoder"]
    return [seconds / images for seconds in times]


def gpu_search(sizes, device, images=100):
    """Return the seconds of captioning `images` images: textbook, ours, greedy."""
    with device:
        example = race.search_example(replace(sizes, images=images))
        return race.compare(race.forms_of_search(*example), repeats=3)


# chapters/speed.md: On a GPU
GPU_SIZES = {
    "textbook's": race.Sizes(),
    "textbook's, 5 captions each": race.Sizes(per_image=5),
    "book's": race.BOOK,
    "book's, 64 images": replace(race.BOOK, images=64),
}
ENCODERS = ("efficientnet_lite0", 224, 5), ("efficientnet_b4", 256)


def measure_gpu(device):
    """Run all measurements on a CUDA device; return their figures."""
    searched = "textbook's", "book's"
    return {
        "steps": {name: gpu_steps(s, device) for name, s in GPU_SIZES.items()},
        "encoding": {name: gpu_encoding(device, name, *c) for name, *c in ENCODERS},
        "search": {name: gpu_search(GPU_SIZES[name], device) for name in searched},
    }


# chapters/speed.md: On a GPU
def gpu_lines(found):
    """Yield a line for each figure of `measure_gpu`, the middle of its rounds."""
    for size, step in found["steps"].items():
        for form, times in step["seconds"].items():
            busy, peak = 1000 * step["at work"][form], step["bytes"][form] / 2**30
            line = f"{1000 * np.median(times):5.0f} ms, at work {busy:4.0f} ms"
            yield f"{size:27} {form:22} {line}, {peak:4.1f} GB"
    for name, times in found["encoding"].items():
        yield f"{name:50} {1 / np.median(times):6.0f} pictures a second"
    for size, forms in found["search"].items():
        for form, times in forms.items():
            line = f"{100 / np.median(times):6.0f} captions a second"
            yield f"{size:27} {form:22} {line}"


# chapters/speed.md: On a GPU
def main(arguments=None):
    """Measure the speed of this machine, or of its GPU, and keep the outcome."""
    parser = argparse.ArgumentParser(COMMAND, description=main.__doc__)
    parser.add_argument("--gpu", action="store_true", help="measure a CUDA device")
    gpu = parser.parse_args(arguments).gpu
    if gpu and not torch.cuda.is_available():
        parser.error("--gpu: PyTorch finds no CUDA device on this machine")
    if gpu:
        found = measure_gpu(torch.device("cuda"))
        print(*gpu_lines(found), sep="\n")
        print(keep_results("gpu", f"{COMMAND} --gpu", 28, **found))
    else:
        found = measure(race.Sizes())
        print_table(table(found))
        print(keep_results("speed", COMMAND, 28, **found))


# chapters/speed.md: On a GPU
if __name__ == "__main__":
    main()
