"""Unicode and languages."""

import unicodedata
import warnings

import pytest

from satlib.caption_files import read_captions, tokenize

ZH, JA, TH = "一只狗在草地上跑", "犬が走っている", "สุนัขวิ่งบนหญ้า"


@pytest.fixture
def read(tmp_path):
    """Read captions, one a line; return their words, and the warnings."""

    def reader(*captions, **choices):
        lines = [f"{k}.jpg\t{caption}" for k, caption in enumerate(captions)]
        (tmp_path / "c.tsv").write_text("\n".join(lines), encoding="utf-8")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = read_captions(tmp_path / "c.tsv", **choices).captions
        return [own[0] for own in found.values()], [str(w.message) for w in caught]

    return reader


@pytest.mark.parametrize("apostrophe", "’‘‛ʼ′＇´'")
def test_a_typographic_apostrophe(apostrophe):
    """An apostrophe as Word, telephones or a typewriter type it: is an apostrophe."""
    text = f"A man{apostrophe}s dog doesn{apostrophe}t bark, the dogs{apostrophe} do"
    words = ["a", "man's", "dog", "doesn't", "bark", "the", "dogs'", "do"]
    assert tokenize(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("café", ["café"]),
        ("Ångström Å Ω", ["ångström", "å", "ω"]),
        ("Straße GROẞ", ["straße", "groß"]),
        ("Việt Nam", ["việt", "nam"]),
        ("Știință și țară", ["știință", "și", "țară"]),
        ("ελιά ΆΣΟΣ", ["ελιά", "άσος"]),
        ("кот й Ё", ["кот", "й", "ё"]),
        ("한국 개", ["한국", "개"]),
        ("が パ", ["が", "パ"]),
        ("हिन्दी क़", ["हिन्दी", "क़"]),
        ("كلبٌ أسود", ["كلبٌ", "أسود"]),
        ("כַּלב", ["כַּלב"]),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_as_characters_of_their_own(text, words, form):
    """Letters with their accents apart, as some Macs write: the same words."""
    expected = [unicodedata.normalize("NFC", word) for word in words]
    assert tokenize(unicodedata.normalize(form, text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "❤️",
        "👩‍👩‍👧",
        "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "👍🏽",
        "☀️ ✨",
        "'",
        "''",
        "_",
        "' _ '",
        "́",
        "\ufe0f",
        "\u200d",
        "\u00ad",
        "\ufeff",
        "…",
        "²",
        "½",
        "©",
        "™",
        "→",
        "«»",
        "。、",
        "؟",
        "♪",
        "\u202e",
        "\u2060",
        "\u3164",
        "\ue000",
        "\ud800",
        "₂",
        "№",
    ],
)
def test_what_shows_no_letter(text):
    """A picture character, a lone mark, apostrophe or underscore: is no word."""
    assert tokenize(text) == []
    assert tokenize(f"a {text} b") == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("foot\u00adball", ["football"]),
        ("foot\u2060ball", ["football"]),
        ("foot\u200dball foot\u200cball", ["football", "football"]),
        ("dog\u200d cat\u200c", ["dog", "cat"]),
        ("\u202bdog\u202c \u200ecat\u200f", ["dog", "cat"]),
        (
            "a\u00a0dog\u3000runs\u2009on\u202fgrass",
            ["a", "dog", "runs", "on", "grass"],
        ),
        ("a\u200bdog", ["a", "dog"]),
        ("e\u00ad\u0301t\u034fe", ["éte"]),
        ("1️⃣ dog❤️ ️cat", ["1", "dog", "cat"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("क\u094d\u200dष", ["क\u094d\u200dष"]),
        ("٣ dogs ३ cats", ["٣", "dogs", "३", "cats"]),
        ("İstanbul IŞIK", ["i̇stanbul", "işik"]),
        ("ﬁne", ["ﬁne"]),
        ("semi-wet e-mail", ["semi", "wet", "e", "mail"]),
        ("dogs—cats…birds", ["dogs", "cats", "birds"]),
        ("“dogs” «cats»", ["dogs", "cats"]),
    ],
)
def test_what_shows_nothing_at_all(text, words):
    """Soft hyphens, joiners, marks of direction, any spaces: cut as one sees it."""
    assert tokenize(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ZH, [*ZH]),
        ("犬が走る。ラーメン", ["犬", "が", "走", "る", "ラ", "ー", "メ", "ン"]),
        ("สุนัข", ["สุ", "นั", "ข"]),
        ("ဒီ ខ្មែរ", ["ဒီ", "ខ្", "មែ", "រ"]),
        ("一只dog's家", ["一", "只", "dog's", "家"]),
        ("a dog, it's 2", ["a", "dog", "it's", "2"]),
        ("개가 달린다", ["개가", "달린다"]),
        ("狗'", ["狗"]),
    ],
)
def test_a_script_without_spaces_by_characters(text, words, read):
    """Chinese, Japanese, Thai with the choice `characters`: each letter is a word."""
    assert tokenize(text, "characters") == words
    assert tokenize(" ".join(words), "characters") == words
    assert read(text, tokens="characters") == ([words], [])


@pytest.mark.parametrize(
    "text", [ZH, JA, TH, "一只狗", "猫が寝る、犬", "ဒီမှာခွေး", "ឆ្កែរត់នៅលើស្មៅ"]
)
def test_a_script_without_spaces_by_words(text, read):
    """The same without the choice: a warning names it."""
    _, told = read(text, text)
    assert len(told) == 1 and "tokens='characters'" in told[0] and "c.tsv" in told[0]


@pytest.mark.parametrize(
    "text",
    ["一只 狗 在 草地 上 跑", "สุนัข วิ่ง บน หญ้า", "a dog", "개가 달린다", "собака бежит",
     "كلب يركض", "כלב רץ", "बिल्ली सो रही है", "σκύλος", "a 狗 here"],
)  # fmt: skip
def test_words_apart_in_any_script(text, read):
    """Captions with spaces between their words, in any script: no warning."""
    assert read(text, text)[1] == []
    assert read(*30 * ["a dog runs"], ZH)[1] == []


def test_a_choice_of_tokens_that_there_is_not():
    """Another choice of tokens: refused, with those that there are."""
    with pytest.raises(ValueError, match="letters.*words characters"):
        tokenize("a", "letters")


@pytest.mark.parametrize(
    "caption",
    [
        "<start> a dog runs <end>",
        "<START>A dog runs.<END>",
        "<s> a dog runs </s>",
        "<bos> a dog <unk> runs <eos> <pad> <pad>",
        "startseq a dog runs endseq",
        "start_token a dog runs end_token",
        "[CLS] a dog runs [SEP] [PAD]",
        "<|startoftext|> a dog runs <|endoftext|>",
        "< start > a dog runs < end >",
        "a dog<br/>runs",
        "<p>a dog</p> runs",
    ],
)
def test_marks_of_another_program(caption, read):
    """Captions with `<start>`, `[CLS]`, `startseq`: these are dropped, and named."""
    words, told = read(caption)
    assert words == [["a", "dog", "runs"]]
    assert len(told) == 1 and "marks" in told[0] and "c.tsv" in told[0]


@pytest.mark.parametrize(
    "caption",
    ["a < b", "3 > 2 < 5", "the start of a race and its end", "a [red] dog", "sequence",
     "<<< left", "an sos sign", "I <3 dogs", "a start sequence"],
)  # fmt: skip
def test_what_looks_like_a_mark(caption, read):
    """Arrows, brackets, and the words start and end: stay."""
    assert read(caption) == ([tokenize(caption)], [])
