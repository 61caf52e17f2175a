# Written by `python -m satlib.tangle` from chapters/training.md: edit that.
# chapters/training.md: Training: one epoch
"""One epoch of training: loss, meters, clipping, learning-rate decay, `train`."""

import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from satlib.scale import Shares, parallel, processes, rank, tell, total

TIMES = "batch_time", "data_time"


# chapters/training.md: The penalty: look everywhere once
def attention_penalty(alphas):
    """Return the doubly stochastic penalty of maps (k·B, T, P), as in (training-loss).

    Source: Xu et al. 2015, equation 14, as a mean over captions and regions.
    """
    return (1 - alphas.sum(dim=1)).square().mean()


def caption_loss(decoded, alpha_c=1.0):
    """Return both parts of a `Decoded` batch's loss: per word, and per caption."""
    cross_entropy = F.cross_entropy(decoded.scores, decoded.targets)
    return cross_entropy, alpha_c * attention_penalty(decoded.alphas)


# chapters/training.md: Keeping count: AverageMeter and top-5 accuracy
class AverageMeter:
    """Keeps the latest value of a quantity and its weighted mean."""

    def __init__(self):
        self.reset()

    def reset(self):
        """Forget everything."""
        self.val = self.sum = self.count = self.avg = 0.0

    def update(self, val, n=1):
        """Take the value `val`, the mean over `n` items."""
        self.val = val
        self.add(val * n, n)

    def add(self, values, n):
        """Take the sum of the values of `n` items."""
        self.sum += values
        self.count += n
        self.avg = self.sum / self.count if self.count else 0.0


# chapters/training.md: Keeping count: AverageMeter and top-5 accuracy
def accuracy(scores, targets, k=5):
    """Return the percentage of words (W,) that are among the k best scores (W, V)."""
    if len(targets) == 0:
        return 0.0
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices  # (W, k)
    return (best == targets.unsqueeze(1)).any(dim=1).float().mean().item() * 100


# chapters/training.md: Keeping steady: clipping and decay
def clip_gradient(optimizer, grad_clip):
    """Cut every gradient entry of the optimiser's parameters to ±grad_clip."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.clamp_(-grad_clip, grad_clip)


# chapters/training.md: Smaller steps in the end
def adjust_learning_rate(optimizer, shrink_factor):
    """Multiply the learning rate of every parameter group by `shrink_factor`.

    Raises ValueError unless the factor lies between 0 and 1.
    """
    if not 0 < shrink_factor < 1:
        raise ValueError(f"shrink_factor must lie between 0 and 1, not {shrink_factor}")
    for group in optimizer.param_groups:
        group["lr"] *= shrink_factor


# chapters/training.md: One epoch
def train(
    loader,
    encoder,
    decoder,
    encoder_optimizer,
    decoder_optimizer,
    epoch,
    alpha_c=1.0,
    **settings,
):
    """Train for one epoch; return its mean loss per word, top-5 accuracy and times.

    `loader` gives batches of cells (B, C, D), or of images (B, 3, S, S) where there is
    an `encoder`, with captions (k·B, L) and lengths (k·B,). `encoder_optimizer` is None
    unless the encoder is fine-tuned. The `settings` are those of `Iterations`:
    `grad_clip`, `print_freq` and more. Times are in seconds.
    """
    decoder.train()
    optimizers = encoder_optimizer, decoder_optimizer
    iterations = Iterations(loader, optimizers, epoch, **settings)
    model = parallel(Joined(encoder, decoder))
    for images, captions, lengths in iterations:
        with mixed_precision(iterations.device):
            decoded = model(images, captions, lengths)
            loss, penalty = caption_loss(decoded, alpha_c)
        words, top5 = len(decoded.targets), accuracy(decoded.scores, decoded.targets)
        iterations.learn((loss, words), (penalty, len(captions)))
        iterations.count(words, loss=loss.item(), top5=top5)
    return iterations.means()


# chapters/training.md: One epoch
def encode(encoder, batch):
    """Return cells (B, C, D) in float32: of images, or of what is cached of them."""
    if encoder is None:
        return batch.float()
    images = batch.dtype == torch.uint8
    with quick_encoding(batch.device):
        return encoder(batch) if images else encoder.finish(batch.float())


# chapters/training.md: One epoch
class Joined(nn.Module):
    """An encoder, or None, and what reads its cells."""

    def __init__(self, encoder, reader):
        super().__init__()
        self.encoder, self.reader = encoder, reader

    def forward(self, images, *others):
        """Return what is read out of images, or of what is cached of them."""
        return self.reader(encode(self.encoder, images), *others)


# chapters/training.md: One epoch
def mixed_precision(device):
    """Return the context in which a CUDA device multiplies in bfloat16, if it can."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(False)
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


# chapters/training.md: One epoch
@contextmanager
def multiplying(precision):
    """Multiply float32 matrices in "highest" or "medium" precision for a while."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# chapters/training.md: One epoch
def quick_encoding(device):
    """Return the context in which an encoder that learns on a CPU may use bfloat16."""
    medium = torch.get_float32_matmul_precision() == "medium"
    able = device.type == "cpu" and medium and torch.is_grad_enabled()
    return torch.autocast("cpu", torch.bfloat16, enabled=able)


# chapters/training.md: One epoch
def weights_of(optimizers):
    """Yield the weights that optimisers move."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            yield from group["params"]


def check_number(value, what, loader, number):
    """Raise a ValueError that names a mini-batch's images unless a tensor is finite.

    `what` is said to be no number in mini-batch `number` of the loader, from 1 on.
    """
    if torch.isfinite(value).all():
        return
    names = getattr(loader, "names", lambda number: [])(number)
    raise ValueError(
        f"{what} is no number in batch {number}, of the images: {', '.join(names)}. "
        "Look at these, or lower the learning rate. The last checkpoint is untouched"
    )


# chapters/training.md: One epoch
class Meters(dict):
    """An `AverageMeter` for each name; `sums` are what all processes had counted."""

    def __init__(self, sums):
        super().__init__({name: AverageMeter() for name in sums})
        for name, meter in self.items():
            meter.add(*(sums[name] if rank() == 0 else (0, 0)))

    def count(self, n, **values):
        """Take values, each the mean over `n` items, into the meters of their names."""
        for name, value in values.items():
            self.setdefault(name, AverageMeter()).update(value, n)

    def sums(self):
        """Return by name what all processes have counted: sum and number of items."""
        return {name: total(meter.sum, meter.count) for name, meter in self.items()}

    def means(self):
        """Return the mean of each meter over all processes, by its name."""
        return {name: s / max(n, 1) for name, (s, n) in self.sums().items()}


# chapters/training.md: One epoch
def weighed(parts, idle=False):
    """Return the sum of a loss's `parts`, pairs of a mean and its number of items.

    Its mean over all processes is the loss of the whole mini-batch; an `idle` process
    has no items of it.
    """
    counts = [0 if idle else count for _, count in parts]
    loss = 0
    for (mean, _), count, whole in zip(parts, counts, total(*counts), strict=True):
        loss = loss + mean * (processes() * count / whole)
    return loss


# chapters/training.md: One epoch
@dataclass
class Iterations:
    """The iterations of one epoch: mini-batches, a step for each, and what to count.

    Iterate over it for the mini-batches of `loader`, lists of tensors, on the device of
    the weights. An optimiser that is None, of what is frozen, is passed over. Prints a
    line every `print_freq` iterations: of each meter the latest value, and in brackets
    the mean; at its end, what `outlook` says, given the seconds of an iteration and how
    many the epoch has, done and in all. Calls `after_step` after each step, and after a
    line `keep`, with what an epoch that was interrupted there goes on from, as `begun`.
    Raises ValueError with the names of a mini-batch's images where its loss, or the
    weights after the last, are no numbers.
    """

    loader: Iterable
    optimizers: Iterable
    epoch: int
    grad_clip: float = 5.0
    print_freq: int = 100
    after_step: Callable | None = None
    keep: Callable | None = None
    begun: dict | None = None
    epochs: int | None = None  # that the run has at most
    outlook: Callable | None = None

    def __post_init__(self):
        self.optimizers = [each for each in self.optimizers if each is not None]
        self.device = self.optimizers[0].param_groups[0]["params"][0].device
        self.times = {name: AverageMeter() for name in TIMES}
        begun = self.begun or {"iteration": 0, "sums": {}}
        self.number, self.meters = begun["iteration"], Meters(begun["sums"])
        self.idle = False

    def __iter__(self):
        start, shares = time.perf_counter(), getattr(self.loader, "batch_sampler", None)
        for batch in self.loader:
            self.number += 1
            self.idle = isinstance(shares, Shares) and shares.is_idle(self.number)
            batch = [tensor.to(self.device, non_blocking=True) for tensor in batch]
            self.times["data_time"].update(time.perf_counter() - start)
            yield batch
            self.times["batch_time"].update(time.perf_counter() - start)
            last = self.number == len(self.loader)
            if self.number % self.print_freq == 0 or last:
                tell(line_of(self))
                if self.keep and not last:
                    self.keep({"iteration": self.number, "sums": self.meters.sums()})
            start = time.perf_counter()
        if self.times["batch_time"].count:
            weights = weights_of(self.optimizers)
            self.check(sum(p.detach().sum() for p in weights), "a weight")

    def check(self, value, what):
        """Raise a ValueError with the images at hand unless a tensor is finite."""
        what = f"epoch {self.epoch}: {what}"
        check_number(value, what, self.loader, self.number)

    def learn(self, *parts):
        """Go backward from the loss, clip the gradients, and take a step.

        The loss is the sum of its `parts`: pairs of a mean and its number of items.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = weighed(parts, self.idle)
        self.check(loss.detach(), "the loss")
        loss.backward()
        grads = (p.grad for p in weights_of(self.optimizers))
        self.check(sum(g.sum() for g in grads if g is not None), "a gradient")
        for optimizer in self.optimizers:
            clip_gradient(optimizer, self.grad_clip)
            optimizer.step()
        if self.after_step:
            self.after_step()

    def count(self, n, **values):
        """Take values, each the mean over `n` items, into the meters of their names."""
        self.meters.count(0 if self.idle else n, **values)

    def means(self):
        """Return the mean of each meter by its name, times in seconds."""
        return self.meters.means() | {name: m.avg for name, m in self.times.items()}


# chapters/training.md: One epoch
def line_of(iterations):
    """Return a line: the latest values of this process, and the means of all."""
    meters, means = iterations.meters | iterations.times, iterations.means()
    number, count = iterations.number, len(iterations.loader)
    of = f" of {iterations.epochs}" if iterations.epochs else ""
    line = [f"epoch {iterations.epoch}{of} [{number}/{count}]"]
    line += [f"{n} {m.val:.3f} ({means[n]:.3f})" for n, m in meters.items()]
    if iterations.outlook:
        line.append(iterations.outlook(means["batch_time"], number, count))
    return "  ".join(line)
