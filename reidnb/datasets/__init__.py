"""One interface over every dataset: `open_dataset(name)` -> train, query and gallery, decoded once and memory-mapped.

market = open_dataset("market1501", root="...")     # or set REIDNB_DATA to the folder that holds the datasets
pair = open_dataset("synthetic->market1501")        # learn from one, be tested on the other
print(market)                                       # images, identities and cameras per split
market.train.images[:8], market.train.pids[:8]
"""

import difflib
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from reidnb.datasets.builtin import SIZE, WORLDS, open_drawn, options_of_worlds, redraw, true_styles
from reidnb.datasets.cache import decode, pictures_below
from reidnb.datasets.folders import LAYOUTS, open_folder, options_of
from reidnb.datasets.partial import check_share, cut, with_people
from reidnb.datasets.splits import ReIDDataset, Split, check_protocol, relabel

__all__ = [
    "DATASETS",
    "ReIDDataset",
    "Split",
    "check_name",
    "check_protocol",
    "decode",
    "has_attributes",
    "is_drawn",
    "open_dataset",
    "option_names",
    "pictures_below",
    "redraw",
    "relabel",
    "true_styles",
]

MOST_WORLDS = 1_000_000  # they are numbered from 0
DATASETS = (*WORLDS, *LAYOUTS)


def open_dataset(
    name: str = "synthetic",
    root: str | Path | None = None,
    size: tuple[int, int] | None = None,
    world: int = 0,
    partial: float = 0.0,
    **options,
) -> ReIDDataset:
    """Open a dataset by name (`DATASETS` lists them); its images are decoded the first time and mapped from then on.

    root: the dataset's folder, or one that holds it under its usual name; without it, the environment's REIDNB_DATA.
    size: (H, W) in pixels that every image is resized to, once; None is 128 x 64 for the built-in world and
        Market-1501, 256 x 128 for the others.
    world: which of a drawn dataset's worlds, each with other people (and, but for summer and winter, other cameras): a
        seed of an experiment is a world. Photographs have one, and take no notice.
    partial: up to which share of height and width is cut off query and gallery pictures, by lot and into memory
        (`datasets.partial`).
    options: train_identities=40, how many people there are to learn from (photographs: 40 of theirs, by lot); and what
        the dataset has of its own: the other counts and the dials of the built-in world (misalignment=2.0), or those of
        its reader in `layouts` (images="labeled" for cuhk03).

    A name of two, "source->target", is a pair of domains: train is the source's, query and gallery are the target's,
    and `target` holds the target's training images without identities (all -1) or other labels than cameras. The
    options go to both.

    Raises ValueError (unknown name, bad option, a file or label that cannot be read or used, no query with an answer),
    TypeError (unknown option), FileNotFoundError (no such folder, or not this dataset's layout), OSError (full disk).
    Warns when some queries have no answer in the gallery.
    """
    check_name(name)
    if not isinstance(world, (int, np.integer)) or isinstance(world, bool) or not 0 <= world < MOST_WORLDS:
        raise ValueError(f"world must be a whole number from 0 on, below a million; got {world!r}")
    options |= {"world": int(world)} if world and is_drawn(name) else {}
    if check_share(partial):
        whole = open_dataset(name, root, size, **options)
        height, width = whole.query.images.shape[2:]
        found = cut(whole, open_dataset(name, root, (2 * height, 2 * width), **options), float(partial))
        return replace(found, options=options | {"partial": float(partial)})
    if "->" in name:
        return _open_pair(*name.split("->", 1), root, size, options)
    if name in WORLDS:
        if root is not None:
            raise TypeError(f"{name} is drawn, not read from a folder: it has no root")
        dataset = open_drawn(name, size, options)
    else:
        read = {option: value for option, value in options.items() if option != "train_identities"}
        dataset = open_folder(name, root, size, read)
        if "train_identities" in options:
            dataset = with_people(dataset, options["train_identities"])
    found = check_protocol(dataset)
    if found["answerable"] < found["queries"]:
        warnings.warn(
            f"{name}: {found['queries'] - found['answerable']} of {found['queries']} queries have no answer in the "
            f"gallery, so evaluation leaves them out: {found['not_in_gallery']} have an identity that is not there, "
            f"{found['same_camera_only']} one seen only by the query's own camera",
            stacklevel=2,
        )
    return replace(dataset, options=options)


def check_name(name: str) -> None:
    """Refuse a dataset, or a pair of them, that does not exist: ValueError."""
    for part in name.split("->", 1) if isinstance(name, str) else [name]:
        if part not in DATASETS:
            near = difflib.get_close_matches(str(part), DATASETS, 1)
            raise ValueError(
                f"unknown dataset {part!r}; known: {', '.join(DATASETS)}, or two of them as source->target"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )


def is_drawn(name: str) -> bool:
    """Is it, or one of the pair, a built-in world, of which there are many?"""
    return any(part in WORLDS for part in name.split("->", 1))


def option_names(name: str) -> tuple[str, ...]:
    """The options that `open_dataset(name, ...)` takes besides root, size and world; of a pair those that both of it
    take, since they are given to both. ValueError for an unknown name."""
    check_name(name)
    people = ("train_identities",)  # the worlds have it among their own
    source, *target = (
        options_of_worlds() if part in WORLDS else options_of(part) + people for part in name.split("->", 1)
    )
    return (*(option for option in source if not target or option in target[0]), "partial")


def has_attributes(name: str) -> bool:
    """Does this dataset come with attributes (the built-in world), or do its authors' labels lie beside it? Of a pair
    its source must. A table of one's own ("csv") may have some; nobody knows before it is opened. ValueError for an
    unknown name."""
    check_name(name)
    source = name.split("->", 1)[0]
    return source in WORLDS or bool(LAYOUTS[source].attributes)


def _open_pair(
    source: str, target: str, root: str | Path | None, size: tuple[int, int] | None, options: dict
) -> ReIDDataset:
    """Two datasets as one: learn from `source`, adapt to and be tested on `target`."""
    if root is not None:
        raise TypeError(f"{source}->{target}: a pair has no one root; set REIDNB_DATA to the folder that holds both")
    world = options.pop("world", 0)
    ours, theirs = (open_dataset(name, None, size or SIZE, world, **options) for name in (source, target))
    # no file names either: they begin with the identity
    hidden = Split(theirs.train.images, np.full(len(theirs.train), -1), theirs.train.camids)
    names = ours.attribute_names if ours.attribute_names == theirs.attribute_names else ()
    return replace(
        ours,
        name=f"{source}->{target}",
        options=options | ({"world": world} if world else {}),
        attribute_names=names,
        target=hidden,
        query=theirs.query,
        gallery=theirs.gallery,
        multi_query=theirs.multi_query,
        fingerprint=f"{ours.fingerprint} -> {theirs.fingerprint}",
    )
