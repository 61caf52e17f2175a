"""The rivals of the race compute the same; the counting and the table are right."""

import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from satlib import benchmark as race
from satlib import speed
from satlib.beam_search import beam_search
from satlib.encoder import build_encoder
from satlib.training import caption_loss

SMALL = race.Sizes(3, 2, 14, 12, 7, 6, 8, vocab_size=20, shortest=2, longest=6)


@pytest.mark.parametrize("side", [14, 4])
def test_every_form_gives_the_same_loss_and_gradients(side):
    sizes = replace(SMALL, side=side)
    decoder, cells, *captions = race.example(sizes)
    decoder.eval()
    forms = race.forms_of_forward(decoder, cells)
    if side != 14:  # without pooling there are no savings between
        forms = {name: forms[name] for name in ("textbook", "shared operations")}
    results = []
    for forward in forms.values():
        loss = sum(caption_loss(forward(*captions)))
        results.append((loss, *torch.autograd.grad(loss, list(decoder.parameters()))))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("end", [-1e9, 0.5, 3.0])
def test_both_searches_find_the_same_captions(end):
    sizes = replace(SMALL, images=6, vocab_size=30)
    decoder, cells, word_map = race.search_example(sizes)
    with torch.no_grad():
        decoder.fc.bias[word_map["<end>"]] = end
    ours = [h[0].words for h in beam_search(decoder, cells, word_map, 4, 9)]
    search = partial(race.textbook_search, decoder)
    assert ours == [search(r, word_map, 4, 9) for r in decoder.pool @ cells]
    if end > 0:
        assert any(len(words) < 9 for words in ours)


EQUAL = {"shortest": 1, "longest": 1, "per_image": 1, "side": 2, "attention_dim": 2}


@pytest.mark.parametrize(
    ("choices", "error"),
    [
        ({"per_image": 1}, 0.03),
        (EQUAL | {"encoder_dim": 64, "decoder_dim": 64}, 1e-3),  # the first state
        (EQUAL | {"embed_dim": 64, "vocab_size": 200}, 1e-3),  # words and their scores
    ],
)
def test_the_arithmetic_counted_is_that_of_pytorch(choices, error):
    sizes = replace(SMALL, **choices)
    decoder, cells, captions, lengths = race.example(sizes)
    steps = torch.arange(int(lengths.max()) - 1).unsqueeze(1) < lengths - 1
    counted = race.operations(race.products(sizes, steps.sum(1).tolist()))
    with FlopCounterMode(display=False) as flops:
        sum(caption_loss(decoder(cells, captions, lengths))).backward()
    assert counted == pytest.approx(flops.get_total_flops(), rel=error)


@pytest.mark.parametrize("side", [14, 4])
def test_the_arithmetic_of_a_search_is_that_of_pytorch(side):
    layers = {"attention_dim": 2, "encoder_dim": 64, "decoder_dim": 64}
    sizes = replace(SMALL, side=side, vocab_size=200, **layers)
    decoder, cells, word_map = race.search_example(sizes)
    counted = race.operations(race.search_products(sizes, beam_size=4, words=6))
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        beam_search(decoder, cells, word_map, 4, 6)
    assert counted == pytest.approx(flops.get_total_flops(), rel=0.02)


def test_the_products_of_an_epoch_are_those_of_its_batches(tmp_path):
    encoder = build_encoder("efficientnet_lite0", pretrained=False)
    _, cells = speed.epoch_data(tmp_path, encoder, "few", count=25)
    sizes = replace(SMALL, encoder_dim=1280, vocab_size=100)
    steps = [sum(len(row[row > 0]) - 1 for row in captions) for _, captions, _ in cells]
    found = speed.epoch_products(sizes, cells)
    scores = [shape for shape in found if shape[2:] == (sizes.decoder_dim, 100)]
    assert len(cells) == 20 and len(scores) == 2  # batches, of 16 images and of 4
    assert sum(rows for _, rows, *_ in scores) == sum(steps)


def test_bfloat16_is_for_one_call_only():
    seen = []
    race.in_bfloat16(lambda: seen.append(torch.get_float32_matmul_precision()))()
    assert seen + [torch.get_float32_matmul_precision()] == ["medium", "highest"]


def test_a_step_trains_in_every_form():
    decoder, cells, *captions = race.example(SMALL)
    optimizer = race.adam(decoder)
    for forward in race.forms_of_forward(decoder, cells).values():
        before = decoder.fc.weight.detach().clone()
        race.training_step(forward, optimizer, *captions)
        assert not torch.equal(before, decoder.fc.weight)


def test_ratios_are_taken_round_by_round():
    times = {"slow": [4.0, 9.0, 10.0], "fast": [2.0, 3.0, 1.0]}
    assert race.ratios(times, "slow", "fast") == (3.0, 2.0, 10.0)


def test_the_first_round_is_not_counted():
    calls = []
    times = race.compare({"a": partial(calls.append, 1)}, repeats=3)
    assert len(calls) == 4 and len(times["a"]) == 3


def test_peak_memory_counts_what_lives_together():
    def one_after_the_other():
        for _ in range(3):
            torch.empty(2**20)

    def together():
        return [torch.empty(2**20) for _ in range(3)]

    assert speed.peak_memory(one_after_the_other) == pytest.approx(4 * 2**20, rel=0.01)
    assert speed.peak_memory(together) == pytest.approx(12 * 2**20, rel=0.01)


def test_an_epoch_of_both_kinds_meets_every_caption(tmp_path, monkeypatch):
    encoder = build_encoder("efficientnet_lite0", pretrained=False)
    images, cells = speed.epoch_data(tmp_path, encoder, "few", count=10)
    decoder, *_ = race.example(replace(SMALL, encoder_dim=1280))
    met = []
    monkeypatch.setattr(race, "training_step", lambda f, o, c, n: met.append(len(c)))
    speed.textbook_epoch(decoder, None, encoder, images)
    assert sum(met) == 5 * len(images) == 5 * len(cells) > 0
    assert cells[0][0].shape == (64, 1280)


def test_gradients_of_an_earlier_step_do_not_lower_the_peak():
    sizes = replace(SMALL, images=8, encoder_dim=64, decoder_dim=64, vocab_size=500)
    decoder, cells, *captions = race.example(sizes)
    optimizer = race.adam(decoder)
    step = partial(race.training_step, partial(decoder, cells), optimizer, *captions)
    step()
    optimizer.zero_grad()
    alone = speed.peak_memory(step)
    assert speed.peaks(sizes)["ours"] == pytest.approx(alone, rel=0.02)


def test_growth_times_a_step_at_each_size(monkeypatch):
    seen = []

    def step(forward, optimizer, captions, lengths):
        seen.append((len(captions), int(lengths.max())))

    monkeypatch.setattr(race, "training_step", step)
    found = speed.growth(SMALL, "images", (2, 5), repeats=1)
    assert len(found) == 2 and min(found) >= 0
    assert {rows for rows, _ in seen} == {2 * SMALL.per_image, 5 * SMALL.per_image}
    seen.clear()
    speed.growth(SMALL, "words", (3, 9), repeats=1)
    assert len({longest for _, longest in seen}) == 2


def test_every_size_that_grows_is_one():
    for name, values in speed.GROWTH.items():
        assert name == "words" or hasattr(SMALL, name)
        assert list(values) == sorted(values) and len(values) == 4


def test_the_search_is_timed_for_each_number_of_beams(monkeypatch):
    asked = []

    def times(sizes, beam_size, repeats):
        asked.append((sizes.images, beam_size, repeats))
        return {"ours": [2.0 * beam_size, 4.0 * beam_size, 60.0 * beam_size]}

    monkeypatch.setattr(race, "search_times", times)
    found = speed.search_growth(SMALL, repeats=2)
    assert asked == [(20, beams, 2) for beams in speed.BEAMS]
    assert found == pytest.approx([4.0 * beams / 20 for beams in speed.BEAMS])


def test_files_are_timed_and_written_alike():
    found = speed.file_times(count=3, repeats=1)
    assert set(found) == {"Pillow alone", "ours"}
    assert all(len(times) == 1 and times[0] > 0 for times in found.values())


def test_a_folder_is_captioned_in_three_ways():
    found = speed.folder_times(count=3, width=300, repeats=1)
    assert [*found] == ["textbook", "in turn", "ours"]
    assert all(len(times) == 1 and times[0] > 0 for times in found.values())


def test_processes_are_timed(monkeypatch):
    small = {"scenes": 30, "stage": 5, "image_size": 64, "batch_size": 8}
    small |= {"attention_dim": 8, "embed_dim": 8, "decoder_dim": 8}
    monkeypatch.setattr(speed, "SHARED_RUN", speed.SHARED_RUN | small)
    found = speed.process_times([(2, 1)])
    assert [*found] == ["2 × 1 threads"] and 0 < found["2 × 1 threads"] < 60


def test_made_up_photographs_are_photographs(tmp_path):
    names = speed.made_up_photographs(tmp_path, 2)
    sizes = [Image.open(tmp_path / name).size for name in names]
    assert names == ["0.jpg", "1.jpg"] and sizes == [(500, 375)] * 2


def test_the_table_by_hand():
    steps = {
        "textbook": [8.0],
        "x": [5.0],
        "shared operations": [2.0],
        "in bfloat16": [1.6],
        "products alone": [1.0],
    }
    search = {"textbook": [12.0], "ours": [3.0], "beam 1": [1.5]}
    search |= {"in bfloat16": [2.0], "products alone": [0.5]}
    found = {"training": steps, "five": steps, "search": search}
    found["epoch"] = {"textbook": [30.0], "ours": [2.0]}
    found["epoch"] |= {"in bfloat16": [1.5], "products alone": [0.6]}
    found["files"] = {"Pillow alone": [2.0], "ours": [3.0]}
    found["memory"] = {"textbook": 200, "ours": 50}
    found["folder"] = {"textbook": [36.0], "in turn": [6.0], "ours": [4.0]}
    found["processes"] = {
        "1 × 1 threads": 9.0,
        "1 × 2 threads": 5.0,
        "2 × 1 threads": 6.0,
    }
    rows = {what: middle for what, middle, *_ in speed.table(found)}
    assert [*rows.values()] == [4, 4, 15, 4, 9, 1.5, 2, 1.5, 0.5, 1.5, 0.25]
    rows = [row for _, *row in speed.limits(found)]
    assert rows == [[4, 5, 8], [4, 5, 8], [15, 20, 50], [4, 6, 24]]


def test_operations_are_timed_both_ways():
    found = race.operation_times(repeats=1)
    assert set(found) == {"linear", "scores"}
    for times in found.values():
        assert set(times) == {"ordinary", "shared"} and all(map(len, times.values()))


@pytest.fixture
def cpu_as_gpu(monkeypatch):
    """The calls that only a CUDA device can answer, answered for a CPU."""
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2**30)
    return torch.device("cpu")


def test_a_gpu_is_measured_in_all_respects(cpu_as_gpu, monkeypatch):
    sizes = dict.fromkeys(("textbook's", "book's"), SMALL)
    monkeypatch.setattr(speed, "GPU_SIZES", sizes)
    monkeypatch.setattr(speed, "ENCODERS", [("efficientnet_lite0", 64, 5)])
    steps = partial(speed.gpu_steps, repeats=1)
    monkeypatch.setattr(speed, "gpu_steps", steps)
    for name in ("gpu_search", "gpu_encoding"):
        monkeypatch.setattr(speed, name, partial(getattr(speed, name), images=2))
    found = speed.measure_gpu(cpu_as_gpu)
    lines = [*speed.gpu_lines(found)]
    assert len(lines) == 2 * 3 + 1 + 2 * 3
    for line in lines[:6]:
        assert re.search(r"ms, at work    0 ms,  1.0 GB$", line)


def test_lines_of_a_gpu_by_hand():
    step = {"seconds": {"ours": [0.05, 0.04, 0.06]}, "at work": {"ours": 0.009}}
    found = {"steps": {"large": step | {"bytes": {"ours": 3 * 2**29}}}}
    found["encoding"] = {"lite": [0.5, 0.01, 0.001]}
    found["search"] = {"large": {"ours": [0.2, 0.5, 0.1]}}
    words = [" ".join(line.split()) for line in speed.gpu_lines(found)]
    assert words == [
        "large ours 50 ms, at work 9 ms, 1.5 GB",
        "lite 100 pictures a second",
        "large ours 500 captions a second",
    ]


def test_without_a_gpu_the_command_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        speed.main(["--gpu"])
    assert "PyTorch finds no CUDA device on this machine" in capsys.readouterr().err
