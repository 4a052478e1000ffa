"""Where reidnb keeps things on disk, and how: nothing half-written is ever read, nothing kept is made twice.

    path = kept(cache_root() / "runs" / f"{digest(recipe, seed)}.npz", build=lambda file: save(file, train(...)))

What is there is read without a lock and without a write, so a cache may be read-only. What is not there is made by one
process while the others wait, under a hidden name, and renamed when it is whole.
"""

import contextlib
import dataclasses
import errno
import hashlib
import logging
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger("reidnb")

# What passes by itself and is no damage of a file: no memory or handles just now, a network disk that does not answer.
PASSING = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EINTR,
    errno.EAGAIN,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EIO,
}
# How a full disk, or a quota, is told by those who write: the system, safetensors (Rust), torch.save, HDF5.
FULL = re.compile(r"no space left|quota exceeded|os error (28|122)\b|unexpected pos \d+ vs \d+", re.IGNORECASE)


def cache_root() -> Path:
    """The folder of all that can be made again: REIDNB_CACHE, else XDG_CACHE_HOME/reidnb, else ~/.cache/reidnb.

    Raises OSError where the home folder is not known (a container with a user that has no name).
    """
    given = os.environ.get("REIDNB_CACHE")
    try:
        if given:
            return Path(given).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "reidnb"
    except RuntimeError as error:
        raise OSError(
            f"no home folder is known for {given or 'the cache'} ({error}): set REIDNB_CACHE to a folder that you may "
            "write to, such as /tmp/reidnb"
        ) from error


def at_home(path: str | Path) -> Path:
    """The path, of which ~ is the home folder and ~name another's; a path that begins so and means nobody stays."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # nobody of that name, or a user without a home
        return Path(path)


def digest(*parts: object) -> str:
    """16 hexadecimal digits that stand for the parts: numbers, strings, bytes, tuples, dataclasses, arrays, tensors.

    It is the hash of their `repr`; of an array, whose `repr` leaves the middle out, that of type, shape and content.
    The order of a dict counts.
    Raises TypeError for a part whose `repr` is an address in memory (a function, a plain object): it would never be
    the same again.
    """
    if odd := re.search(r"<[^\n'\"]* at 0x[0-9a-f]{6,}>", text := repr(_content(parts))):
        raise TypeError(f"cannot make a key of {odd[0]}: give its name and its source, or its fields")
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _content(part):
    """The part, with every array or tensor in it (in lists, tuples, dicts and dataclasses too) as its type, shape and
    hash; the part itself where there is none."""
    if isinstance(part, (list, tuple)):
        within = [*map(_content, part)]
        if all(new is old for new, old in zip(within, part)):
            return part
        return type(part)(within) if type(part) in (list, tuple) else (type(part).__qualname__, within)  # a NamedTuple
    if type(part) is dict:
        within = {key: _content(value) for key, value in part.items()}
        return part if all(within[key] is value for key, value in part.items()) else within
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        held = {item.name: getattr(part, item.name) for item in dataclasses.fields(part)}
        within = {name: _content(value) for name, value in held.items()}
        return part if all(within[name] is held[name] for name in held) else (type(part).__qualname__, within)
    if not hasattr(part, "dtype") or not hasattr(part, "shape"):
        return part
    import numpy as np  # slow to import, and who has an array has paid for it

    array = part.detach().cpu().numpy() if hasattr(part, "detach") else part
    flat = np.ascontiguousarray(array).reshape(-1)  # no copy of what lies in order, which may be a whole dataset
    content = flat.view(np.uint8) if flat.dtype.itemsize and not flat.dtype.hasobject else flat.tobytes()
    return str(array.dtype), tuple(array.shape), hashlib.blake2b(content, digest_size=16).hexdigest()


def kept(path: str | Path, build: Callable[[Path], object], readable: Callable[[Path], object] | None = None) -> Path:
    """`path` if it is there, else made now: `build(aside)` under a lock, then renamed; returns `path`.

    A path with a suffix is a file, which `build` writes; one without is a folder, which `build` finds empty and fills.
    `readable(path)` raises where what is kept cannot be read: then it is put aside with a warning and made again. It is
    called on what was just built too, so that nothing is kept that can never be read. Whatever stops `build` is raised
    again and leaves nothing behind; a full or read-only disk is an OSError that says so.
    """
    path = Path(path)
    if _problem(path, readable) is None:
        return path
    with locked(path):
        problem = _problem(path, readable)  # another process may have made it while this one waited
        if problem is None:
            return path
        if path.exists():
            put_aside(path, problem)
        _build(path, build)
    if readable:
        readable(path)
    return path


def _problem(path: Path, readable: Callable[[Path], object] | None) -> Exception | None:
    """Why there is nothing to use at `path`; what is no damage (`passing`) is raised."""
    try:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "not there", str(path))
        if readable:
            readable(path)
    except Exception as error:
        if passing(error):
            raise
        return error
    return None


def passing(error: BaseException) -> bool:
    """Whether a file that could not be read may be whole all the same: it is someone else's (PermissionError), memory
    or handles have run out, or its disk does not answer."""
    return isinstance(error, (PermissionError, MemoryError)) or getattr(error, "errno", None) in PASSING


def _build(path: Path, build: Callable[[Path], object]) -> None:
    aside = path.with_name(f".{path.stem}.building{path.suffix}")
    _remove(aside)  # what a killed process left: the lock says that nobody writes there
    try:
        with _plain_words(path):
            if not path.suffix:
                aside.mkdir()
            build(aside)
            os.replace(aside, path)
    finally:
        _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def atomic_write(path: str | Path, writer: Callable[[Path], object]) -> Path:
    """Let `writer(temporary_path)` write a file beside `path` (same suffix), then rename it to `path` in one step.

    A reader sees the old file or the new one, never a part. Whatever stops the writer (Ctrl-C, a bug) is raised again,
    the temporary file is removed and `path` stays as it was; a full or read-only disk is an OSError that says so.
    Folders are made as needed; returns `path`.
    """
    path = Path(path)
    aside = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}{path.suffix}")
    with _plain_words(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            writer(aside)
            os.replace(aside, path)
        finally:
            _remove(aside)
    return path


@contextlib.contextmanager
def _plain_words(path: Path) -> Iterator[None]:
    """Say in words what a disk refuses: it is full (whoever wrote, and whatever it raised), or not ours to write to."""
    try:
        yield
    except Exception as error:
        if "REIDNB_CACHE" in str(error):
            raise  # said already
        number, about = getattr(error, "errno", None), str(getattr(error, "filename", None) or path.parent)
        if number in (errno.ENOSPC, errno.EDQUOT) or FULL.search(str(error)):
            folder = _existing(path.parent)
            raise OSError(
                errno.ENOSPC,
                f"cannot write {path}: the disk is full, or your share of it is used up; {_gigabytes(_free(folder))} "
                f"are free in {folder}. Free some, or set REIDNB_CACHE to a folder on another disk ({error})",
            ) from error
        if number in (errno.EROFS, errno.EACCES, errno.EPERM) and about.startswith(str(_existing(path.parent))):
            raise OSError(
                number, f"cannot write {path} ({error.strerror}): set REIDNB_CACHE to a folder that you may write to"
            ) from error
        raise


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold the lock of `path` (an empty file `path`.lock, which stays): one process at a time is inside, others wait.

    It is the system's own file lock, so it ends with the process that holds it, however that process ends.
    Raises OSError where the file system offers no locks (some network disks), or the folder cannot be written to.
    """
    import filelock  # here, since who only reads what is kept needs no lock

    path = Path(path)
    file = path.with_name(path.name + ".lock")
    with _plain_words(file):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(file)
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            print(f"reidnb: waiting for another process that is making {path}", file=sys.stderr, flush=True)
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # the second is filelock's, on a file system without locks
        number, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or error
        raise OSError(
            number, f"cannot lock {file} ({reason}): set REIDNB_CACHE to a folder on a local disk that you may write to"
        ) from error
    try:
        yield
    finally:
        lock.release()


def put_aside(path: str | Path, problem: object) -> Path:
    """Rename what cannot be read to `.damaged`, for whoever wants to look, and warn; returns the new path."""
    path = Path(path)
    aside = path.with_suffix(".damaged")
    with _plain_words(aside):
        _remove(aside)
        os.replace(path, aside)
    log.warning("%s cannot be read (%s): it is put aside as %s and made again", path, problem, aside.name)
    return aside


def kept_files(folder: str | Path, pattern: str = "*") -> list[Path]:
    """What is kept in `folder` under names like `pattern`: nothing half-written (hidden) or damaged, no locks."""
    found = (path for path in Path(folder).glob(pattern) if not path.name.startswith("."))
    return sorted(path for path in found if path.suffix not in (".lock", ".damaged"))


def walk(folder: str | Path) -> Iterator[tuple[str, os.DirEntry]]:
    """Every file in a folder and below, with its path from there, in no order; what is hidden (.name) is left aside,
    links are followed, a folder once, and a link to nothing is passed over."""
    waiting, seen = [("", Path(folder))], set()
    while waiting:
        prefix, place = waiting.pop()
        if (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    waiting.append((f"{prefix}{entry.name}/", Path(entry.path)))
                elif entry.is_file():
                    yield prefix + entry.name, entry


def require_space(folder: str | Path, needed: int, what: str = "what is to be kept there", instead: str = "") -> None:
    """Raise OSError if `needed` bytes do not fit on the folder's disk; `instead` is what else the caller can do."""
    folder = Path(folder)
    free = _free(_existing(folder))
    if needed > free:
        remedy = f"{instead}, or set" if instead else "free some, or set"
        raise OSError(
            errno.ENOSPC,
            f"{what} needs {_gigabytes(needed)}, but the disk of {folder} has {_gigabytes(free)} free: {remedy} "
            "REIDNB_CACHE to a folder on another disk",
        )


def _existing(folder: Path) -> Path:
    return next((place for place in (folder, *folder.parents) if place.is_dir()), Path("."))


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
