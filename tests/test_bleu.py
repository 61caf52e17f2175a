"""BLEU equals nltk's; CIDEr-D and ROUGE-L equal their formulas; bad input is told."""

import json
import math
import random
import subprocess
import sys
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate import bleu_score
from pycocoevalcap.bleu.bleu import Bleu

from satlib import bleu

WEIGHTS = [(1 / n,) * n for n in range(1, 5)]


def split(*texts):
    return [text.split() for text in texts]


REFERENCES = [
    split("a red cat sits on the grass", "there is a red cat on grass"),
    split("a blue ball lies in the snow", "a ball is in the white snow"),
    split("a green car stands on the sand", "one car on yellow sand"),
]
HYPOTHESES = split(
    "a red cat is on the grass",
    "a blue ball is in the sea",
    "there is a green car on the sand",
)


def nltk_bleu(references, hypotheses):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bleu_score.corpus_bleu(references, hypotheses, weights=WEIGHTS)


def random_corpus(rng, shortest):
    def caption(least):
        return rng.choices(["a", "red", "cat", "and", "ball"], k=rng.randint(least, 12))

    images = range(rng.randint(1, 5))
    references = [[caption(1) for _ in range(rng.randint(1, 5))] for _ in images]
    return references, [caption(shortest) for _ in images]


def test_a_thousand_random_corpora_equal_nltk():
    rng = random.Random(7)
    zero = empty = short = 0
    for _ in range(1000):
        references, hypotheses = random_corpus(rng, shortest=0)
        ours = bleu.corpus_bleu(references, hypotheses)
        assert ours == pytest.approx(nltk_bleu(references, hypotheses), abs=1e-12)
        zero += ours[3] == 0
        empty += not all(hypotheses)
        short += brevity(references, hypotheses) < 1
    assert min(zero, empty, short) > 50


def brevity(references, hypotheses):
    closest = sum(map(bleu.closest_length, references, hypotheses))
    return bleu.brevity_penalty(closest, sum(map(len, hypotheses)))


captions = st.lists(st.sampled_from("abcd"), max_size=9)
images = st.tuples(st.lists(captions, min_size=1, max_size=4).filter(any), captions)


@settings(max_examples=200, deadline=None)
@given(st.lists(images, min_size=1, max_size=4))
def test_any_corpus_equals_nltk(corpus):
    references, hypotheses = zip(*corpus, strict=True)
    ours = bleu.corpus_bleu(references, hypotheses)
    assert ours == pytest.approx(nltk_bleu(references, hypotheses), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(images, min_size=1, max_size=4))
def test_all_scores_stay_in_their_ranges(corpus):
    references, hypotheses = zip(*corpus, strict=True)
    for name, score in bleu.scores(references, hypotheses).items():
        assert 0 <= score <= (10 if name == "CIDEr-D" else 1) + 1e-9


def test_captions_of_four_words_and_more_equal_coco():
    rng = random.Random(8)
    for _ in range(50):
        references, hypotheses = random_corpus(rng, shortest=4)
        people = {i: [" ".join(c) for c in cs] for i, cs in enumerate(references)}
        model = {i: [" ".join(words)] for i, words in enumerate(hypotheses)}
        coco, _ = Bleu(4).compute_score(people, model, verbose=0)
        ours = bleu.corpus_bleu(references, hypotheses)
        for mine, theirs in zip(ours, coco, strict=True):
            if mine:
                assert mine == pytest.approx(theirs, abs=1e-6)
            else:
                assert theirs < 0.01


def test_clipped_counts_by_hand():
    references = split("a red cat on the grass", "a cat and a tree")
    assert bleu.clipped_counts(references, ["the"] * 5, 1) == (1, 5)
    assert bleu.clipped_counts(references, ["a", "a", "a", "cat"], 1) == (3, 4)
    assert bleu.clipped_counts(references, ["red", "cat"] * 2, 2) == (1, 3)
    assert bleu.clipped_counts(references, ["a"], 2) == (0, 1)


def test_the_closest_length_prefers_the_shorter_of_two():
    assert bleu.closest_length([["x"] * 9, ["x"] * 5], ["x"] * 7) == 5
    assert bleu.closest_length([["x"] * 8, ["x"] * 5], ["x"] * 7) == 8


def test_brevity_penalty():
    assert bleu.brevity_penalty(7, 7) == bleu.brevity_penalty(7, 9) == 1
    assert bleu.brevity_penalty(7, 3) == pytest.approx(math.exp(1 - 7 / 3))
    assert bleu.brevity_penalty(7, 0) == 0


def test_a_perfect_corpus_has_one_and_a_foreign_one_exactly_zero():
    perfect = [captions[0] for captions in REFERENCES]
    assert bleu.corpus_bleu(REFERENCES, perfect) == pytest.approx([1] * 4)
    assert bleu.corpus_bleu(REFERENCES, [["x"] * 7] * 3) == [0] * 4
    assert bleu.corpus_bleu(REFERENCES, [[], [], []]) == [0] * 4
    assert bleu.corpus_bleu(REFERENCES, [c[::-1] for c in perfect])[1:] == [0] * 3


def test_token_ids_score_like_words():
    words = {word for caption in sum(REFERENCES, HYPOTHESES) for word in caption}
    ids = {word: number for number, word in enumerate(sorted(words))}
    references = [[[ids[w] for w in c] for c in captions] for captions in REFERENCES]
    hypotheses = [[ids[w] for w in caption] for caption in HYPOTHESES]
    expected = bleu.corpus_bleu(REFERENCES, HYPOTHESES)
    assert bleu.corpus_bleu(references, hypotheses) == expected


def test_scores_names_and_plain_numbers():
    result = bleu.scores(REFERENCES, HYPOTHESES)
    assert list(result) == [*(f"BLEU-{n}" for n in range(1, 5)), "CIDEr-D", "ROUGE-L"]
    assert [result[f"BLEU-{n}"] for n in range(1, 5)] == bleu.corpus_bleu(
        REFERENCES, HYPOTHESES
    )
    assert json.loads(json.dumps(result)) == result
    assert all(type(score) is float for score in result.values())


def weights(words, n, references):
    """The vector of an n-gram order: count times log(N / d)."""
    vector = {}
    for gram, count in bleu.ngrams(words, n).items():
        d = sum(any(gram in bleu.ngrams(c, n) for c in cs) for cs in references)
        vector[gram] = count * math.log(len(references) / max(1, d))
    return vector


def cider_by_hand(references, hypotheses, sigma=6.0):
    total = 0.0
    for captions, words in zip(references, hypotheses, strict=True):
        for n in range(1, 5):
            y = weights(words, n, references)
            for caption in captions:
                r = weights(caption, n, references)
                dot = sum(min(v, r.get(g, 0)) * r.get(g, 0) for g, v in y.items())
                norm = math.hypot(*y.values()) * math.hypot(*r.values())
                length = math.exp(-((len(words) - len(caption)) ** 2) / 2 / sigma**2)
                total += 10 / len(captions) / 4 * length * (dot / norm if norm else 0)
    return total / len(hypotheses)


def test_cider_d_equals_its_formula():
    result = bleu.scores(REFERENCES, HYPOTHESES)["CIDEr-D"]
    assert result == pytest.approx(cider_by_hand(REFERENCES, HYPOTHESES))
    assert result > 1


def test_cider_d_of_one_picture_is_zero():
    assert bleu.scores(REFERENCES[:1], [REFERENCES[0][0]])["CIDEr-D"] == 0


def common(y, r):
    if not y or not r:
        return 0
    if y[-1] == r[-1]:
        return 1 + common(y[:-1], r[:-1])
    return max(common(y[:-1], r), common(y, r[:-1]))


def test_rouge_l_equals_its_formula():
    total = 0.0
    for captions, words in zip(REFERENCES, HYPOTHESES, strict=True):
        p = max(common(words, c) / len(words) for c in captions)
        r = max(common(words, c) / len(c) for c in captions)
        total += (1 + 1.2**2) * p * r / (r + 1.2**2 * p)
    result = bleu.scores(REFERENCES, HYPOTHESES)["ROUGE-L"]
    assert result == pytest.approx(total / len(HYPOTHESES))


def test_an_empty_hypothesis_scores_zero_and_empty_references_do_not_count():
    result = bleu.scores([[*REFERENCES[0], []], *REFERENCES[1:]], [[], [], []])
    assert set(result.values()) == {0.0}


@pytest.mark.parametrize("function", [bleu.corpus_bleu, bleu.scores])
def test_bad_input_gets_a_clear_error(function):
    with pytest.raises(ValueError, match="3 lists of references for 2 hypotheses"):
        function(REFERENCES, HYPOTHESES[:2])
    with pytest.raises(ValueError, match="image 1 .* no reference"):
        function([REFERENCES[0], [], REFERENCES[2]], HYPOTHESES)
    with pytest.raises(ValueError, match="image 2 .* no reference"):
        function([*REFERENCES[:2], [[]]], HYPOTHESES)
    with pytest.raises(ValueError, match="no hypotheses"):
        function([], [])
    with pytest.raises(TypeError, match="image 0: a caption is a string"):
        function(REFERENCES, ["a red cat", *HYPOTHESES[1:]])
    with pytest.raises(TypeError, match="image 0: a caption is a string"):
        function([captions[0] for captions in REFERENCES], HYPOTHESES)


def test_imports_alone_quietly():
    code = "import sys, satlib.bleu; print({'torch', 'nltk'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "set()\n", "")
