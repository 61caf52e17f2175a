# Written by `python -m satlib.tangle` from chapters/beam_search.md: edit that.
# chapters/beam_search.md: Beam search: choosing the words
"""Greedy and beam search for a batch of images, with each word's attention map."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

RIVALS = 4


# chapters/beam_search.md: What may be said
def speakable(scores, word_map, first):
    """Turn word scores (…, V) into log-probabilities of the words that may be said.

    `<pad>`, `<start>` and `<unk>` never may, `<end>` not as the `first` word.
    """
    silent = [word_map[token] for token in ("<pad>", "<start>", "<unk>")]
    silent += [word_map["<end>"]] if first else []
    scores = scores.float().clone()
    scores[..., silent] = -torch.inf
    return scores.log_softmax(dim=-1)


# chapters/beam_search.md: Nothing twice
_LISTED = """
a an the this that these those some any all each every both one two three four five
six several many few more lots lot of in on at by to from with without into onto
over under above below beneath across through along around near behind beside
between among against down up off out inside outside toward towards past next front
top for as during about like after before while and or but who which where when it
its his her their he she they them him themselves himself herself itself is are was
were be been being has have had does do not there
"""
FUNCTION = frozenset(_LISTED.split())


def repeats(words):
    """Tell whether a caption, a list of English words, says a thing again."""
    runs, run = [], []
    for word in [*words, None]:
        if word is None or word in FUNCTION:
            stretches = (old[i : i + len(run)] for old in runs for i in range(len(old)))
            if run and run in stretches:
                return True
            runs, run = [*runs, run], []
            continue
        run = [*run, word]
        if run[-2:] == [word] * 2 or any(run == old[-len(run) :] for old in runs):
            return True
    return False


# chapters/beam_search.md: Nothing twice
def content_words(word_map, device=None):
    """Tell of each id whether it is a content word of English: (V,), of truth values.

    In a language without any of the words in `FUNCTION` no word counts as one.
    """
    known = not FUNCTION.isdisjoint(word_map)
    silent = FUNCTION | {"<pad>", "<start>", "<end>", "<unk>"}
    return torch.tensor([known and word not in silent for word in word_map]).to(device)


# chapters/beam_search.md: Nothing twice
class Said(NamedTuple):
    """What R beams have said so far, from `<start>` on."""

    words: torch.Tensor  # (R, t)
    alike: torch.Tensor  # (R, t), does the run at the end stand before this place?

    def of(self, rows):
        """Return that of some of the rows, by numbers or truth values."""
        return Said(self.words[rows], self.alike[rows])

    def then(self, words, content):
        """Return it with one more word of each beam, (R,); `content` is (V,)."""
        words = words.unsqueeze(1)
        same = self.alike & (self.words == words) | ~content[words]
        alike = torch.cat([torch.zeros_like(same[:, :1]), same], dim=1)
        return Said(torch.cat([self.words, words], dim=1), alike)


def beginning(count, start, device=None):
    """Return what `count` beams have said before their first word."""
    words = torch.full((count, 1), start, device=device)
    return Said(words, torch.zeros_like(words, dtype=torch.bool))


# chapters/beam_search.md: Nothing twice
def without_repeats(log_probs, said, content):
    """Return log-probabilities (R, V), −∞ for words that would repeat what is `said`.

    The others' are as they were.
    """
    told = content[said.words]
    ends = said.alike & told
    ends[:, :-1] &= ~told[:, 1:]
    ends[:, -1] = told[:, -1]
    row, place = ends.nonzero(as_tuple=True)
    log_probs[row, said.words[row, place]] = -torch.inf
    free = (content & ~log_probs.isinf()).any(dim=1)
    known = told[:, -1] & said.alike.any(dim=1) & free
    return log_probs.masked_fill_(known[:, None] & ~content, -torch.inf)


# chapters/beam_search.md: Greedy search
@torch.no_grad()
def speak(decoder, cells, word_map, choose, count=1, max_length=50, once=False):
    """Write `count` captions for each image with cells (B, C, D), word by word.

    `choose` takes the words' log-probabilities (R, V) and returns R words; with `once`
    those that would repeat what is said have none. Returns rows of ids (count·B,
    max_length + 1) that begin with `<start>`. A caption that has not come to its end
    after `max_length` words has no `<end>`.
    """
    memory = decoder.remember(cells)
    state = [s.repeat_interleave(count, 0) for s in decoder.start(cells)]
    live = torch.arange(count * len(cells), device=cells.device)
    rows = live.new_full((len(live), max_length + 1), word_map["<pad>"])
    rows[:, 0] = word_map["<start>"]
    content = content_words(word_map, cells.device)
    said = beginning(len(live), word_map["<start>"], cells.device)
    for t in range(max_length):
        vectors, image = decoder.vectors(rows[live, t]), live // count
        *state, _, _ = decoder.step(vectors, *state, memory, image)
        log_probs = speakable(decoder.fc(state[0]), word_map, t == 0)
        if once:
            log_probs = without_repeats(log_probs, said, content)
        words = choose(log_probs)
        rows[live, t + 1] = words
        goes_on = words != word_map["<end>"]
        live, *state = (part[goes_on] for part in (live, *state))
        said = said.of(goes_on).then(words[goes_on], content)
        if len(live) == 0:
            break
    return rows


# chapters/beam_search.md: Greedy search
def greedy_search(decoder, cells, word_map, max_length=50):
    """Caption images with cells (B, C, D); return a list of word ids for each.

    Takes the most probable word at each step that repeats nothing, at most `max_length`
    words; `<end>` is not among them.
    """
    best = partial(torch.argmax, dim=-1)
    rows = speak(decoder, cells, word_map, best, max_length=max_length, once=True)
    silent = [word_map[token] for token in ("<start>", "<end>", "<pad>")]
    return [[i for i in row if i not in silent] for row in rows.tolist()]


# chapters/beam_search.md: Beam search
class Step(NamedTuple):
    """One step of a beam search: the K survivors for each of B images."""

    parents: torch.Tensor  # (B, K), the beam that each survivor continues
    words: torch.Tensor  # (B, K), the word it adds
    log_probs: torch.Tensor  # (B, K), of that word, given those before
    likely: torch.Tensor  # (B, K, N), the words that were most probable in its place
    likely_log_probs: torch.Tensor  # (B, K, N)
    alphas: torch.Tensor  # (B, K, P), where the decoder looked
    gates: torch.Tensor  # (B, K), the mean of the gate

    def at(self, image, beam):
        """Return the fields of one beam of one image."""
        return Step(*(field[image, beam] for field in self))


# chapters/beam_search.md: Beam search
def survivors(totals, log_probs, beam_size):
    """Choose the best continuations of k beams with log-probabilities `totals` (B, k).

    Takes the log-probabilities (B, k, N) of N proposals of each. Returns, the best
    first and (B, K) each, the new totals, the parents and the places among the N.
    """
    sums = totals.unsqueeze(-1) + log_probs
    beams, places = sums.shape[1:]
    best = sums.flatten(1).topk(min(beam_size, beams * places))
    return best.values, best.indices // places, best.indices % places


# chapters/beam_search.md: Beam search
def spread(rows, live, fill):
    """Put rows (R, …) in the places of the live beams of (B, k), `fill` elsewhere."""
    beams = rows.new_full((*live.shape, *rows.shape[1:]), fill)
    beams[live] = rows
    return beams


def proposals(log_probs, live, count, pad):
    """Choose the `count` most probable words of each beam, from (R, V) of live beams.

    Returns the words and their log-probabilities, (B, k, count) each. A finished beam
    proposes `pad`, at no cost.
    """
    top = log_probs.topk(min(count, log_probs.shape[1]))
    values = spread(top.values, live, -torch.inf)
    values[..., 0].masked_fill_(~live, 0)
    return spread(top.indices, live, pad), values


# chapters/beam_search.md: Beam search
def search(decoder, cells, word_map, beam_size, max_length, once=True):
    """Search for captions of images with cells (B, C, D), with `beam_size` = K beams.

    With `once` no beam says a thing again. Returns the steps, a list of `Step`, and the
    final log-probabilities (B, K).
    """
    memory, state = decoder.remember(cells), decoder.start(cells)
    pad, end = word_map["<pad>"], word_map["<end>"]
    words = torch.full((len(cells), 1), word_map["<start>"], device=cells.device)
    totals = torch.zeros_like(words, dtype=torch.float32)
    live = torch.ones_like(words, dtype=torch.bool)
    content = content_words(word_map, cells.device)
    said, steps = beginning(len(words), word_map["<start>"], cells.device), []
    for t in range(max_length):
        vectors, image = decoder.vectors(words[live]), live.nonzero()[:, 0]
        *state, alphas, gates = decoder.step(vectors, *state, memory, image)
        log_probs = speakable(decoder.fc(state[0]), word_map, t == 0)
        if once:
            log_probs = without_repeats(log_probs, said, content)
        likely = proposals(log_probs, live, max(beam_size, RIVALS + 1), pad)
        totals, parents, places = survivors(totals, likely[1], beam_size)
        looks = spread(alphas, live, 0), spread(gates.mean(1), live, 0)
        seen = [_follow(beams, parents) for beams in (*likely, *looks)]
        words, chosen = (s.gather(2, places.unsqueeze(2))[..., 0] for s in seen[:2])
        steps.append(Step(parents, words, chosen, *seen))
        row = torch.arange(len(image), device=cells.device)  # where each state stands
        row = _follow(spread(row, live, 0), parents)
        live = (words != pad) & (words != end) & (totals > -torch.inf)
        if not live.any():
            break
        state = [s[row[live]] for s in state]
        said = said.of(row[live]).then(words[live], content)
    return steps, totals


# chapters/beam_search.md: Beam search
def _follow(tensor, parents):
    images = torch.arange(len(parents), device=parents.device).unsqueeze(1)
    return tensor[images, parents]


# chapters/beam_search.md: Reading the captions off
def trace(steps):
    """Follow the final beams back to `<start>`; return a `Step` of (B, K, T, …)."""
    last = steps[-1].parents
    index = torch.arange(last.shape[1], device=last.device).expand_as(last)
    path = []
    for step in reversed(steps):
        path.insert(0, [_follow(field, index) for field in step])
        index = path[0][0]
    return Step(*(torch.stack(fields, dim=2) for fields in zip(*path, strict=True)))


# chapters/beam_search.md: Reading the captions off
@dataclass
class Hypothesis:
    """A caption that a beam search found, of n words, without `<end>`."""

    words: list  # n word ids
    log_prob: float  # of all words, and of `<end>` if it is finished
    score: float  # log_prob, normalised by the length
    finished: bool  # whether it reached `<end>`
    word_log_probs: list  # n, each given the words before
    rivals: list  # n lists of (word id, log-probability), the most probable first
    alphas: torch.Tensor  # (n, P), where the decoder looked for each word
    gates: list  # n, the gate's mean at each word


# chapters/beam_search.md: Reading the captions off
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


# chapters/beam_search.md: Reading the captions off
@torch.no_grad()
def beam_search(
    decoder, cells, word_map, beam_size=5, max_length=50, length_power=0.7, once=True
):
    """Caption images with cells (B, C, D); return for each its hypotheses, best first.

    Finished captions come before unfinished ones, so the first is always a caption:
    the best live one if none reached `<end>` within `max_length` words. Fewer than
    `beam_size` hypotheses are given only where there are not that many captions. With
    `once` none says a thing again.
    Raises ValueError where `beam_size` or `max_length` is below 1. Source: Graves 2012;
    length normalisation after Wu et al. 2016, section 7.
    """
    if beam_size < 1 or max_length < 1:
        raise ValueError(f"beam_size {beam_size}, max_length {max_length}: at least 1")
    steps, totals = search(decoder, cells, word_map, beam_size, max_length, once)
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
