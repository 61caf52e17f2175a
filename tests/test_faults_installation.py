"""Install without `-e`."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from satlib import files
from satlib.tangle import ROOT

BUILD = "from setuptools import build_meta; build_meta.build_wheel('wheel')"
IGNORED = {
    "data/runs/mine/best.pt": "weights of a run",
    "data/flickr8k/Images/1.jpg": "a photograph of somebody",
    "data/results/notes.txt": "notes",
    "data/captioner.ipynb": "a report",
    "satlib/old.pyc": "compiled",
}
USE = """
import contextlib, io, json, runpy, sys
import numpy as np
import satlib
from satlib import card, configuration, files, tangle
from satlib.ablation import RECIPE

BLACK = np.zeros((64, 64, 3), np.uint8)

def said(module, *arguments):
    out, sys.argv[1:] = io.StringIO(), arguments
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            runpy.run_module(f"satlib.{module}", run_name="__main__")
        except SystemExit as end:
            return out.getvalue(), end.code

def refused(app):
    try:
        tangle._tie_cache(app, None)
    except tangle.TangleError as error:
        return str(error)

found = {
    "home": satlib.__file__,
    "caption": satlib.load_captioner().caption([BLACK], 1)[0].words,
    "runs": [str(folder) for folder in configuration.folders(configuration.Config())],
    "kept": str(files.keep_results("own", "python -m own", 1, value=2)),
    "shipped": files.read_results("speed")["command"],
    "commit": files.commit(),
    "recipe": RECIPE.read_text(),
    "tangle": said("tangle"),
    "check": said("tangle", "--check"),
    "build": refused(None),
    "help": [said(name, "--help") for name in ("speed", "grounding", "ablation")],
    "typo": [said(name, "--hlep") for name in ("speed", "grounding", "ablation")],
    "ship": said("card", "--ship", "best.pt"),
}
found["own"] = files.read_results("own")["value"]
files.keep_results("speed", "mine", 1)
found["again"] = files.read_results("speed")["command"]
json.dump(found, open("found.json", "w"))
"""


def contents(folder):
    """Map what lies in a folder to its digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of packages with the library, as pip would install it from its wheel."""
    book, site = (tmp_path_factory.mktemp(name) for name in ("book", "site"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, book)
    shutil.copytree(ROOT / "satlib", book / "satlib")
    (book / "data" / "results").mkdir(parents=True)
    for name in ("README.md", "captioner.pt", "flickr8k.yaml", "photographs.yaml"):
        shutil.copy(ROOT / "data" / name, book / "data")
    for path in ROOT.glob("data/results/*.json"):
        shutil.copy(path, book / "data" / "results")
    for name, text in IGNORED.items():
        (book / name).parent.mkdir(parents=True, exist_ok=True)
        (book / name).write_text(text)
    run = [sys.executable, "-c", BUILD]
    subprocess.run(run, cwd=book, check=True, capture_output=True)
    (wheel,) = book.glob("wheel/*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


@pytest.fixture(scope="module")
def found(site, tmp_path_factory):
    """What the installed library did and said in a repository that is not its own."""
    work = tmp_path_factory.mktemp("work")
    if shutil.which("git"):
        for command in ("init -q", "commit -q --allow-empty -m x"):
            git = "git -c user.name=x -c user.email=x@y " + command
            subprocess.run(git.split(), cwd=site, check=True)
    before = contents(site)
    paths = {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    run = [sys.executable, "-c", USE]
    done = subprocess.run(
        run, cwd=work, env=os.environ | paths, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((work / "found.json").read_text())
    assert found["home"] == str(site / "satlib" / "__init__.py")
    return found | {"work": work, "before": before, "after": contents(site)}


def test_the_captioner_comes_along(found):
    """`load_captioner()` in another folder: the captioner that ships is loaded."""
    assert len(found["caption"]) > 2


def test_the_recipe_comes_along(found, site):
    """The command that asks for the parameters of the captioner: they are there."""
    assert found["recipe"] == (ROOT / "data" / "flickr8k.yaml").read_text()


@pytest.mark.parametrize("name", IGNORED)
def test_what_git_ignores_stays_at_home(site, name):
    """Runs, photographs, notes in the folder at installation: they are left out."""
    assert not (site / "satlib" / name.removeprefix("satlib/")).exists()


def test_the_terms_come_along(site):
    """The weights leave the book's folder: their terms go with them, in two places."""
    terms = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    assert "non-commercial" in terms
    places = [*site.glob("satlib/data/README.md")]
    places += site.glob("satlib-*.dist-info/licenses/data/README.md")
    assert [path.read_text(encoding="utf-8") for path in places] == [terms] * 2
    (metadata,) = site.glob("satlib-*.dist-info/METADATA")
    assert "LicenseRef-Flickr8k-weights" in metadata.read_text(encoding="utf-8")


def test_runs_go_where_one_works(found):
    """A run that names no folder: it goes into `data` where Python runs."""
    runs = found["work"].resolve() / "data" / "runs"
    assert all(Path(folder).is_relative_to(runs) for folder in found["runs"])


def test_results_go_where_one_works(found):
    """A long experiment: its result goes into `data` where Python runs."""
    path = found["work"].resolve() / "data" / "results" / "own.json"
    assert found["kept"] == str(path) and path.exists() and found["own"] == 2


def test_own_results_go_before_those_that_ship(found):
    """A result of the name of one that ships: one's own is shown from then on."""
    assert (found["shipped"], found["again"]) == ("python -m satlib.speed", "mine")


def test_nothing_is_written_into_the_copy(found):
    """All of this, and the commands: not a byte of the installed copy changes."""
    assert found["after"] == found["before"]


@pytest.mark.parametrize("how", ["tangle", "check"])
def test_tangle_needs_the_chapters(found, how):
    """`python -m satlib.tangle` without chapters: it says so, and removes no module."""
    text, status = found[how]
    assert status == 1 and "no chapters there" in text and "pip install -e ." in text


def test_the_book_is_not_built_from_a_copy(found):
    """`jupyter-book build` with an installed copy: it stops and says what is needed."""
    assert "no chapters there" in found["build"]


def test_a_copy_ships_what_it_has(found):
    """`python -m satlib.card --ship` in a copy: refused before any work."""
    text, status = found["ship"]
    assert status == 2 and "pip install -e ." in text


@pytest.mark.parametrize("number", range(3), ids=["speed", "grounding", "ablation"])
def test_a_question_starts_no_work(found, number):
    """`--help`, or a slip in it, to a command of an hour: an answer, and no work."""
    (answer, status), (complaint, failed) = found["help"][number], found["typo"][number]
    assert status == 0 and "usage: python -m satlib." in answer
    assert failed == 2 and "--hlep" in complaint


def test_a_repository_around_the_copy_is_another_ones(found):
    """The copy lies in a repository of the user's: its commit is not taken for ours."""
    assert found["commit"] is None


@pytest.mark.parametrize("name", ["satlib", "other"])
def test_the_folders_of_a_copy(tmp_path, monkeypatch, name):
    """Python is told to go elsewhere between two calls: the next run goes there."""
    copy = tmp_path / name
    (copy / "data").mkdir(parents=True)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        assert files.data_folder(copy) == Path.cwd() / "data"
    assert files.data_folder(tmp_path / "tree" / name) == tmp_path / "tree" / "data"
