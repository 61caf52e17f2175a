"""Beam search against greedy search and against trying out everything."""

import itertools

import pytest
import torch

from satlib.beam_search import beam_search, greedy_search, speakable
from satlib.decoder import Decoder
from satlib.encoder import pooling_matrix

WORDS = ["<pad>", "a", "cat", "dog", "<start>", "<end>", "<unk>"]
WORD_MAP = {word: number for number, word in enumerate(WORDS)}
SPEECH = [1, 2, 3]


def a_decoder(seed, scale=4.0, pool=None):
    torch.manual_seed(seed)
    decoder = Decoder(8, 6, 12, len(WORDS), encoder_dim=5, pool=pool).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(scale)
    return decoder


def some_cells(count=4, seed=0):
    return torch.randn(count, 4, 5, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def log_probability(decoder, cells, ids):
    row = torch.tensor([[WORD_MAP["<start>"], *ids, WORD_MAP["<end>"]]])
    scores = decoder(cells, row, torch.tensor([row.shape[1]])).scores
    log_probs = [speakable(s, WORD_MAP, t == 0) for t, s in enumerate(scores)]
    return sum(p[word].item() for p, word in zip(log_probs, row[0, 1:], strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_one_beam_equals_greedy(seed):
    decoder, cells = a_decoder(seed), some_cells(seed=seed)
    beams = beam_search(decoder, cells, WORD_MAP, beam_size=1, max_length=7)
    greedy = greedy_search(decoder, cells, WORD_MAP, max_length=7)
    assert [found[0].words for found in beams] == greedy


@pytest.mark.parametrize("power", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_equals_exhaustive_search(seed, power):
    decoder, cells = a_decoder(seed, scale=3.0), some_cells(1, seed)
    tried = [c for n in (1, 2, 3) for c in itertools.product(SPEECH, repeat=n)]
    scored = {c: log_probability(decoder, cells, c) for c in tried}
    best = max(tried, key=lambda c: scored[c] / (len(c) + 1) ** power)
    found = beam_search(decoder, cells, WORD_MAP, 200, 4, length_power=power)[0]
    assert tuple(found[0].words) == best
    assert found[0].log_prob == pytest.approx(scored[best], abs=1e-4)
    finished = {tuple(h.words): h.log_prob for h in found if h.finished}
    assert set(finished) == set(tried)
    assert all(finished[c] == pytest.approx(scored[c], abs=1e-4) for c in tried)


def test_parts_of_a_hypothesis_belong_together():
    decoder, cells = a_decoder(1), some_cells()
    for found in beam_search(decoder, cells, WORD_MAP, beam_size=3, max_length=6):
        for h in found:
            count = len(h.words)
            assert count >= 1 and set(h.words) <= set(SPEECH)
            assert len(h.word_log_probs) == len(h.gates) == len(h.rivals) == count
            assert h.alphas.shape == (count, 4)
            torch.testing.assert_close(h.alphas.sum(1), torch.ones(count))
            assert all(
                word not in dict(r) for word, r in zip(h.words, h.rivals, strict=True)
            )
            if not h.finished:
                assert h.log_prob == pytest.approx(sum(h.word_log_probs), abs=1e-4)
            else:
                assert h.log_prob <= sum(h.word_log_probs) + 1e-4


@torch.no_grad()
def test_maps_are_those_of_the_forward_pass():
    pool = pooling_matrix(2, 3)
    decoder, cells = a_decoder(2, pool=pool), some_cells()
    for image, found in enumerate(beam_search(decoder, cells, WORD_MAP, 3, 6)):
        for h in found:
            row = torch.tensor([[WORD_MAP["<start>"], *h.words, WORD_MAP["<end>"]]])
            length = torch.tensor([row.shape[1]])
            alphas = decoder(cells[image : image + 1], row, length).alphas[0]
            torch.testing.assert_close(h.alphas, alphas[: len(h.words)])


def test_a_result_even_if_no_caption_ends():
    decoder, cells = a_decoder(0), some_cells()
    with torch.no_grad():
        decoder.fc.bias[WORD_MAP["<end>"]] = -1e9
    for found in beam_search(decoder, cells, WORD_MAP, beam_size=3, max_length=5):
        assert len(found[0].words) == 5 and not found[0].finished


def test_a_batch_gives_what_single_images_give():
    decoder, cells = a_decoder(3), some_cells(6)
    together = beam_search(decoder, cells, WORD_MAP, beam_size=4, max_length=8)
    for image, found in enumerate(together):
        alone = beam_search(decoder, cells[image : image + 1], WORD_MAP, 4, 8)[0]
        assert [h.words for h in found] == [h.words for h in alone]


def test_rivals_are_the_most_probable_other_words():
    decoder, cells = a_decoder(4), some_cells(1)
    best = beam_search(decoder, cells, WORD_MAP, beam_size=2, max_length=4)[0][0]
    row = torch.tensor([[WORD_MAP["<start>"], *best.words, WORD_MAP["<end>"]]])
    with torch.no_grad():
        scores = decoder(cells, row, torch.tensor([row.shape[1]])).scores
    for t, word in enumerate(best.words):
        log_probs = speakable(scores[t], WORD_MAP, t == 0)
        order = [i for i in log_probs.argsort(descending=True).tolist() if i != word]
        found = [i for i, p in best.rivals[t] if p > -torch.inf]
        assert len(found) >= 2 and found == order[: len(found)]


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="beam_size 0"):
        beam_search(a_decoder(0), some_cells(), WORD_MAP, beam_size=0)
