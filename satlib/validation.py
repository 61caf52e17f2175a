# Written by `python -m satlib.tangle` from chapters/validation.md: edit that.
# chapters/validation.md: Validation: how good is it on unseen images?
"""One pass over the validation split: loss, top-5 accuracy and two BLEU scores."""

import torch

from satlib.beam_search import beam_search, greedy_search
from satlib.bleu import corpus_bleu
from satlib.scale import gathered, total
from satlib.training import (
    AverageMeter,
    accuracy,
    caption_loss,
    check_number,
    encode,
    train,
)


# chapters/validation.md: Two BLEU scores
def teacher_forced_words(decoded):
    """Return the best next words of a `Decoded` batch, a list for each caption."""
    said = [[] for _ in decoded.alphas]
    best = decoded.scores.argmax(dim=1)
    for caption, word in zip(decoded.caption.tolist(), best.tolist(), strict=True):
        said[caption].append(word)
    return said


# chapters/validation.md: Two BLEU scores
def rows_of_same_image(captions, images, silent):
    """Return for each caption (k·B, L) its image's k rows, without `silent` ids."""
    rows = [[i for i in row if i not in silent] for row in captions.tolist()]
    k = len(rows) // images
    return [rows[j // k * k : j // k * k + k] for j in range(len(rows))]


# chapters/validation.md: Two BLEU scores
@torch.no_grad()
def validate(loader, encoder, decoder, word_map, references):
    """Measure a model on a split; return a dict of its scores.

    `references` holds every caption of each image, as raw words, in the loader's order.
    Keys: `loss` per word; `top5` in percent; `bleu4_teacher_forced`, of the words after
    the true ones, as the textbook's `validate` computes it; `bleu4`, of captions that
    the model writes by itself (greedy), by which a model is chosen. Raises ValueError
    with the names of a mini-batch's images where its loss is no number.
    """
    decoder.eval()
    device = next(decoder.parameters()).device
    words = {number: word for word, number in word_map.items()}
    silent = word_map["<start>"], word_map["<pad>"]
    loss, top5 = AverageMeter(), AverageMeter()
    true, forced, written = [], [], []
    for number, batch in enumerate(loader, 1):
        images, captions, lengths = (tensor.to(device) for tensor in batch)
        cells = encode(encoder, images)
        decoded = decoder(cells, captions, lengths)
        word_loss, _ = caption_loss(decoded)
        check_number(word_loss, "validation: the loss", loader, number)
        loss.update(word_loss.item(), len(decoded.targets))
        top5.update(accuracy(decoded.scores, decoded.targets), len(decoded.targets))
        forced += teacher_forced_words(decoded)
        true += rows_of_same_image(captions, len(images), silent)
        greedy = greedy_search(decoder, cells, word_map, captions.shape[1] - 2)
        written += [[words[i] for i in ids] for ids in greedy]
    true, forced, written = gathered(true, forced, written)
    surprise, right, number = total(loss.sum, top5.sum, loss.count)
    return {
        "loss": surprise / number,
        "top5": right / number,
        "bleu4_teacher_forced": corpus_bleu(true, forced)[3],
        "bleu4": corpus_bleu(references, written)[3],
    }


# chapters/validation.md: Some pictures, epoch after epoch
EXAMPLES = 4


@torch.no_grad()
def examples_of(dataset, encoder, decoder, word_map):
    """Return what a model says of a dataset's first images, and where it looks.

    A list of dicts of `words`, and of `maps`, (words, rows, columns) from 0 to 255.
    """
    device = next(decoder.parameters()).device
    images = [dataset[n][0] for n in range(min(EXAMPLES, len(dataset)))]
    cells = encode(encoder, torch.stack(images).to(device))
    names = {number: word for word, number in word_map.items()}
    found = []
    for best, *_ in beam_search(decoder.eval(), cells, word_map, beam_size=1):
        alphas = best.alphas.cpu().float()
        shades = (255 * alphas / alphas.amax(dim=1, keepdim=True)).round().int()
        maps = shades.unflatten(1, [round(shades.shape[1] ** 0.5)] * 2).tolist()
        found.append({"words": [names[i] for i in best.words], "maps": maps})
    return found


# chapters/validation.md: The lesson of words
class WordLesson:
    """The decoder learns to say what people have said, word by word."""

    name = "words"

    def rates(self, config):
        """Return the learning rates of the encoder and of all else that learns."""
        return config.encoder_lr, config.decoder_lr

    def opens_encoder(self, config):
        """Tell whether the encoder's later blocks learn."""
        return config.fine_tune

    def begins_round(self, history):
        """Tell whether the epoch after those of `history` begins a round: never."""
        return False

    def epoch(self, learner, loader, number):
        """Teach epoch `number` to a `Learner`; return what `train` returns."""
        models = learner.encoder, learner.decoder, *learner.optimizers
        settings = learner.settings() | {"alpha_c": learner.config.alpha_c}
        return train(loader, *models, number, **settings)

    def examine(self, learner, loader, references):
        """Return what `validate` finds of the averaged weights on a split."""
        return validate(loader, *learner.averaged(), learner.word_map, references)

    def merit(self, row):
        """Return how good an epoch was, by its row of the history: 0 to 1."""
        return row["bleu4"]

    def line(self, row):
        """Return what an epoch's examination has found, as a text."""
        return (
            f"loss {row['loss']:.3f}  top-5 {row['top5']:.1f} %"
            f"  BLEU-4: teacher-forced {row['bleu4_teacher_forced']:.3f},"
            f" generated {row['bleu4']:.3f}"
        )
