"""The decoder equals the textbook's loop, and anyone's code with the same weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.rnn import pack_padded_sequence

from satlib.decoder import Decoder, pack, textbook_forward
from satlib.encoder import pooling_matrix


def a_batch(images=3, per_image=2, cells=9, dim=10, longest=8, vocab=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = images * per_image
    lengths = torch.randint(2, longest + 1, (rows,), generator=generator)
    captions = torch.randint(1, vocab, (rows, longest), generator=generator)
    captions[torch.arange(longest) >= lengths.unsqueeze(1)] = 0
    return torch.randn(images, cells, dim, generator=generator), captions, lengths


def a_decoder(pool=None, dtype=torch.float32, look_dim=None):
    torch.manual_seed(1)
    sizes = {"encoder_dim": 10, "look_dim": look_dim}
    return Decoder(6, 5, 7, 12, pool=pool, **sizes).to(dtype).eval()


def places(decoded, longest):
    """Give the rows of the words, caption by caption, each in its order."""
    return (decoded.caption * longest + decoded.step).argsort()


def test_words_lie_step_by_step_and_name_their_place():
    _, captions, lengths = batch = a_batch()
    decoded = a_decoder()(*batch)
    expected = [
        (t, j) for t in range(len(captions[0])) for j in range(6) if t < lengths[j] - 1
    ]
    assert torch.stack([decoded.step, decoded.caption], 1).tolist() == [
        list(place) for place in expected
    ]
    assert decoded.targets.tolist() == [int(captions[j, t + 1]) for t, j in expected]
    assert decoded.order.tolist() == list(range(6))


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(2, 9),
    st.integers(0, 999),
    st.sampled_from([None, 4]),
)
@settings(max_examples=25, deadline=None)
def test_equals_the_textbook_for_any_batch(images, per_image, longest, seed, look_dim):
    pool = pooling_matrix(3, 4)
    decoder = a_decoder(pool, look_dim=look_dim)
    cells, captions, lengths = a_batch(images, per_image, longest=longest, seed=seed)
    ours = decoder(cells, captions, lengths)
    textbook = textbook_forward(decoder, pool @ cells, captions, lengths)
    a, b = (places(result, longest) for result in (ours, textbook))
    assert torch.equal(ours.targets[a], textbook.targets[b])
    torch.testing.assert_close(ours.scores[a], textbook.scores[b], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.alphas, textbook.alphas, atol=1e-5, rtol=0)


def test_it_looks_with_the_first_numbers_and_reads_all():
    decoder = a_decoder(look_dim=4)
    cells, *captions = a_batch()
    other = cells.clone()
    other[..., 4:] += 1  # what is read
    before, after = decoder(cells, *captions), decoder(other, *captions)
    assert decoder.attention.encoder_att.in_features == 4
    assert not torch.equal(before.scores, after.scores)
    with torch.no_grad():
        keys = [decoder.remember(c).keys for c in (cells, other)]
        assert torch.equal(*keys)
        moved = decoder.remember(cells + torch.eye(10)[0]).keys
    assert not torch.equal(keys[0], moved)


def test_it_looks_where_it_is_told():
    decoder, (cells, *_) = a_decoder(pooling_matrix(3, 4)), a_batch()
    memory, state, image = decoder.remember(cells), decoder.start(cells), [0, 0, 2]
    state = [s[image] for s in state]
    step = decoder.vectors(torch.tensor([1, 2, 3])), *state, memory, image
    alpha = decoder.step(*step)[2]
    for own, told in zip(decoder.step(*step), decoder.step(*step, alpha), strict=True):
        assert torch.equal(own, told)
    one = F.one_hot(torch.tensor([5, 6, 7]), 16).float()
    hidden, _, given, gate = decoder.step(*step, one)
    assert given is one
    seen = (decoder.pool @ cells)[image, [5, 6, 7]]
    inputs = torch.cat([step[0], gate * seen], dim=1)
    assert torch.allclose(hidden, decoder.decode_step(inputs, state)[0])


def test_gradients_equal_the_textbook():
    pool = pooling_matrix(3, 4).double()
    decoder = a_decoder(pool, torch.float64)
    cells, captions, lengths = a_batch()
    cells = cells.double().requires_grad_()  # as when the encoder is trained too

    def gradients(decoded):
        loss = F.cross_entropy(decoded.scores, decoded.targets)
        loss = loss + (1 - decoded.alphas.sum(1)).square().mean()
        return torch.autograd.grad(loss, [cells, *decoder.parameters()])

    ours = gradients(decoder(cells, captions, lengths))
    textbook = gradients(textbook_forward(decoder, pool @ cells, captions, lengths))
    for a, b in zip(ours, textbook, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_layout_is_that_of_pack_padded_sequence():
    _, captions, lengths = a_batch()
    packed = pack(captions, lengths)
    expected = pack_padded_sequence(
        captions[:, 1:], lengths - 1, batch_first=True, enforce_sorted=False
    )
    assert torch.equal(packed.targets, expected.data)
    assert packed.batch_sizes == expected.batch_sizes.tolist()
    assert torch.equal(lengths[packed.order], lengths.sort(descending=True).values)


def test_maps_sum_to_one_for_words_and_are_zero_after_the_end():
    decoder = a_decoder(pooling_matrix(3, 4))
    cells, captions, lengths = a_batch()
    decoded = decoder(cells, captions, lengths)
    assert decoded.alphas.shape == (6, int(lengths.max()) - 1, 16)
    for row, caption in zip(decoded.alphas, decoded.order, strict=True):
        steps = int(lengths[caption]) - 1
        torch.testing.assert_close(row[:steps].sum(1), torch.ones(steps))
        assert not row[steps:].any()


def test_parameters_have_the_fixed_names_and_pool_is_not_saved():
    names = {
        name.split(".")[0] for name in a_decoder(pooling_matrix(3, 4)).state_dict()
    }
    assert names == set(
        ["attention", "embedding", "decode_step", "init_h", "init_c", "f_beta", "fc"]
    )
    attention = {
        name.split(".")[1] for name in a_decoder().state_dict() if "attention" in name
    }
    assert attention == {"encoder_att", "decoder_att", "full_att"}


def test_initial_weights():
    decoder = Decoder(64, 64, 64, 300, encoder_dim=64)
    for name in ("embedding", "decode_step", "fc"):
        for key, value in getattr(decoder, name).state_dict().items():
            if "bias" in key:
                assert not value.any(), key
            else:
                assert value.abs().max() <= 0.1 and value.std() > 0.05, key
    assert decoder.init_h.bias.any() and decoder.attention.full_att.bias.any()


class Foreign(nn.Module):
    """The model as other code writes it: same names, torch's own LSTMCell, one loop."""

    def __init__(self):
        super().__init__()
        self.attention = nn.Module()
        self.attention.encoder_att = nn.Linear(10, 6)
        self.attention.decoder_att = nn.Linear(7, 6)
        self.attention.full_att = nn.Linear(6, 1)
        self.embedding = nn.Embedding(12, 5)
        self.decode_step = nn.LSTMCell(15, 7)
        self.init_h, self.init_c = nn.Linear(10, 7), nn.Linear(10, 7)
        self.f_beta, self.fc = nn.Linear(7, 10), nn.Linear(7, 12)

    def forward(self, regions, words):
        h, c = self.init_h(regions.mean(0)), self.init_c(regions.mean(0))
        for word in words:
            keys = self.attention.encoder_att(regions) + self.attention.decoder_att(h)
            alpha = self.attention.full_att(keys.relu()).squeeze(1).softmax(0)
            context = torch.sigmoid(self.f_beta(h)) * (alpha @ regions)
            h, c = self.decode_step(torch.cat([self.embedding(word), context]), (h, c))
            yield self.fc(h)


@torch.no_grad()
def test_weights_saved_by_other_code_give_the_same_scores(tmp_path):
    torch.manual_seed(3)
    foreign = Foreign()
    torch.save(foreign.state_dict(), tmp_path / "foreign.pt")
    pool = pooling_matrix(3, 4)
    decoder = a_decoder(pool)
    decoder.load_state_dict(torch.load(tmp_path / "foreign.pt", weights_only=True))
    cells, captions, lengths = a_batch()
    for row in range(len(captions)):
        n = int(lengths[row])
        image = cells[row // 2]
        expected = torch.stack(list(foreign(pool @ image, captions[row, : n - 1])))
        ours = decoder(image[None], captions[row : row + 1], lengths[row : row + 1])
        torch.testing.assert_close(ours.scores, expected, atol=1e-4, rtol=0)


def test_padding_changes_nothing():
    decoder = a_decoder()
    cells, captions, lengths = a_batch()
    wider = F.pad(captions, (0, 5))
    assert torch.equal(
        decoder(cells, captions, lengths).scores, decoder(cells, wider, lengths).scores
    )


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_for_training_only(training):
    decoder = a_decoder().train(training)
    batch = a_batch()
    same = torch.equal(decoder(*batch).scores, decoder(*batch).scores)
    assert same != training


def test_half_precision_switched_on_gives_nearly_the_same():
    pool = pooling_matrix(3, 4)
    decoder, batch = a_decoder(pool), a_batch()
    expected = decoder(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = decoder(*batch)
        loss = F.cross_entropy(found.scores, found.targets)
    loss.backward()
    torch.testing.assert_close(
        found.scores.float(), expected.scores, atol=0.03, rtol=0.03
    )
    assert all(p.grad.isfinite().all() for p in decoder.parameters())
