# Written by `python -m satlib.tangle` from chapters/files.md: edit that.
# chapters/files.md: Files: all or nothing, and is it fresh?
"""Files that are whole, and tell what they were made from; results that are kept."""

import ast
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil
import torch
from tqdm import tqdm

import satlib

ROOT = Path(satlib.__file__).resolve().parent


# chapters/files.md: Half a file never exists
MACHINE = platform.node()


@contextmanager
def replacing(path):
    """Yield a temporary path that is renamed to `path` if the block succeeds.

    No other process has the same temporary path. It is removed if the block fails.
    """
    temporary = Path(f"{path}.{MACHINE}-{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# chapters/files.md: Half a file never exists
def write_text(path, text):
    """Write a text, with the same bytes on every system; all or nothing."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path, content):
    """Write a dictionary, or the items of an iterable, one a line; all or nothing."""
    with replacing(path) as part, open(part, "w", encoding="utf-8") as file:
        if isinstance(content, dict):
            json.dump(content, file, ensure_ascii=False)
            return
        file.write("[")
        for number, item in enumerate(content):
            file.write(",\n" * (number > 0) + json.dumps(item, ensure_ascii=False))
        file.write("]\n")


# chapters/files.md: Half a file never exists
def make_folder(folder):
    """Make a folder, and remove what killed processes left in it; return its path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ours = re.compile(rf".*\.{re.escape(MACHINE)}-(\d+)\.part")
    for path in folder.glob("*.part"):
        left = ours.fullmatch(path.name)
        if left and not psutil.pid_exists(int(left[1])):
            path.unlink(missing_ok=True)
    return folder


# chapters/files.md: How far is it, and is there room?
def progress(items, total, label, seconds=5):
    """Yield the items and say how far it is: a bar in a terminal, otherwise lines.

    A line comes with every tenth of `total`, at most one in `seconds`.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, label, total)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if done * 10 // total > (done - 1) * 10 // total and now - last >= seconds:
            print(f"{label}: {done:,} of {total:,}, {now - start:.0f} s", flush=True)
            last = now


# chapters/files.md: How far is it, and is there room?
def make_room(folder, count, each=3 * 256**2, what="photographs"):
    """Make a folder, and say what `count` × `each` bytes need.

    Raises OSError where the disk has less.
    """
    free = shutil.disk_usage(make_folder(folder)).free
    need = f"{count:,} {what} of {each:,} bytes: {count * each / 1e6:,.1f} MB"
    if count * each > free:
        raise OSError(f"{folder}: {need}, but only {free / 1e6:,.1f} MB are free")
    print(need)


# chapters/files.md: Is it fresh? First, what is a digest
def digest(content):
    """Return the SHA-256 of plain values (numbers, text, lists, dictionaries)."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


# chapters/files.md: Is it fresh? First, what is a digest
def read_if_there(path):
    """Return the dictionary in a JSON file; {} where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def is_fresh(path, manifest):
    """Tell whether the manifest at `path` is there, and says what `manifest` says."""
    return read_if_there(path) == manifest


def changes(before, manifest):
    """List the names whose values in a manifest are not those of the one `before`."""
    return [name for name, value in manifest.items() if before.get(name) != value]


# chapters/files.md: The code is an ingredient
def imported_modules(source):
    """Return the names of the modules of satlib that a source imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = [name.split(".") for name in names if name.startswith("satlib.")]
    return {name for _, name, *_ in parts if (ROOT / f"{name}.py").exists()}


# chapters/files.md: The code is an ingredient
def source_files(module):
    """List the paths of a module of satlib and of all that it imports from satlib.

    Raises FileNotFoundError where there is no such module.
    """
    found, waiting = set(), {module}
    while waiting:
        path = ROOT / f"{waiting.pop()}.py"
        found.add(path)
        imported = imported_modules(path.read_text(encoding="utf-8"))
        waiting |= {name for name in imported if ROOT / f"{name}.py" not in found}
    return sorted(found)


@cache
def code_digest(module):
    """Return the digest of the code that a module of satlib runs, its own included.

    Comments do not count.
    """
    texts = [path.read_bytes() for path in source_files(module)]
    return digest([ast.dump(ast.parse(text)) for text in texts])


# chapters/files.md: Where the files lie
def is_installed(root=ROOT):
    """Tell whether the library at `root` is a copy, with what ships inside it."""
    return (root / "data").is_dir()


def data_folder(root=ROOT):
    """Return the folder where the library at `root` keeps what it makes."""
    return (Path.cwd() if is_installed(root) else root.parent) / "data"


SHIPPED_DATA = (ROOT if is_installed() else ROOT.parent) / "data"


# chapters/files.md: Results that are kept
RESULTS = data_folder() / "results"


def keep_results(name, command, seed, **found):
    """Write what a long experiment found to data/results/NAME.json; return the path."""
    path = make_folder(RESULTS) / f"{name}.json"
    how = {"command": command, "commit": commit(), "seed": seed, "machine": machine()}
    write_text(path, json.dumps(how | found, indent=1) + "\n")
    return path


def read_results(name):
    """Return what data/results/NAME.json holds. Raises FileNotFoundError."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        path = SHIPPED_DATA / "results" / path.name
    return json.loads(path.read_text(encoding="utf-8"))


# chapters/files.md: Results that are kept
def commit():
    """Return the commit of the code, "+" where it has changed since; None without."""
    if is_installed(ROOT):
        return None
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return run.stdout.strip() or None


# chapters/files.md: Results that are kept
def machine():
    """Describe the machine in a line: system, processor, threads, PyTorch, GPU."""
    capability = torch.backends.cpu.get_cpu_capability()
    where = f"{platform.system()} {platform.machine()}, {_processor()}, {capability}"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}{gpu}"


def _processor():
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line for line in lines if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.processor()
