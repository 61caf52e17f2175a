"""Numbers in prose are those of data/results, where a comment below says which.

`% 24.6 = 100 * card["beams"]["5"]["BLEU-4"]`, below a paragraph and invisible on the
page: the paragraph says 24.6, and the kept results say so, too, when they are rounded.
"""

import json
import re
from statistics import mean, median

import pytest
from test_book import TEXTS

from satlib.tangle import ROOT

RESULTS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in ROOT.glob("data/results/*.json")
}
NAMES = RESULTS | {"mean": mean, "median": median, "min": min, "max": max}
NAMES["variants"] = RESULTS["grounding"]["variants"]
NAMES["ways"] = RESULTS["pointing"]["ways"]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight"]
WORDS += ["nine", "ten", "eleven", "twelve"]
MARK = re.compile(r"^ *% (\S+) = (.+)$", re.MULTILINE)


def marks(text):
    """List what is marked in a page: (number, expression, the paragraph above)."""
    return [
        (mark[1], mark[2], MARK.sub("", re.split(r"\n\s*\n", text[: mark.start()])[-1]))
        for mark in MARK.finditer(text)
    ]


def is_said(number, paragraph):
    """Tell whether a paragraph says a number, and no longer one that holds it."""
    around = r"(?<![\w.,]){}(?!\w|[.,]\d)"
    return bool(re.search(around.format(re.escape(number)), paragraph))


def is_true(number, value):
    """Tell whether a number, in digits or as a word, is a value when it is rounded."""
    if number in WORDS:
        number = str(WORDS.index(number))
    number = number.replace(",", "")
    digits = len(number.partition(".")[2])
    return abs(float(number) - value) <= 0.5 * 10**-digits + 1e-9


MARKED = [(name, *mark) for name, text in TEXTS.items() for mark in marks(text)]


@pytest.mark.parametrize("name, number, expression, paragraph", MARKED)
def test_a_marked_number_is_that_of_the_kept_results(
    name, number, expression, paragraph
):
    assert is_said(number, paragraph), f"{name}: {number} is not in the paragraph"
    value = eval(expression, {"__builtins__": {}} | NAMES)
    assert is_true(number, value), f"{name}: {number}, but {expression} is {value}"


def test_the_important_numbers_are_marked():
    assert {"card", "grounding", "ablation", "speed", "phrases"} <= {
        name for name, *_ in MARKED
    }


def test_the_measure_of_numbers_sees():
    text = "It was 1.5.\n\nNow it is 24.6, and\ntwo.\n% 24.6 = a\n% two = b\n\nSo.\n"
    (first, _, paragraph), (second, expression, _) = marks(text)
    assert (first, second, expression) == ("24.6", "two", "b")
    assert is_said("24.6", paragraph) and is_said("two", paragraph)
    assert not is_said("1.5", paragraph) and not is_said("4.6", paragraph)
    assert not is_said("24", paragraph)
    assert is_true("24.6", 24.629) and not is_true("24.6", 24.66)
    assert is_true("two", 2.4) and is_true("1,000", 1000) and not is_true("3", 2)
