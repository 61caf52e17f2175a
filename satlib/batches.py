# Written by `python -m satlib.tangle` from chapters/batches.md: edit that.
# chapters/batches.md: Batches: a few images at a time, and each looked at once
"""Mini-batches of images or cached cells with their captions; the feature cache."""

import contextlib
import os
from pathlib import Path

import h5py
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from satlib.dataset import Files, create_input_files
from satlib.encoder import build_encoder
from satlib.files import code_digest, data_folder, digest, make_room, progress
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
        self.path, self.key = (features, "cells") if features else (images, "images")
        self.transform = transform or nn.Identity()
        rows, lengths = files.read("captions", split), files.read("caplens", split)
        with h5py.File(images) as file:
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
            self._file, self._process = h5py.File(self.path), os.getpid()
        image = torch.from_numpy(self._file[self.key][index])
        return self.transform(image), self.captions[index], self.lengths[index]

    def __getstate__(self):
        return self.__dict__ | {"_file": None, "_process": None}


# chapters/batches.md: Mini-batches
def collate(items):
    """Return items stacked: images (B, …), captions (k·B, L) and lengths (k·B,)."""
    images, captions, lengths = default_collate(items)
    return images, captions.flatten(0, 1), lengths.flatten()


# chapters/batches.md: Mini-batches
def batches(dataset, batch_size, seed=None, workers=0):
    """Return a loader of mini-batches of `batch_size` images with all their captions.

    With a `seed` the order is shuffled, by that seed; without, it is the dataset's.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return DataLoader(
        dataset,
        batch_size,
        shuffle=seed is not None,
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
    with h5py.File(images) as file:
        return digest([encoder.fingerprint(), file.attrs["sha256"]])


def is_cached(encoder, images, features):
    """Tell whether the file `features` holds this encoder's cells of these images."""
    if not Path(features).exists():
        return False
    with h5py.File(features) as file:
        return file.attrs["key"] == cache_key(encoder, images)


# chapters/batches.md: The feature cache
@torch.inference_mode()
def cache_features(encoder, images, features, batch_size=32):
    """Write the cells of all images of the HDF5 file `images` to the file `features`.

    They are those of the encoder's frozen blocks. Nothing is done if they are there,
    and an interrupted run is taken up again. The encoder runs where its parameters are.
    Returns `features`. Raises OSError where the disk is too small.
    """
    if is_cached(encoder, images, features):
        return features
    device = next(encoder.parameters()).device
    partial, key = Path(f"{features}.part"), cache_key(encoder, images)
    with h5py.File(images) as source:
        pictures = source["images"]
        with _open_partial(partial, key, encoder, pictures) as target:
            starts = range(target["done"][()], len(pictures), batch_size)
            for start in progress(starts, len(starts), Path(features).stem):
                batch = torch.from_numpy(pictures[start : start + batch_size])
                cells = encoder.begin(batch.to(device)).half().cpu().numpy()
                target["cells"][start : start + len(batch)] = cells
                target.flush()  # the cells before the counter that vouches for them
                target["done"][()] = start + len(batch)
                target.flush()
    partial.replace(features)
    return features


# chapters/batches.md: The feature cache
def _open_partial(path, key, encoder, pictures):
    with contextlib.suppress(OSError):  # none there, or killed while it was laid out
        file = h5py.File(path, "r+")
        if file.attrs.get("key") == key:
            return file
        file.close()
    device = next(encoder.parameters()).device
    sample = torch.zeros(1, *pictures.shape[1:], dtype=torch.uint8, device=device)
    shape = len(pictures), *encoder.begin(sample).shape[1:]
    make_room(path.parent, shape[0], 2 * shape[1] * shape[2], "cached images")
    file = h5py.File(path, "w")
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    file.create_dataset("cells", shape, "float16", dcpl=layout)
    file.create_dataset("done", (), "int64", data=0)
    file.attrs["key"] = key
    file.flush()
    return file


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
