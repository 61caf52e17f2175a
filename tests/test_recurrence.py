"""Shared operations equal the ordinary ones, gradients included, and leave nothing."""

import gc
import weakref
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from satlib import recurrence
from satlib.recurrence import SharedContext, SharedLinear, SharedScores, runs


def doubles(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def in_turn(step, hidden, rows):
    """Run a recurrence whose rows become fewer; give a number that depends on all."""
    total = 0.0
    for b in rows:
        hidden = torch.tanh(step(hidden[:b]))
        total = total + hidden.square().sum()
    return total


@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_shared_layer_equals_a_layer(rows, biased):
    rows = sorted(rows, reverse=True)
    weight = doubles(4, 4).requires_grad_()
    bias = doubles(4, seed=1).requires_grad_() if biased else None
    hidden = doubles(rows[0], 4, seed=2).requires_grad_()
    operands = [hidden, weight, *([bias] if biased else [])]
    layer = SharedLinear(*operands[1:])
    ours = in_turn(layer, hidden, rows)
    plain = in_turn(lambda x: F.linear(x, weight, bias), hidden, rows)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(
        torch.autograd.grad(ours, operands), torch.autograd.grad(plain, operands)
    )


COUNTS = st.lists(st.integers(0, 3), min_size=1, max_size=6).filter(any)


@given(COUNTS, st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_runs_meet_every_row_of_every_image_once(counts, numbers):
    rows, images = [], []
    for run in runs(counts, numbers):
        n, k = run.shape
        assert counts[run.images] == [k] * n
        rows += range(run.rows.start, run.rows.stop)
        images += range(run.images.start, run.images.stop)
    assert rows == list(range(sum(counts)))
    assert images == [image for image, count in enumerate(counts) if count]


def image_of(counts):
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def plain_scores(keys, v, query, counts):
    return torch.relu(keys[image_of(counts)] + query.unsqueeze(1)) @ v


def plain_context(cells, weights, counts):
    return torch.einsum("rc,rcd->rd", weights, cells[image_of(counts)])


def of_two_steps(function, rows, counts):
    """Two steps, the second with one row of each image; a number made of all."""
    mix = torch.linspace(0.5, 1.5, function(rows, counts).shape[1], dtype=rows.dtype)
    total = (function(rows, counts) @ mix).square().sum()
    firsts = [sum(counts[:i]) for i, count in enumerate(counts) if count]
    return total + (function(rows[firsts], [min(c, 1) for c in counts]) @ mix).sum()


def check_equal(ours, plain, rows, counts, operands):
    torch.testing.assert_close(ours(rows, counts), plain(*operands, rows, counts))
    found = of_two_steps(ours, rows, counts)
    expected = of_two_steps(lambda *x: plain(*operands, *x), rows, counts)
    torch.testing.assert_close(
        torch.autograd.grad(found, [*operands, rows]),
        torch.autograd.grad(expected, [*operands, rows]),
    )


@pytest.mark.parametrize("chunk", [1, 60, 10**6])
@given(counts=COUNTS)
@settings(max_examples=15, deadline=None)
def test_shared_scores_equal_the_formula(chunk, counts):
    keys = doubles(len(counts), 6, 7).requires_grad_()
    v = doubles(7, seed=1).requires_grad_()
    query = doubles(sum(counts), 7, seed=2).requires_grad_()
    with mock.patch.object(recurrence, "CHUNK", chunk):
        check_equal(SharedScores(keys, v), plain_scores, query, counts, [keys, v])


@given(counts=COUNTS)
@settings(max_examples=15, deadline=None)
def test_shared_context_equals_the_weighted_sum(counts):
    cells = doubles(len(counts), 5, 4).requires_grad_()
    weights = doubles(sum(counts), 5, seed=1).requires_grad_()
    check_equal(SharedContext(cells), plain_context, weights, counts, [cells])


@pytest.mark.parametrize("operation", ["scores", "context"])
def test_the_formulas_for_a_gpu_give_the_same(operation):
    counts = [2, 0, 3, 1]
    rows = doubles(6, 7, seed=2).requires_grad_()
    if operation == "scores":
        operands = [doubles(4, 5, 7).requires_grad_(), doubles(7).requires_grad_()]
        formula, plain = recurrence._plain_scores, plain_scores
    else:
        operands = [doubles(4, 7, 3).requires_grad_()]
        formula, plain = recurrence._plain_context, plain_context

    def as_on_a_gpu(rows, counts):
        return recurrence.plainly(formula, rows, counts, *operands)

    check_equal(as_on_a_gpu, plain, rows, counts, operands)


def an_operation(name, frozen=False):
    """Give a shared operation on rows (4, 7) and its shared tensors."""
    if name == "linear":
        tensors, make = [doubles(5, 7)], SharedLinear
    elif name == "scores":
        tensors, make = [doubles(4, 6, 7), doubles(7)], SharedScores
    else:
        tensors, make = [doubles(4, 7, 3)], SharedContext
    tensors = [t.requires_grad_(not frozen) for t in tensors]
    shared_operation, more = make(*tensors), () if name == "linear" else ([1, 0, 2, 1],)
    return shared_operation, lambda rows: shared_operation(rows, *more), tensors


@pytest.mark.parametrize("name", ["linear", "scores", "context"])
def test_frozen_tensors_leave_no_notes(name):
    operation, apply, _ = an_operation(name, frozen=True)
    rows = doubles(4, 7, seed=1).requires_grad_()
    apply(rows).sum().backward()
    assert rows.grad is not None and not operation.notes


@pytest.mark.parametrize("name", ["linear", "scores", "context"])
def test_each_backward_pass_has_notes_of_its_own(name):
    operation, apply, tensors = an_operation(name)
    rows = doubles(4, 7, seed=1).requires_grad_()
    loss = apply(rows).square().sum()
    expected = torch.autograd.grad(loss, tensors, retain_graph=True)
    torch.autograd.grad(loss, rows, retain_graph=True)  # of the rows alone
    assert not operation.notes
    torch.testing.assert_close(torch.autograd.grad(loss, tensors), expected)


def test_it_works_again_after_a_backward_pass():
    weight = doubles(3, 3).requires_grad_()
    layer, x = SharedLinear(weight), doubles(2, 3, seed=1)
    loss = layer(x).square().sum()
    first = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, weight)[0], first)


@pytest.mark.parametrize("name", ["linear", "scores", "context"])
def test_nothing_is_left_behind_without_the_garbage_collector(name):
    gc.collect()
    gc.disable()
    try:
        operation, apply, _ = an_operation(name)
        apply(doubles(4, 7, seed=1).requires_grad_()).sum().backward()
        held = weakref.ref(operation)
        del operation, apply
        assert held() is None
    finally:
        gc.enable()
