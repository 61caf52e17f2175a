"""The reward, drawn captions, and the gradient of an expected reward."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from satlib.beam_search import speakable
from satlib.bleu import scores
from satlib.decoder import Decoder
from satlib.self_critical import (
    CiderReward,
    advantages,
    draw_captions,
    reward_loss,
    said,
    train_on_reward,
)
from satlib.training import Iterations

WORD_MAP = {"<pad>": 0, "a": 1, "b": 2, "<start>": 3, "<end>": 4, "<unk>": 5}


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return Decoder(8, 8, 8, len(WORD_MAP), encoder_dim=5, dropout=0.5).eval()


def rows_of(*captions):
    """Rows of ids for captions, given as texts of a and b: (1, k, L)."""
    ids = [[3, *(WORD_MAP[w] for w in text), 4] for text in captions]
    longest = max(map(len, ids))
    return torch.tensor([row + [0] * (longest - len(row)) for row in ids])[None]


CAPTION = st.text("ab", min_size=1, max_size=7)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(CAPTION, CAPTION, CAPTION), min_size=2, max_size=5))
def test_the_reward_is_cocos_cider_d(corpus):
    longest = max(len(text) for texts in corpus for text in texts) + 2
    rows = [rows_of(*texts, "a" * (longest - 2))[:, :3] for texts in corpus]
    rows = torch.cat(rows)  # (N, 3, L)
    people, own = rows[:, 1:], rows[:, :1]
    found = CiderReward(people)(people, own)[:, 0]
    as_text = [[list(map(str, said(r))) for r in image] for image in rows.tolist()]
    expected = scores([t[1:] for t in as_text], [t[0] for t in as_text])["CIDEr-D"]
    assert found.mean().item() == pytest.approx(expected, abs=1e-5)


def test_a_caption_without_its_end_earns_less():
    people = torch.cat([rows_of("aabb", "abab"), rows_of("bbaa", "bbab")])
    reward = CiderReward(people)
    whole = rows_of("aabb")
    broken = whole.masked_fill(whole == WORD_MAP["<end>"], 0)
    assert reward(people[:1], whole) > reward(people[:1], broken)


def test_captions_are_drawn_by_their_probability(decoder):
    torch.manual_seed(1)
    cells = torch.randn(1, 4, 5)
    rows, lengths = draw_captions(decoder, cells, WORD_MAP, 4000, max_length=3)
    assert (rows[:, 0] == WORD_MAP["<start>"]).all()
    assert ((rows != 0).sum(1) == lengths).all()
    assert not torch.isin(rows[:, 1:], torch.tensor([3, 5])).any()
    memory, state = decoder.remember(cells), decoder.start(cells)
    start = decoder.vectors(torch.tensor([3]))
    hidden = decoder.step(start, *state, memory, torch.tensor([0]))[0]
    first = speakable(decoder.fc(hidden), WORD_MAP, True).exp()[0]
    drawn = torch.bincount(rows[:, 1], minlength=6) / len(rows)
    assert (drawn - first).abs().max() < 0.03


def chance(decoder, cells, row):
    """The probability of drawing a row of ids, word by word."""
    memory, state, p = decoder.remember(cells), decoder.start(cells), 1.0
    for t, (word, following) in enumerate(itertools.pairwise(row)):
        inputs = decoder.vectors(torch.tensor([word]))
        *state, _, _ = decoder.step(inputs, *state, memory, torch.tensor([0]))
        p = p * speakable(decoder.fc(state[0]), WORD_MAP, t == 0).exp()[0, following]
    return p


POSSIBLE = [[3, w, v] for w in (1, 2) for v in (1, 2, 4)]  # of at most two words


def test_images_do_not_mix_when_captions_end(decoder):
    torch.manual_seed(2)
    cells = 3 * torch.randn(3, 4, 5)
    with torch.no_grad():
        decoder.fc.weight.mul_(20)  # so that the images' captions differ
        rows, lengths = draw_captions(decoder, cells, WORD_MAP, 3000, max_length=2)
        assert set(lengths.tolist()) == {3}
        for image, drawn in zip(cells, rows.view(3, 3000, 3).tolist(), strict=True):
            p = [chance(decoder, image[None], row).item() for row in POSSIBLE]
            share = [drawn.count(row) / 3000 for row in POSSIBLE]
            assert sum(p) == pytest.approx(1)
            assert share == pytest.approx(p, abs=0.04)


def test_advantages_by_hand():
    found = advantages(torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0]]))
    assert found.tolist() == [-3.0, -1.5, 4.5, 0, 0, 0]


def test_the_gradient_of_the_expected_reward(decoder):
    """Against that of the sum over all captions, of unequal length."""
    cells = torch.randn(1, 4, 5)
    captions = [[3, 1, 4], [3, 2, 4]]
    captions += [[3, w, v, u] for w in (1, 2) for v in (1, 2) for u in (1, 2, 4)]
    rows = torch.tensor([row + [0] * (4 - len(row)) for row in captions])
    rewards = torch.linspace(0, 3, len(rows))[torch.randperm(len(rows))]

    def gradient(loss):
        decoder.zero_grad()
        loss.backward()
        return [p.grad.clone() for p in decoder.parameters()]

    p = torch.stack([chance(decoder, cells, row) for row in captions])
    assert p.sum().item() == pytest.approx(1)
    exact = gradient(-(p * rewards).sum())
    lengths = (rows != 0).sum(1)
    decoded = decoder(cells, rows, lengths)
    weighed = reward_loss(decoded, p.detach() * rewards, WORD_MAP)
    found = gradient(weighed * len(decoded.targets))
    for ours, true in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, true, atol=1e-6, rtol=1e-3)


def test_an_epoch_raises_the_reward(decoder):
    torch.manual_seed(3)
    cells = torch.randn(4, 4, 5)
    people = torch.cat([rows_of("ab", "ab"), rows_of("ba", "ba")] * 2)
    lengths = torch.full((8,), 4)
    loader = [(cells, people.flatten(0, 1), lengths)] * 30
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.02)
    reward, steps, found = CiderReward(people), [], []
    settings = {"print_freq": 1000, "after_step": lambda: steps.append(1)}
    for epoch in range(3):
        iterations = Iterations(loader, [optimizer], epoch, **settings)
        row = train_on_reward(iterations, None, decoder, reward, WORD_MAP)
        found.append(row["reward"])
    assert found[2] > 2 * found[0] > 0
    assert len(steps) == 90


def test_gradients_are_clipped_and_rewards_weighed(decoder):
    torch.manual_seed(4)
    cells = torch.randn(4, 4, 5)
    people = torch.cat([rows_of("ab", "ab"), rows_of("ba", "ba")] * 2)
    lengths = torch.full((8,), 4)
    parts = [slice(0, 1), slice(1, 4)]
    loader = [
        (cells[p], people[p].flatten(0, 1), lengths[: 2 * len(cells[p])]) for p in parts
    ]
    rewards = []

    def reward(true, own):
        assert len(true) == len(own) and own.shape[1] == 3
        rewards.append(torch.rand(own.shape[:2]))
        return rewards[-1]

    before = decoder.fc.weight.detach().clone()
    optimizer = torch.optim.SGD(decoder.parameters(), lr=1.0)
    decoder.train()
    iterations = Iterations(loader, [optimizer], 1, grad_clip=1e-3)
    found = train_on_reward(iterations, None, decoder, reward, WORD_MAP, 3)
    assert found["reward"] == pytest.approx(torch.cat(rewards).mean().item())
    assert not decoder.training  # captions are drawn, and weighed, without dropout
    step = (decoder.fc.weight - before).abs().max().item()
    assert 0.5e-3 < step <= 2.001e-3  # two steps
    assert set(found) == {"reward", "batch_time", "data_time"}


def test_what_is_said():
    assert said([3, 1, 2, 4, 0, 0]) == [1, 2, 4]


def test_a_drawn_caption_ends_after_its_longest(decoder):
    with torch.no_grad():
        decoder.fc.bias[WORD_MAP["<end>"]] = -1e9
    rows, lengths = draw_captions(decoder, torch.randn(2, 4, 5), WORD_MAP, 3)
    assert rows.shape == (6, 51) and lengths.tolist() == [51] * 6
    assert not (rows == WORD_MAP["<end>"]).any()
