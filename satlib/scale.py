# Written by `python -m satlib.tangle` from chapters/scale.md: edit that.
# chapters/scale.md: Scale: many processes, one result
"""Training by several processes: shares, sums over all, and who speaks for them."""

import os
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler


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
    `drawn` keeps by the number of a mini-batch, from 1, what this process was given.
    """

    def __init__(self, sampler, batch_size, done=0):
        super().__init__(sampler, batch_size, drop_last=False)
        self.done, self.drawn = done, {}

    def __iter__(self):
        for number, batch in enumerate(super().__iter__(), 1):
            if number > self.done:
                self.drawn[number] = share(batch) or batch[:1]
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
