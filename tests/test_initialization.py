"""Initial weights: their range, shape and spread, zero biases, clear refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from satlib.initialization import init_weights
from satlib.lstm import LSTMCell

MODULES = {
    "embedding": lambda: nn.Embedding(300, 64),
    "linear": lambda: nn.Linear(300, 64),
    "their LSTM": lambda: nn.LSTMCell(100, 64),
    "our LSTM": lambda: LSTMCell(100, 64),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES.keys())
def test_weights_are_uniform_and_biases_zero(make):
    torch.manual_seed(0)
    module = make()
    assert init_weights(module) is module
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad
        if name.startswith("bias"):
            assert (parameter == 0).all()
            continue
        weights = parameter.detach().flatten()
        assert weights.abs().max() <= 0.1
        assert weights.max() > 0.099
        assert weights.min() < -0.099
        error = 5 * 0.1 / math.sqrt(3 * len(weights))
        assert abs(float(weights.mean())) < error
        assert float(weights.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.03)
        shares = torch.histc(weights, 10, -0.1, 0.1) / len(weights)
        assert shares.min() > 0.08
        assert shares.max() < 0.12


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-4, 10), st.integers(1, 20), st.integers(1, 20))
def test_bound_is_kept(bound, rows, columns):
    weight = init_weights(nn.Linear(rows, columns), bound).weight
    assert weight.abs().max() <= bound * (1 + 1e-6)


def test_same_seed_gives_the_same_weights():
    drawn = []
    for _ in range(2):
        torch.manual_seed(9)
        drawn.append(init_weights(nn.Linear(4, 3)).weight)
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], init_weights(nn.Linear(4, 3)).weight)


def test_modules_made_of_layers_are_reached():
    module = init_weights(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    assert all((layer.bias == 0).all() for layer in (module[0], module[2]))
    assert all(p.abs().max() <= 0.1 for p in module.parameters())


def test_first_loss_is_the_logarithm_of_the_vocabulary():
    torch.manual_seed(0)
    parts = nn.Embedding(1000, 64), LSTMCell(64, 128), nn.Linear(128, 1000)
    embedding, cell, fc = map(init_weights, parts)
    words, targets = torch.randint(1000, (2, 200))
    hidden, _ = cell(embedding(words), (torch.zeros(200, 128), torch.zeros(200, 128)))
    loss = nn.functional.cross_entropy(fc(hidden), targets)
    assert loss.item() == pytest.approx(math.log(1000), abs=0.02)


def test_a_layer_that_is_no_matrix_is_refused_by_name():
    with pytest.raises(ValueError, match=r"weight of LayerNorm is \(8,\)"):
        init_weights(nn.LayerNorm(8))
