"""Visual concepts: targets, scores of places, and an epoch of learning them."""

import pytest
import torch
from torch import nn

from satlib.concepts import (
    Concepts,
    concept_loss,
    train_concepts,
    validate_concepts,
    word_shares,
)
from satlib.training import Iterations

WORD_MAP = {"<pad>": 0, "dog": 1, "cat": 2, "<start>": 3, "<end>": 4, "<unk>": 5}
CAPTIONS = torch.tensor([[[3, 1, 1, 4], [3, 2, 1, 4]], [[3, 2, 4, 0], [3, 5, 4, 0]]])


def test_shares_count_captions_and_not_words():
    shares = word_shares(CAPTIONS, WORD_MAP)
    assert shares.tolist() == [[0, 1, 0.5, 0, 0, 0], [0, 0, 0.5, 0, 0, 0]]


def test_a_picture_scores_as_the_mean_of_the_exponentials():
    torch.manual_seed(0)
    concepts, cells = Concepts(3, 6), torch.randn(2, 5, 3)
    by_hand = concepts.maps(cells).exp().mean(1).log()
    torch.testing.assert_close(concepts(cells), by_hand)


def test_the_gradient_is_shared_out_by_a_softmax_over_places():
    torch.manual_seed(0)
    concepts, cells = Concepts(3, 6), torch.randn(1, 5, 3)
    maps = concepts.maps(cells).detach().requires_grad_()
    concepts.linear = nn.Identity()
    concepts(maps).sum().backward()
    torch.testing.assert_close(maps.grad, maps.softmax(1))


def test_at_first_every_picture_scores_the_mean_share():
    concepts = Concepts(3, 6)
    concepts.expect(CAPTIONS, WORD_MAP)
    chances = concepts(torch.randn(4, 5, 3)).sigmoid()
    expected = torch.tensor([0, 0.5, 0.5, 0, 0, 0]).expand(4, 6)
    torch.testing.assert_close(chances, expected, atol=2e-5, rtol=0)


def test_the_loss_is_least_at_the_shares():
    shares = torch.tensor([[0.2, 0.8, 0.05]])
    least = concept_loss(shares.logit(), shares)
    for change in torch.eye(3) * 0.1, -torch.eye(3) * 0.1:
        for row in change:
            assert concept_loss(shares.logit() + row, shares) > least


class Tail(nn.Linear):
    finish = nn.Linear.forward


def test_an_epoch_finds_the_place_that_calls_for_a_word():
    """A dog is a 1 in the first number of one of four places, a cat in the second."""
    torch.manual_seed(0)
    cells = torch.zeros(40, 4, 3)
    kinds, places = torch.randint(0, 2, (40,)), torch.randint(0, 4, (40,))
    cells[torch.arange(40), places, kinds] = 1.0
    rows = torch.tensor([[3, 1, 4], [3, 2, 4]])[kinds]  # one caption each
    loader = [(cells, rows, torch.full((40,), 3))] * 100
    encoder, concepts, steps = Tail(3, 3), Concepts(3, 6), []
    concepts.expect(rows[:, None], WORD_MAP)
    before = validate_concepts(loader[:1], encoder, concepts, WORD_MAP)["concept_loss"]
    optimizers = [
        torch.optim.Adam(part.parameters(), 0.05) for part in (encoder, concepts)
    ]
    settings = {"print_freq": 1000, "after_step": lambda: steps.append(1)}
    iterations = Iterations(loader, optimizers, 1, **settings)
    found = train_concepts(iterations, encoder, concepts, WORD_MAP)
    after = validate_concepts(loader[:1], encoder, concepts, WORD_MAP)["concept_loss"]
    assert after < found["concept_loss"] < before and after < before / 5
    assert len(steps) == 100
    maps = concepts.maps(encoder(cells))[torch.arange(40), :, 1 + kinds]
    assert torch.equal(maps.argmax(1), places)
    assert before == pytest.approx(2 * 0.6931, abs=0.1)


def a_loader():
    """Two mini-batches, of one and of three images, with two captions each."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(4, 5, 3, generator=generator)
    rows = torch.tensor([[3, 1, 4], [3, 2, 4]] * 4)
    lengths = torch.full((8,), 3)
    return [(cells[:1], rows[:2], lengths[:2]), (cells[1:], rows[2:], lengths[2:])]


def an_encoder():
    torch.manual_seed(0)
    return Tail(3, 3), Concepts(3, 6)


def an_epoch(loader, encoder, concepts, optimizers, **settings):
    iterations = Iterations(loader, optimizers, 1, **settings)
    return train_concepts(iterations, encoder, concepts, WORD_MAP)


def test_losses_are_the_mean_over_images():
    encoder, concepts = an_encoder()
    each = []
    with torch.no_grad():
        for cells, rows, _ in a_loader():
            for image, own in zip(cells, rows.view(len(cells), 2, 3), strict=True):
                scores = concepts(encoder.finish(image[None]))
                shares = word_shares(own[None], WORD_MAP)
                chances = scores.sigmoid()
                loss = shares * chances.log() + (1 - shares) * (1 - chances).log()
                each.append(-loss.sum().item())
    expected = pytest.approx(sum(each) / 4, rel=1e-5)
    assert validate_concepts(a_loader(), encoder, concepts, WORD_MAP) == {
        "concept_loss": expected
    }
    optimizers = [torch.optim.SGD(m.parameters(), 0.0) for m in (encoder, concepts)]
    found = an_epoch(a_loader(), encoder, concepts, optimizers)
    assert found["concept_loss"] == expected
    assert set(found) == {"concept_loss", "batch_time", "data_time"}


def test_gradients_of_both_are_clipped():
    encoder, concepts = an_encoder()
    before = [p.detach().clone() for m in (encoder, concepts) for p in m.parameters()]
    optimizers = [torch.optim.SGD(m.parameters(), 1.0) for m in (encoder, concepts)]
    batch = a_loader()[1:]
    an_epoch(batch, encoder, concepts, optimizers, grad_clip=1e-3)
    after = [p.detach() for m in (encoder, concepts) for p in m.parameters()]
    for a, b in zip(before, after, strict=True):
        assert (a - b).abs().max().item() == pytest.approx(1e-3, rel=0.01)
