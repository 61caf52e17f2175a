"""Words and letters: the glossary in two languages, the letters, the ways through."""

import re

import pytest
from test_book import COURSE, PAGES, TEXTS, glossary_terms

GLOSSARY = re.compile(r"^```\{glossary\}\n:sorted:\n\n(.*?)^```", re.M | re.S)
ENTRIES = re.split(r"\n\n(?=\S)", GLOSSARY.search(TEXTS["glossary"])[1].rstrip("\n"))
ROMANIAN = re.compile(r"^  \*Română:\* \*\*[^*]+\*\*\. \S.*[.]$", re.M | re.S)
ASKED_FOR = """adam, autograd, backpropagation, brevity penalty, digest, hard attention,
hdf5, lesson, one-hot vector, optimiser, papermill, relu, sigmoid, soft attention, tanh,
trunk, variant"""


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.splitlines()[0])
def test_an_entry_ends_with_its_name_and_a_sentence_in_romanian(entry):
    english, *romanian = entry.split("\n\n")
    assert len(romanian) == 1 and ROMANIAN.fullmatch(romanian[0]), entry


def test_the_glossary_has_the_words_that_readers_missed():
    assert {*ASKED_FOR.replace("\n", " ").split(", ")} <= {*glossary_terms()}


def test_romanian_has_its_own_letters():
    text = TEXTS["pe_scurt"] + TEXTS["glossary"]
    assert not re.findall("[şţŞŢ]", text), "with a comma below, not a cedilla"
    assert {*"ăâîșț"} <= {*text}


def test_pe_scurt_is_marked_as_romanian_and_leads_to_the_course():
    text = TEXTS["pe_scurt"]
    assert re.match(r"---\n(?:.*\n)*?lang: ro\n(?:.*\n)*?---\n", text)
    assert text.count("\n## ") == 7
    pages = "attention decoder lstm initialization training dataset bleu beam_search"
    for name in (*pages.split(), "validation", "fit"):
        assert f"]({name}.md)" in re.sub(r"\s+", " ", text), name


def rows(text, columns):
    """List the rows of a page's tables of so many columns, without heads."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines]
    return [row for row in cells if len(row) == columns and "---" not in row[0]]


def test_each_letter_is_told_once_and_the_others_by_page():
    first, twice = TEXTS["notation"].split("(letters-twice)=")
    told = [
        letter for n in (4, 5) for letter, *_ in rows(first, n) if letter != "letter"
    ]
    own = [letter for letter in told if "," not in letter]
    assert sorted({*own}) == sorted(own) and {"B", "V", "$z$", "$h_t$"} <= {*own}
    for letter, _, where in rows(twice, 3)[1:]:
        pages = re.findall(r"\]\((\w+)\.md\)", where)
        assert pages or letter in ("cell", "E", "$e$", "$W$"), letter
        assert {*pages} <= {*PAGES}


def test_the_front_page_names_three_ways_of_which_one_is_the_whole_course():
    text = TEXTS["index"]
    found = re.findall(r"^- \*\*([^*]+)\*\*: (.+?)\n(?=-|\n)", text, re.M | re.S)
    ways = {way: re.findall(r"\]\((\w+)\.md\)", about) for way, about in found}
    assert len(ways) == 3 and "whole course" in found[1][1]
    for pages in ways.values():
        assert {*pages} <= {*PAGES}
    exam = ways["For an examination"]
    assert {*exam} == {*COURSE[: COURSE.index("fit") + 1]}
