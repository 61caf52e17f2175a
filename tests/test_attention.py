"""Attention: the formula, the shapes, what it must not depend on, clear refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from satlib.attention import Attention

sizes = st.integers(1, 7)


def example(batch=3, regions=5, encoder_dim=4, decoder_dim=6, attention_dim=8):
    torch.manual_seed(0)
    attention = Attention(encoder_dim, decoder_dim, attention_dim).double()
    encoder_out = torch.randn(batch, regions, encoder_dim, dtype=torch.double)
    return attention, encoder_out, torch.randn(batch, decoder_dim).double()


def literal(attention, encoder_out, hidden):
    """Compute e_i = v · ReLU(U a_i + W h), softmax and mean, one region at a time."""
    u, w, v = attention.encoder_att, attention.decoder_att, attention.full_att
    contexts, alphas = [], []
    for picture, h in zip(encoder_out, hidden, strict=True):
        query = w.weight @ h + w.bias
        keys = [u.weight @ a + u.bias for a in picture]
        e = [v.weight[0] @ (k + query).clamp(min=0) + v.bias[0] for k in keys]
        total = sum(x.exp() for x in e)
        alphas.append(torch.stack([x.exp() / total for x in e]))
        contexts.append(sum(x * a for x, a in zip(alphas[-1], picture, strict=True)))
    return torch.stack(contexts), torch.stack(alphas)


@settings(max_examples=30, deadline=None)
@given(sizes, sizes, sizes, sizes, sizes)
def test_equals_the_formula_taken_literally(b, p, d, h, a):
    attention, encoder_out, hidden = example(b, p, d, h, a)
    context, alpha = attention(encoder_out, hidden)
    expected_context, expected_alpha = literal(attention, encoder_out, hidden)
    assert context.shape == (b, d)
    assert alpha.shape == (b, p)
    torch.testing.assert_close(alpha, expected_alpha, rtol=0, atol=1e-10)
    torch.testing.assert_close(context, expected_context, rtol=0, atol=1e-10)


def test_parameters_have_the_fixed_names_and_shapes():
    shapes = {name: tuple(p.shape) for name, p in Attention(4, 6, 8).named_parameters()}
    assert shapes == {
        "encoder_att.weight": (8, 4),
        "encoder_att.bias": (8,),
        "decoder_att.weight": (8, 6),
        "decoder_att.bias": (8,),
        "full_att.weight": (1, 8),
        "full_att.bias": (1,),
    }


def test_initial_weights_are_those_of_pytorch_linear_layers():
    torch.manual_seed(5)
    attention = Attention(4, 6, 8)
    torch.manual_seed(5)
    layers = [nn.Linear(4, 8), nn.Linear(6, 8), nn.Linear(8, 1)]
    expected = [p for layer in layers for p in layer.parameters()]
    assert all(map(torch.equal, attention.parameters(), expected))


def test_forward_is_the_two_halves_in_a_row():
    attention, encoder_out, hidden = example()
    keys, query = attention.keys(encoder_out), attention.query(hidden)
    assert keys.shape == (3, 5, 8)
    assert query.shape == (3, 8)
    alpha = attention.alpha(keys, query)
    assert torch.equal(alpha, torch.softmax(attention.scores(keys, query), dim=1))
    assert torch.equal(alpha, attention(encoder_out, hidden)[1])


def test_gradients_are_right():
    attention, encoder_out, hidden = example(2, 3, 2, 2, 3)
    inputs = [encoder_out.requires_grad_(), hidden.requires_grad_()]
    names, values = zip(*attention.named_parameters(), strict=True)

    def call(encoder_out, hidden, *values):
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(attention, state, (encoder_out, hidden))

    assert torch.autograd.gradcheck(call, (*inputs, *values))


def test_weights_are_positive_and_add_up_to_one_at_real_size():
    torch.manual_seed(0)
    attention = Attention(1280, 512, 512)
    with torch.no_grad():
        _, alpha = attention(torch.rand(2, 196, 1280), torch.randn(2, 512))
    assert (alpha > 0).all()
    torch.testing.assert_close(alpha.sum(1), torch.ones(2))


def test_huge_scores_give_one_region_all_the_weight_and_no_nan():
    attention, encoder_out, hidden = example()
    with torch.no_grad():
        attention.full_att.weight *= 1e6
    context, alpha = attention(encoder_out, hidden)
    assert torch.isfinite(context).all()
    assert (alpha.max(dim=1).values > 0.999).all()


def test_order_of_the_regions_does_not_matter():
    attention, encoder_out, hidden = example()
    context, alpha = attention(encoder_out, hidden)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled_context, shuffled_alpha = attention(encoder_out[:, order], hidden)
    torch.testing.assert_close(shuffled_context, context)
    torch.testing.assert_close(shuffled_alpha, alpha[:, order])


def test_context_is_the_region_where_all_regions_are_equal():
    attention, encoder_out, hidden = example()
    same = encoder_out[:, :1].expand(-1, 5, -1)
    context, alpha = attention(same, hidden)
    torch.testing.assert_close(context, same[:, 0])
    torch.testing.assert_close(alpha, torch.full_like(alpha, 1 / 5))


def test_bias_of_the_scores_cancels_and_gets_no_gradient():
    attention, encoder_out, hidden = example()
    _, alpha = attention(encoder_out, hidden)
    alpha.square().sum().backward()
    assert attention.full_att.bias.grad.abs() < 1e-12
    assert attention.encoder_att.weight.grad.abs().max() > 1e-6
    with torch.no_grad():
        attention.full_att.bias += 7
    torch.testing.assert_close(attention(encoder_out, hidden)[1], alpha)


def test_the_question_changes_the_answer():
    attention, encoder_out, hidden = example()
    difference = attention(encoder_out, hidden)[1] - attention(encoder_out, -hidden)[1]
    assert difference.abs().max() > 1e-3


def test_one_picture_answers_many_questions():
    attention, encoder_out, hidden = example()
    keys = attention.keys(encoder_out)
    questions = torch.stack([hidden, -hidden], dim=1)  # (B, k, H)
    alpha = attention.alpha(keys.unsqueeze(1), attention.query(questions))
    assert alpha.shape == (3, 2, 5)
    torch.testing.assert_close(alpha[:, 1], attention(encoder_out, -hidden)[1])


def test_wrong_sizes_are_named():
    attention, encoder_out, hidden = example()
    with pytest.raises(ValueError, match=r"regions.*\(3, 5, 3\).*encoder_dim=4"):
        attention(encoder_out[..., :3], hidden)
    with pytest.raises(ValueError, match=r"hidden.*\(3, 2\).*decoder_dim=6"):
        attention(encoder_out, hidden[:, :2])
