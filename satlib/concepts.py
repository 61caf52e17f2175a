# Written by `python -m satlib.tangle` from chapters/concepts.md: edit that.
# chapters/concepts.md: Concepts: which words does a picture call for?
"""Visual concepts: the encoder learns which words the captions of an image hold."""

from math import log

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from satlib.scale import parallel, total
from satlib.training import (
    AverageMeter,
    Joined,
    check_number,
    mixed_precision,
    quick_encoding,
)


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


# chapters/concepts.md: A score for each place, and one for the picture
def concept_loss(scores, shares):
    """Return the cross-entropy of scores and shares (B, V), summed over words."""
    loss = F.binary_cross_entropy_with_logits(scores, shares, reduction="sum")
    return loss / len(scores)


def loss_of(batch, model, word_map):
    """Return the loss of a mini-batch: images or cells, captions and lengths.

    `model` joins an encoder and `Concepts`.
    """
    images, captions, _ = batch
    shares = word_shares(captions.unflatten(0, (len(images), -1)), word_map)
    return concept_loss(model(images), shares)


# chapters/concepts.md: One epoch
def train_concepts(iterations, encoder, concepts, word_map):
    """Train encoder and `Concepts` for one epoch; return the mean loss and times."""
    model = parallel(Joined(encoder, concepts))
    for batch in iterations:
        device = iterations.device
        with mixed_precision(device), quick_encoding(device):
            loss = loss_of(batch, model, word_map)
        iterations.learn((loss, len(batch[0])))
        iterations.count(len(batch[0]), concept_loss=loss.item())
    return iterations.means()


# chapters/concepts.md: One epoch
@torch.no_grad()
def validate_concepts(loader, encoder, concepts, word_map):
    """Return the mean loss on a split, as `concept_loss`.

    Raises ValueError with the names of a mini-batch's images where it is no number.
    """
    device, meter = next(concepts.parameters()).device, AverageMeter()
    model = Joined(encoder, concepts)
    for number, batch in enumerate(loader, 1):
        batch = [tensor.to(device) for tensor in batch]
        loss = loss_of(batch, model, word_map)
        check_number(loss, "validation: the loss", loader, number)
        meter.update(loss.item(), len(batch[0]))
    loss, images = total(meter.sum, meter.count)
    return {"concept_loss": loss / images}


# chapters/concepts.md: A lesson of its own
class ConceptLesson:
    """The encoder learns which words the captions of an image hold."""

    name = "concepts"
    round_length = 2  # epochs

    def rates(self, config):
        """Return the learning rates of the encoder and of all else that learns."""
        return config.encoder_lr, config.decoder_lr

    def opens_encoder(self, config):
        """Tell whether the encoder's later blocks learn."""
        return True

    def begins_round(self, history):
        """Tell whether the epoch after those of `history` begins a round."""
        return len(history) % self.round_length == 0

    def epoch(self, learner, loader, number):
        """Teach epoch `number` to a `Learner`; return the mean loss and times."""
        concepts, word_map = learner.models["concepts"], learner.word_map
        if self.begins_round(learner.history) and not learner.begun:
            concepts.expect(loader.dataset.captions, word_map)
        iterations = learner.iterations(loader, number)
        return train_concepts(iterations, learner.encoder, concepts, word_map)

    def examine(self, learner, loader, references):
        """Return the mean loss of the averaged weights on a split."""
        models = learner.average.module
        parts = models["encoder"], models["concepts"]
        return validate_concepts(loader, *parts, learner.word_map)

    def merit(self, row):
        """Return how good an epoch was, by its row of the history: below zero."""
        return -row["concept_loss"]

    def line(self, row):
        """Return what an epoch's examination has found, as a text."""
        return f"concept loss {row['concept_loss']:.2f}"
