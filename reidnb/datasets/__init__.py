"""One interface over every dataset: `open_dataset(name)` -> train, query and gallery, decoded once and memory-mapped.

    market = open_dataset("market1501", root="...")     # or set REIDNB_DATA to the folder that holds the datasets
    print(market)                                       # images, identities and cameras per split
    market.train.images[:8], market.train.pids[:8]
"""

import warnings
from dataclasses import replace
from pathlib import Path

from reidnb.datasets.drawn import WORLDS, open_drawn
from reidnb.datasets.folders import LAYOUTS, open_folder
from reidnb.datasets.splits import ReIDDataset, Split, check_protocol, relabel

__all__ = ["DATASETS", "ReIDDataset", "Split", "check_protocol", "open_dataset", "relabel"]

DATASETS = (*WORLDS, *LAYOUTS)


def open_dataset(name: str = "synthetic", root: str | Path | None = None, size: tuple[int, int] | None = None,
                 **options) -> ReIDDataset:
    """Open a dataset by name (`DATASETS` lists them); its images are decoded the first time and mapped from then on.

    root: the dataset's folder, or one that holds it under its usual name; without it, the environment's REIDNB_DATA.
    size: (H, W) in pixels that every image is resized to, once; None is 128 x 64 for the built-in world and
        Market-1501, 256 x 128 for the others.
    options: what the dataset has of its own: the dials and counts of the built-in world (misalignment=2.0,
        train_identities=40), or those of its reader in `layouts` (images="labeled" for cuhk03).

    Raises ValueError (unknown name, bad option, a file or a label that cannot be read, no query with an answer),
    TypeError (unknown option), FileNotFoundError (no such folder, or not this dataset's layout), OSError (full disk).
    Warns when some queries have no answer in the gallery.
    """
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
