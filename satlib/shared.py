# Written by `python -m satlib.tangle` from chapters/shared.md: edit that.
"""Operations whose operands all steps of a recurrence share, with one gradient each."""

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

CHUNK = 400_000  # numbers that a core's cache holds at once


class Shared:
    """Tensors that many steps use. Their gradients are computed once, after the steps.

    A subclass has `gradients`, which turns the notes of all steps into the gradients.
    """

    def __init__(self, *tensors):
        self.notes = []
        tensors = map(full_precision, tensors)
        self.tensors = _HandOn.apply(self.notes, self.gradients, *tensors)

    def apply(self, step, x):
        """Apply the function `step` to x and the shared tensors, in full precision."""
        with torch.autocast(x.device.type, enabled=False):
            return step.apply(full_precision(x), self.notes, *self.tensors)


def full_precision(x):
    """Give x in float32 at least, also where half precision is switched on."""
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
        gradients = ctx.gradients(ctx.notes, *ctx.saved_tensors)
        ctx.notes.clear()
        return None, None, *gradients


class SharedLinear(Shared):
    """A linear layer, weight (O, I) and bias (O,) or None, that all steps apply."""

    def __call__(self, x):
        """Give the layer's outputs (…, O) for inputs (…, I)."""
        return self.apply(_LinearStep, x)

    @staticmethod
    def gradients(notes, weight, bias=None):
        """Give the gradients of weight and bias: equation (shared-gradient)."""
        inputs, outputs = (torch.cat(list(parts)) for parts in zip(*notes, strict=True))
        sums = outputs.T @ inputs
        return (sums,) if bias is None else (sums, outputs.sum(0))


class _LinearStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, notes, weight, bias=None):
        ctx.notes = notes
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        ctx.notes.append((x.flatten(0, -2), gradient.flatten(0, -2)))
        of_x = gradient @ weight if ctx.needs_input_grad[0] else None
        return of_x, *[None] * (len(ctx.needs_input_grad) - 1)


def rows_at_once(keys, count):
    """Count the rows of keys whose `count` sums fit the cache; on a GPU, all."""
    if keys.device.type != "cpu":
        return len(keys)
    return max(1, CHUNK // (count * keys[0].numel()))


def sums_in_cache(keys, query):
    """Yield slices of rows with their sums keys (b, P, A) + query (b, k, A).

    The sums (n, k, P, A) are as many as a cache holds, and overwritten each time.
    """
    rows, count = len(query), query.shape[1]
    at_once = rows_at_once(keys, count)
    buffer = keys.new_empty(at_once, count, *keys.shape[1:])
    for start in range(0, rows, at_once):
        part = slice(start, min(start + at_once, rows))
        sums = buffer[: part.stop - start]
        torch.add(keys[part].unsqueeze(1), query[part].unsqueeze(2), out=sums)
        yield part, sums


class SharedScores(Shared):
    """Additive scores e = v · ReLU(keys + query) for keys (B, P, A), v (A,).

    The first b rows of the keys are for the b rows of a step's query.
    """

    def __call__(self, query):
        """Give the scores (b, k, P) of queries (b, k, A)."""
        return self.apply(_ScoresStep, query)

    @staticmethod
    def gradients(notes, keys, v):
        """Give the gradients of keys and v: equation (score-gradients)."""
        total = torch.zeros_like(keys)  # M
        at_once = rows_at_once(keys, 2)
        buffer = keys.new_empty(at_once, *keys.shape[1:])
        for start in range(0, len(keys), at_once):
            for query, gradient, _ in notes:
                part = slice(start, min(start + at_once, len(query)))
                for k in range(query.shape[1] if part.stop > start else 0):
                    passed = buffer[: part.stop - start]
                    torch.add(keys[part], query[part, k].unsqueeze(1), out=passed)
                    total[part].addcmul_(gradient[part, k].unsqueeze(2), passed.gt_(0))
        of_v = (keys.flatten(0, 1) * total.flatten(0, 1)).sum(0)
        for query, _, sums in notes:
            of_v += (query * sums).sum((0, 1))
        return total * v, of_v


class _ScoresStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, notes, keys, v):
        ctx.notes = notes
        ctx.save_for_backward(query, keys, v)
        scores = query.new_empty(*query.shape[:2], keys.shape[1])
        for part, sums in sums_in_cache(keys, query):
            torch.matmul(sums.relu_(), v, out=scores[part])
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        query, keys, v = ctx.saved_tensors
        m = torch.empty_like(query)
        for part, sums in sums_in_cache(keys, query):
            of_part = gradient[part].unsqueeze(2)  # (n, k, 1, P)
            torch.matmul(of_part, sums.gt_(0), out=m[part].unsqueeze(2))
        ctx.notes.append((query, gradient, m))
        return m * v, None, None, None
