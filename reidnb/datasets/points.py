"""Key points that another program found on a dataset's photographs, and where the person is: keypoints.csv in the
dataset's folder, a row a picture, in pixels of the picture as it is on disk (upright, as its EXIF tag says)."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reidnb.files import digest
from reidnb.synthetic import KEYPOINTS

TABLE = "keypoints.csv"
POINTS = tuple(f"{name}_{axis}" for name in KEYPOINTS for axis in ("x", "y", "visible"))
COLUMNS = ("file", "width", "height", "found", *POINTS)
MASK, CELLS = "mask", (64, 32)  # a column that may be missing: a bit a cell of a grid over the picture, in hex
MARK = "+points:"  # behind it, a fingerprint has the digest of key points that came from a table


class Body(NamedTuple):
    """What is known of one picture: its size in pixels, the points (14, 3), x, y and visible, None where nobody was
    found, and the cells that the person fills, bool CELLS, None where they were not asked for."""

    width: int
    height: int
    points: np.ndarray | None
    mask: np.ndarray | None = None


def as_row(file: str, body: Body) -> list[str]:
    """A picture's cells, in the order of COLUMNS and MASK; hundredths of a pixel, thousandths of visibility."""
    points = np.zeros((len(KEYPOINTS), 3)) if body.points is None else body.points
    cells = [f"{value:.{3 if axis == 2 else 2}f}" for point in points.tolist() for axis, value in enumerate(point)]
    mask = "" if body.mask is None else np.packbits(body.mask).tobytes().hex()
    return [file, str(body.width), str(body.height), str(int(body.points is not None)), *cells, mask]


def write_points(path: Path, bodies: Mapping[str, Body]) -> None:
    """The whole table, in the order of the files' names."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([(*COLUMNS, MASK), *(as_row(*one) for one in sorted(bodies.items()))])


def read_points(path: Path, cut: bool = False) -> dict[str, Body]:
    """The table -> {file: Body}. Columns may stand in any order, and others beside them. ValueError, with file and
    line, for what is malformed. `cut`: whether the last line may be half a line, as a killed process leaves it; then
    it is left out."""
    try:
        text = path.read_bytes().decode("utf-8-sig", "ignore" if cut else "strict")
    except UnicodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): {REMEDY}") from error
    if cut:
        text = text[: text.rfind("\n") + 1]
    if "\0" in text:
        raise ValueError(f"{path} is no text: {REMEDY}")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found: dict[str, Body] = {}
    try:
        names = next(reader, [])
        if missing := [name for name in COLUMNS if names.count(name) != 1]:
            few = ", ".join(missing[:4]) + f" and {len(missing) - 4} more" * (len(missing) > 4)
            got = ", ".join(names[:4]) or "nothing"
            raise ValueError(f"line 1 of {path} must have each of {len(COLUMNS)} columns once, not so {few}; it has "
                             f"{got}{' ...' * (len(names) > 4)}. {REMEDY}")  # fmt: skip
        if names.count(MASK) > 1:
            raise ValueError(f"line 1 of {path} has {names.count(MASK)} columns {MASK}, wanted one or none. {REMEDY}")
        where = [names.index(name) for name in (*COLUMNS, *[MASK] * (MASK in names))]
        for row in reader:
            if not row:
                continue
            place = f"line {reader.line_num} of {path}"
            if len(row) != len(names):
                raise ValueError(f"{place} has {len(row)} cells, wanted {len(names)}, as many as line 1. {REMEDY}")
            file, body = _row(place, [row[i] for i in where])
            if file in found:
                raise ValueError(f"{place} is about {file!r}, which has a row already: remove one")
            found[file] = body
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} of {path} cannot be read ({error}). {REMEDY}") from error
    return found


REMEDY = "Mend it, or remove it and let `reidnb keypoints` write it anew"


def _row(place: str, cells: list[str]) -> tuple[str, Body]:
    file, width, height, found, *points = cells[: len(COLUMNS)]
    if not file:
        raise ValueError(f"{place} names no file. {REMEDY}")
    for name, cell in (("width", width), ("height", height)):
        if not re.fullmatch(r"[1-9][0-9]{0,8}", cell):
            raise ValueError(f"{place}: {name} must be a picture's, in whole pixels from 1 on; got {cell!r}. {REMEDY}")
    if found not in ("0", "1"):
        raise ValueError(f"{place}: found must be 1 (somebody was found) or 0; got {found!r}. {REMEDY}")
    values = [_number(place, name, cell) for name, cell in zip(POINTS, points, strict=True)]
    points = np.array(values).reshape(-1, 3) if found == "1" else None
    return file, Body(int(width), int(height), points, _mask(place, "".join(cells[len(COLUMNS) :])))


def _mask(place: str, cell: str) -> np.ndarray | None:
    """A cell as the person's mask, bool CELLS; None for an empty one."""
    digits = CELLS[0] * CELLS[1] // 4
    if not re.fullmatch(f"([0-9a-f]{{{digits}}})?", cell):
        got = f"{cell[:20]!r}{' ...' * (len(cell) > 20)}, {len(cell)} characters"
        raise ValueError(f"{place}: {MASK} must be nothing or {digits} digits 0 to 9 and a to f; got {got}. {REMEDY}")
    return np.unpackbits(np.frombuffer(bytes.fromhex(cell), np.uint8)).reshape(CELLS).astype(bool) if cell else None


def _number(place: str, name: str, cell: str) -> float:
    """A cell as a number: of a picture's pixels, or 0 to 1 of what is visible."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not (0 <= value <= 1 if name.endswith("visible") else abs(value) < 1e6):  # NaN too
        wanted = "a number from 0 to 1" if name.endswith("visible") else "a number of pixels"
        raise ValueError(f"{place}: {name} must be {wanted}; got {cell!r}. {REMEDY}")
    return value


def refuse_strangers(path: Path, bodies: Mapping[str, Body], files: list[str]) -> None:
    """ValueError where the table tells of none of a dataset's pictures: then it was made for another folder."""
    if bodies and bodies.keys().isdisjoint(files):
        raise ValueError(
            f"{path} has no row of any of the dataset's {len(files)} pictures: its files are called such as "
            f"{min(bodies)}, wanted {files[0]}, relative to {path.parent}. Run `reidnb keypoints {path.parent}`, and "
            "remove this table before"
        )


def join_points(files: Iterable[str], bodies: Mapping[str, Body], size: tuple[int, int]) -> np.ndarray:
    """Key points float32 (N, 14, 3) of pictures as they were scaled to `size` (H, W). Pictures that have no row, and
    those in which nobody was found, have zeros, so visible 0."""
    files = list(files)
    points = np.zeros((len(files), len(KEYPOINTS), 3), np.float32)
    for row, file in enumerate(files):
        body = bodies.get(file)
        if body is not None and body.points is not None:
            points[row] = body.points * (size[1] / body.width, size[0] / body.height, 1)
    return points


def join_masks(files: Iterable[str], bodies: Mapping[str, Body], size: tuple[int, int]) -> np.ndarray:
    """Masks uint8 (N, H, W) of pictures as they were scaled to `size` (H, W): 1 where the person is. Of a pixel speaks
    the cell over its middle. All 0 where nothing is known."""
    files = list(files)
    rows, columns = (
        ((np.arange(side) + 0.5) * cells / side).astype(int) for side, cells in zip(size, CELLS, strict=True)
    )
    masks = np.zeros((len(files), *size), np.uint8)
    for row, file in enumerate(files):
        body = bodies.get(file)
        if body is not None and body.mask is not None:
            masks[row] = body.mask[rows][:, columns]
    return masks


def with_points(fingerprint: str, points: Iterable[np.ndarray]) -> str:
    """A dataset's fingerprint that tells of key points from a table too. They stand apart, since only what uses them
    depends on them: `without_points` is what it was before."""
    return f"{fingerprint}{MARK}{digest(list(points))}"


def without_points(fingerprint: str) -> str:
    """Of a pair, and of whatever was made of such a dataset, too."""
    return re.sub(re.escape(MARK) + "[0-9a-f]{16}", "", fingerprint)
