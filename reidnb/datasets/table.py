"""A folder of one's own, described by a table: the layout "csv". Nothing is decoded here."""

import codecs
import csv
import io
import logging
import posixpath
import re
from pathlib import Path

import numpy as np

from reidnb.datasets.layouts import Listing, existing
from reidnb.datasets.people import SPLITS, by_people, numbered, split_beside

log = logging.getLogger("reidnb")
WANTED = ("path", "pid")
KNOWN = (*WANTED, "camid", "split", "tracklet")
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
NUMBER = re.compile(r"[+-]?[\d.,]+([eE][+-]?\d+)?")  # written as one, whether or not it is a whole one
WHOLE = re.compile(r"[+-]?\d{1,18}")  # what fits into 64 bits


def read_table(
    folder: Path, table: str = "index.csv", encoding: str | None = None, split_seed: int = 0
) -> dict[str, Listing]:
    """Any folder described by a table with the columns path and pid, and camid, split and tracklet where there are any.

    path is relative to the folder; pid counts from 1 (0 = distractor, -1 = junk, in the gallery only), camid from 0;
    or all of a column are names. split is train, query or gallery. What a table does not say is settled as in
    `people.by_people`: without camid only the query's own file is left out, without split half of the people are
    drawn by lot, by `split_seed`, and written beside the table. Every further column of whole numbers is an attribute
    (-1 or empty = unknown); columns of anything else, and those without a name (row numbers), are left aside. Cells are
    parted by commas, semicolons or tabs; encoding: the file's, where it is neither UTF-8 nor marked as UTF-16.
    """
    path = existing(folder, table)
    names, rows = _rows(path, encoding)
    if missing := [name for name in WANTED if name not in names]:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(names)}")
    columns = {name: [row[i] for _, row in rows] for i, name in enumerate(names) if name}
    lines = [line for line, _ in rows]
    files = _paths(path, lines, columns["path"])
    ids = {"pid": _people(path, lines, columns), "camid": _cameras(path, lines, columns, files)}
    if "tracklet" in columns:
        ids["tracklet"] = _whole(path, lines, columns, "tracklet", 0)
    _once(path, lines, files, columns.get("split"), ids["pid"])
    if "split" in columns:
        parts = _given_splits(path, lines, columns["split"])
    else:
        named = _names(path, lines, columns, "pid")
        people = columns["pid"] if named else ids["pid"].astype(str).tolist()  # 1 and 01 are one person
        parts = by_people(split_beside(folder, table, split_seed), people, ids["pid"], ids["camid"], split_seed)
    attributes = {
        name: [int(cell or -1) for cell in cells]
        for name, cells in columns.items()
        if name not in KNOWN and any(cells) and all(not c or WHOLE.fullmatch(c) for c in cells)
    }
    values = np.array([*attributes.values()], np.int64).reshape(len(attributes), len(rows)).T
    listings = {}
    for split in SPLITS:
        chosen = np.array(sorted(parts[split], key=files.__getitem__), np.int64)
        listings[split] = Listing(
            [files[i] for i in chosen],
            ids["pid"][chosen],
            ids["camid"][chosen],
            values[chosen] if attributes else None,
            tuple(attributes),
            ids["tracklet"][chosen] if "tracklet" in ids else None,
            place=table,
        )
    return listings


def _rows(path: Path, encoding: str | None) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the rows with their line numbers, cells stripped of spaces."""
    data = path.read_bytes()
    encoding = encoding or next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except (UnicodeError, LookupError) as error:
        raise ValueError(
            f"{path} cannot be read as {encoding} ({error}): save it as UTF-8 (in Excel: CSV UTF-8), or say what it is "
            "written in, such as encoding='gbk'"
        ) from error
    if "\0" in text:
        raise ValueError(f"{path} is no text, or UTF-16 without its mark: save it as UTF-8 (in Excel: CSV UTF-8)")
    header = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} of {path} cannot be read ({error})") from error
    if not rows:
        raise ValueError(
            f"{path} is empty: its first line names the columns {', '.join(KNOWN[:4])}, then a row an image"
        )
    (_, names), rows = rows[0], rows[1:]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"{path} has two columns of the name {', '.join(twice)}: rename or remove one")
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(f"line {line} of {path} has {len(row)} cells, but the first line {len(names)}: {row[0]!r}")
    return ["" if name.startswith("Unnamed: ") else name for name in names], rows


def _people(path: Path, lines: list[int], columns: dict[str, list[str]]) -> np.ndarray:
    """Column pid: whole numbers, or names, which are numbered from 1 in their order."""
    if _names(path, lines, columns, "pid"):
        return numbered(columns["pid"], 1)[0]
    return _whole(path, lines, columns, "pid", -1)


def _cameras(path: Path, lines: list[int], columns: dict[str, list[str]], files: list[str]) -> np.ndarray:
    """Column camid: whole numbers from 0, or names; without it, or a word in it, a camera for each picture, so that a
    query that is in the gallery too does not find itself."""
    if not any(columns.get("camid", ())):
        return numbered(files)[0]
    if _names(path, lines, columns, "camid"):
        return numbered(columns["camid"])[0]
    return _whole(path, lines, columns, "camid", 0)


def _names(path: Path, lines: list[int], columns: dict[str, list[str]], name: str) -> bool:
    """Names, all of them? A number among names is more likely a slip: ValueError."""
    words = [bool(cell) and not NUMBER.fullmatch(cell) for cell in columns[name]]
    if 2 * sum(words) > len(words) and not all(words):
        odd = words.index(False)
        raise ValueError(
            f"column {name} of {path} holds names, but line {lines[odd]} has {columns[name][odd] or 'nothing'!r}: "
            "write names in all of it, such as p7, or whole numbers in all of it"
        )
    return all(words)


def _once(path: Path, lines: list[int], files: list[str], splits: list[str] | None, pids: np.ndarray) -> None:
    """ValueError for an image that stands twice in a split, or for two people; a warning for one that is learned from
    and searched for."""
    seen, people, sides = {}, {}, {}
    for line, file, split, pid in zip(lines, files, splits or [""] * len(files), pids.tolist(), strict=True):
        if (split, file) in seen:
            raise ValueError(f"{path} names {file} twice, in lines {seen[split, file]} and {line}: remove one of them")
        if people.setdefault(file, pid) != pid:
            raise ValueError(f"{path} names {file} for two people, once of them in line {line}: mend or remove one")
        seen[split, file] = line
        sides.setdefault(file, set()).add(split)
    if both := [file for file, where in sides.items() if "train" in where and len(where) > 1]:
        told = f"{len(both)} images, such as {both[0]}"
        log.warning("%s has %s, among those to learn from and those to test: scores will be too good", path, told)


def _given_splits(path: Path, lines: list[int], cells: list[str]) -> dict[str, list[int]]:
    """The rows of each split, or ValueError."""
    if odd := sorted(set(cells) - set(SPLITS)):
        said = ", ".join(name or "an empty cell" for name in odd)
        line = lines[cells.index(odd[0])]
        raise ValueError(f"column split of {path} holds {said}; wanted train, query or gallery (line {line})")
    return {split: [row for row, cell in enumerate(cells) if cell == split] for split in SPLITS}


def _whole(path: Path, lines: list[int], columns: dict[str, list[str]], name: str, lowest: int) -> np.ndarray:
    """A column of whole numbers from `lowest`, or ValueError."""
    for line, cell in zip(lines, columns[name], strict=True):
        if not WHOLE.fullmatch(cell) or not lowest <= int(cell) < 2**31:
            people = " (identities from 1, 0 for distractors, -1 for junk)" if name == "pid" else ""
            raise ValueError(
                f"column {name} of {path} must hold whole numbers from {lowest} up, below 2^31{people}; line "
                f"{line} has {repr(cell) if cell else 'an empty cell'}"
            )
    return np.array([int(cell) for cell in columns[name]], np.int64)


def _paths(path: Path, lines: list[int], cells: list[str]) -> list[str]:
    """The paths as this system writes them, below the table's folder and each in one way, or ValueError."""
    cells = [cell.replace("\\", "/") for cell in cells]
    for line, cell in zip(lines, cells, strict=True):
        if not cell:
            raise ValueError(
                f"column path of {path} has an empty cell in line {line}: name the image, or remove the row"
            )
        if cell.startswith("/") or re.match(r"[A-Za-z]:", cell) or ".." in cell.split("/"):
            raise ValueError(f"column path of {path} must stay below {path.parent}; got {cell} in line {line}")
    return [posixpath.normpath(cell) for cell in cells]
