# Written by `python -m satlib.tangle` from chapters/recurrence.md: edit that.
# chapters/recurrence.md: Recurrence: what all steps share
"""Operations whose operands all steps of a recurrence share, with one gradient each."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

from satlib.attention import Attention
from satlib.decoder import Decoder
from satlib.lstm import LSTMCell


# chapters/recurrence.md: The gradient of a shared weight
class Shared:
    """Tensors that many steps use. Their gradients are computed once, after the steps.

    A subclass has `gradients`, which turns the notes of all steps into the gradients.
    """

    def __init__(self, *tensors):
        self.notes = Notes()
        self.originals = [full_precision(tensor) for tensor in tensors]
        self.tensors = _HandOn.apply(self.notes, self.gradients, *self.originals)

    def apply(self, step, x, *others):
        """Apply the function `step` to x and the shared tensors, in full precision."""
        with torch.autocast(x.device.type, enabled=False):
            return step.apply(full_precision(x), self.notes, *others, *self.tensors)


ENGINE = getattr(torch.autograd.Variable, "_execution_engine", None)


class Notes(list):
    """The notes of one backward pass; they are forgotten when it ends."""

    available = hasattr(ENGINE, "queue_callback")

    def append(self, note):
        """Add a note."""
        if not self:
            ENGINE.queue_callback(self.clear)
        super().append(note)


def full_precision(x):
    """Return x in float32 at least, also where half precision is switched on."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _HandOn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, notes, gradients, *tensors):
        ctx.notes, ctx.gradients = notes, gradients
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx, *_):  # the steps give nothing here: they have left notes
        return None, None, *ctx.gradients(ctx.notes, *ctx.saved_tensors)


# chapters/recurrence.md: The gradient of a shared weight
FEW = 64  # rows for which a product with a large matrix is faster transposed


class SharedLinear(Shared):
    """A linear layer, weight (O, I) and bias (O,) or None, that all steps apply."""

    def __init__(self, weight, bias=None):
        super().__init__(*[tensor for tensor in (weight, bias) if tensor is not None])
        self.out_features, self.in_features = weight.shape

    @classmethod
    def of(cls, layer):
        """Make one of an `nn.Linear`."""
        return cls(layer.weight, layer.bias)

    def __call__(self, x):
        """Return the layer's outputs (R, O) for inputs (R, I)."""
        return self.apply(_LinearStep, x)

    @staticmethod
    def gradients(notes, weight, bias=None):
        """Return the gradients of weight and bias: equation (shared-gradient)."""
        inputs, outputs = (torch.cat(parts) for parts in zip(*notes, strict=True))
        sums = outputs.T @ inputs
        return (sums,) if bias is None else (sums, outputs.sum(0))


class _LinearStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, notes, weight, bias=None):
        ctx.notes = notes
        ctx.save_for_backward(x, weight)
        if len(x) > FEW:
            return F.linear(x, weight, bias)
        outputs = (weight @ x.T).T.contiguous()
        return outputs if bias is None else outputs.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        if any(ctx.needs_input_grad[1:]):
            ctx.notes.append((x, gradient))
        of_x = gradient @ weight if ctx.needs_input_grad[0] else None
        return of_x, *[None] * (len(ctx.needs_input_grad) - 1)


# chapters/recurrence.md: Rows that ask about the same image
CHUNK = 600_000  # numbers that a core's cache holds at once


def rows_of_each(image, images):
    """Count the rows of each image: `image` (R,) in order -> a list of B numbers."""
    return torch.bincount(image, minlength=images).tolist()


class Run(NamedTuple):
    """Neighbouring images that have equally many rows."""

    images: slice
    rows: slice
    shape: tuple  # (n, k): n images with k rows each

    def of(self, rows):
        """Return the run's part of all rows (R, N), image by image: (n, k, N)."""
        return rows[self.rows].view(*self.shape, rows.shape[-1])


def runs(counts, numbers=0):
    """Yield a `Run` for neighbours with equal `counts`, without those that have none.

    With `numbers` for each row, a run has at most `CHUNK`, or it is a single image.
    """
    image = row = 0
    for count, same in groupby(counts):
        last = image + len(list(same))
        at_once = CHUNK // (count * numbers) if count * numbers else last - image
        while image < last:
            n = min(max(at_once, 1), last - image)
            images, rows = slice(image, image + n), slice(row, row + n * count)
            image, row = images.stop, rows.stop
            if count:
                yield Run(images, rows, (n, count))


# chapters/recurrence.md: The context, without copies of the cells
class SharedContext(Shared):
    """Weighted sums of the cells (B, C, D) of images."""

    def __call__(self, weights, image):
        """Return the sums (R, D) for weights (R, C); row r is of image[r]."""
        counts = rows_of_each(image, len(self.originals[0]))
        return self.apply(_ContextStep, weights, counts)

    @staticmethod
    def gradients(notes, cells):
        """Return the gradient of the cells: (shared-gradient) for each image's rows."""
        of_cells = torch.zeros_like(cells)
        for counts, weights, gradient in notes:
            for run in runs(counts):
                of_cells[run.images] += run.of(weights).mT @ run.of(gradient)
        return (of_cells,)


class _ContextStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights, notes, counts, cells):
        ctx.notes, ctx.counts = notes, counts
        ctx.save_for_backward(weights, cells)
        context = weights.new_empty(len(weights), cells.shape[2])
        for run in runs(counts):
            torch.bmm(run.of(weights), cells[run.images], out=run.of(context))
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        weights, cells = ctx.saved_tensors
        of_weights = torch.empty_like(weights)
        for run in runs(ctx.counts):
            of_run = cells[run.images].mT
            torch.bmm(run.of(gradient), of_run, out=run.of(of_weights))
        if any(ctx.needs_input_grad[1:]):
            ctx.notes.append((ctx.counts, weights, gradient))
        return of_weights, None, None, None


# chapters/recurrence.md: The scores, without writing them out
def by_image(counts, *rows):
    """Bring rows that stand step by step together by image.

    Takes the counts of each step and tensors of all steps' rows. Returns for each
    tensor a list of its rows for each image.
    """
    counts = torch.tensor(counts)  # (T, B)
    image = torch.arange(counts.shape[1]).repeat(len(counts))
    order = image.repeat_interleave(counts.flatten()).argsort(stable=True)
    return [r.index_select(0, order).split(counts.sum(0).tolist()) for r in rows]


class SharedScores(Shared):
    """Additive scores e = v · ReLU(keys + query) for keys (B, P, A) and v (A,)."""

    def __call__(self, query, image):
        """Return the scores (R, P) of queries (R, A); row r is of image[r]."""
        counts = rows_of_each(image, len(self.originals[0]))
        return self.apply(_ScoresStep, query, counts)

    @staticmethod
    def gradients(notes, keys, v):
        """Return the gradients of keys and v: equation (score-gradients)."""
        counts, *rows = zip(*notes, strict=True)
        least, g, m = (torch.cat(steps) for steps in rows)
        of_keys, of_v = torch.zeros_like(keys), -(least * m).sum(0)
        passed = torch.empty_like(keys[0])
        images = by_image(counts, least.unsqueeze(1), g.unsqueeze(2))
        for own, total, *rows in zip(keys, of_keys, *images, strict=True):
            for least, g in zip(*rows, strict=True):  # (1, A), (P, 1)
                torch.gt(own, least, out=passed)
                total.addcmul_(g, passed)  # M
            of_v += torch.mul(own, total, out=passed).sum(0)
            total *= v
        return of_keys, of_v


# chapters/recurrence.md: The scores, without writing them out
def in_cache(counts, keys, least):
    """Yield each run of rows with its keys (n, 1, P, A), -q (n, k, 1, A) and room.

    The room (n, k, P, A) is the same memory each time.
    """
    size = keys.shape[1] * keys.shape[2]
    buffer = keys.new_empty(max(CHUNK, max(counts, default=0) * size))
    for run in runs(counts, size):
        n, each = run.shape
        room = buffer[: n * each * size].view(n, each, *keys.shape[1:])
        yield run, keys[run.images].unsqueeze(1), run.of(least).unsqueeze(2), room


class _ScoresStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, notes, counts, keys, v):
        ctx.notes, ctx.counts = notes, counts
        ctx.save_for_backward(query, keys, v)
        scores = query.new_empty(len(query), keys.shape[1])
        for run, own, least, room in in_cache(counts, keys, -query):
            torch.maximum(own, least, out=room)
            torch.mv(room.view(-1, len(v)), v, out=scores[run.rows].view(-1))
        return scores.add_((query @ v).unsqueeze(1))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        query, keys, v = ctx.saved_tensors
        m = torch.empty_like(query)
        for run, own, least, room in in_cache(ctx.counts, keys, -query):
            torch.gt(own, least, out=room)
            of_rows = gradient[run.rows].unsqueeze(1), room.flatten(0, 1)
            torch.bmm(*of_rows, out=m[run.rows].unsqueeze(1))
        if any(ctx.needs_input_grad[1:]):
            ctx.notes.append((ctx.counts, -query, gradient, m))
        return m * v, None, None, None, None


# chapters/recurrence.md: The decoder on top of them
@dataclass(frozen=True)
class Rows:
    """A function of rows; `rows[image]` is the function for rows of these images."""

    function: Callable

    def __getitem__(self, image):
        """Return the function, for rows of which row r is of image[r]."""
        return partial(self.function, image=image)


# chapters/recurrence.md: The decoder on top of them
class SharedAttention(Attention):
    """The `Attention` of a decoder for one batch, its keys and regions functions."""

    def __init__(self, attention):
        nn.Module.__init__(self)
        self.decoder_att = SharedLinear.of(attention.decoder_att)
        self.full_att = attention.full_att

    def scores(self, keys, query):
        """Return e (R, P); `keys` is a function of queries (R, A)."""
        return keys(query) + self.full_att.bias

    def context(self, alpha, regions):
        """Return z (R, D); `regions` is a function of alpha (R, P)."""
        return regions(alpha)


# chapters/recurrence.md: The decoder on top of them
class SharedCell(LSTMCell):
    """The `LSTMCell` of a decoder for one batch; of words it takes their products.

    `context` is the width of the context, the last part of the input.
    """

    def __init__(self, cell, context):
        nn.Module.__init__(self)
        self.hidden_size = cell.hidden_size
        self.parts = 4 * cell.hidden_size, context
        self.input_size = sum(self.parts)
        self.of_context = SharedLinear(cell.weight_ih[:, -context:])
        self.from_hidden = SharedLinear(cell.weight_hh, cell.bias_hh)

    def from_input(self, x):
        """Return the input's part of the pre-activations: (B, 4H + D) -> (B, 4H)."""
        products, context = x.split(self.parts, dim=1)
        return products + self.of_context(context)


# chapters/recurrence.md: The decoder on top of them
class SharedMemory(NamedTuple):
    """What all steps share, for a batch of B images, as operations."""

    keys: Rows  # queries (R, A) -> scores (R, P)
    regions: Rows  # alpha (R, P) -> context (R, D)
    attention: SharedAttention
    f_beta: SharedLinear
    decode_step: SharedCell


class FastDecoder(Decoder):
    """The `Decoder`, with the gradients of what all steps share taken once.

    Its scores, maps and gradients are the decoder's, within rounding. On a GPU, or
    without the call of the engine, it is the decoder.
    """

    def shares(self):
        """Tell whether the steps share operations: on a CPU, with the engine's call."""
        return Notes.available and self.fc.weight.device.type == "cpu"

    def remember(self, cells):
        """Return the `SharedMemory`, or `Memory`, of images with cells (B, C, D)."""
        if not self.shares():
            return super().remember(cells)
        keys, sums = self.attention.keys(cells), SharedContext(cells)
        if self.pool is None:
            context = sums
        else:
            keys = self.pool @ keys  # (B, P, A)

            def context(alpha, image):
                return sums(alpha @ self.pool, image)

        return SharedMemory(
            Rows(SharedScores(keys, self.attention.full_att.weight[0])),
            Rows(context),
            SharedAttention(self.attention),
            SharedLinear.of(self.f_beta),
            SharedCell(self.decode_step, cells.shape[2]),
        )

    def vectors(self, words):
        """Return the words' half (R, 4H) of the LSTM's input product for ids (R,)."""
        vectors, cell = super().vectors(words), self.decode_step
        if not self.shares():
            return vectors
        half = cell.weight_ih[:, : vectors.shape[1]]
        return F.linear(vectors, half, cell.bias_ih)

    def step(self, words, hidden, cell_state, memory, image, alpha=None):
        """Take a step: `Decoder.step`, with the layers of the memory."""
        layers = memory if isinstance(memory, SharedMemory) else self
        return Decoder.step(layers, words, hidden, cell_state, memory, image, alpha)
