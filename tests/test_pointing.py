"""Ways to train that are graded by their maps, and the command that compares them."""

import json
from types import SimpleNamespace

import pytest
import torch

from satlib import configuration, files, pointing
from satlib.files import read_results
from satlib.phrases import Named
from satlib.pointing import box_loss, boxed_words, configure, hide, main

TINY = {"max_images": 4, "concept_epochs": 1, "epochs": 1, "min_freq": 0}
TINY |= {"image_size": 64, "attention_dim": 8, "embed_dim": 8, "decoder_dim": 8}
SMALL, CORNER = [[0.8, 0.8, 0.9, 0.9]], [[0.0, 0.0, 0.5, 0.5]]
ALL = [[0.0, 0.0, 1.0, 1.0]]


@pytest.fixture
def short(tmp_path, monkeypatch):
    """Make the runs tiny, and keep all of them in the folder of the test."""
    two = {name: pointing.CHOICES[name] for name in ("last grid", pointing.OURS)}
    monkeypatch.setattr(pointing, "SHORT", TINY)
    monkeypatch.setattr(pointing, "CHOICES", two)
    monkeypatch.setattr(pointing, "SEEDS", (1,))
    monkeypatch.setattr(configuration, "ROOT", tmp_path / "satlib")
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")


@pytest.fixture
def boxes(flickr, tmp_path):
    """The folder of a tiny world, with boxes round what its captions name."""
    made = tmp_path / "boxes"
    made.mkdir()
    for path in flickr.iterdir():
        (made / path.name).symlink_to(path)
    words = [
        *["this", "picture", "is", "red", "green", "blue", "all", "of"],
        *(f"it{k}" for k in range(5)),
    ]
    things = {str(n): (SMALL, CORNER, ALL)[n % 3] for n in range(len(words))}
    named = [[n, n + 1, str(n), "other"] for n in range(len(words))]
    entry = {"boxes": things, "captions": [{"words": words, "phrases": named}]}
    everything = {f"{n:03}.png": entry for n in range(32)}
    for part in "train", "dev":
        (made / f"phrases_{part}.json").write_text(json.dumps(everything))
    return made


def test_each_way_differs_from_ours_as_its_name_says(flickr):
    ours = vars(configure(flickr, pointing.OURS, 1))
    assert ours["look_stage"] == 5 and ours["alpha_c"] == 0 and ours["concept_epochs"]
    for name in pointing.CHOICES:
        way = vars(configure(flickr, name, 1))
        changed = {k for k, v in way.items() if v != ours[k]}
        expected = set() if "concepts" in name else {"concept_epochs"}
        expected |= set() if "stage 5" in name else {"look_stage"}
        expected |= {"alpha_c"} if "penalty" in name else set()
        assert changed == expected, name


def test_cells_are_hidden_only_while_it_learns():
    torch.manual_seed(0)
    cells, decoder = torch.ones(2, 300, 5), SimpleNamespace(training=True)
    (shown, rest) = hide(decoder, (cells, "captions"))
    assert rest == "captions" and {*shown.unique().tolist()} == {0, 1}
    assert torch.equal(shown.amin(2), shown.amax(2))
    assert abs(shown.mean() - 2 / 3) < 0.05
    decoder.training = False
    assert hide(decoder, (cells, "captions"))[0] is cells


class Rows(list):
    """A dataset of rows of captions, some of each image."""

    def __init__(self, rows, names):
        super().__init__(names)
        self.captions = torch.tensor(rows)

    def names(self, numbers):
        return [self[i] for i in numbers]


def test_boxes_are_put_to_the_words_of_the_captions_that_are_kept():
    words = ["<pad>", "a", "dog", "cat", "<start>", "<end>", "<unk>"]
    word_map = {word: number for number, word in enumerate(words)}
    rows = [[[4, 1, 2, 5, 0], [4, 1, 6, 5, 0]], [[4, 1, 3, 5, 0], [4, 1, 2, 5, 0]]]
    phrases = {
        "one": [(["a", "dog"], [Named(1, "animals", CORNER)])],
        "two": [
            (["a", "bird"], [Named(1, "animals", ALL)]),
            (["a", "dog"], [Named(1, "animals", ALL)]),
        ],
    }
    found = boxed_words(Rows(rows, ["one", "two"]), word_map, phrases)
    assert {n: [*places] for n, places in found.items()} == {0: [1], 3: [1]}
    assert torch.equal(found[3][1], torch.ones(196))
    corner = found[0][1].reshape(14, 14)
    assert corner[:7, :7].min() == 1 and corner.sum() == 49


def test_the_loss_of_boxes_is_that_of_looking_into_them():
    alphas = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]] * 2)
    decoded = SimpleNamespace(alphas=alphas)
    boxed = {5: {0: torch.tensor([0.0, 0.0, 1.0, 0.5]), 1: torch.zeros(4)}}
    assert box_loss(decoded, [4, 5], boxed) == pytest.approx(-torch.tensor(0.5).log())
    assert box_loss(decoded, [1, 2], boxed) == 0


@pytest.mark.usefixtures("short")
def test_the_command_trains_grades_and_goes_on(boxes, tmp_path, monkeypatch, capsys):
    main([str(boxes)])
    ways = read_results("pointing")["ways"]
    assert [*ways] == [*pointing.CHOICES, *pointing.OTHERS]
    assert all(len(rows) == 1 for rows in ways.values())
    for rows in ways.values():
        assert {"BLEU-4", "CIDEr-D"} <= {*rows[0]["scores"]}
        assert {*rows[0]} - {"small"} == {"scores", "all", "gaze"}
    assert "taught with boxes 1" in capsys.readouterr().out
    monkeypatch.setattr(pointing, "fit", None)  # nothing is trained again
    main([str(boxes)])
    assert read_results("pointing")["ways"] == ways
