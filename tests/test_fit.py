"""Whole runs: resuming, schedule, validation, and the captioner at the end."""

import contextlib
import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nltk.translate.bleu_score import corpus_bleu
from PIL import Image

from satlib import captioner as captioner_module
from satlib import concepts, self_critical, validation
from satlib import fit as fit_module
from satlib.beam_search import greedy_search
from satlib.bleu import scores
from satlib.captioner import find_photographs, load_captioner
from satlib.configuration import Config
from satlib.decoder import Decoder
from satlib.encoder import build_encoder
from satlib.fit import (
    epochs_since_best,
    examples_path,
    fit,
    in_words,
    next_lesson,
    planned,
    score_test,
    seconds_left,
    split_photographs,
    teach,
    trial,
    validation_line,
)
from satlib.learner import Learner
from satlib.maps import attention_figure
from satlib.model import load_checkpoint, new_model, save_checkpoint
from satlib.validation import WordLesson, teacher_forced_words, validate


def a_config(world, output, **choices):
    small = {"attention_dim": 16, "embed_dim": 16, "decoder_dim": 32, "batch_size": 4}
    paths = {"captions": str(world / "captions.csv"), "images": str(world / "Images")}
    return Config(
        dataset="world",
        output=str(output),
        min_freq=0,
        image_size=64,
        **paths
        | {"splits": str(world), "epochs": 3, "decoder_lr": 0.03}
        | small
        | choices,
    )


WORDS = ["<pad>", "a", "b", "c", "<start>", "<end>", "<unk>"]


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    return fit(a_config(world, tmp_path_factory.mktemp("run"), epochs=8))


def numbers(history):
    """The parts of a history that do not depend on the clock."""
    keys = ("epoch", "learning_rate", "train_loss", "train_top5", "loss", "bleu4")
    return [{key: row[key] for key in keys} for row in history]


def timeless(history):
    """All of a history but what the clock says."""
    clocks = "seconds", "train_batch_time", "train_data_time"
    return [{k: v for k, v in row.items() if k not in clocks} for row in history]


def test_a_run_learns_and_leaves_its_files(run):
    assert run.history[-1]["train_loss"] < run.history[0]["train_loss"] / 2
    names = {path.name for path in run.folder.iterdir()}
    assert {"best.pt", "last.pt", "log.jsonl"} <= names
    assert not [name for name in names if name.endswith(".part")]
    lines = (run.folder / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.history
    for row in run.history:
        for said in json.loads(examples_path(run.folder, row["epoch"]).read_text()):
            assert len(said["words"]) == len(said["maps"])
    best = load_checkpoint(run.best)
    assert best["best_bleu4"] == max(row["bleu4"] for row in run.history)
    assert best["config"] == asdict(run.config)


def test_a_complete_run_is_only_loaded(run, monkeypatch):
    monkeypatch.setattr(fit_module, "new_model", None)
    assert fit(run.config).history == run.history


def test_a_resumed_run_equals_an_uninterrupted_one(run, world, tmp_path):
    for epochs in (1, 3, 8):
        resumed = fit(replace(run.config, output=str(tmp_path), epochs=epochs))
    assert numbers(resumed.history) == numbers(run.history)
    a, b = (
        load_checkpoint(run.folder / "last.pt"),
        load_checkpoint(tmp_path / "last.pt"),
    )
    for name, tensor in a["decoder"].items():
        assert torch.equal(tensor, b["decoder"][name]), name


KILLED = """
import json, sys
from satlib.configuration import Config
from satlib.fit import fit
fit(Config(**json.loads(sys.argv[1])))
"""


def test_kill_and_run_again(run, tmp_path):
    choices = asdict(replace(run.config, output=str(tmp_path)))
    command = [sys.executable, "-c", KILLED, json.dumps(choices)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 3 of 8 ["):
            break
    process.kill()
    process.wait()
    assert len(load_checkpoint(tmp_path / "last.pt")["history"]) == 2
    resumed = fit(Config(**choices))
    assert numbers(resumed.history) == numbers(run.history)


FULL = {"concept_epochs": 6, "epochs": 4, "self_critical_epochs": 5}


@pytest.mark.parametrize(
    ("choices", "epochs"),
    [
        ({}, [6, 4, 5]),
        ({"max_images": 1000}, [6, 4, 5]),
        ({"max_images": 999}, [4, 4, 4]),
        ({"max_images": 400, "epochs": 2}, [2, 2, 2]),
        ({"max_images": 400, "epochs": 2, "self_critical_epochs": 1}, [2, 2, 1]),
        ({"max_images": 400, "concept_epochs": 0}, [0, 4, 4]),
    ],
)
def test_a_trial_shortens_all_lessons(choices, epochs):
    config, history = Config(**FULL | choices), []
    assert planned(config) == dict(
        zip(("concepts", "words", "reward"), epochs, strict=True)
    )
    while lesson := next_lesson(config, history):
        scores = {"concept_loss": 1.0, "bleu4": 0.1 * (len(history) + 1)}
        history.append({"lesson": lesson.name, **scores})
    found = [row["lesson"] for row in history]
    assert found == sum(([name] * n for name, n in planned(config).items()), [])


def test_a_trial_that_gets_more_epochs_goes_on_with_words():
    history = [{"lesson": "concepts", "concept_loss": 1.0}] * 2
    history += [{"lesson": "words", "bleu4": 0.1}] * 2
    config = Config(**FULL | {"max_images": 400})
    assert next_lesson(config, history).name == "words"


def epochs_of(images, count, lesson="words"):
    return [{"lesson": lesson, "images": images}] * count


@pytest.mark.parametrize(
    ("history", "what"),
    [
        (epochs_of(400, 2), "2 epochs on 400 images"),
        (epochs_of(120, 1), "1 epoch on 120 images"),
        (epochs_of(1666, 3), "3 epochs on 1,666 images"),
        (epochs_of(9000, 9, "concepts") + epochs_of(100, 9), "9 epochs on 100 images"),
    ],
)
def test_a_run_that_has_seen_little_says_so(history, what):
    expected = f"This is a trial, trained for {what}: expect little of its captions."
    assert trial(history) == expected


@pytest.mark.parametrize(
    "history", [epochs_of(3200, 6), epochs_of(5000, 1), [{"lesson": "words"}], []]
)
def test_a_run_that_has_seen_enough_says_nothing(history):
    assert trial(history) == ""


def test_a_small_run_says_what_it_is(world, tmp_path, capsys):
    run = fit(a_config(world, tmp_path, epochs=1, max_images=6))
    *_, line, last = capsys.readouterr().out.splitlines()
    assert last == trial(run.history) and "1 epoch on 6 images" in last
    assert line.startswith("epoch 1 validation")


def test_the_time_left_counts_all_lessons():
    """Six seconds an iteration, ten of them: a minute for an epoch."""
    history = [
        {"lesson": "concepts", "seconds": 900.0},  # this one filled the cache
        {"lesson": "concepts", "seconds": 300.0},
    ]
    config = Config(concept_epochs=3, epochs=4, self_critical_epochs=2)

    def left(rows, lesson, number=4):
        learner = SimpleNamespace(config=config, history=rows)
        learner.lesson = fit_module.LESSONS[lesson]
        return seconds_left(learner, 6.0, number, 10)

    this = 6 * 6
    assert left([], "concepts") == this + 60 * (2 + 4 + 2)
    assert left(history, "concepts") == this + 60 * (4 + 2)
    words = [*history, history[1]]
    assert left(words, "words") == this + 60 * (3 + 2)
    words.append({"lesson": "words", "seconds": 80.0})
    assert left(words, "words", 10) == 0 + 80 * 2 + 60 * 2
    words += [words[-1]] * 3
    assert left(words, "reward") == this + 60
    words.append({"lesson": "reward", "seconds": 100.0})
    assert left(words, "reward") == this


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (720, "12 min"),
        (89.4 * 60, "89 min"),
        (5400, "1 h 30 min"),
        (7199, "2 h 0 min"),
    ],
)
def test_a_time_in_words(seconds, text):
    assert in_words(seconds) == text


def test_every_line_of_a_run_says_how_long_it_will_take(world, tmp_path, capsys):
    choices = {"concept_epochs": 1, "epochs": 2, "self_critical_epochs": 1}
    fit(a_config(world, tmp_path, **choices))
    lines = [x for x in capsys.readouterr().out.splitlines() if "[" in x[:20]]
    assert [x.split(" [")[0] for x in lines] == [f"epoch {n} of 4" for n in range(1, 5)]
    assert all(re.search(r"  about \d+ (s|min) left$", line) for line in lines)
    assert lines[-1].endswith("  about 0 s left")


def test_another_configuration_is_refused_unless_started_over(run):
    other = replace(run.config, decoder_lr=0.02, epochs=1)
    with pytest.raises(ValueError, match="decoder_lr=0.03, not 0.02"):
        fit(other)


def test_changed_captions_are_refused_unless_started_over(world, tmp_path):
    captions = tmp_path / "captions.csv"
    captions.write_text((world / "captions.csv").read_text())
    config = replace(
        a_config(world, tmp_path / "run", epochs=1), captions=str(captions)
    )
    fit(config)
    captions.write_text(captions.read_text() + "\n000.png,One more caption here.")
    with pytest.raises(ValueError, match="other data"):
        fit(config)
    assert len(fit(config, resume=False).history) == 1


def test_the_test_split_is_scored_once(run):
    captioner = load_captioner(run.best)
    found = score_test(run, captioner)
    photographs, references = split_photographs(run.config, "TEST")
    said = captioner.caption(photographs)
    assert found["scores"] == scores(references, [caption.words for caption in said])
    assert (found["images"], found["beam_size"]) == (4, 5)
    assert found["epoch"] == load_checkpoint(run.best)["epoch"]
    assert score_test(run, None) == found  # read, not found again
    with pytest.raises(AttributeError):  # another search, another number
        score_test(replace(run, config=replace(run.config, beam_size=1)), None)


def test_another_checkpoint_is_scored_anew(world, tmp_path):
    config = a_config(world, tmp_path, epochs=1)
    found = []
    for rate in 0.03, 0.02:
        run = fit(replace(config, decoder_lr=rate), resume=False)
        found.append(score_test(run, load_captioner(run.best))["trained"])
    assert found[0] != found[1]


def test_an_empty_test_split_has_no_scores(world, tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text((world / f"{split}.txt").read_text())
    config = a_config(world, tmp_path / "run", epochs=1)
    with pytest.warns(UserWarning, match="no image for test"):
        run = fit(replace(config, splits=str(tmp_path)))
    with (
        pytest.warns(UserWarning, match="no image for test"),
        pytest.raises(ValueError, match="TEST split is empty"),
    ):
        score_test(run, None)


def test_start_over(world, tmp_path):
    config = a_config(world, tmp_path, epochs=1)
    fit(config)
    again = fit(replace(config, decoder_lr=0.02), resume=False)
    assert len(again.history) == 1
    assert load_checkpoint(again.best)["config"]["decoder_lr"] == 0.02


def test_an_empty_split_is_refused(world, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text((world / "train.txt").read_text())
    config = replace(a_config(world, tmp_path / "run"), splits=str(lists))
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match="VAL split"),
    ):
        fit(config)


def test_the_schedule(world, tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "validate", lambda *_: {
        "loss": 1.0, "top5": 1.0, "bleu4_teacher_forced": 0.1, "bleu4": 0.1,
    })  # fmt: skip
    choices = {"decay_after": 2, "decay_factor": 0.5, "stop_after": 5, "epochs": 50}
    history = fit(a_config(world, tmp_path, **choices)).history
    rates = [row["learning_rate"] / 0.03 for row in history]
    assert rates == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25])
    assert epochs_since_best(history) == 5


def test_an_epoch_multiplies_in_the_precision_of_its_run(world, tmp_path, monkeypatch):
    seen, precision = [], torch.get_float32_matmul_precision

    def taught(*arguments):
        seen.append(precision())
        return teach(*arguments)

    monkeypatch.setattr(fit_module, "teach", taught)
    for name in ("medium", "highest"):
        folder = tmp_path / name
        fit(a_config(world, folder, epochs=1, max_images=4, matmul_precision=name))
    assert [*seen, precision()] == ["medium", "highest", "highest"]


def test_fine_tuning_changes_the_encoder_and_resumes(world, tmp_path):
    config = a_config(world, tmp_path / "a", fine_tune=True, epochs=2, max_images=4)
    whole = fit(config)
    for epochs in (1, 2):
        parts = fit(replace(config, output=str(tmp_path / "b"), epochs=epochs))
    assert numbers(whole.history) == numbers(parts.history)
    tuned = load_captioner(whole.best).encoder.state_dict()
    plain = build_encoder(image_size=64).state_dict()
    changed = [name for name in plain if not torch.equal(plain[name], tuned[name])]
    assert changed and len(changed) < len(plain)


def test_self_critical_epochs_follow_the_words_and_resume(world, tmp_path):
    choices = {"self_critical_lr": 1e-3, "epochs": 2}
    config = a_config(world, tmp_path / "a", self_critical_epochs=2, **choices)
    whole = fit(config)
    lessons = ["train_loss" in row for row in whole.history]
    assert lessons == [True, True, False, False]
    assert [row["learning_rate"] for row in whole.history] == [0.03] * 2 + [1e-3] * 2
    for count in (0, 1, 2):
        parts = a_config(world, tmp_path / "b", self_critical_epochs=count, **choices)
        resumed = fit(parts)
    assert timeless(whole.history) == timeless(resumed.history)
    more = replace(config, epochs=9)  # no words after the reward
    assert next_lesson(more, whole.history) is None


@pytest.mark.parametrize("augment", [False, True])
def test_concepts_come_before_the_words_and_resume(world, tmp_path, augment):
    choices = {"concept_epochs": 3, "encoder_lr": 1e-3, "max_images": 6, "epochs": 3}
    choices["augment"] = augment
    config = a_config(world, tmp_path / "a", self_critical_epochs=1, **choices)
    whole = fit(config)
    lessons = [row["lesson"] for row in whole.history]
    assert lessons == ["concepts"] * 3 + ["words"] * 3 + ["reward"]
    losses = [row["train_concept_loss"] for row in whole.history[:2]]
    assert losses[1] < losses[0]
    assert any((tmp_path / "a").glob("TRAIN_TRUNK*")) != augment

    epochs, run_epoch = [], fit_module.run_epoch

    def killed(learner, *rest):
        if len(learner.history) == len(epochs) // 2:  # at the second attempt
            epochs.append(learner.history)
            if len(epochs) % 2:
                raise KeyboardInterrupt
        run_epoch(learner, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "run_epoch", killed)
        for _ in range(13):
            with contextlib.suppress(KeyboardInterrupt):
                resumed = fit(replace(config, output=str(tmp_path / "b")))
    assert [row["lesson"] for row in resumed.history] == lessons
    assert timeless(resumed.history) == timeless(whole.history)

    tuned = load_captioner(whole.best).encoder.state_dict()
    plain = build_encoder(image_size=64).state_dict()
    changed = [name for name in plain if not torch.equal(plain[name], tuned[name])]
    assert changed and all(int(name.split(".")[1]) >= 6 for name in changed)


def test_each_round_of_concepts_begins_with_a_new_linear_layer(world, tmp_path):
    """Its weights are drawn to zero again, its biases to the words' shares."""
    config = a_config(world, tmp_path, concept_epochs=3, max_images=6)
    begun, teach = [], concepts.train_concepts

    def watched(iterations, encoder, layer, word_map):
        begun.append(layer.linear.weight.abs().max().item() == 0)
        return teach(iterations, encoder, layer, word_map)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concepts, "train_concepts", watched)
        fit(config)
    assert begun == [True, False, True]


@pytest.mark.parametrize(("stop_after", "name"), [(20, "last"), (1, "best")])
def test_the_reward_begins_where_the_words_ended(
    world, tmp_path, monkeypatch, stop_after, name
):
    """With the averaged weights of the last epoch; of the best, if stopped early."""
    choices = {"epochs": 2, "self_critical_epochs": 1, "max_images": 6}
    choices["stop_after"] = stop_after
    validated, begun = [], []
    examine, teach = validation.validate, self_critical.train_on_reward

    def falling(*rest):
        validated.append(True)
        return examine(*rest) | {"bleu4": 1 / len(validated)}

    def watched(iterations, encoder, decoder, *rest):
        begun.append({k: v.cpu().clone() for k, v in decoder.state_dict().items()})
        return teach(iterations, encoder, decoder, *rest)

    monkeypatch.setattr(validation, "validate", falling)
    words = fit(a_config(world, tmp_path, **choices | {"self_critical_epochs": 0}))
    kept = {x: load_checkpoint(words.folder / f"{x}.pt") for x in ("best", "last")}
    assert (kept["best"]["epoch"], kept["last"]["epoch"]) == (1, 2)
    monkeypatch.setattr(self_critical, "train_on_reward", watched)
    fit(a_config(world, tmp_path, **choices))
    assert all(torch.equal(begun[0][k], v) for k, v in kept[name]["decoder"].items())
    other = kept["last" if name == "best" else "best"]["decoder"]
    assert not all(torch.equal(begun[0][k], v) for k, v in other.items())


def test_a_rewarded_epoch_is_not_begun_twice(world, tmp_path, monkeypatch):
    """Killed after `best.pt` was written and before `last.pt` was."""
    choices = {"self_critical_lr": 1e-3, "epochs": 2, "self_critical_epochs": 1}
    config = a_config(world, tmp_path / "a", **choices)
    monkeypatch.setattr(fit_module, "epochs_since_best", lambda history: 0)
    whole = fit(config)
    fit(replace(config, output=str(tmp_path / "b"), self_critical_epochs=0))
    write = fit_module.save_checkpoint

    def killed(path, checkpoint):
        if path.name == "last.pt":
            raise KeyboardInterrupt
        write(path, checkpoint)

    monkeypatch.setattr(fit_module, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(replace(config, output=str(tmp_path / "b")))
    monkeypatch.setattr(fit_module, "save_checkpoint", write)
    resumed = fit(replace(config, output=str(tmp_path / "b")))
    rewards = [[r.get("train_reward") for r in x.history] for x in (whole, resumed)]
    assert rewards[0] == rewards[1] and len(rewards[1]) == 3


def test_the_average_follows_the_weights():
    config = Config(decoder_dim=8, attention_dim=8, embed_dim=8)
    word_map = {w: i for i, w in enumerate(WORDS)}
    model = new_model(config, word_map, build_encoder(image_size=64, stage=5))
    learner = Learner(model, WordLesson())
    weight, expected = learner.decoder.fc.bias, None
    for count in range(30):
        with torch.no_grad():
            weight.copy_(torch.randn_like(weight))
        learner.follow()
        share = 1 if count == 0 else max(0.002, 9 / (count + 10))
        before = weight if count == 0 else expected
        expected = (before + share * (weight - before)).detach().clone()
    average = learner.averaged()[1].fc.bias
    assert torch.allclose(average.cpu(), expected.cpu(), atol=1e-6)
    assert torch.equal(learner.checkpoint()["decoder"]["fc.bias"], average)


def rows(lesson, key, values):
    """The history of epochs that teach a lesson and find `values` of `key`."""
    return [{"lesson": lesson, key: value} for value in values]


class Watching:
    """A lesson that notes the number of each epoch and the order of its images."""

    def __init__(self):
        self.seen = []

    def epoch(self, learner, loader, number):
        order = [batch[0].flatten().tolist() for batch in loader]
        self.seen.append((number, order))
        return {}


def test_the_order_of_the_images_comes_from_the_seed_and_the_epoch():
    row, lesson = torch.zeros(1, 4, dtype=torch.long), Watching()
    dataset = [(torch.tensor([i]), row, torch.tensor([4])) for i in range(12)]
    for seed, history in (5, []), (5, [{}]), (6, []), (5, []):
        config = Config(seed=seed, batch_size=5)
        learner = SimpleNamespace(
            config=config, history=history, lesson=lesson, begun=None
        )
        assert teach(learner, dataset) == {}
    (first, one), (second, two), (third, three), (_, again) = lesson.seen
    assert (first, second, third) == (1, 2, 1)
    assert one == again and one != two
    assert two == three  # seed 5, epoch 2; seed 6, epoch 1: their sums are equal
    assert [len(batch) for batch in one] == [5, 5, 2]
    assert sorted(sum(one, [])) == [*range(12)] != sum(one, [])


def test_the_lessons_follow_each_other():
    config = Config(concept_epochs=1, epochs=2, self_critical_epochs=1)
    history, names = [], []
    while lesson := next_lesson(config, history):
        names.append(lesson.name)
        history += rows(lesson.name, "bleu4", [0.1])
        history[-1]["concept_loss"] = 3.0
    assert names == ["concepts", "words", "words", "reward"]


def test_words_are_learnt_however_badly_the_concepts_ended():
    """The patience with words counts epochs on words only."""
    config = Config(concept_epochs=5, epochs=9, stop_after=3, self_critical_epochs=1)
    history = rows("concepts", "concept_loss", [1, 2, 3, 4, 5])
    assert epochs_since_best(history) == 4
    assert next_lesson(config, history).name == "words"
    history += rows("words", "bleu4", [0.0, 0.2, 0.1, 0.1])
    assert next_lesson(config, history).name == "words"
    history += rows("words", "bleu4", [0.1])
    assert next_lesson(config, history).name == "reward"


def test_an_epoch_on_concepts_is_never_the_best_once_words_are_learnt():
    history = rows("concepts", "concept_loss", [9.0, 0.5, 4.0])
    assert epochs_since_best(history) == 1
    assert epochs_since_best(history + rows("words", "bleu4", [0.0])) == 0
    assert epochs_since_best(history + rows("reward", "bleu4", [0.1, 0.3, 0.2])) == 1
    assert epochs_since_best([]) == 0


def test_what_is_printed_of_an_epoch():
    found = {"loss": 1.5, "top5": 80.0, "bleu4_teacher_forced": 0.25, "bleu4": 0.3}
    for lesson in ("words", "reward"):
        assert validation_line({"epoch": 7, "lesson": lesson, **found}) == (
            "epoch 7 validation  loss 1.500  top-5 80.0 %  BLEU-4: teacher-forced "
            "0.250, generated 0.300"
        )
    row = {"epoch": 2, "lesson": "concepts", "concept_loss": 3.456}
    assert validation_line(row) == "epoch 2 validation  concept loss 3.46"


def test_both_bleu_scores_by_nltk():
    torch.manual_seed(0)
    word_map = {w: i for i, w in enumerate(WORDS)}
    decoder = Decoder(8, 8, 8, 7, encoder_dim=5)
    sentences = ["abcab", "aabbc", "ccab", "bcac"]
    rows = [[4, *(word_map[w] for w in s), 5] for s in sentences]
    lengths = torch.tensor([len(row) for row in rows])
    captions = torch.tensor([row + [0] * (8 - len(row)) for row in rows])
    cells = torch.randn(2, 4, 5)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.05)
    decoder.eval()
    for _ in range(30):
        decoded = decoder(cells, captions, lengths)
        loss = torch.nn.functional.cross_entropy(decoded.scores, decoded.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    references = [[list(s) for s in pair] for pair in (sentences[:2], sentences[2:])]
    found = validate([(cells, captions, lengths)], None, decoder, word_map, references)
    forced = teacher_forced_words(decoder(cells, captions, lengths))
    assert [len(row) for row in forced] == (lengths - 1).tolist()
    true = [[i for i in row if i not in (0, 4)] for row in captions.tolist()]
    expected = corpus_bleu([true[:2], true[:2], true[2:], true[2:]], forced)
    assert found["bleu4_teacher_forced"] == pytest.approx(expected, abs=1e-9)
    assert found["bleu4_teacher_forced"] > 0
    for j in range(4):  # each caption alone, without packing
        one = decoder(cells[j // 2][None], captions[j][None], lengths[j][None])
        assert forced[j] == one.scores.argmax(1).tolist()
    written = [
        [WORDS[i] for i in row] for row in greedy_search(decoder, cells, word_map)
    ]
    assert found["bleu4"] == pytest.approx(corpus_bleu(references, written), abs=1e-9)
    assert found["bleu4"] > 0
    assert set(found) == {"loss", "top5", "bleu4_teacher_forced", "bleu4"}


def test_the_captioner_names_the_colours_of_unseen_pictures(run):
    paths, references = split_photographs(run.config, "TEST")
    captioner = load_captioner(run.folder / "last.pt")
    captions = captioner.caption(paths, beam_size=3)
    assert all(c.words in r for c, r in zip(captions, references, strict=True))
    for caption in captions:
        count = len(caption.words)
        assert caption.alphas.shape == (count, 14, 14)
        np.testing.assert_allclose(caption.alphas.sum((1, 2)), 1, atol=1e-4)
        assert len(caption.word_log_probs) == len(caption.gates) == count
        assert all(0 <= gate <= 1 for gate in caption.gates)
        assert len(caption.beams) == 2 and str(caption) == " ".join(caption.words)
        assert all(0 <= p <= 1 for row in caption.rivals for _, p in row)


def test_the_length_power_of_a_captioner_is_its_configurations(
    run, tmp_path, monkeypatch
):
    paths, _ = split_photographs(run.config, "TEST")
    checkpoint, path = load_checkpoint(run.best), tmp_path / "changed.pt"
    asked, search = [], captioner_module.beam_search

    def recorded(*what, length_power):
        asked.append(length_power)
        return search(*what, length_power=length_power)

    monkeypatch.setattr(captioner_module, "beam_search", recorded)
    for power in (0, 2):
        checkpoint["config"]["length_power"] = power
        save_checkpoint(path, checkpoint)
        load_captioner(path).caption(paths[:1])
    assert asked == [0, 2]
    del checkpoint["config"]["length_power"]  # written before there was such a choice
    save_checkpoint(path, checkpoint)
    assert load_captioner(path).length_power == Config.length_power


def test_paths_pictures_and_arrays_are_captioned_alike(run):
    path = split_photographs(run.config, "TEST")[0][0]
    with Image.open(path) as image:
        image.load()
    captioner = load_captioner(run.best)
    captions = captioner.caption([path, image, np.asarray(image)], beam_size=2)
    assert len({str(caption) for caption in captions}) == 1
    with pytest.raises(TypeError, match="list"):
        captioner.caption(str(path))
    with pytest.raises(TypeError, match="list"):
        captioner.caption(np.asarray(image))
    with pytest.raises(FileNotFoundError):
        captioner.caption(["no.jpg"])


def test_the_figure_of_a_caption(run):
    paths = split_photographs(run.config, "TEST")[0][:2]
    captioner = load_captioner(run.best)
    caption = captioner.caption(paths[:1])[0]
    figure = attention_figure(caption, paths[0])
    titles = [ax.get_title().split()[0] for ax in figure.axes if ax.get_title()]
    assert titles == caption.words


def test_photographs_of_a_folder(world, tmp_path):
    found = find_photographs(world / "Images")
    assert [path.name for path in found] == [f"{i:03}.png" for i in range(32)]
    assert find_photographs(str(found[3])) == [found[3]]
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        find_photographs(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("not a photograph")
    with pytest.raises(ValueError, match=r"no photograph .* in this folder"):
        find_photographs(tmp_path)


@pytest.fixture(scope="module")
def cups(tmp_path_factory):
    """A second collection: ten pictures, of which nobody has said what is said here."""
    folder = tmp_path_factory.mktemp("cups")
    lines = []
    for number in range(10):
        picture = Image.new("RGB", (64, 48), (255, 255, 20 * number))
        picture.save(folder / f"{number:03}.png")
        lines += [f"{number:03}.png,This picture is a lemon cup"] * 2
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


def both(world, cups, **choices):
    """The choices of a run on two collections that have names in common."""
    lists = {"captions": [str(world / "captions.csv"), str(cups / "captions.csv")]}
    lists |= {"images": [str(world / "Images"), str(cups)]}
    return lists | {"splits": [str(world), None]} | choices


def test_a_run_on_two_collections_shows_them_by_their_weights(
    world, cups, tmp_path, capsys
):
    choices = both(world, cups, weights=[0.5, 3], epochs=2, batch_size=16)
    whole = fit(a_config(world, tmp_path / "whole", **choices))
    told = capsys.readouterr().out
    assert "captions.csv: 24 photographs, 12 an epoch" in told
    assert f"collection 2, {cups}/captions.csv: 8 photographs, 24 an epoch" in told
    assert whole.history[0]["images"] == 36 and "[3/3]" in told
    words = load_checkpoint(whole.best)["word_map"]
    assert {"lemon", "red"} <= words.keys()
    paths, _ = split_photographs(whole.config, "VAL")
    assert paths[-1].parent == cups and all(path.exists() for path in paths)
    for epochs in (1, 2):
        choices["epochs"] = epochs
        resumed = fit(a_config(world, tmp_path / "resumed", **choices))
    assert numbers(resumed.history) == numbers(whole.history)
    with pytest.raises(ValueError, match=r"weights=\[0.5, 3.0\], not \[1.0, 3.0\]"):
        fit(replace(resumed.config, weights=[1, 3]))


def of_cups(run, cups, output, **choices):
    """The configuration of a run that goes on from another one with the cups."""
    paths = {"captions": str(cups / "captions.csv"), "images": str(cups)}
    chosen = {"captioner": str(run.best), "epochs": 2, "min_freq": 3} | choices
    return Config(dataset="cups", **paths, output=str(output), **chosen)


def test_a_captioner_goes_on_with_photographs_of_ones_own(run, cups, tmp_path, capsys):
    before, kept = load_checkpoint(run.best), run.best.read_bytes()
    choices = {"max_length": 10, "decoder_lr": 0.03, "batch_size": 2, "epochs": 6}
    config = of_cups(run, cups, tmp_path / "run", **choices)
    after = fit(config)
    told = capsys.readouterr().out
    assert "goes on from" in told and "image_size=64, attention_dim=16" in told
    assert (
        "trial" not in told and trial(after.history) and run.best.read_bytes() == kept
    )
    found = load_checkpoint(after.best)
    old, new = before["word_map"], found["word_map"]
    assert [*new][: len(old)] == [*old] and [*new.values()] == [*range(len(old) + 3)]
    assert [*new][len(old) :] == ["a", "lemon", "cup"]
    assert (after.config.decoder_dim, after.config.image_size) == (32, 64)
    assert found["encoder"].keys() == build_encoder(image_size=64).state_dict().keys()
    said = load_captioner(after.best).caption([cups / "003.png"])[0]
    assert {*said.words} & {"lemon", "cup"}  # new words
    fit(replace(config, output=str(tmp_path / "two"), epochs=1))
    resumed = fit(replace(config, output=str(tmp_path / "two")))
    assert numbers(resumed.history) == numbers(after.history)


def test_before_it_goes_on_a_captioner_says_what_it_said(
    run, cups, tmp_path, monkeypatch
):
    monkeypatch.setattr(fit_module, "_train", lambda model, *others: model)
    model, captioner = fit(of_cups(run, cups, tmp_path)), load_captioner(run.best)
    cells = torch.rand(3, 4, 1280, device=captioner.device)
    rows = torch.tensor([[4, 1, 2, 5]] * 3, device=captioner.device)
    lengths = torch.tensor([4, 4, 3], device=captioner.device)
    decoders = captioner.decoder, model.decoder.to(captioner.device).eval()
    old, new = (decoder(cells, rows, lengths).scores for decoder in decoders)
    assert torch.allclose(new[:, : old.shape[1]], old, atol=1e-6)
    fresh = new[:, old.shape[1] :]
    assert fresh.shape[1] == 3 and (fresh - fresh.mean()).abs().max() > 0
    assert model.decoder.fc.bias[-3:].exp().sum().item() == pytest.approx(1)


def test_an_encoder_that_has_learnt_goes_on_as_it_is(world, cups, tmp_path):
    config = a_config(world, tmp_path / "tuned", fine_tune=True, epochs=1)
    run = fit(config)
    after = fit(of_cups(run, cups, tmp_path / "run", epochs=1))
    before, found = (load_checkpoint(each.best)["encoder"] for each in (run, after))
    assert all(torch.equal(found[name], before[name]) for name in before)
    plain = build_encoder(image_size=64).state_dict()
    assert any(not torch.equal(found[name], plain[name]) for name in plain)


def test_another_captioner_makes_another_run(run, cups, tmp_path):
    config = of_cups(run, cups, tmp_path / "run", epochs=1)
    fit(config)
    copy = tmp_path / "copy.pt"
    copy.write_bytes(run.best.read_bytes())
    fit(replace(config, captioner=str(copy)))  # it has only moved
    save_checkpoint(copy, load_checkpoint(copy) | {"note": "another"})
    with pytest.raises(ValueError, match="other data: captioner changed"):
        fit(replace(config, captioner=str(copy)))
    plan = fit_module.plan_data(config)
    places = [fit_module.places(replace(config, output=None), plan)]
    plan.manifest["captioner"] = "another"
    places.append(fit_module.places(replace(config, output=None), plan))
    assert places[0][0] != places[1][0]


def test_a_captioner_that_is_none_is_named(run, cups, tmp_path):
    path = tmp_path / "none.pt"
    path.write_text("no captioner")
    with pytest.raises(ValueError, match="none.pt is not a checkpoint"):
        fit(of_cups(run, cups, tmp_path / "run", captioner=str(path)))
    assert not (tmp_path / "run").exists()
