# Written by `python -m satlib.tangle` from chapters/beam_search.md: edit that.
"""Greedy and beam search for a batch of images, with each word's attention map."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

RIVALS = 4


def speakable(scores, word_map, first):
    """Turn word scores (…, V) into log-probabilities of the words that may be said.

    `<pad>`, `<start>` and `<unk>` never may, `<end>` not as the `first` word.
    """
    silent = [word_map[token] for token in ("<pad>", "<start>", "<unk>")]
    silent += [word_map["<end>"]] if first else []
    scores = scores.float().clone()
    scores[..., silent] = -torch.inf
    return scores.log_softmax(dim=-1)


@torch.no_grad()
def greedy_search(decoder, cells, word_map, max_length=50):
    """Caption images with cells (B, C, D); give a list of word ids for each.

    Takes the most probable word at each step, at most `max_length` words.
    """
    memory = decoder.remember(cells)
    hidden, cell_state = (state.unsqueeze(1) for state in decoder.start(cells))
    words = torch.full((len(cells), 1), word_map["<start>"], device=cells.device)
    said, done = [], torch.zeros_like(words, dtype=torch.bool)
    for t in range(max_length):
        hidden, cell_state, *_ = decoder.step(
            decoder.word_inputs(words), hidden, cell_state, memory
        )
        words = speakable(decoder.fc(hidden), word_map, t == 0).argmax(dim=-1)
        done |= words == word_map["<end>"]
        if done.all():
            break
        said.append(words.masked_fill(done, word_map["<pad>"]))
    rows = torch.cat(said, dim=1).tolist()
    return [[word for word in row if word != word_map["<pad>"]] for row in rows]


class Step(NamedTuple):
    """One step of a beam search: the K survivors for each of B images."""

    parents: torch.Tensor  # (B, K), the beam that each survivor continues
    words: torch.Tensor  # (B, K), the word it adds
    log_probs: torch.Tensor  # (B, K), of that word, given those before
    likely: torch.Tensor  # (B, K, R), the words that were most probable in its place
    likely_log_probs: torch.Tensor  # (B, K, R)
    alphas: torch.Tensor  # (B, K, P), where the decoder looked
    gates: torch.Tensor  # (B, K), the mean of the gate

    def at(self, image, beam):
        """Give the fields of one beam of one image."""
        return Step(*(field[image, beam] for field in self))


def survivors(totals, log_probs, beam_size):
    """Choose the best continuations of k beams with log-probabilities `totals` (B, k).

    Takes the log-probabilities (B, k, V) of their next words. Gives the new totals,
    the parents and the words, (B, K) each, the best first.
    """
    proposals = totals.unsqueeze(-1) + log_probs
    count, vocab_size = proposals.shape[1:]
    best = proposals.flatten(1).topk(min(beam_size, count * vocab_size))
    return best.values, best.indices // vocab_size, best.indices % vocab_size


def search(decoder, cells, word_map, beam_size, max_length):
    """Run a beam search; give its steps and the final log-probabilities (B, K)."""
    memory = decoder.remember(cells)
    hidden, cell_state = (state.unsqueeze(1) for state in decoder.start(cells))
    words = torch.full((len(cells), 1), word_map["<start>"], device=cells.device)
    totals = torch.zeros_like(words, dtype=torch.float32)
    done = torch.zeros_like(words, dtype=torch.bool)
    pad_only = torch.full((len(word_map),), -torch.inf, device=cells.device)
    pad_only[word_map["<pad>"]] = 0  # how a finished beam goes on, at no cost
    steps = []
    for t in range(max_length):
        hidden, cell_state, alphas, gates = decoder.step(
            decoder.word_inputs(words), hidden, cell_state, memory
        )
        log_probs = speakable(decoder.fc(hidden), word_map, t == 0)
        log_probs = torch.where(done.unsqueeze(-1), pad_only, log_probs)
        totals, parents, words = survivors(totals, log_probs, beam_size)
        likely = log_probs.topk(min(RIVALS + 1, len(word_map)))
        seen = likely.indices, likely.values, alphas, gates.mean(dim=-1)
        chosen = _follow(log_probs, parents).gather(-1, words.unsqueeze(-1)).squeeze(-1)
        steps.append(Step(parents, words, chosen, *(_follow(s, parents) for s in seen)))
        hidden, cell_state = _follow(hidden, parents), _follow(cell_state, parents)
        done = done.gather(1, parents) | (words == word_map["<end>"])
        if done.all():
            break
    return steps, totals


def _follow(tensor, parents):
    images = torch.arange(len(parents), device=parents.device).unsqueeze(1)
    return tensor[images, parents]


def trace(steps):
    """Follow the final beams back to `<start>`; give a `Step` of (B, K, T, …)."""
    last = steps[-1].parents
    index = torch.arange(last.shape[1], device=last.device).expand_as(last)
    path = []
    for step in reversed(steps):
        path.insert(0, [_follow(field, index) for field in step])
        index = path[0][0]
    return Step(*(torch.stack(fields, dim=2) for fields in zip(*path, strict=True)))


@dataclass
class Hypothesis:
    """A caption that a beam search found. T counts its words, without `<end>`."""

    words: list  # T word ids
    log_prob: float  # of all words, and of `<end>` if it is finished
    score: float  # log_prob, normalised by the length
    finished: bool  # whether it reached `<end>`
    word_log_probs: list  # T, each given the words before
    rivals: list  # T lists of (word id, log-probability), the most probable first
    alphas: torch.Tensor  # (T, P), where the decoder looked for each word
    gates: list  # T, the gate's mean at each word


def _hypothesis(path, log_prob, word_map, length_power):
    ids = [word for word in path.words.tolist() if word != word_map["<pad>"]]
    finished = ids[-1] == word_map["<end>"]
    words = ids[: len(ids) - finished]
    count = len(words)
    likely = zip(path.likely.tolist(), path.likely_log_probs.tolist(), strict=True)
    rivals = [
        [(i, p) for i, p in zip(*pair, strict=True) if i != word][:RIVALS]
        for word, pair in zip(words, likely, strict=False)
    ]
    return Hypothesis(
        words,
        log_prob,
        log_prob / len(ids) ** length_power,
        finished,
        path.log_probs[:count].tolist(),
        rivals,
        path.alphas[:count],
        path.gates[:count].tolist(),
    )


@torch.no_grad()
def beam_search(decoder, cells, word_map, beam_size=5, max_length=50, length_power=0.7):
    """Caption images with cells (B, C, D); give for each its hypotheses, best first.

    Finished captions come before unfinished ones, so the first is always a caption:
    the best live one if none reached `<end>` within `max_length` words. Fewer than
    `beam_size` hypotheses are given only where there are not that many captions.
    Source: Graves 2012; length normalisation after Wu et al. 2016, section 7.
    """
    if beam_size < 1 or max_length < 1:
        raise ValueError(f"beam_size {beam_size}, max_length {max_length}: at least 1")
    steps, totals = search(decoder, cells, word_map, beam_size, max_length)
    paths = Step(*(field.cpu() for field in trace(steps)))
    results = []
    for image, row in enumerate(totals.tolist()):
        beams = [
            _hypothesis(paths.at(image, k), total, word_map, length_power)
            for k, total in enumerate(row)
            if total > -torch.inf
        ]
        results.append(sorted(beams, key=lambda h: (not h.finished, -h.score)))
    return results
