"""The captions room: one tokeniser, five formats told apart by content, splits."""

import csv
import io
import json
import sys
import unicodedata
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize import RegexpTokenizer

from satlib.caption_files import Captions, read_captions, read_splits, tokenize

FLICKR8K = Path(__file__).parents[2] / "shared" / "flickr8k"
needs_flickr8k = pytest.mark.skipif(
    not FLICKR8K.is_dir(), reason=f"Flickr8k is not on this machine ({FLICKR8K})"
)

ONE_LINE = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="\ufeff"),
    max_size=30,
)
NAMES = st.from_regex(r"[a-zA-Zäß0-9_][a-zA-Z0-9_ -]{0,8}\.(jpg|png)", fullmatch=True)
ROWS = st.lists(st.tuples(NAMES, ONE_LINE), min_size=1, max_size=8).filter(
    lambda rows: any(tokenize(sentence) for _, sentence in rows)
)


def expected(rows):
    captions = {}
    for name, sentence in rows:
        captions.setdefault(name, []).append(tokenize(sentence))
    return {name: [c for c in own if c] for name, own in captions.items()}


def table(rows, delimiter):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return file.getvalue()


def flickr(rows):
    return "".join(f"{name}#{k}\t{text}\n" for k, (name, text) in enumerate(rows))


def kaggle(rows):
    return table([("image", "caption"), *rows], ",")


def own_csv(rows):
    return table(rows, ",")


def own_tsv(rows):
    return table([("Bild", "Beschreibung"), *rows], "\t")


def coco(rows):
    ids = {name: 100 + i for i, name in enumerate(dict(rows))}
    images = [{"id": i, "file_name": name} for name, i in reversed(ids.items())]
    annotations = [{"id": 1, "image_id": ids[n], "caption": text} for n, text in rows]
    return json.dumps({"info": {}, "images": images, "annotations": annotations})


def karpathy(rows):
    images = {}
    for name, text in rows:
        image = images.setdefault(name, {"filename": name, "split": "train"})
        image.setdefault("sentences", []).append({"raw": text, "tokens": ["no"]})
    return json.dumps({"dataset": "own", "images": list(images.values())})


FORMATS = [flickr, kaggle, own_csv, own_tsv, coco, karpathy]


def read(folder, text, encoding="utf-8"):
    path = folder / "captions.txt"
    path.write_bytes(text.encode(encoding))
    return read_captions(path)


@settings(deadline=None)
@given(ONE_LINE)
def test_tokenize_is_idempotent_and_on_ascii_nltk_on_lower_case(sentence):
    words = tokenize(sentence)
    assert tokenize(" ".join(words)) == words
    plain = sentence.encode("ascii", "ignore").decode()
    textbook = RegexpTokenizer(r"[\w']+").tokenize(plain.lower())
    assert tokenize(plain) == [w for w in textbook if any(map(str.isalnum, w))]


def test_tokenize_examples():
    assert tokenize("A man's dog, T-shirt_2!") == ["a", "man's", "dog", "t", "shirt_2"]
    assert tokenize(" .,- ") == []


def test_words_are_letters_with_their_marks_and_digits():
    """Of every character of Unicode, alone."""
    letters = {"Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl"}
    ignored = regex.compile(r"\p{Default_Ignorable_Code_Point}")
    for character in map(chr, range(sys.maxunicode + 1)):
        category = unicodedata.category(character)
        if category in ("Cn", "Cs", "Co") or ignored.fullmatch(character):
            continue
        if character in "’‘‛ʼ′＇´":
            assert tokenize(f"a{character}b") == ["a'b"]
            continue
        one = unicodedata.normalize("NFC", character).lower()
        alone = [unicodedata.normalize("NFC", one)] if category in letters else []
        assert tokenize(character) == alone, (hex(ord(character)), category)
    assert tokenize("बिल्ली cafe\u0301 3²") == ["बिल्ली", "café", "3"]


@pytest.mark.parametrize("write", FORMATS)
@settings(max_examples=50, deadline=None)
@given(rows=ROWS, bom=st.booleans(), windows=st.booleans())
def test_every_format_gives_the_rows(tmp_path_factory, write, rows, bom, windows):
    text = write(rows)
    text = text.replace("\n", "\r\n") if windows else text
    encoding = "utf-8-sig" if bom else "utf-8"
    result = read(tmp_path_factory.getbasetemp(), text, encoding)
    assert result.captions == expected(rows)
    assert result.empty == sum(not tokenize(sentence) for _, sentence in rows)


@pytest.mark.parametrize("write", FORMATS)
def test_order_is_that_of_the_file(tmp_path, write):
    rows = [("b.jpg", "B"), ("a.jpg", "first"), ("a.jpg", "second"), ("c.jpg", "C")]
    assert list(read(tmp_path, write(rows)).captions) == ["b.jpg", "a.jpg", "c.jpg"]


def test_blank_lines_quotes_and_line_breaks(tmp_path):
    text = '\r\n\r\nimage,caption\r\n\r\n1.jpg, "A ""dog"",\r\nrunning" \r\n ,  \r\n'
    with pytest.raises(ValueError, match="line 5"):  # a blank after a closing quote
        read(tmp_path, text)
    result = read(tmp_path, text.replace('" \r', '"\r'))
    assert result.captions == {"1.jpg": [["a", "dog", "running"]]}


def test_karpathy_splits_restval_and_filepath(tmp_path):
    images = [
        {"filename": f"{k}.jpg", "split": split, "sentences": [{"raw": "A cat."}]}
        for k, split in enumerate(["train", "restval", "val", "test"])
    ]
    images[1]["filepath"] = "val2014"
    result = read(tmp_path, json.dumps({"images": images}))
    splits = {"train": ["0.jpg", "val2014/1.jpg"], "val": ["2.jpg"], "test": ["3.jpg"]}
    assert result.splits == splits
    assert set(result.captions) == {n for names in splits.values() for n in names}
    assert read_splits(tmp_path / "captions.txt") == splits


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "annotations": [{"image_id": 1, "caption": "A cat."}],
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg#0\tA.\na.jpg A.\n", r"line 2: expected file#number<TAB>caption"),
        ("\na.jpg,A.\nb.jpg,A dog, too\n", r"line 3.*quotes.*'b.jpg', 'A dog', 'too'"),
        ("a.jpg\tA.\nb.jpg\n", r"line 2"),
        ("a.jpg,A.\n,A dog\n", r"line 2"),
        ('a.jpg,A.\nb.jpg,"A dog\nc.jpg,x\n', r"line 2.*open quote"),
        ("Once upon a time\n", r"line 1.*photograph and caption"),
        ("", "holds no caption"),
        ("a.jpg,...\n", "holds no caption"),
        ('{"images": [\n1,]', r"line 2.*JSON"),
        ("[1, 2]", 'a list "images"'),
        ('{"annotations": []}', 'a list "images"'),
        (json.dumps(COCO).replace("caption", "text"), r"annotations\[0\] .*caption"),
        (json.dumps(COCO).replace('_id": 1', '_id": 5'), r"annotations\[0\].* id 5"),
        (json.dumps(COCO).replace('"A cat."', "null"), r"a\.jpg.*None.*must be text"),
        ('{"images": [{"filename": "a", "split": "x"}]}', r"images\[0\].*split 'x'"),
        ('{"images": [7]}', r"images\[0\] needs filename and split"),
    ],
)
def test_errors_name_file_place_and_expectation(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, text)
    assert "captions.txt" in str(caught.value)


def test_another_encoding_is_refused_with_its_line(tmp_path):
    with pytest.raises(ValueError, match=r"captions\.txt, line 2: .*UTF-8"):
        read(tmp_path, "a.jpg,A cat.\nb.jpg,Ein Mädchen\n", "latin-1")


def test_lists_in_a_folder_files_and_dictionary(tmp_path):
    (tmp_path / "Flickr_8k.trainImages.txt").write_bytes(b"\xef\xbb\xbf1.jpg\r\n2.jpg ")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("\n3.jpg\n\n")
    (tmp_path / "Flickr8k.token.txt").write_text("9.jpg#0\tA cat.\n")
    splits = {"train": ["1.jpg", "2.jpg"], "val": ["3.jpg"], "test": []}
    assert read_splits(tmp_path) == read_splits(str(tmp_path)) == splits
    files = sorted(tmp_path.glob("*Images.txt"))
    assert read_splits(files) == read_splits([str(f) for f in files]) == splits
    assert read_splits(files[0])["val"] == ["3.jpg"]
    assert read_splits({"val": ["3.jpg"], "train": ["1.jpg", "2.jpg"]}) == splits


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.txt": "1\n2\n", "test.txt": "2\n"}, "2 is in the list for te"),
        ({"train.txt": "1\n1\n"}, "again in the one for train"),
        ({"train.txt": "1\n", "b_train.txt": "2\n"}, "one per split"),
        ({"train_captions.txt": "1\n"}, "found lists"),
    ],
)
def test_unusable_lists_are_refused(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_splits(tmp_path)


def test_unknown_split_and_a_file_without_splits(tmp_path):
    with pytest.raises(ValueError, match="dev"):
        read_splits({"dev": ["1.jpg"]})
    (tmp_path / "coco.json").write_text(json.dumps(COCO))
    with pytest.raises(ValueError, match=r"coco\.json: found lists \[\]"):
        read_splits(tmp_path / "coco.json")
    (tmp_path / "mine.txt").write_text("1.jpg\n")
    with pytest.raises(ValueError, match=r"mine\.txt: needs a name such as train\.txt"):
        read_splits(tmp_path / "mine.txt")


@needs_flickr8k
def test_flickr8k_as_its_authors_wrote_it():
    result = read_captions(FLICKR8K / "Flickr8k.token.txt")
    assert isinstance(result, Captions) and result.splits is None
    assert len(result.captions) == 7091 and result.empty == 0
    assert all(len(captions) == 5 for captions in result.captions.values())
    assert result.captions["2428275562_4bde2bc5ea.jpg"][0] == ["a"]
    splits = read_splits(FLICKR8K)
    assert [len(splits[s]) for s in ("train", "val", "test")] == [6000, 1000, 0]
    assert set(splits["train"]) | set(splits["val"]) <= set(result.captions)
