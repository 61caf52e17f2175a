"""The LSTM cell: equal to PyTorch's, weights exchanged both ways, clear refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from satlib.lstm import LSTMCell

sizes = st.integers(1, 9)


def run(cell, inputs, state):
    for x in inputs:
        state = cell(x, state)
    return state


@settings(max_examples=25, deadline=None)
@given(sizes, sizes, sizes, st.integers(1, 12), st.integers(0, 1000))
def test_states_and_gradients_equal_pytorch(b, i, h, steps, seed):
    torch.manual_seed(seed)
    theirs, ours = nn.LSTMCell(i, h), LSTMCell(i, h)
    ours.load_state_dict(theirs.state_dict())
    inputs = 2 * torch.randn(steps, b, i)
    state = torch.randn(b, h), torch.randn(b, h)
    direction = torch.randn(2, b, h)
    results = []
    for cell in (theirs, ours):
        x = inputs.clone().requires_grad_()
        hidden, memory = run(cell, x, state)
        (direction * torch.stack([hidden, memory])).sum().backward()
        results.append((hidden, memory, x.grad, *(p.grad for p in cell.parameters())))
    for expected, given_ in zip(*results, strict=True):
        torch.testing.assert_close(given_, expected, rtol=1e-5, atol=1e-6)


def test_gradients_are_right():
    torch.manual_seed(0)
    cell = LSTMCell(3, 2).double()
    names, values = zip(*cell.named_parameters(), strict=True)

    def call(x, hidden, memory, *values):
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(cell, state, (x, (hidden, memory)))

    shapes = (4, 3), (4, 2), (4, 2)
    inputs = [torch.randn(s, dtype=torch.double, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(call, (*inputs, *values))


def test_weights_load_both_ways():
    theirs, ours = nn.LSTMCell(5, 4), LSTMCell(5, 4)
    shapes = {name: p.shape for name, p in theirs.state_dict().items()}
    assert {name: p.shape for name, p in ours.state_dict().items()} == shapes
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    fresh = LSTMCell(5, 4)
    theirs.load_state_dict(fresh.state_dict())
    assert all(map(torch.equal, fresh.parameters(), theirs.parameters()))


def test_same_seed_gives_the_initial_weights_of_pytorch():
    torch.manual_seed(3)
    theirs = nn.LSTMCell(5, 4)
    torch.manual_seed(3)
    ours = LSTMCell(5, 4)
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_forward_is_the_two_halves_in_a_row():
    cell = LSTMCell(5, 4)
    x, hidden, memory = torch.randn(2, 5), torch.randn(2, 4), torch.randn(2, 4)
    pre = cell.project(x, hidden)
    assert pre.shape == (2, 16)
    halves, whole = LSTMCell.update(pre, memory), cell(x, (hidden, memory))
    assert all(map(torch.equal, halves, whole))
    assert [part.shape for part in whole] == [(2, 4), (2, 4)]


def test_gates_come_in_the_named_order_and_range():
    pre = torch.tensor([[9.0, -9.0, -9.0, 9.0]])
    i, f, g, o = (float(gate) for gate in LSTMCell.gates(pre))
    assert (i, f, g, o) == pytest.approx((1, 0, -1, 1), abs=1e-3)


def test_open_forget_gate_keeps_and_shut_gate_erases():
    memory = torch.tensor([[0.7]])
    keep = torch.tensor([[-50.0, 50.0, 3.0, 50.0]])
    hidden, kept = LSTMCell.update(keep, memory)
    torch.testing.assert_close(kept, memory)
    torch.testing.assert_close(hidden, torch.tanh(memory))
    write = torch.tensor([[50.0, -50.0, 3.0, -50.0]])
    hidden, written = LSTMCell.update(write, memory)
    torch.testing.assert_close(written, torch.tanh(torch.tensor([[3.0]])))
    assert hidden.abs() < 1e-6


def test_leading_dimensions_are_free():
    cell = LSTMCell(5, 4)
    x, hidden, memory = torch.randn(2, 3, 5), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = cell(x.flatten(0, 1), (hidden.flatten(0, 1), memory.flatten(0, 1)))
    for part, flat in zip(cell(x, (hidden, memory)), expected, strict=True):
        torch.testing.assert_close(part.flatten(0, 1), flat)


def test_wrong_sizes_are_named():
    cell = LSTMCell(5, 4)
    with pytest.raises(ValueError, match=r"\(6, 4, 4\).*\(5, 4, 4\)"):
        cell(torch.zeros(2, 6), (torch.zeros(2, 4), torch.zeros(2, 4)))
    with pytest.raises(ValueError, match=r"\(5, 4, 1\).*\(5, 4, 4\)"):
        cell(torch.zeros(2, 5), (torch.zeros(2, 4), torch.zeros(2, 1)))
