# Written by `python -m satlib.tangle` from chapters/concepts.md: edit that.
# chapters/concepts.md: Concepts: which words does a picture call for?
"""Visual concepts: the encoder learns which words the captions of an image hold."""

from math import log

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from satlib.training import TIMES, AverageMeter, encode, measured, update_weights


# chapters/concepts.md: The targets
def word_shares(captions, word_map):
    """Return the share of each image's captions (N, k, L) that hold a word: (N, V)."""
    held = torch.zeros(*captions.shape[:2], len(word_map), device=captions.device)
    held.scatter_(2, captions, 1.0)
    for token in ("<pad>", "<start>", "<end>", "<unk>"):
        held[..., word_map[token]] = 0
    return held.mean(1)


# chapters/concepts.md: A score for each place, and one for the picture
class Concepts(nn.Module):
    """Scores of V words for the cells of an image: equation (concept-score)."""

    def __init__(self, encoder_dim, vocab_size):
        super().__init__()
        self.linear = nn.Linear(encoder_dim, vocab_size)

    @torch.no_grad()
    def expect(self, captions, word_map):
        """Begin with each word's mean share in the captions (N, k, L) of a split."""
        parts = [word_shares(part, word_map).sum(0) for part in captions.split(64)]
        shares = (sum(parts) / len(captions)).clamp(1e-5, 1 - 1e-5)
        self.linear.weight.zero_()
        self.linear.bias.copy_(shares.logit())

    def maps(self, cells):
        """Return the scores (B, C, V) of cells (B, C, D)."""
        return self.linear(cells)

    def forward(self, cells):
        """Return the scores (B, V) of images with cells (B, C, D)."""
        return self.maps(cells).logsumexp(1) - log(cells.shape[1])


def concept_loss(scores, shares):
    """Return the cross-entropy of scores and shares (B, V), summed over words."""
    loss = F.binary_cross_entropy_with_logits(scores, shares, reduction="sum")
    return loss / len(scores)


# chapters/concepts.md: One epoch
def train_concepts(
    loader,
    encoder,
    concepts,
    encoder_optimizer,
    concept_optimizer,
    epoch,
    word_map,
    grad_clip=5.0,
    print_freq=100,
    scaler=None,
    after_step=None,
):
    """Train for one epoch; takes what `train` takes, gives the mean loss and times."""
    device = next(concepts.parameters()).device
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    optimizers = encoder_optimizer, concept_optimizer
    meters = {name: AverageMeter() for name in ("concept_loss", *TIMES)}
    for batch in measured(loader, device, epoch, meters, print_freq):
        with torch.autocast(device.type, torch.float16, enabled=scaler.is_enabled()):
            loss = loss_of(batch, encoder, concepts, word_map)
        update_weights(loss, optimizers, grad_clip, scaler, after_step)
        meters["concept_loss"].update(loss.item(), len(batch[0]))
    return {name: meter.avg for name, meter in meters.items()}


# chapters/concepts.md: One epoch
def loss_of(batch, encoder, concepts, word_map):
    """Return the loss of a mini-batch."""
    images, captions, _ = batch
    shares = word_shares(captions.unflatten(0, (len(images), -1)), word_map)
    return concept_loss(concepts(encode(encoder, images)), shares)


@torch.no_grad()
def validate_concepts(loader, encoder, concepts, word_map):
    """Measure the mean loss on a split."""
    device, meter = next(concepts.parameters()).device, AverageMeter()
    for batch in loader:
        batch = [tensor.to(device) for tensor in batch]
        meter.update(loss_of(batch, encoder, concepts, word_map).item(), len(batch[0]))
    return {"concept_loss": meter.avg}
