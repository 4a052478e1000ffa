"""One interface over every dataset: `open_dataset(name)` -> train, query and gallery, decoded once and memory-mapped.

    market = open_dataset("market1501", root="...")     # or set REIDNB_DATA to the folder that holds the datasets
    pair = open_dataset("synthetic->market1501")        # learn from one, be tested on the other
    print(market)                                       # images, identities and cameras per split
    market.train.images[:8], market.train.pids[:8]
"""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from reidnb.datasets.drawn import SIZE, WORLDS, open_drawn, true_styles
from reidnb.datasets.folders import LAYOUTS, open_folder
from reidnb.datasets.splits import ReIDDataset, Split, check_protocol, relabel

__all__ = ["DATASETS", "ReIDDataset", "Split", "check_name", "check_protocol", "open_dataset", "relabel", "true_styles"]

DATASETS = (*WORLDS, *LAYOUTS)


def open_dataset(name: str = "synthetic", root: str | Path | None = None, size: tuple[int, int] | None = None,
                 **options) -> ReIDDataset:
    """Open a dataset by name (`DATASETS` lists them); its images are decoded the first time and mapped from then on.

    root: the dataset's folder, or one that holds it under its usual name; without it, the environment's REIDNB_DATA.
    size: (H, W) in pixels that every image is resized to, once; None is 128 x 64 for the built-in world and
        Market-1501, 256 x 128 for the others.
    options: what the dataset has of its own: the dials and counts of the built-in world (misalignment=2.0,
        train_identities=40), or those of its reader in `layouts` (images="labeled" for cuhk03).

    A name of two, "source->target", is a pair of domains: train is the source's, query and gallery are the target's,
    and `target` holds the target's training images without identities (all -1) or other labels than cameras. The
    options go to both.

    Raises ValueError (unknown name, bad option, a file or a label that cannot be read, no query with an answer),
    TypeError (unknown option), FileNotFoundError (no such folder, or not this dataset's layout), OSError (full disk).
    Warns when some queries have no answer in the gallery.
    """
    if "->" in name:
        return _open_pair(*name.split("->", 1), root, size, options)
    if name in WORLDS:
        if root is not None:
            raise TypeError(f"{name} is drawn, not read from a folder: it has no root")
        dataset = open_drawn(name, size, options)
    elif name in LAYOUTS:
        dataset = open_folder(name, root, size, options)
    else:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    found = check_protocol(dataset)
    if found["answerable"] < found["queries"]:
        warnings.warn(
            f"{name}: {found['queries'] - found['answerable']} of {found['queries']} queries have no answer in the "
            f"gallery, so evaluation leaves them out: {found['not_in_gallery']} have an identity that is not there, "
            f"{found['same_camera_only']} one seen only by the query's own camera", stacklevel=2)
    return replace(dataset, options=options)


def check_name(name: str) -> None:
    """Refuse a dataset, or a pair of them, that does not exist: ValueError."""
    for part in name.split("->", 1):
        if part not in DATASETS:
            raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, or two as source->target; got {name!r}")


def _open_pair(source: str, target: str, root: str | Path | None, size: tuple[int, int] | None,
               options: dict) -> ReIDDataset:
    """Two datasets as one: learn from `source`, adapt to and be tested on `target`."""
    check_name(f"{source}->{target}")
    if root is not None:
        raise TypeError(f"{source}->{target}: a pair has no one root; set REIDNB_DATA to the folder that holds both")
    ours, theirs = (open_dataset(name, None, size or SIZE, **options) for name in (source, target))
    # no file names either: they begin with the identity
    hidden = Split(theirs.train.images, np.full(len(theirs.train), -1), theirs.train.camids)
    names = ours.attribute_names if ours.attribute_names == theirs.attribute_names else ()
    return replace(ours, name=f"{source}->{target}", attribute_names=names, target=hidden, query=theirs.query,
                   gallery=theirs.gallery, multi_query=theirs.multi_query,
                   fingerprint=f"{ours.fingerprint} -> {theirs.fingerprint}")
