"""Shared operations equal the ordinary ones, gradients included, and leave nothing."""

import gc
import sys
import weakref
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from satlib import recurrence
from satlib.batches import collate
from satlib.captioner import Captioner
from satlib.decoder import Decoder, Memory
from satlib.encoder import build_encoder, pooling_matrix
from satlib.recurrence import (
    FastDecoder,
    SharedContext,
    SharedLinear,
    SharedMemory,
    SharedScores,
    runs,
)
from satlib.training import caption_loss, train


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


def plain_scores(keys, v, query, image):
    return torch.relu(keys[image] + query.unsqueeze(1)) @ v


def plain_context(cells, weights, image):
    return torch.einsum("rc,rcd->rd", weights, cells[image])


def of_two_steps(function, rows, counts):
    """Two steps, the second with one row of each image; a number made of all."""
    image = image_of(counts)
    mix = torch.linspace(0.5, 1.5, function(rows, image).shape[1], dtype=rows.dtype)
    total = (function(rows, image) @ mix).square().sum()
    firsts = [sum(counts[:i]) for i, count in enumerate(counts) if count]
    return total + (function(rows[firsts], image[firsts]) @ mix).sum()


def check_equal(ours, plain, rows, counts, operands):
    image = image_of(counts)
    torch.testing.assert_close(ours(rows, image), plain(*operands, rows, image))
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


def an_operation(name, frozen=False):
    """Give a shared operation on rows (4, 7) and its shared tensors."""
    if name == "linear":
        tensors, make = [doubles(5, 7)], SharedLinear
    elif name == "scores":
        tensors, make = [doubles(4, 6, 7), doubles(7)], SharedScores
    else:
        tensors, make = [doubles(4, 7, 3)], SharedContext
    tensors = [t.requires_grad_(not frozen) for t in tensors]
    image = [] if name == "linear" else [image_of([1, 0, 2, 1])]
    shared_operation = make(*tensors)
    return shared_operation, lambda rows: shared_operation(rows, *image), tensors


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


def two_decoders(pool, dtype=torch.float64, seed=0, look_dim=None):
    """The decoder of the chapter and the fast one, with the same weights."""
    torch.manual_seed(seed)
    plain, fast = (
        kind(6, 5, 7, 12, encoder_dim=10, pool=pool, look_dim=look_dim).to(dtype).eval()
        for kind in (Decoder, FastDecoder)
    )
    fast.load_state_dict(plain.state_dict())
    return plain, fast


def a_batch(images, per_image, longest, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    rows = images * per_image
    lengths = torch.randint(2, longest + 1, (rows,), generator=generator)
    captions = torch.randint(1, 12, (rows, longest), generator=generator)
    cells = torch.randn(images, 9, 10, generator=generator, dtype=dtype)
    return cells.requires_grad_(), captions, lengths


def all_of(decoder, batch):
    """The result of a forward pass, the loss, and all gradients."""
    decoded = decoder(*batch)
    loss = sum(caption_loss(decoded))
    gradients = torch.autograd.grad(loss, [batch[0], *decoder.parameters()])
    return [*decoded, loss, *gradients]


@pytest.mark.parametrize("pooled", [True, False])
@given(st.integers(1, 4), st.integers(1, 3), st.integers(2, 9), st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_the_fast_decoder_equals_the_decoder(pooled, images, per_image, longest, seed):
    pool, look_dim = (pooling_matrix(3, 4).double(), 4) if pooled else (None, None)
    plain, fast = two_decoders(pool, look_dim=look_dim)
    batch = a_batch(images, per_image, longest, seed)
    for ours, theirs in zip(all_of(fast, batch), all_of(plain, batch), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("pooled", [True, False])
def test_the_fast_decoder_looks_where_it_is_told(pooled):
    pool = pooling_matrix(3, 4).double() if pooled else None
    plain, fast = two_decoders(pool)
    cells, image = a_batch(2, 1, 5, seed=3)[0], torch.tensor([0, 1, 1])
    alpha = torch.rand(3, 16 if pooled else 9, dtype=cells.dtype)
    ours, theirs = (
        decoder.step(
            decoder.vectors(torch.tensor([1, 2, 3])),
            *(state[image] for state in decoder.start(cells)),
            decoder.remember(cells),
            image,
            alpha,
        )
        for decoder in (fast, plain)
    )
    assert ours[2] is theirs[2] is alpha
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)


def test_they_start_with_the_same_weights_and_names():
    torch.manual_seed(5)
    plain = Decoder(6, 5, 7, 12, encoder_dim=10).state_dict()
    torch.manual_seed(5)
    fast = FastDecoder(6, 5, 7, 12, encoder_dim=10).state_dict()
    assert list(plain) == list(fast)
    assert all(torch.equal(plain[name], fast[name]) for name in plain)


def test_without_the_call_of_the_engine_it_falls_back(monkeypatch):
    _, fast = two_decoders(pooling_matrix(3, 4).double())
    batch = a_batch(3, 2, 7, seed=1)
    assert isinstance(fast.remember(batch[0]), SharedMemory)
    expected = all_of(fast, batch)
    monkeypatch.setattr(recurrence.Notes, "available", False)
    assert isinstance(fast.remember(batch[0]), Memory)
    for ours, theirs in zip(all_of(fast, batch), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)


def test_on_a_gpu_it_is_the_decoder():
    """The meta device stands for a GPU: it has shapes, and no numbers."""
    plain, fast = (decoder.to("meta") for decoder in two_decoders(None))
    cells, captions, lengths = a_batch(3, 2, 7, seed=1)
    assert isinstance(fast.remember(cells.to("meta")), Memory)
    words = captions[:, 0].to("meta")
    assert fast.vectors(words).shape == plain.vectors(words).shape


def test_the_engine_has_the_call():
    """Where this fails, `Notes` needs another way to forget; until then it is slow."""
    assert recurrence.Notes.available


TAUGHT = {
    "attention": ["keys", "query", "alpha"],
    "lstm": ["project", "gates", "update", "forward"],
    "decoder": ["remember", "start", "step", "forward"],
}


def called(function):
    """Name the functions of satlib, as (module, name), that a function enters."""
    seen = set()

    def note(frame, event, argument):
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("satlib."):
            seen.add((module.removeprefix("satlib."), frame.f_code.co_name))

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return seen


def a_model():
    encoder = build_encoder(image_size=64, stage=5)
    words = ["<pad>", "a", "cat", "<start>", "<end>", "<unk>"]
    word_map = {word: number for number, word in enumerate(words)}
    sizes = 4, 4, 4, len(words), encoder.encoder_dim
    return encoder, FastDecoder(*sizes, pool=encoder.pool), word_map


def test_the_taught_methods_run_where_a_photograph_is_captioned(world):
    captioner = Captioner(*a_model(), 64)
    picture = next((world / "Images").iterdir())
    entered = called(lambda: captioner.caption([picture]))
    methods = {(m, n) for m, names in TAUGHT.items() for n in names}
    assert methods - entered <= {("decoder", "forward"), ("decoder", "remember")}


def test_the_taught_methods_run_where_it_is_trained(monkeypatch):
    _, decoder, word_map = a_model()
    cells = torch.randn(2, 16, decoder.init_h.in_features)
    captions = torch.tensor([[[3, 1, 2, 4]]] * 2)
    items = [(c, r, torch.tensor([4])) for c, r in zip(cells, captions, strict=True)]
    optimizer = torch.optim.Adam(decoder.parameters())
    run = [[collate(items)], None, decoder, None, optimizer, 1]
    entered = called(lambda: train(*run))
    methods = {(m, n) for m, names in TAUGHT.items() for n in names}
    assert methods - entered <= {("decoder", "remember")}
