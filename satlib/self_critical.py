# Written by `python -m satlib.tangle` from chapters/self_critical.md: edit that.
# chapters/self_critical.md: Self-critical: learning from the score
"""Self-critical training: the model's own captions, weighed by their CIDEr-D."""

from collections import Counter
from math import exp, log, sqrt

import torch
from torch.nn import functional as F  # noqa: N812

from satlib.beam_search import speak, speakable
from satlib.bleu import ngrams
from satlib.scale import parallel
from satlib.training import Joined, encode, mixed_precision
from satlib.validation import WordLesson

ORDERS = range(1, 5)  # of the n-grams


# chapters/self_critical.md: A reward for a caption
def said(row):
    """Return the ids of a row that the model has to say: no `<start>`, no padding."""
    return [word for word in row[1:] if word]


class CiderReward:
    """CIDEr-D (Vedantam et al. 2015) of captions of word ids, `<end>` included.

    `captions` (N, k, L) are the rows of a training split; they weigh the n-grams.
    """

    def __init__(self, captions):
        images = Counter()  # how many images' captions hold an n-gram
        for rows in captions.tolist():
            grams = (ngrams(said(row), n) for row in rows for n in ORDERS)
            images.update(set().union(*grams))
        self.unseen = log(len(captions))
        self.weights = {g: self.unseen - log(d) for g, d in images.items()}

    def vectors(self, words):
        """Return the weighted n-grams of a caption and their norm, for n = 1 to 4."""
        result = []
        for n in ORDERS:
            counts = ngrams(words, n).items()
            vector = {g: c * self.weights.get(g, self.unseen) for g, c in counts}
            result.append((vector, sqrt(sum(v * v for v in vector.values()))))
        return result

    def __call__(self, references, captions):
        """Reward captions (B, s, L) of images with references (B, k, L): (B, s)."""
        rewards = []
        for true, own in zip(references.tolist(), captions.tolist(), strict=True):
            people = [(self.vectors(said(row)), len(said(row))) for row in true]
            model = [(self.vectors(said(row)), len(said(row))) for row in own]
            closeness = [[similarity(m, p) for p in people] for m in model]
            rewards.append([10 * sum(row) / len(row) for row in closeness])
        return torch.tensor(rewards, device=captions.device)


# chapters/self_critical.md: A reward for a caption
def similarity(caption, reference):
    """Return the mean over n of CIDEr-D's cosine, for one reference, without the 10.

    Both are pairs of `CiderReward.vectors` and a number of words.
    """
    (own, words), (true, others), total = caption, reference, 0.0
    for (y, y_norm), (r, r_norm) in zip(own, true, strict=True):
        if y_norm and r_norm:
            shared = sum(min(v, r[g]) * r[g] for g, v in y.items() if g in r)
            total += shared / (y_norm * r_norm)
    return total / len(own) * exp(-((words - others) ** 2) / (2 * 6**2))


# chapters/self_critical.md: Drawing captions
def draw_captions(decoder, cells, word_map, count, max_length=50):
    """Draw `count` captions for each image with cells (B, C, D).

    Returns rows of ids (count·B, L), which begin with `<start>`, and their lengths. One
    that has not come to its end after `max_length` words has no `<end>`.
    """

    def by_chance(log_probs):
        return log_probs.exp().multinomial(1).squeeze(1)

    rows = speak(decoder, cells, word_map, by_chance, count, max_length)
    lengths = (rows != word_map["<pad>"]).sum(1)
    return rows[:, : lengths.max()], lengths


# chapters/self_critical.md: Learning from a score without a gradient
def advantages(rewards):
    """Return each reward (B, s) minus the mean of the image's others, as (B·s,)."""
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return (rewards - others).flatten()


def reward_loss(decoded, advantage, word_map):
    """Return the loss whose gradient is minus that of the expected reward, per word.

    `decoded` is of s·B captions, with their `advantage` (s·B,): equation (reinforce),
    Rennie et al. 2017.
    """
    firsts, others = decoded.scores.tensor_split([len(advantage)])  # step 0, later
    log_probs = speakable(firsts, word_map, True), speakable(others, word_map, False)
    losses = F.nll_loss(torch.cat(log_probs), decoded.targets, reduction="none")
    return (advantage[decoded.caption] * losses).mean()


# chapters/self_critical.md: One epoch
class Drawing(Joined):
    """An encoder, or None, and a decoder that draws captions and scores them."""

    def forward(self, images, *how):
        """Draw captions as `draw_captions`; return rows (count·B, L) and `Decoded`."""
        cells = encode(self.encoder, images)
        rows, lengths = draw_captions(self.reader, cells, *how)
        return rows, self.reader(cells, rows, lengths)


def train_on_reward(iterations, encoder, decoder, reward, word_map, count=5):
    """Train for one epoch on the `reward` of `count` drawn captions for each image.

    `iterations` are those of `training.Iterations`. Returns the mean reward and times.
    """
    decoder.eval()
    model = parallel(Drawing(encoder, decoder))
    for images, true, _ in iterations:
        with mixed_precision(iterations.device):
            most = true.shape[1] - 2  # words in a row
            rows, decoded = model(images, word_map, count, most)
        rewards = reward(*(r.unflatten(0, (len(images), -1)) for r in (true, rows)))
        loss = reward_loss(decoded, advantages(rewards), word_map)
        iterations.learn((loss, len(decoded.targets)))
        iterations.count(len(images), reward=rewards.mean().item())
    return iterations.means()


# chapters/self_critical.md: One epoch
class RewardLesson(WordLesson):
    """The decoder learns from the CIDEr-D of captions that it draws."""

    name = "reward"

    def rates(self, config):
        """Return the learning rates of the encoder and of all else that learns."""
        return config.self_critical_lr, config.self_critical_lr

    def epoch(self, learner, loader, number):
        """Teach epoch `number` to a `Learner`; return the mean reward and times."""
        reward = CiderReward(loader.dataset.captions)
        iterations = learner.iterations(loader, number)
        models = learner.encoder, learner.decoder
        return train_on_reward(iterations, *models, reward, learner.word_map)
