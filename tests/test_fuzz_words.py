"""Ten thousand texts of all of Unicode: the laws of the tokeniser."""

import sys
import unicodedata
from random import Random

from satlib.caption_files import tokenize

PLAIN = "a cat's dog, The MAN doesn't -- 2 é Ä ß İ ς Σ ǅ ﬁ"
MARKS = (
    "'’‘ʼ´_-.\u00ad\u200b\u200c\u200d\u2060\ufe0f\ufeff\u0301\u0307\u0345\u034f\u20e3"
)
SCRIPTS = [
    *("abcXYZ", "àéîõü", "ΑΣας", "Жёй", "אבּג", "ابتُ", "مییخ\u200c", "किन्क्\u200dष"),
    *(
        "กไก่ำ",
        "ខ្មែ",
        "ဒီ့",
        "狗猫々〇",
        "あがゞー",
        "カ゛パ",
        "각가힣ᄀ",
        "ᠠᠡ\u180b",
        "ԱԵֆ",
        "ꙮ𐐀𐐨",
    ),
    *(
        "❤️👩‍👧🏽🇷🇴",
        "٣४๒",
        "Ⅷⓐ²½",
        "\ud800\udfff",
        "\u202e\u2066",
        "\t\n\v\x85\u2028\u00a0",
    ),
]


ASSIGNED = [
    c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) != "Cn"
]


def texts(random, count):
    """Yield texts: of one script and marks, of several, and of any characters."""
    for number in range(count):
        kind, size = number % 4, random.randrange(12)
        if kind == 0:
            pool = random.choice(SCRIPTS) + MARKS + " "
        elif kind == 1:
            pool = "".join(random.sample(SCRIPTS, 3)) + MARKS + 3 * " "
        elif kind == 2:
            pool = PLAIN + MARKS
        else:
            pool = random.choices(ASSIGNED, k=size + 1)
        yield "".join(random.choice(pool) for _ in range(size))


def is_word(word):
    """Tell whether a word is in NFC, in lower case, and holds a letter or digit."""
    return (
        word == unicodedata.normalize("NFC", word)
        and word == unicodedata.normalize("NFC", word.lower())
        and any(unicodedata.category(c)[0] in "LN" for c in word)
        and not any(c.isspace() or unicodedata.category(c)[0] in "SZ" for c in word)
        and unicodedata.category(word[0])[0] != "M"
    )


def letters_of(words):
    """Return the letters and digits of words, one after the other."""
    return [c for c in "".join(words) if unicodedata.category(c)[0] in "LN"]


def test_words_of_any_text(tried):
    for text in texts(Random(28), 10_000):
        words = tokenize(text)
        assert all(map(is_word, words)), (text, words)
        assert tokenize(" ".join(words)) == words, (text, words)
        for form in ("NFC", "NFD"):
            assert tokenize(unicodedata.normalize(form, text)) == words, (text, words)
        assert tokenize(text.replace("’", "'")) == words
        letters = tokenize(text, "characters")
        assert all(map(is_word, letters)), (text, letters)
        assert tokenize(" ".join(letters), "characters") == letters, (text, letters)
        assert letters_of(letters) == letters_of(words), (text, letters)
    tried["words"] += 10_000


def test_the_text_between_words_does_not_matter(tried):
    random = Random(29)
    separators = [
        " ",
        "  ",
        ", ",
        ".\u00a0",
        "\u3000",
        " -- ",
        "…",
        " 👍🏽 ",
        "\u200b",
        "\t",
    ]
    known = ["a", "cat's", "größe", "狗猫", "किन्", "می\u200cخواهم", "2", "dogs'", "και"]
    for _ in range(2_000):
        words = [random.choice(known) for _ in range(random.randrange(8))]
        text = "".join(word + random.choice(separators) for word in words)
        invisible = random.choice("\u00ad\u2060\ufe0f\u034f")
        text = "".join(c + invisible * (random.random() < 0.1) for c in text)
        text = text.replace("'", random.choice("'’ʼ´")).upper()
        assert tokenize(text) == [tokenize(word.upper())[0] for word in words], text
    tried["words"] += 2_000
