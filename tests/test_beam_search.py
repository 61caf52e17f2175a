"""Beam search against greedy search and against trying out everything."""

import itertools

import pytest
import torch

from satlib.beam_search import (
    beam_search,
    beginning,
    content_words,
    greedy_search,
    repeats,
    speak,
    speakable,
    without_repeats,
)
from satlib.decoder import Decoder
from satlib.encoder import pooling_matrix

WORDS = ["<pad>", "a", "cat", "dog", "<start>", "<end>", "<unk>"]
WORD_MAP = {word: number for number, word in enumerate(WORDS)}
SPEECH = [1, 2, 3]


def a_decoder(seed, scale=4.0, pool=None, words=WORDS):
    torch.manual_seed(seed)
    decoder = Decoder(8, 6, 12, len(words), encoder_dim=5, pool=pool).eval()
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
    tried = [c for c in tried if not repeats([WORDS[i] for i in c])]
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


def test_the_shortest_and_the_usual_length():
    decoder, cells = a_decoder(0), some_cells()
    with torch.no_grad():
        decoder.fc.bias[WORD_MAP["<end>"]] = -1e9
    for found in beam_search(decoder, cells, WORD_MAP, max_length=1):
        assert [len(h.words) for h in found] == [1] * 3  # there are no more words
    for found in beam_search(decoder, cells, WORD_MAP, 2):
        assert len(found) == 2 and len(found[0].words) == 50
    assert {len(ids) for ids in greedy_search(decoder, cells, WORD_MAP)} == {50}
    assert [len(ids) for ids in greedy_search(decoder, cells, WORD_MAP, 1)] == [1] * 4
    with pytest.raises(ValueError, match="max_length 0: at least 1"):
        beam_search(decoder, cells, WORD_MAP, max_length=0)


def test_by_default_five_beams_and_a_power_of_seven_tenths():
    for seed in range(4):
        decoder, cells = a_decoder(seed), some_cells(seed=seed)
        usual = beam_search(decoder, cells, WORD_MAP)
        chosen = beam_search(decoder, cells, WORD_MAP, 5, 50, 0.7)
        assert [[h.words for h in f] for f in usual] == [
            [h.words for h in f] for f in chosen
        ]
        for found in usual:
            assert len(found) == 5
            for h in found:
                count = len(h.words) + h.finished
                assert h.score == pytest.approx(h.log_prob / count**0.7)


def test_unspeakable_words_have_no_probability():
    scores = torch.randn(2, len(WORDS), dtype=torch.float16)
    before = scores.clone()
    for first, silent in ((True, {0, 4, 5, 6}), (False, {0, 4, 6})):
        found = speakable(scores, WORD_MAP, first)
        assert found.dtype == torch.float32 and torch.equal(scores, before)
        assert {*(found == -torch.inf).all(0).nonzero()[:, 0].tolist()} == silent
        torch.testing.assert_close(found.exp().sum(1), torch.ones(2))
        kept = [n for n in range(len(WORDS)) if n not in silent]
        expected = scores.float()[:, kept].log_softmax(1)
        torch.testing.assert_close(found[:, kept], expected)


def test_at_most_four_rivals():
    torch.manual_seed(0)
    words = ["<pad>", *"abcdefghij", "<start>", "<end>", "<unk>"]
    word_map = {word: number for number, word in enumerate(words)}
    decoder = Decoder(8, 6, 12, len(words), encoder_dim=5).eval()
    for beam_size in (1, 3, 9):
        for found in beam_search(decoder, some_cells(), word_map, beam_size, 3):
            assert all(len(row) == 4 for h in found for row in h.rivals)


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("a white shirt and a white shirt", True),
        ("riding a motorcycle on a motorcycle", True),
        ("a white hat and a hat", True),
        ("a toy toy", True),
        ("a toilet sitting on a toilet", True),
        ("a toilet sitting on a toilet seat", False),
        ("a large white dog and a white cat", False),
        ("a white dog and a white", True),
        ("a red circle above a red square", False),
        ("a red circle above a circle red", True),
        ("a hat and a white hat", False),
        ("a man next to another man", False),
        ("a a of of", False),
        ("o femeie și o femeie", False),
        ("", False),
    ],
)
def test_what_counts_as_a_repetition(text, again):
    assert repeats(text.split()) == again


def test_refused_are_the_words_that_would_repeat():
    """The fast form, against the plain one, for captions drawn by chance."""
    words = ["<pad>", "a", "in", *"vwxyz", "<start>", "<end>", "<unk>"]
    word_map = {word: number for number, word in enumerate(words)}
    content = content_words(word_map)
    dice = torch.Generator().manual_seed(0)
    said = beginning(300, word_map["<start>"])
    texts, refusals = [[] for _ in range(300)], 0
    for _ in range(9):
        scores = without_repeats(torch.zeros(len(texts), len(words)), said, content)
        for text, row in zip(texts, scores, strict=True):
            expected = [repeats([*text, word, "…"]) for word in words[1:8]]
            assert row[1:8].isinf().tolist() == expected
            assert {*row[[0, *range(8, 11)]].isinf().tolist()} == {repeats(text)}
            refusals += sum(expected)
        drawn = (scores[:, 1:8].exp()).multinomial(1, generator=dice)[:, 0] + 1
        texts = [[*t, words[i]] for t, i in zip(texts, drawn.tolist(), strict=True)]
        keep = torch.rand(len(texts), generator=dice) < 0.95
        texts = [t for t, kept in zip(texts, keep.tolist(), strict=True) if kept]
        said = said.of(keep).then(drawn[keep], content)
    assert refusals > 1000


@pytest.mark.parametrize("seed", range(4))
def test_no_search_repeats_unless_it_may(seed):
    words = ["<pad>", "a", *"bcdefghijkl", "<start>", "<end>", "<unk>"]
    word_map = {word: number for number, word in enumerate(words)}
    decoder, cells = a_decoder(seed, words=words), some_cells(20, seed)
    with torch.no_grad():
        decoder.fc.bias[word_map["<end>"]] -= 2

    def texts(captions):
        """Captions as words; what was cut off could have gone on with others."""
        return [
            [*(words[i] for i in ids), *["…"] * (len(ids) == 8)] for ids in captions
        ]

    def found(once):
        beams = beam_search(decoder, cells, word_map, 3, 8, once=once)
        return texts(h.words for image in beams for h in image)

    assert not any(map(repeats, found(True)))
    assert any(map(repeats, found(False)))
    assert not any(map(repeats, texts(greedy_search(decoder, cells, word_map, 8))))
    rows = speak(decoder, cells, word_map, lambda p: p.argmax(1), max_length=8)
    ids = word_map["<start>"], word_map["<end>"], word_map["<pad>"]
    free = [[i for i in row if i not in ids] for row in rows.tolist()]
    assert any(map(repeats, texts(free)))


@pytest.mark.parametrize("known", ["a b c a", "a b c of a"])
def test_where_no_word_is_left_a_caption_may_end(known):
    words = ["<pad>", "a", "of", "b", "c", "<start>", "<end>", "<unk>"]
    word_map = {word: number for number, word in enumerate(words)}
    content = content_words(word_map)
    said = beginning(1, word_map["<start>"])
    for word in (*known.split(), "b"):
        said = said.then(torch.tensor([word_map[word]]), content)
    scores = without_repeats(torch.zeros(1, len(words)), said, content)[0]
    refused = [word for word, score in zip(words, scores, strict=True) if score.isinf()]
    assert refused == ["b", "c"]


def test_the_probability_of_what_is_said_stays_the_models():
    decoder, cells = a_decoder(1), some_cells()
    for image, found in enumerate(beam_search(decoder, cells, WORD_MAP, 3, 6)):
        for h in (h for h in found if h.finished):
            own = log_probability(decoder, cells[image : image + 1], h.words)
            assert h.log_prob == pytest.approx(own, abs=1e-4)


def test_another_language_may_say_what_it_likes():
    word_map = {"<pad>": 0, "猫": 1, "妈": 2, "<start>": 3, "<end>": 4, "<unk>": 5}
    assert not content_words(word_map).any()
    torch.manual_seed(0)
    decoder = Decoder(8, 6, 12, len(word_map), encoder_dim=5).eval()
    with torch.no_grad():
        decoder.fc.bias[:] = torch.tensor([0.0, 0, 50, 0, -50, 0])
    found = beam_search(decoder, some_cells(1), word_map, 1, 4)[0][0]
    assert found.words == [2, 2, 2, 2]
