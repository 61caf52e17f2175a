"""The files room: whole or not there, fresh or not, with all the code behind them."""

import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap

import pytest

from satlib import files
from satlib.configuration import Config, folders
from satlib.files import (
    MACHINE,
    changes,
    code_digest,
    digest,
    imported_modules,
    keep_results,
    make_folder,
    make_room,
    owner,
    progress,
    read_if_there,
    read_results,
    replacing,
    source_files,
    write_json,
    write_text,
)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_replacing_gives_all_or_nothing(tmp_path):
    path = tmp_path / "file.txt"
    for text in ("first", "second"):
        with replacing(path) as part:
            part.write_text(text)
            assert part.parent == tmp_path and part.suffix == ".part"
        assert path.read_text() == text
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("third")
        raise KeyboardInterrupt
    assert names_in(tmp_path) == ["file.txt"]
    assert path.read_text() == "second"


def test_a_block_that_writes_nothing_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "file.txt", "old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file.txt"):
        pass
    assert (tmp_path / "file.txt").read_text() == "old"


@pytest.mark.skipif(os.name != "posix", reason="rights as POSIX has them")
def test_a_replaced_file_has_the_usual_rights(tmp_path):
    (tmp_path / "usual").write_text("")
    write_text(tmp_path / "ours", "")
    rights = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("usual", "ours")]
    assert rights[0] == rights[1]


WRITER = """
import sys
from satlib.files import replacing
with replacing(sys.argv[1]) as part:
    part.write_text("theirs")
    print("half", flush=True)
    sys.stdin.readline()
"""


def test_two_processes_can_write_the_same_file(tmp_path):
    path, pipe = tmp_path / "file.txt", subprocess.PIPE
    command = [sys.executable, "-c", WRITER, str(path)]
    other = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    try:
        assert other.stdout.readline() == "half\n"
        write_text(path, "ours")
        make_folder(tmp_path)  # the other lives, so its half stays
        assert path.read_text() == "ours" and len(names_in(tmp_path)) == 2
        other.communicate("go on\n", timeout=60)
    finally:
        other.kill()
    assert other.returncode == 0 and path.read_text() == "theirs"
    assert names_in(tmp_path) == ["file.txt"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    path, pipe = tmp_path / "file.txt", subprocess.PIPE
    command = [sys.executable, "-c", WRITER, str(path)]
    other = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert other.stdout.readline() == "half\n"
    other.kill()
    other.communicate()
    stays = ["cells.hdf5.part", "elsewhere-x.txt.other-1073741823.part", "mine.part"]
    stays += [f"mine.{MACHINE}-{2**30}-1-1.txt", f"ours.{owner()}-0.part"]
    stays += [f"cells.hdf5.{MACHINE}-{2**30}-1.part"]  # a half that is taken up
    for name in stays:
        (tmp_path / name).write_text("")
    assert len(names_in(tmp_path)) == len(stays) + 1
    assert make_folder(str(tmp_path)) == tmp_path
    assert names_in(tmp_path) == sorted(stays)


def test_write_json_round_trip(tmp_path):
    for content in ([], [[1, 2], [3]], ["ä", {"b": "ß"}], {}, {"ä": 1, "<pad>": 0}):
        write_json(tmp_path / "x.json", content)
        assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == content
    write_json(tmp_path / "x.json", (n for n in range(3)))
    assert (tmp_path / "x.json").read_text() == "[0,\n1,\n2]\n"


def test_a_text_has_the_same_bytes_everywhere(tmp_path):
    write_text(tmp_path / "x.txt", "ä\nb\n")
    assert (tmp_path / "x.txt").read_bytes() == b"\xc3\xa4\nb\n"


def test_progress_passes_on_and_prints_tenths(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert list(progress(range(100), 100, "work")) == list(range(100))
    assert capsys.readouterr().out == ""
    list(progress(iter(range(95)), 95, "work", seconds=0))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[0].startswith("work: 10 of 95")
    assert lines[-1].startswith("work: 95 of 95")
    assert list(progress([], 0, "nothing")) == []
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert list(progress(range(9), 9, "work", seconds=0)) == list(range(9))
    assert capsys.readouterr().out == ""


def test_room_is_made_or_refused(tmp_path, monkeypatch, capsys):
    make_room(tmp_path / "new" / "deep", 3)
    assert (tmp_path / "new" / "deep").is_dir()
    assert "3 photographs of 196,608 bytes: 0.6 MB" in capsys.readouterr().out
    usage = type("Usage", (), {"free": 1000 * 196_608})
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage)
    make_room(tmp_path, 1000)
    with pytest.raises(OSError, match=r"1,001 photographs.*196\.8 MB.*196\.6 MB"):
        make_room(tmp_path, 1001)


def test_a_digest_depends_on_all_of_the_content():
    assert digest(["a", {"b": 1}]) == digest(["a", {"b": 1}])
    others = ["a", {"b": 2}], ["a", {"c": 1}], [{"b": 1}, "a"], ["a"], "a", None
    assert len({digest(other) for other in (["a", {"b": 1}], *others)}) == 7
    assert len(digest(None)) == 64 and int(digest(None), 16)
    # files on disk hold digests, so these stay
    assert digest([]).startswith("4f53cda18c2baa0c")


def test_a_manifest_tells_what_is_fresh_and_what_is_not(tmp_path):
    path, manifest = tmp_path / "manifest.json", {"n": 3, "seed": None, "of": "ä"}
    assert read_if_there(path) == {}
    write_json(path, manifest)
    assert read_if_there(path) == manifest
    for other in {"n": 4}, {"more": 1}:
        assert changes(manifest, manifest | other) == [*other]
    assert changes(manifest, manifest) == []
    for damage in "", "{", "[1]", '"text"', "[" * 10**5:
        path.write_text(damage)
        assert read_if_there(path) == {}


def test_imports_are_found_wherever_they_stand():
    source = """
        import satlib, os
        import satlib.bleu as scores
        from satlib import benchmark as race, load_captioner
        from satlib.lstm import LSTMCell
        from torch import nn
        def later():
            from satlib.scenes import draw
            from satlibrary.maps import save
        # from satlib.fit import fit
    """
    found = imported_modules(textwrap.dedent(source))
    assert found == {"bleu", "benchmark", "lstm", "scenes"}


def closure(module):
    return {path.stem for path in source_files(module)}


def test_the_code_behind_a_module_is_all_that_it_imports():
    assert closure("bleu") == {"bleu"}
    assert {"fit", "decoder", "attention", "lstm", "dataset", "files"} < closure("fit")
    assert not {"captioner", "maps", "tangle", "speed"} & closure("fit")
    assert closure("fit") < closure("grounding")
    for path in source_files("fit"):
        assert imported_modules(path.read_text(encoding="utf-8")) <= closure("fit")
    with pytest.raises(FileNotFoundError, match=r"fitt\.py"):
        source_files("fitt")


def test_the_closure_is_what_python_loads():
    script = (
        "import sys, satlib.fit; print(*(m for m in sys.modules if 'satlib.' in m))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    loaded = {name.removeprefix("satlib.") for name in done.stdout.split()}
    assert closure("fit") == loaded and "decoder" in loaded


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the library, whose modules a test may change."""
    shutil.copytree(files.ROOT, tmp_path / "satlib")
    monkeypatch.setattr(files, "ROOT", tmp_path / "satlib")
    code_digest.cache_clear()
    yield tmp_path / "satlib"
    code_digest.cache_clear()


@pytest.mark.parametrize(
    ("module", "counts"),
    [("decoder", True), ("lstm", True), ("stickers", True), ("captioner", False)],
)
def test_a_run_on_scenes_depends_on_the_code_behind_fit(copy, module, counts):
    before = folders(Config())
    path = copy / f"{module}.py"
    path.write_text(path.read_text(encoding="utf-8") + "\nEXTRA = 1\n")
    assert folders(Config()) == before  # this process still runs the old code
    code_digest.cache_clear()
    after = folders(Config())
    assert (after[0] != before[0]) == (after[1].name != before[1].name) == counts


def test_a_run_on_photographs_does_not_depend_on_the_code(copy, world):
    paths = {"captions": str(world / "captions.csv"), "images": str(world / "Images")}
    before = folders(Config(dataset="world", **paths))
    (copy / "decoder.py").unlink()
    code_digest.cache_clear()
    assert folders(Config(dataset="world", **paths)) == before


def test_results_say_how_they_came_about(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")
    path = keep_results("x", "python -m x", 7, figure=[1.5])
    assert path == tmp_path / "results" / "x.json"
    kept = read_results("x")
    assert kept["command"] == "python -m x" and kept["seed"] == 7
    assert kept["figure"] == [1.5] and "threads" in kept["machine"]
    assert [*kept] == ["command", "commit", "seed", "machine", "figure"]
    with pytest.raises(FileNotFoundError, match=r"y\.json"):
        read_results("y")


@pytest.mark.skipif(not shutil.which("git"), reason="no git here")
def test_the_commit_is_marked_where_the_code_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    assert files.commit() is None
    for name in ("NAME", "EMAIL"):
        for who in ("AUTHOR", "COMMITTER"):
            monkeypatch.setenv(f"GIT_{who}_{name}", "x@y")
    write_text(tmp_path / "code.py", "a = 1")
    for command in ("init -q", "add .", "commit -q -m x"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    clean = files.commit()
    assert clean and "+" not in clean
    write_text(tmp_path / "code.py", "a = 2")
    assert files.commit() == clean + "+"
