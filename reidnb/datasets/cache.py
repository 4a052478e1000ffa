"""Images decoded once: a dataset's splits kept as memory-mapped uint8 arrays under `files.cache_root()`.

A kept dataset is one folder, `<name>-<settings>-<state>`, with `<split>.npy` (N x 3 x H x W), `<split>.masks.npy` where
there are masks, and `labels.npz`. It is filled under another name and renamed when it is whole, so a process killed
half-way leaves nothing that could be taken for it; a lock lets one process build while the others wait.
"""

import collections
import contextlib
import hashlib
import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from reidnb import files

FORMAT = 1  # raise it when a change to this package gives other images or labels for the same files


def digest(*parts: object) -> str:
    """16 hexadecimal digits that stand for the `repr` of the parts."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def folder_state(root: Path, parts: Iterable[str | Path]) -> str:
    """A digest of the names, sizes and modification times of all files in `parts` (files or folders, walked whole).

    About 5 microseconds a file on a local disk: 0.3 s for Market-1501, 6 s for the 1.2 million files of MARS.
    It cannot see a file rewritten with the same size and the same time stamp.
    """
    seen = hashlib.blake2b(digest_size=8)
    for part in parts:
        path = root / part
        entries = [] if not path.exists() else _walk(path) if path.is_dir() else [(path.name, *_state(path.stat()))]
        seen.update(repr((str(part) if not Path(part).is_absolute() else path.name, sorted(entries))).encode())
    return seen.hexdigest()


def _state(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _walk(folder: Path, prefix: str = "") -> list[tuple[str, int, int]]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                found += _walk(entry.path, f"{prefix}{entry.name}/")
            else:
                found.append((prefix + entry.name, *_state(entry.stat())))
    return found


def keep(name: str, settings: str, state: str, build: Callable[[Path], object]) -> Path:
    """The folder kept for (name, settings, state); `build(folder)` fills it if it is not there yet.

    Folders of the same name and settings in another state (the dataset changed) are removed after a build.
    """
    home = files.cache_root() / "datasets" / f"v{FORMAT}"
    kept = home / f"{name}-{settings}-{state}"
    if kept.is_dir():
        return kept
    with files.locked(home / f"{name}-{settings}"):
        if kept.is_dir():  # another process built it while this one waited
            return kept
        aside = home / f".{name}-{settings}"
        shutil.rmtree(aside, ignore_errors=True)  # what a killed process left: the lock says that nobody writes there
        aside.mkdir()
        try:
            build(aside)
            aside.rename(kept)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        for outdated in home.glob(f"{name}-{settings}-*"):
            if outdated != kept:
                shutil.rmtree(outdated, ignore_errors=True)  # another process may still have it mapped (Windows)
    return kept


def require_space(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Raise OSError if `count` images of `size` (H, W) do not fit on the folder's disk, before any is decoded."""
    needed, free = count * 3 * size[0] * size[1], shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{count} images of {size[0]} x {size[1]} need {needed / 1e9:.1f} GB, but the disk of {folder.parent} has "
            f"{free / 1e9:.1f} GB free: pass a smaller size=(H, W), or set REIDNB_CACHE to a folder on another disk")


def decode(source: Path | Image.Image, size: tuple[int, int], box: np.ndarray | None = None) -> np.ndarray:
    """An image (file or open) -> uint8 (3, H, W), antialiased; `box` (x, y, width, height) is cut out first."""
    with contextlib.nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as image:
        if box is not None:
            x, y, w, h = (int(value) for value in box)
            image = image.crop((x, y, x + w, y + h))
        image = image.convert("RGB")
        if image.size != (size[1], size[0]):
            image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)  # Pillow's filters antialias
        return np.asarray(image).transpose(2, 0, 1)


def write_arrays(paths: list[Path], shapes: list[tuple[int, ...]], rows: Iterable[tuple[np.ndarray, ...]]) -> str:
    """Write rows of one or more uint8 arrays into new .npy files of `shapes` (N, ...); returns a digest of the content.

    Plain writes, not a memory map: on a full disk a write raises OSError, where a map would kill the process (SIGBUS).
    """
    content = hashlib.blake2b(digest_size=8)
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(open(path, "wb")) for path in paths]
        for output, shape in zip(outputs, shapes, strict=True):
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(output, header)
        for row in rows:
            for output, values in zip(outputs, row, strict=True):
                data = np.ascontiguousarray(values).data
                output.write(data)
                content.update(data)
    return content.hexdigest()


def write_labels(folder: Path, labels: dict[str, np.ndarray], attribute_names: tuple[str, ...], digests: list) -> None:
    """Write labels.npz: arrays named "<split>.<field>", the attributes' names, and the fingerprint of all content."""
    fingerprint = digest(digests, [(key, labels[key].tobytes()) for key in sorted(labels)])
    np.savez(folder / "labels.npz", attribute_names=np.array(attribute_names, dtype=str),
             fingerprint=np.array(fingerprint), **labels)


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(work: Callable, items: Iterable) -> Iterator:
    """`map(work, items)` in order over a thread a core (Pillow decodes without the interpreter's lock), 64 ahead."""
    workers = cores()
    if workers == 1:
        yield from map(work, items)
        return
    items = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        ahead = collections.deque(pool.submit(work, item) for item in itertools.islice(items, 64))
        try:
            while ahead:
                result = ahead.popleft().result()
                ahead.extend(pool.submit(work, item) for item in itertools.islice(items, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)


def progress(rows: Iterable, total: int, what: str) -> Iterator:
    """Pass `rows` on, with a bar in a terminal or a notebook, else a line at start and end; silent under 2 s."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if sys.stderr.isatty() or hasattr(shell, "kernel"):
        from tqdm.auto import tqdm
        yield from tqdm(rows, what, total, leave=False, delay=2, unit=" images")
        return
    start, said = time.monotonic(), False
    for row in rows:
        if not said and time.monotonic() - start > 2:
            said = True
            print(f"reidnb: {what}: {total} images, once ...", file=sys.stderr, flush=True)
        yield row
    if said:
        print(f"reidnb: {what}: done in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
