# Written by `python -m satlib.tangle` from chapters/scale.md: edit that.
# chapters/scale.md: Scale: many processes, one result
"""Training by several processes: shares, sums over all, and who speaks for them."""

import glob
import os
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import h5py
import torch
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler

from satlib.files import replacing


# chapters/scale.md: Shares of one mini-batch
@contextmanager
def group():
    """Be one of the processes that `torchrun` has started, in a `with` block.

    Without torchrun the process is alone, and nothing else happens.
    """
    if "RANK" not in os.environ:
        yield
        return
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    store, number, count = next(rendezvous("env://"))
    store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    day = timedelta(days=1)
    dist.init_process_group(timeout=day, world_size=count, rank=number, store=store)
    try:
        yield
    finally:
        dist.destroy_process_group()


# chapters/scale.md: Shares of one mini-batch
def rank():
    """Return the number of this process, from 0; 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes():
    """Return how many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


# chapters/scale.md: To each its share
def share(items):
    """Return this process's part of a sequence: neighbours, none left out or twice."""
    start, stop = (len(items) * r // processes() for r in (rank(), rank() + 1))
    return items[start:stop]


# chapters/scale.md: To each its share
class Shares(BatchSampler):
    """Mini-batches, from number `done` on, of which each process gets its share.

    One that is too small to give all a share is given in part to those without, too.
    `drawn` keeps by the number of a mini-batch, from 1, what this process was given:
    its share, or another `part`.
    """

    def __init__(self, sampler, batch_size, done=0, part=share):
        super().__init__(sampler, batch_size, drop_last=False)
        self.done, self.part, self.drawn = done, part, {}

    def __iter__(self):
        for number, batch in enumerate(super().__iter__(), 1):
            if number > self.done:
                self.drawn[number] = self.part(batch) or batch[:1]
                yield self.drawn[number]

    def is_idle(self, number):
        """Tell whether this process has no share of mini-batch `number`, from 1."""
        left = len(self.sampler) - (number - 1) * self.batch_size
        return not share(range(min(left, self.batch_size)))


# chapters/scale.md: When is the mean of means the mean?
def total(*values):
    """Return the sum of each value over all processes."""
    if processes() == 1:
        return values
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return tuple(sums.tolist())


def gathered(*lists):
    """Return each list with those of all processes, one after the other."""
    if processes() == 1:
        return lists
    parts = [None] * processes()
    dist.all_gather_object(parts, lists)
    return tuple(sum(of_all, []) for of_all in zip(*parts, strict=True))


# chapters/scale.md: When is the mean of means the mean?
def parallel(model):
    """Return a model whose gradients are their mean over all processes."""
    if processes() == 1:
        return model
    return DistributedDataParallel(model)


# chapters/scale.md: One speaks, one writes
def tell(text):
    """Print a line, once for all processes."""
    if rank() == 0:
        print(text, flush=True)


def once(do):
    """Let the first process do something; return to all what it returns."""
    if processes() == 1:
        return do()
    found = [do() if rank() == 0 else None]
    dist.broadcast_object_list(found)
    return found[0]


# chapters/scale.md: One speaks, one writes
def wait():
    """Wait until all processes have come here."""
    if processes() > 1:
        dist.barrier()


@contextmanager
def together(manager):
    """Enter a context manager in the first process; yield to all what it yields."""
    with manager if rank() == 0 else nullcontext() as value:
        yield once(lambda: value)
        wait()


# chapters/scale.md: One speaks, one writes
def check_alike(what, digest):
    """Raise a ValueError unless all processes have the same digest of something."""
    (digests,) = gathered([digest])
    if len({*digests}) > 1:
        raise ValueError(f"the processes see different {what}: is it one for all?")


# chapters/scale.md: Large files in parts
def part_of(path):
    """Return the path of this process's part of a file; alone, that of the file."""
    return _parts(path)[rank()] if processes() > 1 else path


def _parts(path):
    count = processes()
    return [path.with_suffix(f".{r}-of-{count}{path.suffix}") for r in range(count)]


def join_parts(path, name, **others):
    """Write the index of a file's parts, whose dataset `name` has all their rows.

    Its attributes are those of the first part; it has `others` of its own, numbers by
    name. Alone, the file is whole as it is.
    """
    if processes() == 1:
        return
    parts = _parts(path)
    with ExitStack() as stack:
        files = [stack.enter_context(h5py.File(p, locking=False)) for p in parts]
        rows = [file[name] for file in files]
        shape = sum(map(len, rows)), *rows[0].shape[1:]
        layout, start = h5py.VirtualLayout(shape, rows[0].dtype), 0
        for part, own in zip(parts, rows, strict=True):
            source = h5py.VirtualSource(part.name, name, own.shape)
            if len(own):
                layout[start : start + len(own)] = source
            start += len(own)
        with replacing(path) as temporary, h5py.File(temporary, "w") as index:
            index.create_virtual_dataset(name, layout)
            index.attrs.update(files[0].attrs)
            index.update(others)


# chapters/scale.md: Large files in parts
def sources(rows):
    """Return the parts of an open dataset's rows, none if it is whole by itself."""
    return rows.virtual_sources() if rows.is_virtual else []


def check_parts(rows):
    """Raise a KeyError or OSError where a part of an open dataset's rows is damaged."""
    for part in sources(rows):
        path = Path(rows.file.filename).with_name(part.file_name)
        with h5py.File(path, locking=False) as file:
            first, last = part.vspace.get_select_bounds()
            whole = len(file[part.dset_name]) == last[0] + 1 - first[0]
            if not whole or dict(file.attrs) != dict(rows.file.attrs):
                raise OSError(f"{path} is not the part that it was")


def forget_parts(path):
    """Remove those parts of a file that it, an index or not, does not name."""
    with h5py.File(path, locking=False) as file:
        named = {part.file_name for rows in file.values() for part in sources(rows)}
    for part in path.parent.glob(f"{glob.escape(path.stem)}.*-of-*{path.suffix}"):
        if part.name not in named:
            part.unlink()
