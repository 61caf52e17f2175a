"""The dataset's items, its batches, and a feature cache that is never stale."""

import json
import pickle
import shutil
import subprocess
import sys
from collections import Counter

import h5py
import pytest
import torch
from torch.utils.data import RandomSampler

from satlib import batches as batch_room
from satlib import scale
from satlib.batches import (
    CaptionDataset,
    augmentation,
    batches,
    cache_features,
    is_cached,
    shown,
)
from satlib.dataset import Files, create_input_files
from satlib.encoder import build_encoder
from satlib.files import write_json


@pytest.fixture(scope="module")
def files(world, tmp_path_factory):
    output = tmp_path_factory.mktemp("files")
    base = create_input_files(
        "world",
        world / "captions.csv",
        world / "Images",
        output,
        caps_per_img=3,
        min_freq=0,
        max_length=8,
        splits=world,
        image_size=64,
    )
    return Files(output, base)


@pytest.fixture(scope="module")
def encoder():
    return build_encoder(image_size=64)


def test_items_are_the_rows_of_the_files(files):
    dataset = CaptionDataset(files, "TRAIN")
    image, captions, lengths = dataset[5]
    assert len(dataset) == 24
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
    rows = files.read("captions", "TRAIN")
    assert captions.tolist() == rows[15:18]
    assert lengths.tolist() == files.read("caplens", "TRAIN")[15:18]


@pytest.mark.parametrize("workers", [0, 2])
def test_several_workers_give_the_same_batches(files, workers):
    dataset = CaptionDataset(files, "TRAIN")
    first_image = dataset[0][0]  # the parent has opened the file before it forks
    loader = batches(dataset, 5, workers=workers)
    images, captions, lengths = zip(*loader, strict=True)
    assert [len(i) for i in images] == [5, 5, 5, 5, 4]
    assert [len(c) for c in captions] == [15, 15, 15, 15, 12]
    assert torch.equal(images[0][0], first_image)
    assert torch.equal(torch.cat(captions), dataset.captions.flatten(0, 1))
    assert torch.equal(torch.cat(lengths), dataset.lengths.flatten())


def test_files_that_do_not_fit_together_are_refused(files, tmp_path):
    for path in files.folder.iterdir():
        shutil.copy(path, tmp_path)
    copy = Files(tmp_path, files.base)
    write_json(copy.path("caplens", "val"), [4])
    with pytest.raises(ValueError, match="4 images with 3 .* 12 rows and 1 lengths"):
        CaptionDataset(copy, "VAL")
    copy.path("manifest").unlink()
    with pytest.raises(FileNotFoundError, match="run create_input_files for world"):
        CaptionDataset(copy, "TRAIN")


def test_a_dataset_can_be_sent_to_another_process(files):
    dataset = CaptionDataset(files, "VAL")
    image = dataset[0][0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[0][0], image)


def test_the_seed_fixes_the_order(files):
    def order(seed):
        loader = batches(CaptionDataset(files, "TRAIN"), 4, seed)
        return torch.cat([captions for _, captions, _ in loader]).tolist()

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == sorted(order(None))


def test_half_of_the_augmented_images_are_mirrored(files):
    image = torch.arange(192).byte().view(3, 8, 8)
    torch.manual_seed(0)
    mirrored = [torch.equal(augmentation()(image), image.flip(2)) for _ in range(200)]
    assert 70 < sum(mirrored) < 130
    same = [torch.equal(augmentation()(image), image) for _ in range(200)]
    assert 70 < sum(same) < 130


def test_a_dataset_changes_its_images_each_time(files):
    plain = CaptionDataset(files, "TRAIN")
    changing = CaptionDataset(files, "TRAIN", transform=augmentation())
    torch.manual_seed(3)
    drawn = [changing[5] for _ in range(20)]
    assert len({image.numpy().tobytes() for image, *_ in drawn}) == 2
    assert all(torch.equal(captions, plain[5][1]) for _, captions, _ in drawn)
    torch.manual_seed(3)
    assert torch.equal(changing[5][0], drawn[0][0])


def test_cached_cells_are_those_of_the_encoder(files, encoder, tmp_path):
    images = files.path("images", "TRAIN")
    cache = cache_features(encoder, images, tmp_path / "cells.hdf5", batch_size=5)
    plain = CaptionDataset(files, "TRAIN")
    cached = CaptionDataset(files, "TRAIN", cache)
    assert cached[3][0].dtype == torch.float16
    with torch.no_grad():
        expected = encoder(torch.stack([plain[i][0] for i in range(24)]))
    found = torch.stack([cached[i][0] for i in range(24)]).float()
    torch.testing.assert_close(found, expected, atol=4e-3, rtol=1e-3)
    assert torch.equal(cached[3][1], plain[3][1])


def test_a_stale_cache_is_recomputed(files, encoder, tmp_path):
    cache = tmp_path / "cells.hdf5"
    train, val = (files.path("images", s) for s in ("TRAIN", "VAL"))
    cache_features(encoder, val, cache)
    assert is_cached(encoder, val, cache)
    assert not is_cached(encoder, train, cache)  # other images
    other = build_encoder(pretrained=False, image_size=64)
    assert not is_cached(other, val, cache)  # another encoder
    cache_features(other, val, cache)
    assert is_cached(other, val, cache) and not is_cached(encoder, val, cache)


def test_an_interrupted_cache_goes_on(files, encoder, tmp_path, monkeypatch):
    images = files.path("images", "TRAIN")
    whole = cache_features(encoder, images, tmp_path / "whole.hdf5", batch_size=4)
    seen = []

    def interrupted(starts, total, label):
        for start in starts:
            seen.append(start)
            if len(seen) == 2:
                raise KeyboardInterrupt
            yield start

    monkeypatch.setattr(batch_room, "progress", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache_features(encoder, images, tmp_path / "parts.hdf5", batch_size=4)
    assert not (tmp_path / "parts.hdf5").exists()
    cache_features(encoder, images, tmp_path / "parts.hdf5", batch_size=4)
    assert seen == [0, 4, 4, 8, 12, 16, 20]
    with h5py.File(whole) as a, h5py.File(tmp_path / "parts.hdf5") as b:
        assert (a["cells"][:] == b["cells"][:]).all()


KILLED = """
import sys
from satlib import batches
from satlib.encoder import build_encoder
def slowly(starts, total, label):
    for start in starts:
        yield start
        print(start, flush=True)
        sys.stdin.readline()  # until it is told to go on, or killed
batches.progress = slowly
batches.cache_features(build_encoder(image_size=64), sys.argv[1], sys.argv[2], 2)
"""


def test_kill_and_run_again(files, encoder, tmp_path):
    images = files.path("images", "TRAIN")
    target = tmp_path / "killed.hdf5"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(images), str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    for expected in (b"0\n", b"2\n", b"4\n"):  # or the end, where the process ends
        lines = iter(process.stdout.readline, b"")
        assert expected in lines
        if expected != b"4\n":
            process.stdin.write(b"\n")
            process.stdin.flush()
    process.kill()
    process.wait()
    (half,) = tmp_path.glob("killed.hdf5.*.part")
    assert not target.exists()
    with h5py.File(half) as file:
        assert file["done"][()] in (4, 6)  # after its line, or one further
    cache_features(encoder, images, target, batch_size=2)
    whole = cache_features(encoder, images, tmp_path / "whole.hdf5", batch_size=2)
    with h5py.File(whole) as a, h5py.File(target) as b:
        assert (a["cells"][:] == b["cells"][:]).all()


def test_a_full_disk_is_said_before_the_work(files, encoder, tmp_path, monkeypatch):
    images = files.path("images", "TRAIN")
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="cached images.* MB are free"):
        cache_features(encoder, images, tmp_path / "cells.hdf5")


def test_rows_and_lengths_are_those_of_the_images(files, tmp_path):
    copy = Files(tmp_path / "copy", files.base)
    shutil.copytree(files.folder, copy.folder)
    for kind, count in (("captions", 69), ("caplens", 60)):
        path = copy.path(kind, "TRAIN")
        whole = path.read_text()
        path.write_text(json.dumps(json.loads(whole)[:count]))
        with pytest.raises(ValueError, match=rf"24 images with 3 captions.*{count} "):
            CaptionDataset(copy, "TRAIN")
        path.write_text(whole)
    assert len(CaptionDataset(copy, "TRAIN")) == 24


class Collections(list):
    """Numbers of images, of three collections of 10, 5 and 4 images."""

    of = torch.tensor([1, 2] * 5 + [1] * 5 + [3] * 4)

    def __init__(self):
        row, length = torch.zeros(1, 4, dtype=torch.long), torch.tensor([4])
        super().__init__((torch.tensor([i]), row, length) for i in range(len(self.of)))

    def collections(self):
        return self.of


def epoch(seed, done=0, weights=(1, 2.4, 0.5)):
    """List the numbers of the images in each mini-batch of an epoch."""
    loader = batches(Collections(), 4, seed, 0, done, weights and [*weights])
    return [batch[0].flatten().tolist() for batch in loader]


def test_an_epoch_shows_each_collection_as_often_as_its_weight_says():
    halves = set()
    for seed in range(9):
        counts = Counter(sum(epoch(seed), []))
        times = [
            sorted(counts[i] for i, of in enumerate(Collections.of.tolist()) if of == n)
            for n in (1, 2, 3)
        ]
        assert times == [[1] * 10, [2, 2, 2, 3, 3], [0, 0, 1, 1]]
        halves.add(frozenset(i for i in counts if i >= 15))
    assert len(halves) > 1  # drawn anew
    assert epoch(3) == epoch(3) != epoch(4)


def test_an_epoch_with_weights_is_taken_up_where_it_was():
    whole = epoch(5)
    assert len(whole) == 6 and [len(batch) for batch in whole] == [4] * 6
    for done in range(7):
        assert epoch(5, done) == whole[done:]


def test_processes_share_an_epoch_with_weights(monkeypatch):
    whole, parts = epoch(5), []
    for number in range(2):
        monkeypatch.setattr(scale, "rank", lambda number=number: number)
        monkeypatch.setattr(scale, "processes", lambda: 2)
        parts.append(epoch(5))
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_without_weights_the_order_is_what_pytorch_draws():
    generator = torch.Generator().manual_seed(7)
    torch.empty((), dtype=torch.int64).random_(generator=generator)  # of the loader
    sampler = RandomSampler(range(19), generator=generator)
    assert sum(epoch(7, weights=None), []) == [*sampler]


def test_few_images_are_shown_at_least_once():
    numbers = torch.tensor([1] * 10 + [3] * 3)
    assert shown(numbers, [1, 5, 0.001]) == [10, 0, 1]
    assert shown(numbers, None) == [10, 0, 3]
    assert shown(numbers, [2, 1, 1, 1]) == [20, 0, 3]


def test_collections_are_those_of_the_references(files):
    assert CaptionDataset(files, "TRAIN").collections().tolist() == [1] * 24
