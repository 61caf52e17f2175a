# Written by `python -m satlib.tangle` from chapters/batches.md: edit that.
# chapters/batches.md: Batches: a few images at a time, and each looked at once
"""Mini-batches of images or cached cells with their captions; the feature cache."""

import glob
import os
from contextlib import suppress
from pathlib import Path

import h5py
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    default_collate,
)
from torchvision.transforms import v2

from satlib.dataset import Files, create_input_files
from satlib.encoder import build_encoder
from satlib.files import (
    code_digest,
    data_folder,
    digest,
    hold,
    make_room,
    naming,
    owner,
    progress,
    reserve,
    tidy,
)
from satlib.scale import (
    Shares,
    check_parts,
    forget_parts,
    join_parts,
    once,
    part_of,
    share,
    tell,
    together,
    wait,
)
from satlib.scenes import write_scenes


# chapters/batches.md: One image and its captions
class CaptionDataset(Dataset):
    """One split ("TRAIN", "VAL" or "TEST") of data files.

    Item i is image i, uint8 (3, S, S), or its cells (C, D) in float16 if `features`
    is a feature cache; its captions (k, L), and their lengths (k,), as int64. The image
    is first changed by `transform`, if there is one. Raises FileNotFoundError where the
    `files` are not complete, ValueError where they do not fit together.
    """

    def __init__(self, files, split, features=None, transform=None):
        images = files.path("images", split)
        self.files, self.split = files, split
        self.path, self.key = (features, "cells") if features else (images, "images")
        self.transform = transform or nn.Identity()
        rows, lengths = files.read("captions", split), files.read("caplens", split)
        with h5py.File(images, locking=False) as file:
            count, per_image = len(file["images"]), file.attrs["captions_per_image"]
        if not len(rows) == len(lengths) == count * per_image:
            raise ValueError(
                f"{images}: {count} images with {per_image} captions each, but "
                f"{len(rows)} rows and {len(lengths)} lengths; write the files again"
            )
        self.captions = torch.tensor(rows).view(count, per_image, -1)
        self.lengths = torch.tensor(lengths).view(count, per_image)
        self._file = self._process = None

    def __len__(self):
        return len(self.captions)

    def __getitem__(self, index):
        if self._process != os.getpid():
            self._file = h5py.File(self.path, locking=False)
            self._process = os.getpid()
        image = torch.from_numpy(self._file[self.key][index])
        return self.transform(image), self.captions[index], self.lengths[index]

    def __getstate__(self):
        return self.__dict__ | {"_file": None, "_process": None}

    def names(self, numbers):
        """Return the file names of the images with these numbers."""
        entries = self.files.read("references", self.split)
        return [entries[number]["file"] for number in numbers]

    def collections(self):
        """Return the number of each image's collection (N,), from 1 on, as int64."""
        entries = self.files.read("references", self.split)
        return torch.tensor([entry.get("collection", 1) for entry in entries])


# chapters/batches.md: Mini-batches
def collate(items):
    """Return items stacked: images (B, …), captions (k·B, L) and lengths (k·B,)."""
    images, captions, lengths = default_collate(items)
    return images, captions.flatten(0, 1), lengths.flatten()


# chapters/batches.md: Mini-batches
def shown(collections, weights):
    """Return how many images of each collection an epoch shows, at least one if any.

    `collections` (N,) are their numbers, from 1 on. Without `weights` it shows all.
    """
    counts = torch.bincount(collections)[1:].tolist()
    weights = weights or [1] * len(counts)
    return [max(round(w * n), min(n, 1)) for w, n in zip(weights, counts, strict=False)]


def numbers_shown(collections, weights, generator):
    """List the numbers of the images that an epoch shows, some of them repeatedly."""
    numbers = []
    for collection, count in enumerate(shown(collections, weights), 1):
        own = (collections == collection).nonzero().flatten()
        own = own[torch.randperm(len(own), generator=generator)].tolist()
        numbers += [own[i % len(own)] for i in range(count)]
    return numbers


class Shuffled(RandomSampler):
    """The items of a list in random order."""

    def __iter__(self):
        return (self.data_source[i] for i in super().__iter__())


# chapters/batches.md: Mini-batches
class Loader(DataLoader):
    """A loader of mini-batches that knows which images they hold."""

    def names(self, number):
        """List the names of the images of mini-batch `number`, from 1 on, if known."""
        name_all = getattr(self.dataset, "names", lambda numbers: [])
        return name_all(self.batch_sampler.drawn[number])


def batches(dataset, batch_size, seed=None, workers=0, done=0, weights=None):
    """Return a `Loader` of mini-batches of `batch_size` images with all their captions.

    With a `seed` the order is shuffled, by that seed, and of several processes each has
    its share of each mini-batch, after the first `done`; without, the order is the
    dataset's, and each process has its share of that. With a seed, `weights` say how
    often an image of each collection comes.
    """
    numbers = range(len(dataset))
    if seed is None:
        generator = None
        sampler = Shares(share(numbers), batch_size, part=list)
    else:
        generator = torch.Generator().manual_seed(seed)
        if weights:
            numbers = numbers_shown(dataset.collections(), weights, generator)
        sampler = Shares(Shuffled(numbers, generator=generator), batch_size, done)
    return Loader(
        dataset,
        batch_sampler=sampler,
        generator=generator,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
    )


# chapters/batches.md: The same picture from the other side
def augmentation():
    """Return a random change of images uint8 (3, S, S): half of them are mirrored."""
    return v2.RandomHorizontalFlip()


# chapters/batches.md: The feature cache
def cache_key(encoder, images):
    """Return a digest of the encoder and of the contents of the file `images`."""
    with h5py.File(images, locking=False) as file:
        return digest([encoder.fingerprint(), file.attrs["sha256"]])


def rows_done(features, key, count):
    """Return how many rows of a feature cache are done; None where none are of use.

    That is where the file is none, or damaged, or not of this `key` and `count` images.
    """  # what h5py raises depends on the damage
    with suppress(Exception), h5py.File(features, locking=False) as file:
        done, cells = int(file["done"][()]), file["cells"]
        check_parts(cells)
        fits = file.attrs["key"] == key and len(cells) == count
        if fits and cells.dtype == "float16" and 0 <= done <= count:
            return done


def is_cached(encoder, images, features):
    """Tell whether the file `features` holds this encoder's cells of these images."""
    with h5py.File(images, locking=False) as file:
        count = len(file["images"])
    return rows_done(features, cache_key(encoder, images), count) == count


# chapters/batches.md: The feature cache
@torch.inference_mode()
def cache_features(encoder, images, features, batch_size=32):
    """Write the cells of all images of the HDF5 file `images` to the file `features`.

    They are those of the encoder's frozen blocks. Nothing is done if they are there,
    and an interrupted run is taken up again. The encoder runs where its parameters are.
    Returns `features`. Raises OSError where the disk is too small or full.
    """
    features = Path(features)

    def are_there():
        return is_cached(encoder, images, features)

    if once(are_there):
        once(lambda: tidy(features.parent))
        return features
    with together(hold(features.parent, brief=True)):
        if not once(are_there):  # nor written while we waited
            if features.exists():
                other = "of another encoder or other images, or damaged"
                tell(f"{features.name}: {other}; computed anew")
            _compute(encoder, images, features, batch_size)
    return features


def _compute(encoder, images, features, batch_size):
    device, key = next(encoder.parameters()).device, cache_key(encoder, images)
    part = part_of(features)
    with naming(part), h5py.File(images, locking=False) as source:
        pictures = source["images"]
        count, own = len(pictures), share(range(len(pictures)))
        half = _take_half(part, key, encoder, (len(own), *pictures.shape[1:]))
        with h5py.File(half, "r+", locking=False) as target:
            starts = range(int(target["done"][()]), len(own), batch_size)
            for start in progress(starts, len(starts), part.stem):
                numbers = own[start : start + batch_size]
                batch = torch.from_numpy(pictures[numbers.start : numbers.stop])
                cells = encoder.begin(batch.to(device)).half().cpu().numpy()
                target["cells"][start : start + len(batch)] = cells
                target.flush()  # the cells before the counter that vouches for them
                target["done"][()] = start + len(batch)
                target.flush()
    half.replace(part)
    wait()  # for all parts
    once(lambda: join_parts(features, "cells", done=count))
    once(lambda: _clear(features))


def _clear(features):
    forget_parts(features)
    for half in features.parent.glob(f"{glob.escape(features.stem)}.*.part"):
        half.unlink()


# chapters/batches.md: The feature cache
def _take_half(features, key, encoder, shape):
    mine = features.with_name(f"{features.name}.{owner()}.part")
    halves = {}
    for path in features.parent.glob(f"{glob.escape(features.name)}.*part"):
        done = rows_done(path, key, shape[0])
        if done is not None and path.stat().st_nlink == 1:
            halves[path] = done
        else:
            path.unlink()
    for path in sorted(halves, key=halves.get):
        path.replace(mine)  # the last, which has most, stays
    if not halves:
        _lay_out(mine, key, encoder, shape)
    return mine


# chapters/batches.md: The feature cache
def _lay_out(path, key, encoder, shape):
    device = next(encoder.parameters()).device
    sample = torch.zeros(1, *shape[1:], dtype=torch.uint8, device=device)
    shape = shape[0], *encoder.begin(sample).shape[1:]
    each = 2 * shape[1] * shape[2]
    make_room(path.parent, shape[0], each, "cached images")
    reserve(path, shape[0] * each + 2**12)
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    with h5py.File(path, "w", locking=False) as file:
        file.create_dataset("cells", shape, "float16", dcpl=layout)
        file.create_dataset("done", (), "int64", data=0)
        file.attrs["key"] = key
    reserve(path, shape[0] * each)  # which HDF5 has given back, to take it bit by bit


# chapters/batches.md: Something to practise on
def practice_set():
    """Return a small training set, cached cells of drawn scenes, and its word map."""
    folder = data_folder() / "runs" / f"practice-{code_digest('batches')[:8]}"
    scenes = write_scenes(folder / "scenes", 100)
    source = scenes / "captions.txt", scenes / "images"
    base = create_input_files("practice", *source, folder, min_freq=1, splits=scenes)
    files = Files(folder, base)
    images, cells = files.path("images", "TRAIN"), folder / "TRAIN_CELLS.hdf5"
    cache_features(build_encoder(), images, cells)
    return CaptionDataset(files, "TRAIN", cells), files.read("wordmap")
