"""Shared operations equal the ordinary ones, gradients included, and leave nothing."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from satlib import shared
from satlib.shared import SharedLinear, SharedScores


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


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_shared_layer_equals_a_layer(rows, biased):
    rows = sorted(rows, reverse=True)
    weight = doubles(4, 4).requires_grad_()
    bias = doubles(4, seed=1).requires_grad_() if biased else None
    hidden = doubles(rows[0], 2, 4, seed=2).requires_grad_()
    operands = [hidden, weight, *([bias] if biased else [])]
    layer = SharedLinear(*operands[1:])
    ours = in_turn(layer, hidden, rows)
    plain = in_turn(lambda x: F.linear(x, weight, bias), hidden, rows)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(
        torch.autograd.grad(ours, operands), torch.autograd.grad(plain, operands)
    )


@pytest.mark.parametrize("chunk", [1, 60, 10**6])
@pytest.mark.parametrize("states", [1, 3])
def test_shared_scores_equal_the_formula(monkeypatch, chunk, states):
    monkeypatch.setattr(shared, "CHUNK", chunk)
    keys, v = doubles(5, 6, 7).requires_grad_(), doubles(7, seed=1).requires_grad_()
    query = doubles(5, states, 7, seed=2).requires_grad_()
    mix = doubles(6, 7, seed=3)

    def plain(q):
        return torch.relu(keys[: len(q)].unsqueeze(1) + q.unsqueeze(2)) @ v

    scores = SharedScores(keys, v)
    torch.testing.assert_close(scores(query), plain(query))
    losses = [
        in_turn(lambda q, f=f: f(q) @ mix, query, [5, 5, 3, 1]) for f in (scores, plain)
    ]
    ours, expected = (torch.autograd.grad(x, [keys, v, query]) for x in losses)
    torch.testing.assert_close(ours, expected)


def test_it_works_again_after_a_backward_pass():
    weight = doubles(3, 3).requires_grad_()
    layer, x = SharedLinear(weight), doubles(2, 3, seed=1)
    loss = layer(x).square().sum()
    first = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, weight)[0], first)


def test_nothing_is_left_behind_without_the_garbage_collector():
    keys, v = doubles(4, 6, 7).requires_grad_(), doubles(7).requires_grad_()
    gc.collect()
    gc.disable()
    try:
        scores = SharedScores(keys * 1, v)
        query = doubles(4, 1, 7, seed=1).requires_grad_()
        in_turn(lambda q, s=scores: s(q) @ doubles(6, 7), query, [4, 2]).backward()
        held = weakref.ref(scores)
        del scores
        assert held() is None
    finally:
        gc.enable()
