"""A caption file or a list that is almost one of the forms."""

import json
import warnings

import pytest

from satlib.caption_files import match_names, read_captions, read_splits

CAT, DOG = [["a", "cat"]], [["a", "dog"]]
BOTH = {"a.jpg": CAT, "b.jpg": DOG}
TWO = "a.jpg{0}A cat\nb.jpg{0}A dog\n"
F30K = "image_name| comment_number| comment\n"


@pytest.fixture
def path(tmp_path):
    """The path of a caption file that is to be written."""
    return tmp_path / "captions.csv"


def read(path, content, **choices):
    """Read a content, text or bytes; a warning is an error."""
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_captions(path, **choices)


def refuse(path, content, *parts):
    """Expect a ValueError that has the file's name and these parts."""
    with pytest.raises(ValueError) as caught:
        read(path, content)
    for part in (path.name, *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "between", [";", "|", " | ", "\t", " \t ", "; ", "   ", " ", ": ", " - ", "\t\t"]
)
def test_another_separator(path, between):
    """Columns apart by semicolons, pipes, spaces or a colon: read as a table."""
    assert read(path, TWO.format(between)).captions == BOTH


@pytest.mark.parametrize("between", ";|\t")
def test_commas_in_captions_that_others_separate(path, between):
    """Captions with a comma each, columns apart by another sign: the comma is text."""
    text = TWO.format(between).replace("\n", ", it is big\n")
    captions = read(path, text).captions
    assert captions["b.jpg"] == [["a", "dog", "it", "is", "big"]] and len(captions) == 2


@pytest.mark.parametrize(
    "text",
    [
        "A cat,a.jpg\nA dog,b.jpg\n",
        "caption,image\nA cat,a.jpg\nA dog,b.jpg\n",
        'caption;image\n"A; cat";a.jpg\nA dog;b.jpg\n',
        ",image,caption\n0,a.jpg,A cat\n1,b.jpg,A dog\n",
        "image,number,caption\na.jpg,0,A cat\nb.jpg,1,A dog\n",
        "a.jpg,A cat,\nb.jpg,A dog,\n",
        "a.jpg,A cat,,\nb.jpg,A dog\n",
        "file,photographer,caption\na.jpg,Bob,A cat\nb.jpg,Eve,A dog\n",
        "image,caption\na.jpg,A cat\nimage,caption\nb.jpg,A dog\n",
        "Bild;Beschreibung\na.jpg;A cat\nb.jpg;A dog\n",
        "'a.jpg','A cat'\n\"b.jpg\",\"A dog\"\n".replace("'A cat'", "A cat"),
        'image,captions\na.jpg,"[\'A cat\']"\nb.jpg,"[""A dog""]"\n',
    ],
)
def test_columns_in_another_order_or_too_many(path, text):
    """Columns swapped or too many, a heading twice: the right two are read."""
    assert read(path, text).captions == BOTH


@pytest.mark.parametrize("mark", ["sep={}\n", '"sep={}"\n', "\ufeffsep={}\r\n"])
@pytest.mark.parametrize("between", ";|\t,")
def test_a_line_for_excel_before_the_table(path, mark, between):
    """A first line `sep=;`, by which Excel knows the separator: is no row."""
    text = "image;caption\na.jpg;A cat\nb.jpg;A dog\n".replace(";", between)
    assert read(path, mark.format(between) + text).captions == BOTH


@pytest.mark.parametrize("split", ["holdout", "", "0", "train2", "no"])
def test_a_split_that_is_not_known(path, split):
    """A column `split` with a split that is not known: refused, with its line."""
    text = f"image,caption,split\na.jpg,A cat,train\nb.jpg,A dog,{split}\n"
    refuse(path, text, "line 3", "b.jpg", f"unknown split {split!r}", "train, val")


@pytest.mark.parametrize("cat", ["A &quot;cat&quot;", "A&nbsp;cat", "A &#99;at &amp;"])
def test_letters_that_are_written_as_on_web_pages(path, cat):
    """`&amp;`, `&quot;`, `&#39;` in captions from the web: the signs that are meant."""
    assert read(path, f"a.jpg\t{cat}\nb.jpg\tA dog\n").captions == BOTH
    assert read(path, "a.jpg\tman&#39;s &lt;3\n").captions["a.jpg"] == [["man's", "3"]]


def test_several_columns_of_captions(path):
    """Captions in several columns, `caption_1` and so on: each is one."""
    text = "image,caption_1,caption_2\na.jpg,A cat,A dog\nb.jpg,A dog,\n"
    result = read(path, text)
    assert result.captions == {"a.jpg": CAT + DOG, "b.jpg": DOG} and result.empty == 1


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("a.jpg| 0| A cat .\nb.jpg| 0| A dog .\n", BOTH),
        ("a.jpg| 4   A cat .\nb.jpg| 0| A dog .\n", BOTH),
        ('a.jpg| 0| "A" cat\nb.jpg| 0| A " dog .\n', BOTH),
        ("a.jpg| 0| A cat , .\na.jpg| 1| A dog ; .\n", {"a.jpg": CAT + DOG}),
    ],
)
def test_flickr30k_of_kaggle(path, rows, expected):
    """Flickr30k as Kaggle has it, with its one broken row: read."""
    assert read(path, F30K + rows).captions == expected


def test_flickr30k_with_lists_in_cells(path):
    """Flickr30k's table of lists in cells, with a column of splits: both are read."""
    text = (
        "raw,sentids,split,filename,img_id\n"
        '"[""A cat ."", ""A dog .""]","[0, 1]",train,a.jpg,0\n'
        '"[""A dog .""]",[5],val,b.jpg,1\n'
    )
    result = read(path, text)
    assert result.captions == {"a.jpg": CAT + DOG, "b.jpg": DOG}
    assert result.splits == {"train": ["a.jpg"], "val": ["b.jpg"], "test": []}


@pytest.mark.parametrize(
    "text",
    [
        'a.jpg,A "cat"\nb.jpg,A dog\n',
        'a.jpg,"A" cat\nb.jpg,A dog\n',
        'a.jpg,"A \\"cat\\""\nb.jpg,A dog\n',
        'a.jpg,"A ""cat"""\nb.jpg,A dog\n',
        'a.jpg\t"A cat\nb.jpg\tA dog\n',
        'a.jpg\t"A cat\nb.jpg\tA dog"\n',
        'a.jpg|"A" cat\nb.jpg|A dog\n',
        "a.jpg,“A cat”\nb.jpg,«A dog»\n",
        'a.jpg#0\t"A cat\nb.jpg#0\tA dog"\n',
    ],
)
def test_quotation_marks_where_it_is_plain(path, text):
    """Quotation marks in captions, open where none are needed: they are no letters."""
    assert read(path, text).captions == BOTH


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('a.jpg,"A cat\nb.jpg,A dog\n', 1),
        ('a.jpg,A cat\nb.jpg,"A dog\nc.jpg,x\n', 2),
        ('a.jpg,A cat\nb.jpg,"A dog\nc.jpg,x"\n', 2),
        ('a.jpg;A cat\nb.jpg;"A dog\nc.jpg;x"\nd.jpg;y\n', 2),
        ('a.jpg,"A" cat, big\nb.jpg,A dog\n', 1),
    ],
)
def test_an_open_quotation_mark(path, text, line):
    """A quotation mark that would swallow rows: refused, with the line of the mark."""
    refuse(path, text, f"line {line}", "quot")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.jpg\nb.jpg\n", ["line 1", "photograph and caption"]),
        ("A cat\nA dog\n", ["line 1", "photograph and caption"]),
        ("image,caption\n", ["line 1", "captions"]),
        ("Bild\tBeschreibung\n", ["line 1", "captions"]),
        ("", ["holds no caption"]),
        ("\ufeff", ["holds no caption"]),
        ("\n \n\t\n", ["holds no caption"]),
        (",,\n,,\n", ["holds no caption"]),
        ("image,caption\na.jpg,...\n", ["holds no caption"]),
        ("a.jpg,A cat, big\nb.jpg,A dog, small\n", ["line 1", "quotes"]),
        ("a.jpg,A cat,Bob\nb.jpg,A dog,Eve\n", ["line 1", "photograph and caption"]),
        ("a.jpg,A cat\nruns, fast\nb.jpg,A dog\n", ["line 2", "runs"]),
        ("a.jpg,A cat\nTotal: 1\n", ["line 2", "Total"]),
        ("a.jpg;A cat\nb.jpg\n", ["line 2"]),
        ("a.jpg,A cat\n,A dog\n", ["line 2"]),
        ("a.jpg#0\tA cat\nb.jpg A dog\n", ["line 2", "file#number"]),
        ("Once upon a time, there was\na cat, a dog\n", ["line 1", "beach.jpg"]),
    ],
)
def test_no_table_of_photographs_and_captions(path, text, parts):
    """One column, a heading alone, a story, no line: refused, with what is expected."""
    refuse(path, text, *parts)


@pytest.mark.parametrize("text", [TWO.format("\t"), TWO.format(","), "", F30K])
@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_other_encodings_of_unicode(path, text, encoding):
    """UTF-16 and UTF-32, with and without their first mark: read like UTF-8."""
    text += "" if text.startswith("a") else "a.jpg|0|A cat\nb.jpg|0|A dog\n"
    if encoding.startswith("utf-16-"):
        text = text.replace("cat", "猫狗")
    captions = read(path, text.encode(encoding)).captions
    assert captions["b.jpg"] == DOG and [*captions] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("letters", "encoding"),
    [
        ("ä", "latin-1"),
        ("’", "cp1252"),
        ("ş", "cp1254"),
        ("狗", "gbk"),
        ("é", "mac-roman"),
    ],
)
def test_an_encoding_that_nobody_knows(path, letters, encoding):
    """Latin-1 and other old encodings: refused, with the line and how to save it."""
    text = f"a.jpg,A cat\nb.jpg,A {letters} dog\n"
    refuse(path, text.encode(encoding), "line 2", "UTF-8")
    refuse(path, text.replace("\n", "\r").encode(encoding), "line 2", "UTF-8")


@pytest.mark.parametrize(
    "data",
    [
        TWO.format(",").replace("\n", "\r").encode(),
        TWO.format(",").replace("\n", "\r\n").encode(),
        b"\r\n\r\n" + TWO.format("\t").encode(),
        ("a.jpg,A cat\n\ufeffb.jpg,A dog").encode("utf-8-sig"),
    ],
)
def test_ends_and_beginnings_of_lines(path, data):
    """Line ends of any system, blank lines, a mark before a later line: read."""
    assert read(path, data).captions == BOTH


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"PK\x03\x04rest", ["Excel"]),
        (b"%PDF-1.7", ["PDF"]),
        (b"\x1f\x8b\x08", ["compressed"]),
        (b"\xd0\xcf\x11\xe0", ["Excel"]),
        (b"{\\rtf1 a.jpg}", ["Rich Text"]),
        (b"<!DOCTYPE html>\n<html>", ["web page"]),
        (b"\n<html><body>", ["web page"]),
        (b"a.jpg,A cat\nb.jpg,A d\0g\n", ["line 2", "NUL"]),
        (b"a.jpg,A cat\n" + b"\0" * 40, ["line 2", "NUL"]),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", ["line 1"]),
        (bytes(range(256)), ["line 3", "UTF-8"]),
    ],
)
def test_no_text(path, data, parts):
    """A spreadsheet, PDF, web page, picture, or NUL bytes: refused, as what it is."""
    refuse(path, data, *parts)


@pytest.mark.parametrize("text", ["x" * 10**6, "a.jpg," * 10**5, "[" + "1," * 10**5])
def test_a_line_without_end(path, text):
    """A million letters in one line: refused, in a message that can be read."""
    with pytest.raises(ValueError) as caught:
        read(path, text)
    assert path.name in str(caught.value) and len(str(caught.value)) < 600


def test_a_folder_for_a_file(tmp_path):
    """A folder in the place of the caption file: refused."""
    with pytest.raises(ValueError, match="is a folder"):
        read_captions(tmp_path)
    with pytest.raises(FileNotFoundError, match="none.csv"):
        read_captions(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("./a.jpg", "a.jpg"),
        (".//a.jpg", "a.jpg"),
        (".\\a.jpg", "a.jpg"),
        ("Images\\a.jpg", "Images/a.jpg"),
        (" a.jpg ", "a.jpg"),
        ("a.jpg#3", "a.jpg"),
        ("e\u0301.jpg", "é.jpg"),
        ("my dog.jpg", "my dog.jpg"),
        ("a.b.c.JPEG", "a.b.c.JPEG"),
        ("图.png", "图.png"),
    ],
)
@pytest.mark.parametrize("between", "\t,;|")
def test_names_that_are_typed_in_several_ways(path, written, name, between):
    """A name with `./`, backslashes, a number, or accents apart: gets its one form."""
    assert read(path, f"{written}{between}A cat\n").captions == {name: CAT}


A, B = ({"id": k, "file_name": name} for k, name in ((1, "a.jpg"), (2, "b.jpg")))
COCO = {
    "images": [A, B],
    "annotations": [
        {"id": 1, "image_id": 1, "caption": "A cat"},
        {"id": 2, "image_id": 2, "caption": "A dog"},
    ],
}


def coco(images=None, annotations=None):
    changed = {"images": images, "annotations": annotations}
    return json.dumps(COCO | {k: v for k, v in changed.items() if v is not None})


@pytest.mark.parametrize(
    "text",
    [
        coco(images=COCO["images"] * 2),
        coco(images=[{"id": str(k), "file_name": f"{'_ab'[k]}.jpg"} for k in (1, 2)]),
        coco(images=[{"id": float(k), "file_name": f"{'_ab'[k]}.jpg"} for k in (1, 2)]),
        coco(annotations=[entry | {"id": 1} for entry in COCO["annotations"]]),
        coco().replace('"id": 1, "im', '"id": NaN, "im'),
        json.dumps([{"image": "a.jpg", "caption": "A cat"},
                    {"image": "b.jpg", "caption": ["A dog"]}]),
        '{"image": "a.jpg", "caption": "A cat"}\n\n{"file": "b.jpg", "text": "A dog"}',
        json.dumps({"a.jpg": "A cat", "b.jpg": ["A dog"]}),
        json.dumps({"images": [
            {"filename": "a.jpg", "split": "train", "sentences": "A cat"},
            {"filename": "b.jpg", "split": "train", "sentences": ["A dog"]},
        ]}),
        json.dumps({"images": [
            {"filename": "a.jpg", "split": "dev", "sentences": [{"raw": "A cat"}]},
            {"filename": "b.jpg", "split": "test",
             "sentences": [{"tokens": ["a", "dog"]}]},
        ]}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_json_where_it_is_plain(path, text, encoding):
    """JSON with ids as text, records, one record a line, names and captions: read."""
    assert read(path, text.encode(encoding)).captions == BOTH


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (coco(images=[A, B | {"id": 1}]), ["images[1]", "id 1", "'a.jpg'"]),
        (coco(images=[A, B | {"id": "1"}]), ["images[1]", "id 1"]),
        (coco(annotations=[{"image_id": 7, "caption": "x"}]), ["annotations[0]", "7"]),
        (coco(annotations=[{"image_id": 1, "bbox": [1, 2]}]), ["box", "captions_"]),
        (coco(annotations={}), ["annotations", "list"]),
        (coco(annotations=[]), ["holds no caption"]),
        (coco(annotations=[5]), ["annotations[0]", "needs"]),
        (coco(images=[None]), ["images[0]", "needs"]),
        (coco(images={}), ["images"]),
        ('{"a.jpg": "A cat", "a.jpg": "A dog"}', ["'a.jpg'", "twice"]),
        ('{"123": ["A cat"]}', ["expected"]),
        ('{"a.jpg": null}', ["None"]),
        ('{"a.jpg": [1]}', ["a.jpg", "1", "text"]),
        ('["a", "b"]', ["entry 0"]),
        ("[]", ["holds no caption"]),
        ("{}", ["expected"]),
        ("[" * 100_000, ["deep"]),
        ('{"images": ' * 50_000, ["deep"]),
        ("[" * 100_000 + "]" * 100_000, ["deep"]),
        ('[{"image": "a.jpg", "caption": ' + "9" * 5000 + "}]", ["digits"]),
        (coco()[:-10], ["line 1"]),
        ('{"image": "a.jpg", "caption": "A"}\n{"image": "b.jpg", "cap', ["line 2"]),
        ("{'a.jpg': 'A cat'}", ["line 1", "double quotes"]),
        ('{"images": [{"filename": "\\ud800.jpg", "split": "train"}]}', ["images[0]"]),
        ('{"images": [{"filename": "a.jpg", "split": "half"}]}', ["images[0]", "half"]),
        ('{"images": [{"filename": "a.jpg", "split": null}]}', ["images[0]", "None"]),
        ('{"images": [{"filename": "a.jpg", "split": "val", "sentences": null}]}',
         ["images[0].sentences", "list"]),
        ('{"images": [{"filename": "a.jpg", "split": "val", "filepath": 5}]}',
         ["images[0]", "5"]),
    ],
)  # fmt: skip
def test_json_where_it_is_not(path, text, parts):
    """JSON cut off, 100,000 brackets deep, an id twice: refused, with the place."""
    refuse(path, text, *parts)


@pytest.mark.parametrize(
    "value", [None, 5, 1.5, True, ["x"], {}, float("nan"), float("inf")]
)
def test_no_text_where_text_must_be(path, value):
    """A null, number, list or NaN for a caption, name or id: refused, by the entry."""
    image, other = COCO["images"]
    name = coco(images=[image | {"file_name": value}, other])
    refuse(path, name, "images[0]", "text")
    refuse(path, coco(annotations=[{"image_id": 1, "caption": value}]), "a.jpg", "text")
    if value != 5:
        refuse(path, coco(images=[image | {"id": value}, other]), "images[0]", "id")
        ids = [{"image_id": value, "caption": "x"}]
        refuse(path, coco(annotations=ids), "annotations[0]", "id")


@pytest.mark.parametrize("name", ["", " ", "./", "\ufeff"])
def test_a_name_of_nothing(path, name):
    """A photograph whose name is empty: refused, by the entry."""
    image, other = COCO["images"]
    text = coco(images=[image | {"file_name": name}, other])
    refuse(path, text, "images[0]", "empty")


@pytest.mark.parametrize(
    ("listed", "known"),
    [
        ("a.JPG", "a.jpg"),
        ("A.jpg", "a.jpg"),
        ("a", "a.jpg"),
        ("a.jpeg", "a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("Images/a.jpg", "a.jpg"),
        ("a.jpg", "train/a.jpg"),
        ("/home/me/Images/a.jpg", "Images/a.jpg"),
        ("C:\\Photos\\a.jpg", "a.jpg"),
        ("my%20dog.jpg", "my dog.jpg"),
        ("my dog.jpg", "my%20dog.jpg"),
        ("e\u0301.jpg", "é.jpg"),
        ("É.JPG", "e\u0301.jpg"),
        ("STRASSE.jpg", "straße.jpg"),
        ("1000092795", "1000092795.jpg"),
    ],
)
def test_one_photograph_under_two_names(listed, known):
    """Other capitals, no ending, a folder in a name: the one that is meant is found."""
    others = ["b.jpg", "x/c.jpg", "aa.jpg", "1.jpg"]
    assert match_names([listed, "z.jpg"], [*others, known]) == {listed: known}


@pytest.mark.parametrize(
    ("listed", "known"),
    [
        ("a", ["a.jpg", "a.png"]),
        ("a.png", ["a.jpg"]),
        ("a.jpg", ["x/a.jpg", "y/a.jpg"]),
        ("x/a.jpg", ["y/a.jpg"]),
        ("A.JPG", ["a.jpg", "a.JPG"]),
        ("1.jpg", ["01.jpg", "11.jpg"]),
        ("", ["a.jpg"]),
        ("a", [f"{k}/a.jpg" for k in range(500)]),
    ],
)
def test_a_name_that_two_photographs_might_have(listed, known):
    """A name that fits two photographs, or none: is not guessed at."""
    assert match_names([listed], known) == {}


def test_ten_thousand_photographs_of_one_name():
    """Ten thousand photographs that differ by their folder alone: found in no time."""
    names = [f"{k}/IMAGE.JPG" for k in range(10_000)]
    found = match_names(names, [name.lower() for name in names])
    assert found == {name: name.lower() for name in names}


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg\nb.jpg\n",
        "\ufeffa.jpg\r\n\r\nb.jpg",
        " a.jpg \n./b.jpg\n",
        "a.jpg#0\nb.jpg#0",
        '"a.jpg"\n"b.jpg"\n',
        "image\na.jpg\nb.jpg\n",
        "image,caption\na.jpg,A cat\na.jpg,A dog\nb.jpg,x\n",
        "a.jpg,train\nb.jpg,train\n",
        "a.jpg 17\nb.jpg 18\n",
        "a.jpg\tA cat\nb.jpg\tA dog",
    ],
)
@pytest.mark.parametrize(
    "name", ["train.txt", "Flickr_8k.trainImages.txt", "TRAIN.CSV", "x_training.txt"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_lists_as_people_have_them(tmp_path, text, name, encoding):
    """A list with a heading, more columns, quotes, or in UTF-16: its names are read."""
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert read_splits(tmp_path)["train"] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.json", '{"train": ["a.jpg"], "dev": ["b.jpg"]}'),
        ("s.csv", "image,split\na.jpg,train\nb.jpg,val\n"),
        ("s.csv", "image,caption,split\na.jpg,A,train\na.jpg,B,train\nb.jpg,C,dev\n"),
        ("s.json", '{"train": ["./a.jpg"], "val": ["b.jpg"], "test": []}'),
    ],
)
def test_splits_in_one_file(tmp_path, name, text):
    """A file that says for each photograph its split: read like lists."""
    (tmp_path / name).write_text(text)
    splits = {"train": ["a.jpg"], "val": ["b.jpg"], "test": []}
    assert read_splits(tmp_path / name) == splits


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.txt": "a.jpg\na.jpg\n"}, "again in the one for train"),
        ({"train.txt": "a.jpg\n", "val.txt": "./a.jpg\n"}, "again in the one for val"),
        (
            {"train.txt": "e\u0301.jpg\n", "val.txt": "é.jpg\n"},
            "again in the one for v",
        ),
        ({"train.txt": "a.jpg\n", "my_train.txt": "b.jpg\n"}, "one per split"),
        ({}, "found lists"),
        ({"mine.txt": "a.jpg\n"}, "found lists"),
    ],
)
def test_lists_that_contradict(tmp_path, files, message):
    """A photograph in two lists, in any spelling, or two lists for a split: refused."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_splits(tmp_path)


@pytest.mark.parametrize(
    "splits",
    [
        {"train": "a.jpg"},
        {"train": 5},
        {"train": None},
        {"train": [None]},
        {"train": [["a.jpg"]]},
        {"train": [""]},
        {"half": ["a.jpg"]},
        {},
    ],
)
def test_splits_that_are_no_lists_of_names(tmp_path, splits):
    """Splits with a text, a number or nothing for a list of names: refused."""
    with pytest.raises(ValueError):
        read_splits(splits)
    (tmp_path / "s.json").write_text(json.dumps(splits))
    with pytest.raises(ValueError, match=r"s\.json"):
        read_splits(tmp_path / "s.json")
