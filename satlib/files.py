# Written by `python -m satlib.tangle` from chapters/files.md: edit that.
# chapters/files.md: Files: all or nothing, and is it fresh?
"""Files that are whole, and tell what they were made from; results that are kept."""

import ast
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path

import psutil
import torch
from tqdm import tqdm

import satlib

ROOT = Path(satlib.__file__).resolve().parent


# chapters/files.md: Who is a process?
def _kernel():
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return [platform.node(), boot, os.readlink("/proc/self/ns/pid")]
    except OSError:  # not on Linux
        return [platform.node(), uuid.getnode()]


MACHINE = hashlib.sha256(repr(_kernel()).encode()).hexdigest()[:8]


def begun(pid):
    """Return when a process began, a text; "" if that is not told, None if it ended.

    A process that has ended, and whose parent has not yet heard of it, lives no more.
    """
    try:
        process, stat = psutil.Process(pid), Path(f"/proc/{pid}/stat")
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if stat.exists():
            return stat.read_text().rpartition(")")[2].split()[19]
        return str(int(1000 * process.create_time()))
    except (psutil.Error, OSError):
        return "" if psutil.pid_exists(pid) else None


@cache
def _name_of(pid):
    return f"{MACHINE}-{pid}-{begun(pid)}"


def owner():
    """Return the name of this process: machine, number, and start."""
    return _name_of(os.getpid())


# chapters/files.md: Written under another name
NUMBERS = count()
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def naming(path):
    """Raise what a full disk does to a `with` block as an OSError with the path."""
    try:
        yield
    except Exception as error:
        texts = [os.strerror(n) for n in FULL] + [f"errno = {n}," for n in FULL]
        full = getattr(error, "errno", None) in FULL
        if not full and not any(text in str(error) for text in texts):
            raise
        free = shutil.disk_usage(Path(path).parent).free
        raise OSError(
            errno.ENOSPC,
            f"{path} could not be written: the disk is full ({free:,} bytes are free) "
            "or files may not be larger; make room and run again. What was there is "
            "untouched",
        ) from error


@contextmanager
def replacing(path):
    """Yield a temporary path that is renamed to `path` if the block succeeds.

    No other block has the same temporary path. It is removed if the block fails. Raises
    OSError that names `path` where the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name[:40]}.{owner()}-{next(NUMBERS)}.part")
    try:
        with naming(path):
            yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# chapters/files.md: Written under another name
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


# chapters/files.md: Written under another name
@contextmanager
def replacing_all(folder, seal):
    """Yield a temporary folder; if the block succeeds, its files move to `folder`.

    The file named `seal` is there only when all others are. The disk is as for
    `replacing`.
    """
    folder = Path(folder)
    temporary = folder / f"{seal[:40]}.{owner()}-{next(NUMBERS)}.part"
    try:
        temporary.mkdir()
        with naming(folder):
            yield temporary
        (folder / seal).unlink(missing_ok=True)
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == seal):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# chapters/files.md: Written under another name
def make_folder(folder):
    """Make a folder, and remove what killed processes left in it; return its path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    return folder


def _sweep(folder):
    ours = re.compile(rf".*\.{MACHINE}-(\d+)-(\d+)-\d+\.part")
    for path in folder.glob("*.part"):
        left = ours.fullmatch(path.name)
        if left and begun(int(left[1])) not in (left[2], ""):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


# chapters/files.md: One run at a time
BEAT, PATIENCE = 2, 20  # seconds


@contextmanager
def _beating(path):
    done = threading.Event()

    def beat():
        while not done.wait(BEAT):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _beats(path):
    before, end = _touched(path), time.monotonic() + PATIENCE
    while (now := _touched(path)) == before and time.monotonic() < end:
        time.sleep(min(0.2, PATIENCE / 4))
    return now not in (before, None)


def _touched(path):  # opened, as another machine's disk is asked only then
    with suppress(FileNotFoundError), open(path, "rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns


# chapters/files.md: One run at a time
def _holder(lock):
    keys = "owner", "thread", "inode", "machine", "brief"
    with suppress(ValueError, KeyError, TypeError, OSError):
        content = json.loads(lock.read_text(encoding="utf-8"))
        if re.fullmatch(r"\w+-\d+-\w*", content["owner"]):
            return {key: content[key] for key in keys}
    return {}


def _inode(path):
    with suppress(FileNotFoundError):
        return path.stat().st_ino


def _lives(lock, holder):
    if not holder:
        return False
    machine, pid, start = holder["owner"].split("-")
    found = begun(int(pid)) if machine == MACHINE else ""
    if found not in (start, ""):
        return False
    return (found == start and _inode(lock) == holder["inode"]) or _beats(lock)


# chapters/files.md: One run at a time
def _take(lock, mine):
    while True:
        with suppress(FileExistsError), naming(lock), open(lock, "x") as file:
            mine["inode"] = os.fstat(file.fileno()).st_ino
            json.dump(mine, file)
            return {}
        if not (holder := _holder(lock)):
            time.sleep(0.5)  # it was made just now, and is not yet written?
            holder = _holder(lock)
        if _lives(lock, holder):
            return holder
        with _held(Path(f"{lock}.old"), brief=True):
            if _holder(lock) == holder:
                lock.unlink(missing_ok=True)


# chapters/files.md: One run at a time
LOCK = "writing.lock"


def _is_mine(holder):
    thread = threading.get_ident()
    return holder.get("owner") == owner() and holder.get("thread") == thread


def _refuse(lock, other):
    pid = other["owner"].split("-")[1]
    run = f"another run (process {pid} on {other['machine']})"
    who = f"{lock.parent}: {run} writes here"
    if not other["brief"]:
        raise OSError(f"{who}; wait for its end, or take another folder")
    return who


@contextmanager
def _held(lock, brief):
    if _is_mine(_holder(lock)):
        yield
        return
    mine = {"owner": owner(), "thread": threading.get_ident()}
    mine |= {"machine": platform.node(), "brief": brief}
    told = False
    while other := _take(lock, mine):
        who = _refuse(lock, other)
        if not told:
            print(f"{who}; waiting until it has done", flush=True)
        told = True
        time.sleep(0.1)
    try:
        with _beating(lock):
            yield
    finally:
        if _holder(lock) == mine:
            lock.unlink(missing_ok=True)


@contextmanager
def hold(folder, brief=False):
    """Make a folder, and keep other runs from writing there during a `with` block.

    Raises OSError where another run holds it, or waits if that one does so `brief`ly.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder / LOCK, brief):
        yield make_folder(folder)


# chapters/files.md: One run at a time
def check_free(folder):
    """Raise an OSError where another run holds a folder, and not only briefly."""
    lock = Path(folder).absolute() / LOCK
    other = _holder(lock)
    if not _is_mine(other) and _lives(lock, other):
        _refuse(lock, other)


def tidy(folder):
    """Remove what killed processes left in a folder, as far as one may."""
    lock = Path(folder).absolute() / LOCK
    with suppress(OSError):
        if lock.exists() and not _lives(lock, _holder(lock)):
            with _held(lock, brief=True):
                pass
        _sweep(Path(folder))


# chapters/files.md: How far is it, and is there room?
def progress(items, total, label, seconds=5):
    """Yield the items and say how far it is: a bar in a terminal, otherwise lines.

    A line comes with every tenth of `total`, at most one in `seconds`; where
    TQDM_DISABLE is set, neither.
    """
    if os.environ.get("TQDM_DISABLE"):
        yield from items
        return
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


# chapters/files.md: How far is it, and is there room?
def reserve(path, size):
    """Let a file have at least `size` bytes of the disk; make it if need be; return it.

    Raises OSError where they cannot be had; then the file is removed.
    """
    try:
        with open(path, "ab") as file:
            if hasattr(os, "posix_fallocate"):  # else, holes are not filled
                os.posix_fallocate(file.fileno(), 0, max(1, size))
            else:
                file.truncate(max(size, os.path.getsize(path)))
    except OSError:
        Path(path).unlink()
        raise
    return path


# chapters/files.md: Is it fresh? First, what is a digest
def digest(content):
    """Return the SHA-256 of plain values (numbers, text, lists, dictionaries)."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


# chapters/files.md: Is it fresh? First, what is a digest
def file_digest(path):
    """Return the SHA-256 of a file's bytes, or None where there is no such file."""
    if not Path(path).is_file():
        return None
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def file_digests(paths):
    """List the `file_digest` of each path, computed on all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = pool.map(file_digest, paths)
        return [*progress(digests, len(paths), "files compared")]


# chapters/files.md: Is it fresh? First, what is a digest
def read_if_there(path):
    """Return the dictionary in a JSON file; {} without one, or if it is damaged."""
    if not path.exists():
        return {}
    with suppress(ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    print(f"{path} is damaged: what it stands for is made again")
    return {}


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


# chapters/files.md: A name for a file
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def check_name(name):
    """Raise a ValueError unless a name can begin that of a file on every system."""
    text = name if isinstance(name, str) else ""
    marks = set(text) & set('/\\:*?"<>|')
    bare = text.isprintable() and text == text.strip(" .") != ""
    if marks or not bare or RESERVED.fullmatch(text) or len(text.encode()) > 100:
        raise ValueError(
            f"{name!r} can't begin a file's name on every system: write at most 100 "
            'bytes, none of / \\ : * ? " < > |, no space or dot at the ends, and none '
            "of the names that Windows keeps for itself, such as con, aux or com1"
        )


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
