"""What validation measures, computed another way: one caption at a time."""

import json

import pytest
import torch
from conftest import Pixels
from nltk.translate.bleu_score import corpus_bleu
from torch import nn

from satlib.beam_search import beam_search, greedy_search
from satlib.decoder import Decoder
from satlib.validation import examples_of, validate

WORDS = ["<pad>", *"abcdefgh", "<start>", "<end>", "<unk>"]
WORD_MAP = {word: number for number, word in enumerate(WORDS)}
START, END = WORD_MAP["<start>"], WORD_MAP["<end>"]
SPLIT = [
    ["abcab", "aabbc"],
    ["ccabdefgh", "ch"],
    ["bcac", "bc"],
    ["deff", "h"],
    ["ga", "ba"],
]


def rows_of(texts):
    rows = [[START, *(WORD_MAP[word] for word in text), END] for text in texts]
    longest = max(map(len, rows)) + 2
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return padded, torch.tensor([len(row) for row in rows])


@pytest.fixture(scope="module")
def model():
    """A decoder that has learnt a little of all but g and h; with much dropout."""
    torch.manual_seed(0)
    decoder = Decoder(8, 8, 12, len(WORDS), encoder_dim=5, dropout=0.9).eval()
    cells = torch.randn(len(SPLIT), 4, 5)
    known = [text.replace("g", "a").replace("h", "b") for text in sum(SPLIT, [])]
    batch = cells, *rows_of(known)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.03)
    for _ in range(40):
        decoded = decoder(*batch)
        optimizer.zero_grad()
        nn.functional.cross_entropy(decoded.scores, decoded.targets).backward()
        optimizer.step()
    optimizer.zero_grad()
    return decoder.train(), cells


def loader_of(cells):
    """Two batches, of three and of two images, padded to other lengths."""
    for images in (range(3), range(3, 5)):
        yield cells[list(images)], *rows_of(sum((SPLIT[i] for i in images), []))


@torch.no_grad()
def by_hand(decoder, cells):
    """The loss, the share among the five best, and the best words of each caption."""
    losses, hits, words = [], [], []
    for image, pair in zip(cells, SPLIT, strict=True):
        for text in pair:
            row, length = rows_of([text])
            scores = decoder(image[None], row[:, : int(length)], length).scores
            ranks = scores.argsort(1, descending=True).tolist()
            targets = row[0, 1 : int(length)].tolist()
            chances = scores.softmax(1)
            losses += [-chances[t, w].log().item() for t, w in enumerate(targets)]
            hits += [w in order[:5] for order, w in zip(ranks, targets, strict=True)]
            words.append([order[0] for order in ranks])
    return sum(losses) / len(losses), 100 * sum(hits) / len(hits), words


def references():
    """Raw words, among them one that is in no vocabulary."""
    return [[[*text, "zebra"], [*text]] for text, _ in SPLIT]


def test_every_score_is_what_it_is_called(model):
    decoder, cells = model
    found = validate(loader_of(cells), None, decoder, WORD_MAP, references())
    assert set(found) == {"loss", "top5", "bleu4_teacher_forced", "bleu4"}
    assert not decoder.training
    loss, top5, forced = by_hand(decoder, cells)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["top5"] == pytest.approx(top5, rel=1e-5) and 40 < top5 < 100
    ids = [[[*(WORD_MAP[w] for w in text), END] for text in pair] for pair in SPLIT]
    true = [pair for pair in ids for _ in pair]
    expected = corpus_bleu(true, forced)
    assert found["bleu4_teacher_forced"] == pytest.approx(expected, abs=1e-9)
    said = []
    for batch in loader_of(cells):
        most = batch[1].shape[1] - 2
        greedy = greedy_search(decoder, batch[0], WORD_MAP, most)
        said += [[WORDS[i] for i in row] for row in greedy]
    expected = corpus_bleu(references(), said)
    assert found["bleu4"] == pytest.approx(expected, abs=1e-9)
    assert 0 < found["bleu4"] < 1 and 0 < found["bleu4_teacher_forced"] < 1
    assert found["bleu4"] != found["bleu4_teacher_forced"]
    assert all(p.grad is None for p in decoder.parameters())


def test_validating_twice_gives_the_same(model):
    decoder, cells = model
    found = [
        validate(loader_of(cells), None, decoder.train(), WORD_MAP, references())
        for _ in range(2)
    ]
    assert found[0] == found[1]


def test_images_and_cached_cells_are_measured_alike(model):
    decoder, _ = model
    torch.manual_seed(1)
    encoder = Pixels(3, 5)
    images = torch.randint(0, 256, (5, 3, 2, 2)).byte()
    cached = images.flatten(2).transpose(1, 2).float() / 255
    with torch.no_grad():
        cells = encoder(images)
    found = [
        validate(loader_of(inputs), model_, decoder, WORD_MAP, references())
        for inputs, model_ in ((images, encoder), (cached, encoder), (cells, None))
    ]
    assert found[0] == pytest.approx(found[2]) and found[1] == pytest.approx(found[2])


def test_examples_are_the_first_images_captions_with_their_maps(model):
    decoder, cells = model
    found = examples_of([(each,) for each in cells], None, decoder, WORD_MAP)
    assert json.loads(json.dumps(found)) == found and len(found) == 4
    beams = beam_search(decoder.eval(), cells[:4], WORD_MAP, 1)
    for example, (expected,) in zip(found, beams, strict=True):
        assert example["words"] == [WORDS[i] for i in expected.words] != []
        maps = torch.tensor(example["maps"]) / 255
        assert maps.shape == (len(expected.words), 2, 2)
        scaled = expected.alphas / expected.alphas.amax(1, keepdim=True)
        assert (maps.flatten(1) - scaled).abs().max() <= 0.5 / 255 + 1e-6


def test_a_small_dataset_gives_fewer_examples(model):
    decoder, cells = model
    assert len(examples_of([(cells[0],)], None, decoder, WORD_MAP)) == 1
