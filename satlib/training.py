# Written by `python -m satlib.tangle` from chapters/training.md: edit that.
# chapters/training.md: Training: one epoch
"""One epoch of training: loss, meters, clipping, learning-rate decay, `train`."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812

TIMES = "batch_time", "data_time"


# chapters/training.md: The penalty: look everywhere once
def attention_penalty(alphas):
    """Return the doubly stochastic penalty of maps (k·B, T, P), as in (training-loss).

    Source: Xu et al. 2015, equation 14, as a mean over captions and regions.
    """
    return (1 - alphas.sum(dim=1)).square().mean()


def caption_loss(decoded, alpha_c=1.0):
    """Return the loss of a `Decoded` batch, and its cross-entropy per word alone."""
    cross_entropy = F.cross_entropy(decoded.scores, decoded.targets)
    return cross_entropy + alpha_c * attention_penalty(decoded.alphas), cross_entropy


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
        self.sum += val * n
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


# chapters/training.md: Keeping steady: clipping and decay
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
    grad_clip=5.0,
    print_freq=100,
    after_step=None,
):
    """Train for one epoch; return its mean loss per word, top-5 accuracy and times.

    `loader` gives batches of cells (B, C, D), or of images (B, 3, S, S) where there is
    an `encoder`, with captions (k·B, L) and lengths (k·B,). `encoder_optimizer` is None
    unless the encoder is fine-tuned. Prints a line every `print_freq` iterations, and
    calls `after_step` after each. Times are in seconds.
    """
    decoder.train()
    optimizers = encoder_optimizer, decoder_optimizer
    iterations = Iterations(
        loader, optimizers, epoch, grad_clip, print_freq, after_step
    )
    for images, captions, lengths in iterations:
        with mixed_precision(iterations.device):
            decoded = decoder(encode(encoder, images), captions, lengths)
            loss, word_loss = caption_loss(decoded, alpha_c)
        iterations.learn(loss)
        words, top5 = len(decoded.targets), accuracy(decoded.scores, decoded.targets)
        iterations.count(words, loss=word_loss.item(), top5=top5)
    return iterations.means()


# chapters/training.md: One epoch
def encode(encoder, batch):
    """Return cells (B, C, D) in float32: of images, or of what is cached of them."""
    if encoder is None:
        return batch.float()
    images = batch.dtype == torch.uint8
    return encoder(batch) if images else encoder.finish(batch.float())


# chapters/training.md: One epoch
def mixed_precision(device):
    """Return the context in which a CUDA device multiplies in bfloat16, if it can."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(False)
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


# chapters/training.md: One epoch
@dataclass
class Iterations:
    """The iterations of one epoch: mini-batches, a step for each, and what to count.

    Iterate over it for the mini-batches of `loader`, lists of tensors, on the device of
    the weights. An optimiser that is None, of what is frozen, is passed over. Prints a
    line every `print_freq` iterations: of each meter the latest value, and in brackets
    the mean. Calls `after_step` after each step.
    """

    loader: Iterable
    optimizers: Iterable
    epoch: int
    grad_clip: float = 5.0
    print_freq: int = 100
    after_step: Callable | None = None

    def __post_init__(self):
        self.optimizers = [each for each in self.optimizers if each is not None]
        self.device = self.optimizers[0].param_groups[0]["params"][0].device
        self.meters, self.times = {}, {name: AverageMeter() for name in TIMES}

    def __iter__(self):
        start = time.perf_counter()
        for number, batch in enumerate(self.loader, 1):
            batch = [tensor.to(self.device, non_blocking=True) for tensor in batch]
            self.times["data_time"].update(time.perf_counter() - start)
            yield batch
            self.times["batch_time"].update(time.perf_counter() - start)
            if number % self.print_freq == 0 or number == len(self.loader):
                self.print_line(number)
            start = time.perf_counter()

    def learn(self, loss):
        """Go backward from the loss, clip the gradients, and take a step."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self.optimizers:
            clip_gradient(optimizer, self.grad_clip)
            optimizer.step()
        if self.after_step:
            self.after_step()

    def count(self, n, **values):
        """Take values, each the mean over `n` items, into the meters of their names."""
        for name, value in values.items():
            self.meters.setdefault(name, AverageMeter()).update(value, n)

    def print_line(self, number):
        """Print what the meters say after iteration `number`."""
        meters = (self.meters | self.times).items()
        values = (f"{name} {m.val:.3f} ({m.avg:.3f})" for name, m in meters)
        line = f"epoch {self.epoch} [{number}/{len(self.loader)}]"
        print("  ".join([line, *values]), flush=True)

    def means(self):
        """Return the mean of each meter by its name, times in seconds."""
        return {name: m.avg for name, m in (self.meters | self.times).items()}
