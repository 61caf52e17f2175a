"""The two notebooks that papermill runs, and the pages that come of them."""

import base64
import io
import json
import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from importlib.resources import files

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image, ImageChops

import satlib
from satlib.captioner import CaptionChoices
from satlib.configuration import Config
from satlib.fit import planned, trial
from satlib.report import framed, main, of_code, of_text, report
from satlib.scenes import draw, make_scene
from satlib.tangle import ROOT


def cell(*outputs, tags=(), source="secret = 1", **metadata):
    metadata |= {"tags": [*tags]}
    return new_code_cell(source, outputs=[*outputs], metadata=metadata)


def printed(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def shown(**data):
    kinds = {"png": "image/png", "html": "text/html", "text": "text/plain"}
    kinds["markdown"] = "text/markdown"
    data = {kinds[name]: value for name, value in data.items()}
    return new_output("display_data", data=data)


class Parts(HTMLParser):
    """The texts of a page, by the elements they stand in, and all elements."""

    def __init__(self, page):
        super().__init__()
        self.path, self.texts, self.elements = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "hr", "input", "link"):
            self.path.append(tag)

    def handle_endtag(self, tag):
        while self.path and self.path.pop() != tag:
            pass

    def handle_data(self, data):
        self.texts.append(([*self.path], data.strip()))

    def within(self, text):
        """The elements that a text stands in, of every place."""
        return [path for path, found in self.texts if text in found]

    def of(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


FOLDED = ["details", "pre"]


@pytest.mark.parametrize(
    ("tags", "code", "output"),
    [
        ([], FOLDED, ["pre"]),
        (["hide-input"], FOLDED, ["pre"]),
        (["remove-input"], None, ["pre"]),
        (["hide-output"], FOLDED, FOLDED),
        (["remove-output"], FOLDED, None),
        (["hide-cell"], FOLDED, FOLDED),
        (["remove-cell"], None, None),
        (["injected-parameters"], ["pre"], ["pre"]),
        (["remove-input", "hide-output"], None, FOLDED),
    ],
)
def test_tags_hide_in_a_report_what_they_hide_on_a_page(tags, code, output):
    parts = Parts(of_code(cell(printed("a dog runs"), tags=tags)))
    assert parts.within("secret") == ([] if code is None else [code])
    assert parts.within("a dog runs") == ([] if output is None else [output])


def test_an_empty_cell_leaves_nothing():
    assert of_code(cell(source=" \n")) == ""


def test_outputs_in_their_richest_form_and_in_order():
    outputs = [
        printed("1 < 2\n"),
        printed("noise", "stderr"),
        shown(html="<b>bold</b>", text="plain"),
        shown(markdown="**strong**", text="plain"),
        shown(text="<Figure & co>"),
    ]
    found = of_code(cell(*outputs, tags=["remove-input"]))
    assert "noise" not in found and "plain" not in found
    order = [
        "1 &lt; 2",
        "<b>bold</b>",
        "<strong>strong</strong>",
        "&lt;Figure &amp; co",
    ]
    places = [found.index(part) for part in order]
    assert places == sorted(places)


def test_an_error_is_shown_without_the_colours_of_terminals():
    traceback = ["\x1b[0;31mValueError\x1b[0m: no <parameter>"]
    error = new_output("error", ename="ValueError", evalue="", traceback=traceback)
    found = of_code(cell(error))
    assert "ValueError: no &lt;parameter&gt;</pre>" in found and "\x1b" not in found


def test_a_picture_brings_its_text_and_its_caption():
    told = {"image": {"alt": 'A "sheet"'}, "figure": {"name": "x", "caption": "a < b"}}
    parts = Parts(of_code(cell(shown(png="QUJD\n", text="x"), mystnb=told)))
    (image,) = parts.of("img")
    assert image == {"alt": 'A "sheet"', "src": "data:image/png;base64,QUJD"}
    assert parts.within("a < b") == [["figure", "figcaption"]]


@pytest.mark.parametrize(
    ("link", "stays"),
    [
        ("[card](card.md)", False),
        ("[once](fit.md#the-test)", False),
        ("[below](#here)", False),
        ("[site](https://example.org/a.md)", True),
    ],
)
def test_links_into_the_book_are_words_only(link, stays):
    found = of_text(f"See {link}.")
    assert ("<a href" in found) == stays
    assert re.sub("<[^>]*>", "", found).strip() == f"See {link[1:].split(']')[0]}."


def test_what_a_page_folds_is_folded():
    found = of_text("## Asked\n\n:::{dropdown} Why *so*?\nIt is.\n:::\n\nAnd on.\n")
    fold = "<details><summary>Why *so*?</summary>\n<p>It is.</p>\n</details>"
    assert fold in found and found.endswith("<p>And on.</p>\n")
    assert ":::" not in found


def test_a_framed_figure_has_a_text_a_caption_and_two_pixels_for_each():
    figure, ax = plt.subplots(figsize=(3, 2))
    ax.plot([0, 1])
    plt.close(figure)
    parts = Parts(framed(figure, 'dog "runs"', "a < b").data)
    (image,) = parts.of("img")
    assert image["alt"] == 'dog "runs"'
    assert parts.within("a < b") == [["figure", "figcaption"]]
    kind, data = image["src"].split(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (kind, picture.format, picture.size) == (
        "data:image/jpeg",
        "JPEG",
        (432, 288),
    )


def test_a_report_stands_beside_its_notebook_and_asks_nobody(tmp_path):
    notebook = new_notebook(cells=[new_markdown_cell("# Of *dogs* & cats\n\nwhy")])
    notebook.cells.append(cell(shown(png="QUJD")))
    path = tmp_path / "of dogs.ipynb"
    nbformat.write(notebook, path)
    written = report(path)
    assert written == tmp_path / "of dogs.html"
    page = written.read_text(encoding="utf-8")
    parts = Parts(page)
    assert parts.within("Of *dogs* & cats") == [["html", "title"]]
    assert parts.within("why") == [["html", "main", "p"]]
    assert not parts.of("script") and not parts.of("link")
    assert all(image["src"].startswith("data:") for image in parts.of("img"))
    assert "http" not in page


@pytest.mark.parametrize("content", [b"", b"# text", b"[]", b"{}", b"\xff\xfe\x00"])
def test_what_is_no_notebook_is_refused_by_name(tmp_path, content, capsys):
    path = tmp_path / "a.ipynb"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.ipynb is no notebook"):
        report(path)
    with pytest.raises(SystemExit):
        main([str(path)])
    assert capsys.readouterr().err.splitlines()[-1].endswith("a.ipynb is no notebook")
    assert [*tmp_path.iterdir()] == [path]


def test_a_notebook_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "none.ipynb")])
    assert "none.ipynb" in capsys.readouterr().err.splitlines()[-1]


# The notebooks themselves


def notebook(name):
    return nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", ["caption", "train"])
def test_every_figure_of_a_notebook_has_a_text_and_a_caption(name):
    figures = 0
    for each in notebook(name).cells:
        if re.search(r"^panels\(|plt\.subplots\(", each.source, re.M):
            told = each.metadata["mystnb"]
            figures += 1
            assert len(told["image"]["alt"]) > 20 and told["figure"]["caption"]
            assert told["figure"]["name"].startswith(f"fig-{name}-")
        assert "display(attention_figure" not in each.source  # but framed
    assert figures == {"caption": 1, "train": 2}[name]


@pytest.mark.parametrize("name", ["caption", "train"])
def test_what_a_notebook_says_can_be_read_without_the_book(name):
    """No role of MyST in its text, which is shown raw elsewhere."""
    texts = [c.source for c in notebook(name).cells if c.cell_type == "markdown"]
    assert not re.search(r"\{[\w:]+\}`", "\n".join(texts))


def run_in(folder, name, *parameters):
    """Run a notebook as README says; return what came of it, and its path."""
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--stdout-file"]
    command += ["-", str(ROOT / "chapters" / f"{name}.ipynb"), "report.ipynb"]
    for key, value in parameters:
        command += ["-p", key, str(value)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done, folder / "report.ipynb"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "holiday"
    folder.mkdir()
    for name in ("chelsea.png", "coffee.png"):
        data = (files("skimage") / "data" / name).read_bytes()
        (folder / name).write_bytes(data)
    (folder / "broken.jpg").write_text("no photograph")
    return folder


@pytest.fixture(scope="module")
def captioned(photographs):
    done, path = run_in(photographs.parent, "caption", ("images", "holiday"))
    assert done.returncode == 0, done.stderr
    return done.stdout, path


def test_the_terminal_shows_the_captions(captioned):
    lines = captioned[0].splitlines()
    assert [line for line in lines if line.startswith("chelsea.png: a ")]
    assert [line for line in lines if "left out" in line and "broken.jpg" in line]


def test_a_report_shows_the_sheet_and_then_each_photograph_with_its_text(
    captioned,
):
    said = dict(re.findall(r"^(\w+\.png): (.*)$", captioned[0], re.M))
    assert set(said) == {"chelsea.png", "coffee.png"}
    parts = Parts(report(captioned[1]).read_text(encoding="utf-8"))
    sheet, *maps = parts.of("img")
    assert "sheet of photographs" in sheet["alt"]
    for image, (name, sentence) in zip(maps, said.items(), strict=True):
        assert image["alt"].startswith(f"{name}: {sentence}. ")
        assert ["html", "main", "div", "figure", "figcaption"] in parts.within(
            f"{name}: {sentence}"
        )
        assert any(path[-1] == "th" for path in parts.within(sentence))
    assert any("broken.jpg" in text for path, text in parts.texts if path[-1] == "pre")


def test_a_report_does_not_talk_of_other_photographs(captioned):
    page = report(captioned[1]).read_text(encoding="utf-8")
    text = re.sub("<details>.*?</details>", "", page, flags=re.S)
    assert not re.search("horse|astronaut|rocket|as here", text)


def test_a_wrong_parameter_ends_with_what_to_do(photographs):
    done, path = run_in(photographs.parent, "caption", ("imagse", "holiday"))
    assert done.returncode
    *_, last = done.stderr.strip().splitlines()
    assert last == "ValueError: no parameter 'imagse'; is it one of images?"


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    small = {"attention_dim": 8, "embed_dim": 8, "decoder_dim": 8, "image_size": 64}
    data = {"captions": world / "captions.csv", "images": world / "Images"}
    data |= {"splits": world, "output": folder / "run", "dataset": "world"}
    choices = small | data | {"min_freq": 0, "max_images": 6, "epochs": 1}
    choices |= {"concept_epochs": 3, "self_critical_epochs": 3}
    done, path = run_in(folder, "train", *choices.items())
    assert done.returncode == 0, done.stderr
    return done.stdout, path, folder / "run"


def test_the_terminal_says_epoch_loss_bleu_and_the_time_left(trained):
    lines = [x for x in trained[0].splitlines() if x.startswith("epoch ")]
    assert len(lines) == 6  # a trial: one epoch of each lesson
    for number in (1, 2, 3):
        line, found = lines[2 * number - 2 : 2 * number]
        assert line.startswith(f"epoch {number} of 3 [")
        assert re.search(r"  about \d+ (s|min) left$", line)
        assert found.startswith(f"epoch {number} validation  ")
    assert "loss" in lines[2] and "BLEU-4" in lines[3]


def test_the_report_of_a_trial_says_so_before_its_captions(trained):
    history = [
        json.loads(x) for x in (trained[2] / "log.jsonl").read_text().splitlines()
    ]
    little = trial(history)
    assert "1 epoch on 6 images" in little and little in trained[0]
    page = report(trained[1]).read_text(encoding="utf-8")
    assert 0 < page.index(f"<strong>{little}</strong>") < page.index("A sheet of")


def test_the_report_of_a_training_has_a_text_for_every_picture(trained):
    parts = Parts(report(trained[1]).read_text(encoding="utf-8"))
    texts = [image["alt"] for image in parts.of("img")]
    assert len(texts) == 5 and all(len(text) > 20 for text in texts)


def test_captions_of_a_trial_are_marked_as_such(trained, photographs):
    choices = ("images", "holiday"), ("checkpoint", trained[2] / "best.pt")
    done, path = run_in(photographs.parent, "caption", *choices, ("maps", 1))
    assert done.returncode == 0, done.stderr
    assert "This is a trial" in report(path).read_text(encoding="utf-8")


def test_the_shipped_recipe_is_shortened_by_what_readme_says():
    recipe = yaml.safe_load((ROOT / "data" / "flickr8k.yaml").read_text("utf-8"))
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "-p max_images 400 -p epochs 2" in readme
    other = dict.fromkeys(("captions", "images", "splits", "look_stage"))
    recipe |= other | {"dataset": "scenes", "max_images": 400, "epochs": 2}
    assert [*planned(Config(**recipe)).values()] == [2, 2, 1]


# README


def readme():
    return (ROOT / "README.md").read_text("utf-8")


def test_the_moving_picture_is_of_the_caption_and_the_scene_that_readme_says():
    alt, path = re.search(r"!\[([^\]]*)\]\((\S+\.gif)\)", readme()).groups()
    said = re.search(r"says: (.*?)\.", " ".join(alt.split()))[1]
    assert (ROOT / path).stat().st_size <= 600_000
    with Image.open(ROOT / path) as film:
        assert film.n_frames == 1 + len(said.split())
        first = film.convert("RGB")
    number = int(re.search(r"make_scene\(([\d_]+)\)", readme())[1])
    scene = make_scene(number)
    width = first.width
    drawn = draw(scene)[0].convert("RGB").resize((width, width))
    difference = ImageChops.difference(first.crop((0, 0, width, width)), drawn)
    assert np.mean(difference) < 4  # of 255: the palette of the GIF
    assert all(f"{x.colour} {x.name}" in said for x in scene.objects)


def test_every_command_of_papermill_lets_the_run_be_heard():
    shell = "\n".join(re.findall(r"^```(?:sh|bash)\n(.*?)^```", readme(), re.M | re.S))
    runs = re.findall(r"papermill .*ipynb", shell)
    assert len(runs) >= 5
    told = "papermill --no-progress-bar --stdout-file - "
    assert all(run.startswith(told) for run in runs)


def test_readme_names_parameters_and_modules_that_are_there():
    known = {choice.name for choice in fields(Config)}
    known |= {choice.name for choice in fields(CaptionChoices)}
    names = re.findall(r"-p\s+([a-z]\w+)\s", readme())
    assert len(names) > 10 and {*names} - {"test_scores"} <= known
    modules = re.findall(r"-m satlib\.(\w+)", readme())
    assert {"fit", "report"} <= {*modules}
    assert all((ROOT / "satlib" / f"{name}.py").exists() for name in modules)


def test_readme_cites_the_version_that_is_there():
    assert f"version {satlib.__version__}}}" in readme()
    assert f"\n{satlib.__version__}, " in readme()


def test_the_lab_reads_chapters_as_chapters_and_opens_the_map():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert re.search(r"^lab = \[.*jupyterlab>.*jupyterlab-myst>", project, re.M)
    assert "\n.venv/bin/jupyter lab chapters/index.md\n" in readme()
