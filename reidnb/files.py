"""Where reidnb keeps things on disk, and how it writes them so that nothing half-written is ever read."""

import contextlib
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def cache_root() -> Path:
    """The folder of all that can be made again: REIDNB_CACHE, else XDG_CACHE_HOME/reidnb, else ~/.cache/reidnb."""
    if os.environ.get("REIDNB_CACHE"):
        return Path(os.environ["REIDNB_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "reidnb"


def write_aside(path: str | Path, writer: Callable[[Path], object]) -> Path:
    """Let `writer(temporary_path)` write a file beside `path` (same suffix), then rename it to `path` in one step.

    A reader sees the old file or the new one, never a part. Whatever stops the writer (a full disk, Ctrl-C, a bug) is
    raised again, the temporary file is removed and `path` stays as it was. Folders are made as needed; returns `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        writer(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold the lock of `path` (an empty file `path`.lock, which stays): one process at a time is inside, others wait.

    It is the system's own file lock, so it ends with the process that holds it, however that process ends.
    Raises OSError where the file system offers no locks (some network disks).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "a+b") as file:
        try:
            if not _try_lock(file):
                print(f"reidnb: waiting for another process that is making {path}", file=sys.stderr, flush=True)
                _wait_for_lock(file)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot lock {file.name} ({error.strerror}): set REIDNB_CACHE to a folder on a local disk"
            ) from error
        try:
            yield
        finally:
            _unlock(file)


def _try_lock(file) -> bool:
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):  # what the two systems say when another process holds it
        return False
    return True


def _wait_for_lock(file) -> None:
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    import time

    while not _try_lock(file):
        time.sleep(0.2)


def _unlock(file) -> None:
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_UN)
    else:
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
