"""Pictures of one's own, without a protocol: people by any names, cameras or none, and a split by people that is made
once, by a seed, and written down where its maker can read and change it. Nothing is decoded here."""

import contextlib
import csv
import logging
from collections import Counter
from pathlib import Path

import numpy as np

from reidnb.datasets.cache import pictures_below
from reidnb.datasets.layouts import Listing, existing
from reidnb.files import at_home, atomic_write

SPLITS = ("train", "query", "gallery")
WRITTEN = "reidnb_split.csv"
log = logging.getLogger("reidnb")


def read_folder(folder: Path, split_seed: int = 0) -> dict[str, Listing]:
    """A folder for each person, `ann/1.jpg`, or for each person's cameras, `ann/entrance/1.jpg`.

    Without cameras each picture counts as one of its own, so that evaluation leaves out the query's own file and
    nothing else. Below folders that are called train, query and gallery the split is theirs; else it is made by people
    (`by_people`), by the lot of `split_seed`. People and cameras are numbered in the order of their names.
    """
    files, people, cameras, splits = [], [], [], []
    paths = [path.relative_to(folder) for path in pictures_below(folder)]
    tops = {path.parts[0] for path in paths}
    split_so = tops == set(SPLITS)
    if not split_so and (said := tops & {*SPLITS, "test", "val"}):
        raise ValueError(
            f"{folder} has {', '.join(sorted(said))} among its folders: wanted train, query and gallery, all three, "
            "with the people in them, or people alone. Where folders say something else write a table, and open 'csv'"
        )
    for path in paths:
        parts = path.parts[:-1]
        if split_so:
            splits.append(parts[0])
            parts = parts[1:]
        if not 1 <= len(parts) <= 2:
            raise ValueError(
                f"{folder / path} lies in {len(parts)} folders; wanted one, the person's, or two, the person's and in "
                "it the camera's. Where folders say something else write a table and use open_dataset('csv')"
            )
        files.append(path.as_posix())
        people.append(parts[0])
        cameras.append(parts[1] if len(parts) == 2 else None)
    known = [camera is not None for camera in cameras]
    if any(known) and not all(known):
        raise ValueError(
            f"{folder / files[known.index(False)]} lies in no camera's folder, but {folder / files[known.index(True)]} "
            "does: give all pictures one, or none"
        )
    pids, camids = numbered(people, first=1)[0], numbered(cameras)[0] if all(known) else np.arange(len(files))
    if split_so:
        parts = {split: [row for row, found in enumerate(splits) if found == split] for split in SPLITS}
    else:
        parts = by_people(_seeded(folder / WRITTEN, split_seed), people, pids, camids, split_seed)
    return {
        split: Listing([files[row] for row in parts[split]], pids[parts[split]], camids[parts[split]], place=".")
        for split in SPLITS
    }


def by_people(
    written: Path, people: list[str], pids: np.ndarray, camids: np.ndarray, seed: int
) -> dict[str, list[int]]:
    """Pictures (N,) of people, by name and by number, seen by `camids` (N,) -> the rows of train, query and gallery.

    Half of the people are drawn by lot for training, and who is is written down (`split_of`). Every picture of the
    others is in the gallery, distractors and junk (pids below 1) too, and is a query where another camera saw its
    person.
    """
    rows = range(len(people))
    side = split_of(written, [people[row] for row in rows if pids[row] > 0], seed)
    train = [row for row in rows if pids[row] > 0 and side[people[row]] == "train"]
    gallery = sorted({*rows} - {*train})
    cameras = Counter(pid for pid, _ in {(int(pids[row]), int(camids[row])) for row in gallery})
    query = [row for row in gallery if pids[row] > 0 and cameras[int(pids[row])] > 1]
    return {"train": train, "query": query, "gallery": gallery}


def numbered(names: list[str], first: int = 0) -> tuple[np.ndarray, list[str]]:
    """Names (N,) -> their places in the order of names, counted from `first`; and that order."""
    order, places = np.unique(np.array(names, str), return_inverse=True)
    return places.astype(np.int64) + first, order.tolist()


def split_of(written: Path, people: list[str], seed: int) -> dict[str, str]:
    """Each person's side, "train" or "test": as the table `written` says it (person, split), else drawn by lot. Who is
    new is drawn and added to it; where it cannot be written the lot is drawn anew each time, and falls the same."""
    side = _read(written) if written.exists() else {}
    new = sorted(set(people) - set(side))
    if len({*people}) < 2:
        raise ValueError(
            f"{written.parent} has pictures of {len({*people})} people: wanted two or more, half of them to learn from "
            "and half to test"
        )
    if not new:
        return side
    drawn = np.random.default_rng(seed).permutation(len(new))
    trained = sum(found == "train" for found in side.values())
    wanted = (len(side) + len(new)) // 2 - trained
    side |= {new[place]: "train" if rank < wanted else "test" for rank, place in enumerate(drawn)}
    with contextlib.suppress(OSError):  # a folder that one may only read
        atomic_write(written, lambda path: _write(path, side))
        log.info(
            "who is learned from and who is tested is written in %s: edit it, or remove it to draw anew",
            _short(written),
        )
    return side


def _write(path: Path, side: dict[str, str]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("person", "split"), *sorted(side.items())])


def _read(path: Path) -> dict[str, str]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(row)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not written in UTF-8 ({error}): save it so (in Excel: CSV UTF-8)") from error
    rows = [[*row[:-1], row[-1].strip()] for row in rows]  # a folder's name may end in a space, a side does not
    odd = [row for row in rows[1:] if len(row) != 2 or row[1] not in ("train", "test")]
    if not rows or [cell.strip() for cell in rows[0]] != ["person", "split"] or odd:
        got = odd[0] if odd else rows[:1]
        raise ValueError(f"{path} must have the columns person and split, train or test; got {got}. Mend or remove it")
    if twice := [person for person, count in Counter(person for person, _ in rows[1:]).items() if count > 1]:
        raise ValueError(f"{path} names {twice[0]!r} more than once: remove all of its lines but one")
    return dict(rows[1:])


def _short(path: Path) -> str:
    """As its owner would write it, the home folder as ~."""
    home = at_home("~")
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _seeded(written: Path, seed: int) -> Path:
    """Each seed has a table of its own."""
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"split_seed must be a whole number from 0 up; got {seed!r}")
    return written.with_suffix(f".{seed}.csv") if seed else written


def split_beside(folder: Path, table: str, seed: int) -> Path:
    """Where the split that a table lacks is written: beside the table."""
    return _seeded(existing(folder, table).with_suffix(".split.csv"), seed)
