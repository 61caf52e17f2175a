# Written by `python -m satlib.tangle` from chapters/benchmark.md: edit that.
# chapters/benchmark.md: Benchmark: a fair race
"""The textbook's form of training and captioning, raced against ours."""

import gc
import time
from dataclasses import dataclass
from functools import partial
from math import prod
from statistics import median

import torch
from torch.nn import functional as F  # noqa: N812

from satlib.beam_search import beam_search, speakable
from satlib.decoder import Decoder, Memory, pack, textbook_forward, textbook_step
from satlib.encoder import pooling_matrix
from satlib.recurrence import FastDecoder, SharedLinear, SharedScores
from satlib.training import caption_loss, clip_gradient, multiplying


# chapters/benchmark.md: An example of any size
@dataclass(frozen=True)
class Sizes:
    """The sizes of an example; the textbook's by default."""

    images: int = 32
    per_image: int = 1
    side: int = 14  # regions in a row; pooled from 8 cells in a row, if 14
    encoder_dim: int = 1792
    attention_dim: int = 512
    embed_dim: int = 512
    decoder_dim: int = 512
    vocab_size: int = 2600
    shortest: int = 9  # words of a caption
    longest: int = 19


# chapters/benchmark.md: An example of any size
def example(sizes, seed=28):
    """Draw a decoder, cells (B, C, D), captions (k·B, L) and lengths (k·B,)."""
    torch.manual_seed(seed)
    pool = pooling_matrix(8, 14) if sizes.side == 14 else None
    layers = sizes.attention_dim, sizes.embed_dim, sizes.decoder_dim
    decoder = FastDecoder(*layers, sizes.vocab_size, sizes.encoder_dim, pool=pool)
    count = sizes.side**2 if pool is None else pool.shape[1]
    cells = torch.rand(sizes.images, count, sizes.encoder_dim)
    rows = sizes.images * sizes.per_image
    lengths = torch.randint(sizes.shortest, sizes.longest + 1, (rows,)) + 2
    captions = torch.randint(1, sizes.vocab_size, (rows, sizes.longest + 2))
    return decoder, cells, captions, lengths


# chapters/benchmark.md: An example of any size
def seconds(function):
    """Time one call of a function."""
    gc.collect()
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def wait():
    """Wait until an accelerator, if there is one, has done what it was told."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def compare(functions, repeats=5):
    """Time named functions in turn; return the times of each, without the first."""
    rounds = [{n: seconds(f) for n, f in functions.items()} for _ in range(repeats + 1)]
    return {name: [times[name] for times in rounds[1:]] for name in functions}


def ratios(times, slow, fast):
    """Return the median, smallest and largest of slow / fast, round by round."""
    found = [s / f for s, f in zip(times[slow], times[fast], strict=True)]
    return median(found), min(found), max(found)


# chapters/benchmark.md: A training step, saving by saving
def adam(decoder):
    """Return the optimiser of the benchmark, the same for all forms."""
    return torch.optim.Adam(decoder.parameters(), lr=1e-4, fused=True)


def training_step(forward, optimizer, *batch):
    """Take one training step on captions and lengths."""
    loss = sum(caption_loss(forward(*batch)))
    optimizer.zero_grad()
    loss.backward()
    clip_gradient(optimizer, 5.0)
    optimizer.step()


# chapters/benchmark.md: A training step, saving by saving
class OverCells(Decoder):
    """The decoder with the products of keys and context over the cells."""

    def remember(self, cells):
        """Return keys that are pooled from those of the cells, and the cells."""
        return Memory(self.pool @ self.attention.keys(cells), cells)

    def step(self, words, hidden, cell_state, memory, image):
        """Take a step, with the weights of the cells in the place of the regions'."""
        alpha = self.attention.alpha(memory.keys[image], self.attention.query(hidden))
        cells = memory.regions[image]
        context = self.attention.context(alpha @ self.pool, cells)
        inputs = [words, torch.sigmoid(self.f_beta(hidden)) * context]
        state = self.decode_step(torch.cat(inputs, dim=1), (hidden, cell_state))
        return *state, alpha, None


def with_layers_of(decoder, form):
    """Return a decoder of the class `form` that has the very layers of `decoder`."""
    other = form.__new__(form)
    other.__dict__ = decoder.__dict__
    return other


# chapters/benchmark.md: A training step, saving by saving
FORMS = {
    "keys once per image": Decoder,
    "products over cells": OverCells,
}


def forms_of_forward(decoder, cells):
    """Return the forward passes, the textbook's first, each with one saving more.

    Where there is no pooling (cells are regions) some savings have nothing to save, and
    only the textbook's and ours are given.
    """
    regions = cells if decoder.pool is None else decoder.pool @ cells
    between = {} if decoder.pool is None else FORMS
    return {
        "textbook": partial(textbook_forward, decoder, regions),
        **{
            name: partial(with_layers_of(decoder, form), cells)
            for name, form in between.items()
        },
        "shared operations": partial(decoder, cells),
    }


# chapters/benchmark.md: A training step, saving by saving
BOOK = Sizes(8, 5, 14, 1280, 128, 128, 256, vocab_size=60)


# chapters/benchmark.md: The arithmetic, and the limit
def products(sizes, batch_sizes):
    """List the matrix products of a training step as (how many at once, r, s, t)."""
    n, k, p = sizes.images, sizes.per_image, sizes.side**2
    a, d, e = sizes.attention_dim, sizes.encoder_dim, sizes.embed_dim
    h, v, w = sizes.decoder_dim, sizes.vocab_size, sum(batch_sizes)
    c = 64 if p == 196 else p
    found = [(1, n * c, d, a), (1, a, n * c, d)]  # keys, gradient of their weights
    found += [(n, p, c, a), (n, c, p, a)] if c < p else []  # pooling the keys
    found += 2 * [(1, n, d, h), (1, h, n, d)]  # the first state
    found += [(1, w, h, v), (1, w, v, h), (1, v, w, h)]  # word scores
    found += [(1, w, e, 4 * h), (1, w, 4 * h, e), (1, 4 * h, w, e)]  # words' half
    layers = (h, a), (h, d), (h, 4 * h), (d, 4 * h)  # query, gate, the LSTM's two
    found += [(1, o, w, i) for i, o in layers]  # gradients of the shared weights
    for b in batch_sizes:
        found += [(1, b, i, o) for i, o in layers] + [(1, b, o, i) for i, o in layers]
        found += [(-(-b // k), k, c, d), (-(-b // k), k, d, c)]  # context
        found += [(1, b, p, c), (1, b, c, p)] if c < p else []  # pooling alpha
    return found


# chapters/benchmark.md: The arithmetic, and the limit
def operations(shapes):
    """Count the floating-point operations of products."""
    return sum(2 * prod(shape) for shape in shapes)


def only_products(shapes):
    """Make a function that computes the products of a list and nothing else."""
    pairs = {
        shape: (torch.rand(shape[:3]), torch.rand(shape[0], *shape[2:]))
        for shape in set(shapes)
    }

    def multiply():
        for shape in shapes:
            a, b = pairs[shape]
            torch.mm(a[0], b[0]) if len(a) == 1 else torch.bmm(a, b)

    return multiply


# chapters/benchmark.md: The race
@torch.no_grad()
def check_equal(forms, decoder, captions):
    """Raise AssertionError where the losses of forms differ."""
    decoder.eval()
    losses = [sum(caption_loss(forward(*captions))) for forward in forms.values()]
    torch.testing.assert_close(losses, losses[:1] * len(losses), atol=1e-4, rtol=1e-4)
    decoder.train()


def training_times(sizes, repeats=5):
    """Time a training step in all its forms, and the "products alone" of ours."""
    decoder, cells, *captions = example(sizes)
    forms, optimizer = forms_of_forward(decoder, cells), adam(decoder)
    check_equal(forms, decoder, captions)
    steps = {
        name: partial(training_step, forward, optimizer, *captions)
        for name, forward in forms.items()
    }
    steps["in bfloat16"] = in_bfloat16(steps["shared operations"])
    shapes = products(sizes, pack(*captions).batch_sizes)
    return compare(steps | {"products alone": only_products(shapes)}, repeats)


# chapters/benchmark.md: The race
def in_bfloat16(function):
    """Return a function that does the same, its products in "medium" precision."""
    return multiplying("medium")(function)


# chapters/benchmark.md: The race
def twenty_steps(make, operands, width):
    """Make an operation, take twenty steps of 32 rows with it, and all gradients."""
    operation = make()
    inputs = [torch.randn(32, width, requires_grad=True) for _ in range(20)]
    loss = sum(operation(x).square().mean() for x in inputs)
    return torch.autograd.grad(loss, [*operands, *inputs])


def operation_times(repeats=5):
    """Time a linear layer and the scores, ordinary and shared, at textbook sizes."""
    shapes = (2048, 1792), (32, 196, 512), (512,)
    weight, keys, v = (torch.randn(*shape, requires_grad=True) for shape in shapes)
    linear = {
        "ordinary": lambda: partial(F.linear, weight=weight),
        "shared": lambda: SharedLinear(weight),
    }
    scores = {
        "ordinary": lambda: lambda query: torch.relu(keys + query.unsqueeze(1)) @ v,
        "shared": lambda: partial(SharedScores(keys, v), image=torch.arange(32)),
    }
    return {
        name: compare(
            {way: partial(twenty_steps, make, *of) for way, make in ways.items()},
            repeats,
        )
        for name, ways, *of in (
            ("linear", linear, [weight], 1792),
            ("scores", scores, [keys, v], 512),
        )
    }


# chapters/benchmark.md: Captions: beam search for one image and for all
@torch.no_grad()
def textbook_search(decoder, regions, word_map, beam_size, max_length):
    """Caption one image with regions (P, D) by the textbook's beam search."""
    pad, end = word_map["<pad>"], word_map["<end>"]
    beams, totals = torch.tensor([[word_map["<start>"]]]), torch.zeros(1)
    state = [f(regions.mean(0, keepdim=True)) for f in (decoder.init_h, decoder.init_c)]
    for t in range(max_length):
        several = regions.expand(len(beams), -1, -1)
        *state, _ = textbook_step(decoder, several, beams[:, -1], *state)
        log_probs = speakable(decoder.fc(state[0]), word_map, t == 0)
        done = (beams[:, -1] == end) | (beams[:, -1] == pad)
        log_probs[done] = -torch.inf
        log_probs[done, pad] = 0
        best = (totals.unsqueeze(1) + log_probs).flatten().topk(beam_size)
        totals, parents = best.values, best.indices // len(word_map)
        words = best.indices % len(word_map)
        beams = torch.cat([beams[parents], words.unsqueeze(1)], dim=1)
        state = [s[parents] for s in state]
        if ((words == end) | (words == pad)).all():
            break
    ids = [[i for i in beam if i != pad] for beam in beams[:, 1:].tolist()]
    finished = [beam[-1] == end for beam in ids]
    scores = [p / len(b) ** 0.7 for p, b in zip(totals.tolist(), ids, strict=True)]
    best = max(range(len(ids)), key=lambda k: (finished[k], scores[k]))
    return ids[best][: len(ids[best]) - finished[best]]


# chapters/benchmark.md: Captions: beam search for one image and for all
def search_example(sizes):
    """Draw a decoder whose captions never end, cells (B, C, D), and a word map."""
    decoder, cells, *_ = example(sizes)
    special = ["<start>", "<end>", "<unk>"]
    plain = [str(number) for number in range(1, sizes.vocab_size - len(special))]
    word_map = {word: i for i, word in enumerate(["<pad>", *plain, *special])}
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(2)  # decided opinions, so that beams differ
        decoder.fc.bias[word_map["<end>"]] = -1e9
    return decoder.eval(), cells, word_map


# chapters/benchmark.md: Captions: beam search for one image and for all
def forms_of_search(decoder, cells, word_map, words=14, beam_size=5):
    """Return functions that caption all images: the textbook's, ours, greedy search."""
    regions = decoder.pool @ cells

    def textbook():
        rules = word_map, beam_size, words
        return [textbook_search(decoder, image, *rules) for image in regions]

    def ours(beams=beam_size):
        found = beam_search(decoder, cells, word_map, beams, words)
        return [hypotheses[0].words for hypotheses in found]

    return {"textbook": textbook, "ours": ours, "beam 1": partial(ours, 1)}


# chapters/benchmark.md: Captions: beam search for one image and for all
def search_times(sizes, beam_size=5, repeats=5):
    """Time beam search of all images: the textbook's, ours, and greedy search.

    Raises AssertionError where the two do not find the same captions.
    """
    forms = forms_of_search(*search_example(sizes), beam_size=beam_size)
    if forms["textbook"]() != forms["ours"]():
        raise AssertionError("both searches must find the same captions")
    forms["in bfloat16"] = in_bfloat16(forms["ours"])
    forms["products alone"] = only_products(search_products(sizes, beam_size))
    return compare(forms, repeats)


# chapters/benchmark.md: Captions: beam search for one image and for all
def search_products(sizes, beam_size, words=14):
    """List the matrix products of a beam search as (how many at once, r, s, t)."""
    n, k, p = sizes.images, beam_size, sizes.side**2
    a, d, e = sizes.attention_dim, sizes.encoder_dim, sizes.embed_dim
    h, v, c = sizes.decoder_dim, sizes.vocab_size, 64 if p == 196 else p
    found = [(1, n * c, d, a), *2 * [(1, n, d, h)]]  # keys, the first state
    found += [(n, p, c, a)] if c < p else []  # pooling the keys
    layers = (h, a), (h, d), (h, 4 * h), (d, 4 * h), (e, 4 * h), (h, v)
    for each in [1, *(words - 1) * [k]]:
        found += [(1, n * each, i, o) for i, o in layers]
        found += [(n, each, c, d)]  # context
        found += [(1, n * each, p, c)] if c < p else []  # pooling alpha
    return found
