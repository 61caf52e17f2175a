# Written by `python -m satlib.tangle` from chapters/bleu.md: edit that.
# chapters/bleu.md: BLEU: how good is a caption?
"""Scores for captions: BLEU from its formula, CIDEr-D and ROUGE-L.

A caption is a list of words. `references` holds, for each picture, the list of the
captions that people wrote; `hypotheses` holds, for each picture, the one to score.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from math import exp, prod

from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge


# chapters/bleu.md: Counting n-grams
def ngrams(words, n):
    """Count the runs of `n` neighbouring words; return a Counter of tuples."""
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


# chapters/bleu.md: A word may be matched only as often as a person wrote it
def clipped_counts(captions, words, n):
    """Return how many n-grams of `words` the references `captions` match, of how many.

    An n-gram is matched at most as often as one reference holds it (Papineni et al.
    2002, section 2.1). A caption of fewer than `n` words counts as one n-gram that is
    not matched, as it does in nltk.
    """
    counts, most = ngrams(words, n), Counter()
    for caption in captions:
        most |= ngrams(caption, n)
    return (counts & most).total(), max(1, counts.total())


# chapters/bleu.md: Precision over the whole corpus
def plain_words(image, caption):
    """Return a caption, of any kind of sequence, as a list of words or token ids.

    Raises TypeError, with the number of the image, where it is none.
    """
    if isinstance(caption, (str, bytes)):
        raise TypeError(f"image {image}: a caption is a string; split it into words")
    words = caption.tolist() if hasattr(caption, "tolist") else caption
    if isinstance(words, (dict, set, frozenset)) or not isinstance(words, Iterable):
        raise TypeError(f"image {image}: a caption is {words!r:.60}, no list of words")
    words = [word.tolist() if hasattr(word, "tolist") else word for word in words]
    for word in words:
        if isinstance(word, bool) or not isinstance(word, (str, int, float)):
            problem = f"a word is {word!r:.60}, neither a text nor a number"
            raise TypeError(f"image {image}: {problem}")
    return words


# chapters/bleu.md: Precision over the whole corpus
def plain_pairs(references, hypotheses):
    """Return references and hypotheses as lists of lists of words or token ids.

    Raises ValueError or TypeError unless each hypothesis is words with references.
    """
    for given in (references, hypotheses):
        if isinstance(given, (dict, set)) or not isinstance(given, Iterable):
            raise TypeError("references and hypotheses must be lists, in one order")
    references, hypotheses = list(references), list(hypotheses)
    if len(references) != len(hypotheses):
        raise ValueError(
            f"{len(references)} lists of references for {len(hypotheses)} hypotheses; "
            "give one list of references for each hypothesis"
        )
    if len(hypotheses) == 0:
        raise ValueError("no hypotheses: there is nothing to score")
    kinds = set()
    for i, captions in enumerate(references):
        if isinstance(captions, str) or not isinstance(captions, Iterable):
            raise TypeError(f"image {i}: a caption is a string, or no list of captions")
        references[i] = [plain_words(i, caption) for caption in captions]
        hypotheses[i] = plain_words(i, hypotheses[i])
        if not any(references[i]):
            raise ValueError(f"image {i} (the first is 0) has no reference captions")
        kinds |= {isinstance(w, str) for c in references[i] for w in c}
        kinds |= {isinstance(word, str) for word in hypotheses[i]}
    if len(kinds) > 1:
        raise TypeError("some captions hold words and some token ids: give one kind")
    return references, hypotheses


# chapters/bleu.md: Precision over the whole corpus
def precisions(references, hypotheses, max_n=4):
    """Return the corpus's clipped precisions of 1- to `max_n`-grams, each 0 to 1."""
    pairs = list(zip(references, hypotheses, strict=True))
    result = []
    for n in range(1, max_n + 1):
        counts = [clipped_counts(captions, words, n) for captions, words in pairs]
        matched, found = map(sum, zip(*counts, strict=True))
        result.append(matched / found)
    return result


# chapters/bleu.md: Too short is punished
def closest_length(captions, words):
    """Return the length of the reference closest to that of `words`, in words."""
    return min((abs(len(c) - len(words)), len(c)) for c in captions)[1]


def brevity_penalty(reference_length, length):
    """Return the factor from 0 to 1 for captions of `length` words in all.

    It is 1 from `reference_length` words on (Papineni et al. 2002, section 2.3).
    """
    return min(1.0, exp(1 - reference_length / length)) if length else 0.0


# chapters/bleu.md: BLEU
def corpus_bleu(references, hypotheses, max_n=4):
    """Return [BLEU-1, …, BLEU-`max_n`] of a corpus, each 0 to 1.

    `references` is a list per hypothesis of captions, a caption a list of words (or of
    token ids; an array or tensor, too). Unsmoothed: exactly 0 where a precision is 0
    (Papineni et al. 2002). Raises ValueError if the numbers of both differ, if there
    are none, or if an image has no reference; TypeError if a caption is a string, or
    no sequence of words.
    """
    references, hypotheses = plain_pairs(references, hypotheses)
    closest = map(closest_length, references, hypotheses)
    penalty = brevity_penalty(sum(closest), sum(map(len, hypotheses)))
    p = precisions(references, hypotheses, max_n)
    return [penalty * prod(p[:n]) ** (1 / n) for n in range(1, max_n + 1)]


# chapters/bleu.md: All scores at once
def scores(references, hypotheses):
    """Score a corpus; return a dict of BLEU-1 to BLEU-4, CIDEr-D and ROUGE-L.

    BLEU and ROUGE-L (Lin 2004) lie in 0 to 1, CIDEr-D (Vedantam et al. 2015) in 0 to
    10. Raises the errors of `corpus_bleu`, and ValueError for a word with a space.
    """
    references, hypotheses = plain_pairs(references, hypotheses)
    for word in chain.from_iterable(chain(hypotheses, *references)):
        if len(str(word).split()) != 1:
            raise ValueError(f"the word {word!r} must be one, without spaces: split it")
    bleu = corpus_bleu(references, hypotheses)
    result = {f"BLEU-{n}": score for n, score in enumerate(bleu, start=1)}
    people = {i: [_joined(c) for c in cs if c] for i, cs in enumerate(references)}
    model = {i: [_joined(words)] for i, words in enumerate(hypotheses)}
    result["CIDEr-D"] = float(Cider().compute_score(people, model)[0])
    result["ROUGE-L"] = float(Rouge().compute_score(people, model)[0])
    return result


def _joined(words):
    return " ".join(map(str, words))
