"""Loading: a dataset's splits, decoded once, kept as uint8 arrays under `files.cache_root()` and mapped from then on.

A kept dataset is one folder, `<name>-<settings>-<state>`, with `<split>.npy` (N x 3 x H x W), `<split>.masks.npy` where
there are masks, and `labels.npz`. The rooms beside this one say what goes into it: `folders` for photographs, `builtin`
for the drawn world.
"""

import contextlib
import hashlib
import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from reidnb import files
from reidnb.datasets.points import with_points
from reidnb.datasets.splits import ReIDDataset, Split

FORMAT = 1  # raise it when a change to this package gives other images or labels for the same files
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
ORIENTATION = 0x0112  # the EXIF tag of how the camera was held


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


def _walk(folder: Path) -> list[tuple[str, int, int]]:
    return [(name, *_state(entry.stat())) for name, entry in files.walk(folder)]


def load(name: str, settings: str, state: str, build: Callable[[Path], object]) -> ReIDDataset:
    """The dataset that is kept for (name, settings, state); `build(folder)` fills its folder if it is not there yet, or
    damaged. Folders of the same name and settings in another state (the dataset changed) are removed after a build.
    """
    home, opened = files.cache_root() / "datasets" / f"v{FORMAT}", {}

    def read(folder):
        opened[folder] = _map(name, folder)

    def build_instead(folder):
        build(folder)
        for outdated in files.kept_files(home, f"{name}-{settings}-*"):
            shutil.rmtree(outdated, ignore_errors=True)  # another process may still have it mapped (Windows)

    return opened[files.kept(home / f"{name}-{settings}-{state}", build_instead, read)]


def _map(name: str, kept: Path) -> ReIDDataset:
    """Map a folder that `build` filled."""
    with np.load(kept / "labels.npz") as stored:
        labels = {key: stored[key] for key in stored.files}
    names, fingerprint = tuple(labels.pop("attribute_names").tolist()), str(labels.pop("fingerprint"))
    splits, shots = {}, {}
    for path in kept.glob("*.npy"):  # train.npy, train.masks.npy
        split, _, field = path.stem.partition(".")
        splits.setdefault(split, {})[field or "images"] = np.load(path, mmap_mode="r")
    for key, values in labels.items():  # train.pids, train.shots.view
        split, field, *column = key.split(".")
        values.flags.writeable = False
        (shots.setdefault(split, {}) if column else splits[split])[column[0] if column else field] = values
    if shots:
        import pandas as pd  # slow to import

        for split, columns in shots.items():
            splits[split]["shots"] = pd.DataFrame(columns)
    splits = {split: Split(**fields) for split, fields in splits.items()}
    return ReIDDataset(name, **splits, attribute_names=names, fingerprint=fingerprint)


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """`size` as two whole numbers, or ValueError."""
    try:
        height, width = (int(side) for side in size)
        if min(height, width) >= 8 and (height, width) == tuple(size):
            return height, width
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"size is (height, width) in whole pixels, at least 8 each, such as (128, 64); got {size!r}")


def require_room(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Raise OSError if `count` images of `size` (H, W) do not fit on the folder's disk, before any is decoded."""
    what = f"to keep {count} images of {size[0]} x {size[1]}"
    files.require_space(folder.parent, count * 3 * size[0] * size[1], what, "pass a smaller size=(H, W)")


def pictures_below(folder: Path) -> list[Path]:
    """All pictures in a folder and below it, by their endings (PICTURES), in the order of names, as `files.walk` finds
    them. ValueError without one."""
    found = sorted(folder / name for name, _ in files.walk(folder) if Path(name).suffix.lower() in PICTURES)
    if not found:
        raise ValueError(f"{folder} holds no pictures ({', '.join(PICTURES)})")
    return found


def decode(source: str | Path | Image.Image, size: tuple[int, int], box: np.ndarray | None = None) -> np.ndarray:
    """An image (file or open) -> uint8 (3, H, W), antialiased; `box` (x, y, width, height) is cut out first.

    Turned upright as its EXIF tag says (a box is in pixels of the file, so then it is not); 16-bit grey and floats from
    0 to 1 are scaled to 0..255. Raises ValueError, with the file's name, for what cannot be read or has another range.
    """
    size = check_size(size)
    try:
        with contextlib.nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as image:
            if box is not None:
                x, y, w, h = (int(value) for value in box)
                if w < 1 or h < 1 or x >= image.width or y >= image.height or x + w <= 0 or y + h <= 0:
                    raise ValueError(f"the box {x, y, w, h} lies outside of its {image.width} x {image.height} pixels")
                image = image.crop((x, y, x + w, y + h))
            elif image.getexif().get(ORIENTATION, 1) != 1:
                image = ImageOps.exif_transpose(image)
            image = _eight_bits(image).convert("RGB")
            if image.size != (size[1], size[0]):
                image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)  # Pillow's filters antialias
            return np.asarray(image).transpose(2, 0, 1)
    except Exception as error:  # Pillow raises many kinds for a broken file
        if files.passing(error):
            raise
        why = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        there = not isinstance(error, FileNotFoundError)
        remedy = "Copy it again from where it came, or save it as 8-bit RGB" if there else "Is its path written right?"
        raise ValueError(f"cannot read the image {source} ({why}). {remedy}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits and floats from 0 to 1 scaled to 0..255, where Pillow would cut off what is above 255."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    low, high, most = values.min(initial=0), values.max(initial=0), 1 if image.mode == "F" else 65535
    if not (low >= 0 and high <= most):  # NaN too
        raise ValueError(f"its grey values go from {low} to {high}, wanted 0 to {most}")
    return Image.fromarray(np.rint(values * (255 / most)).astype(np.uint8))


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


def write_labels(
    folder: Path,
    labels: dict[str, np.ndarray],
    attribute_names: tuple[str, ...],
    digests: list,
    points: dict | None = None,
) -> None:
    """Write labels.npz: arrays named "<split>.<field>", the attributes' names, and the fingerprint of all content; in
    it `points`, arrays of the same names that were found on the pictures, stand apart."""
    fingerprint = files.digest(digests, [(key, labels[key].tobytes()) for key in sorted(labels)])
    fingerprint = with_points(fingerprint, [points[key] for key in sorted(points)]) if points else fingerprint
    np.savez(
        folder / "labels.npz",
        attribute_names=np.array(attribute_names, dtype=str),
        fingerprint=np.array(fingerprint),
        **labels,
        **(points or {}),
    )


def in_threads(work: Callable, items: Iterable) -> Iterator:
    """`map(work, items)` in order over a thread a core (Pillow decodes without the interpreter's lock), 256 ahead."""
    from concurrent.futures import ThreadPoolExecutor

    import joblib  # slow to import, and what is kept needs no thread

    items = iter(items)
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        while batch := list(itertools.islice(items, 256)):
            yield from pool.map(work, batch)


def progress(rows: Iterable, total: int, what: str) -> Iterator:
    """Pass `rows` on, with a bar in a terminal or a notebook, else a line at start and end; silent under 2 s."""
    shell = shell.get_ipython() if (shell := sys.modules.get("IPython")) else None
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
