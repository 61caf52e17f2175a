# Written by `python -m satlib.tangle` from chapters/training.md: edit that.
# chapters/training.md: Training: one epoch
"""One epoch of training: loss, meters, clipping, learning-rate decay, `train`."""

import time

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
    """Multiply the learning rate of every parameter group by `shrink_factor`."""
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
    scaler=None,
    after_step=None,
):
    """Train for one epoch; return its mean loss per word, top-5 accuracy and times.

    `loader` gives batches of cells (B, C, D), or of images (B, 3, S, S) where there is
    an `encoder`, with captions (k·B, L) and lengths (k·B,). `encoder_optimizer` is None
    unless the encoder is fine-tuned. Prints a line every `print_freq` iterations, and
    calls `after_step` after each.
    """
    decoder.train()
    device = next(decoder.parameters()).device
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    optimizers = [o for o in (encoder_optimizer, decoder_optimizer) if o is not None]
    meters = {name: AverageMeter() for name in ("loss", "top5", *TIMES)}
    for batch in measured(loader, device, epoch, meters, print_freq):
        with torch.autocast(device.type, torch.float16, enabled=scaler.is_enabled()):
            decoded = decoder(encode(encoder, batch[0]), *batch[1:])
            loss, word_loss = caption_loss(decoded, alpha_c)
        update_weights(loss, optimizers, grad_clip, scaler, after_step)
        words = len(decoded.targets)
        meters["loss"].update(word_loss.item(), words)
        meters["top5"].update(accuracy(decoded.scores, decoded.targets), words)
    return {name: meter.avg for name, meter in meters.items()}


# chapters/training.md: One epoch
def encode(encoder, batch):
    """Return cells (B, C, D) in float32: of images, or of what is cached of them."""
    if encoder is None:
        return batch.float()
    images = batch.dtype == torch.uint8
    return encoder(batch) if images else encoder.finish(batch.float())


def update_weights(loss, optimizers, grad_clip, scaler, after_step=None):
    """Go backward from the loss, clip the gradients, and take a step."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
        clip_gradient(optimizer, grad_clip)
        scaler.step(optimizer)
    scaler.update()
    if after_step:
        after_step()


# chapters/training.md: One epoch
def measured(loader, device, epoch, meters, print_freq):
    """Yield the mini-batches of an epoch on a device; take their times in `meters`.

    Prints a line every `print_freq` iterations: of each meter the latest value, and in
    brackets the mean.
    """
    start = time.perf_counter()
    for iteration, batch in enumerate(loader, 1):
        batch = [tensor.to(device, non_blocking=True) for tensor in batch]
        meters["data_time"].update(time.perf_counter() - start)
        yield batch
        meters["batch_time"].update(time.perf_counter() - start)
        if iteration % print_freq == 0 or iteration == len(loader):
            values = (f"{k} {m.val:.3f} ({m.avg:.3f})" for k, m in meters.items())
            line = f"epoch {epoch} [{iteration}/{len(loader)}]"
            print("  ".join([line, *values]), flush=True)
        start = time.perf_counter()
