"""Opening a dataset that lies in a folder: find the folder, list its images, decode them once, map them."""

import inspect
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import truediv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from reidnb import files
from reidnb.datasets import cache, layouts, points
from reidnb.datasets.people import read_folder
from reidnb.datasets.splits import ReIDDataset, check_protocol
from reidnb.datasets.table import read_table


@dataclass(frozen=True)
class Layout:
    """How one dataset lies on disk."""

    read: Callable[..., dict[str, layouts.Listing]]  # (folder, **options) -> a listing per split
    marks: tuple[str, ...]  # what must lie in its folder; "a|b" is either of them
    names: tuple[str, ...]  # usual names of the folder itself
    about: str  # for whoever does not have it
    also: tuple[str, ...] = ()  # what else is read where it is there
    attributes: str = ""  # the name of its attribute file
    size: tuple[int, int] = (256, 128)
    source: Callable[[Path, str], Path | Image.Image] = truediv  # (folder, file) -> what holds the image
    ours: bool = False  # somebody's own pictures: a split that they lack is made and written down beside them


_MARKET = Layout(
    layouts.market1501,
    (*layouts.MARKET_FOLDERS.values(),),
    ("Market-1501-v15.09.15", "Market-1501", "market1501", "Market1501", "market1501/Market-1501-v15.09.15"),
    "Its authors (Zheng et al., ICCV 2015) give it out for research; unpack the archive and leave it as it is.",
    also=("gt_bbox",),
    attributes="market_attribute.mat",
    size=(128, 64),
)
_HALF = replace(_MARKET, read=partial(layouts.market1501_half, cameras=(1, 2, 3), part=0))
LAYOUTS = {
    "market1501": _MARKET,
    "market1501_first": _HALF,
    "market1501_second": replace(_HALF, read=partial(layouts.market1501_half, cameras=(4, 5, 6), part=1)),
    "dukemtmc": Layout(
        layouts.dukemtmc,
        (*layouts.MARKET_FOLDERS.values(),),
        ("DukeMTMC-reID", "dukemtmc-reid/DukeMTMC-reID", "dukemtmc-reid", "dukemtmcreid", "dukemtmc"),
        "DukeMTMC-reID was withdrawn by its authors in 2019, and reidnb never downloads it: this layout is for those "
        "who hold a copy they may use. synthetic_summer and synthetic_winter stand in for it.",
        attributes="duke_attribute.mat",
    ),
    "cuhk03": Layout(
        layouts.cuhk03,
        ("|".join(layouts.CUHK03_MAT),),
        ("cuhk03", "CUHK03", "cuhk03_release"),
        "cuhk-03.mat comes from its authors (Li et al., CVPR 2014); the 767/700 lists, "
        "cuhk03_new_protocol_config_detected.mat and _labeled.mat, from github.com/zhunzhong07/person-re-ranking.",
        also=tuple(
            f"{place}cuhk03_new_protocol_config_{images}.mat"
            for place in ("", "cuhk03_release/")
            for images in ("detected", "labeled")
        ),
        source=layouts.cuhk03_image,
    ),
    "msmt17": Layout(
        layouts.msmt17,
        (
            "list_train.txt",
            "list_val.txt",
            "list_query.txt",
            "list_gallery.txt",
            "train|mask_train_v2",
            "test|mask_test_v2",
        ),
        ("MSMT17_V1", "MSMT17_V2", "MSMT17", "msmt17", "msmt17/MSMT17_V1", "msmt17/MSMT17_V2"),
        "Its authors (Wei et al., CVPR 2018) give it out on request.",
    ),
    "mars": Layout(
        layouts.mars,
        ("bbox_train", "bbox_test", "info"),
        ("MARS", "mars", "MARS-v160809"),
        "Its authors (Zheng et al., ECCV 2016) give it out; the info folder is in "
        "github.com/liangzheng06/MARS-evaluation.",
    ),
    "cuhk_sysu": Layout(
        layouts.cuhk_sysu,
        (
            "Image/SSM",
            "annotation/test/train_test/Train.mat",
            "annotation/test/train_test/TestG50.mat|annotation/test/train_test/TestG100.mat",
        ),
        ("CUHK-SYSU", "cuhk_sysu", "cuhksysu", "CUHK-SYSU/dataset", "dataset"),
        "Its authors (Xiao et al., CVPR 2017) give it out on request.",
        also=("annotation/Images.mat", "annotation/pool.mat"),
    ),
    "csv": Layout(
        read_table,
        (),
        (),
        "Its table has the columns path and pid and, where they are known, camid and split (train, query or gallery).",
        also=(".",),
        ours=True,
    ),
    "folder": Layout(read_folder, (), (), "It holds a folder of pictures for each person.", also=(".",), ours=True),
}


def open_folder(name: str, root: str | Path | None, size: tuple[int, int] | None, options: dict) -> ReIDDataset:
    """See `open_dataset`; `name` is one of LAYOUTS."""
    layout = LAYOUTS[name]
    size = cache.check_size(size or layout.size)
    folder, options = prepare(name, root, options)
    if layout.ours:
        layout.read(folder, **options)  # a split is written before the folder's state is taken
    parts = [part for mark in (*layout.marks, *layout.also) for part in mark.split("|")]
    parts += [options["attributes"]] if options.get("attributes") else []
    parts += [points.TABLE] if (folder / points.TABLE).is_file() else []  # without one the state is what it always was
    settings = f"{size[0]}x{size[1]}-{files.digest(str(folder.resolve()), sorted(options.items()))}"
    build = partial(_decode_all, name, folder, size, options)
    return cache.load(name, settings, cache.folder_state(folder, parts), build)


def list_splits(name: str, folder: Path, options: dict) -> dict[str, layouts.Listing]:
    """The dataset's listings, nothing decoded. ValueError for a split without images."""
    listings = LAYOUTS[name].read(folder, **options)
    for split, listing in listings.items():
        if not listing.files:
            place = folder / listing.place
            found = f"; found there: {layouts.contents(place)}" if place.is_dir() else ""
            sides = sorted(path.name for path in folder.glob("*split*.csv"))
            found += f"; who is on which side is written in {', '.join(sides)}" if sides else ""
            people = any(place.glob("*/*.jpg")) and split in layouts.MARKET_FOLDERS and bool(LAYOUTS[name].attributes)
            remedy = ". A folder for each person is read by open_dataset('folder')"
            raise ValueError(f"{name}: the {split} split is empty: no images of it in {place}{found}{remedy * people}")
    return listings


def prepare(name: str, root: str | Path | None, options: dict) -> tuple[Path, dict]:
    """The dataset's folder, and its options checked, the attribute file among them where there is one."""
    layout, allowed = LAYOUTS[name], options_of(name)
    if name == "folder" and not root:
        raise FileNotFoundError("folder needs its own folder, one with the pictures of each person: pass root=...")
    if unknown := sorted(set(options) - set(allowed)):
        known = ("root", "size", *allowed, "train_identities", "partial")
        raise TypeError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    folder = find_folder(name, root)
    if layout.attributes:
        options = {**options, "attributes": find_attributes(folder, layout.attributes, options.get("attributes"))}
    return folder, options


def options_of(name: str) -> tuple[str, ...]:
    """What a layout can be told beside root and size: the keywords of its reader that are not settled."""
    read = LAYOUTS[name].read
    return tuple(k for k in inspect.signature(read).parameters if k not in getattr(read, "keywords", {}))[1:]


def find_folder(name: str, root: str | Path | None) -> Path:
    """The dataset's own folder: `root` (or REIDNB_DATA) itself, or one of its usual names in it."""
    layout = LAYOUTS[name]
    given = root or os.environ.get("REIDNB_DATA")
    if not given:
        raise FileNotFoundError(
            f"{name} needs its folder: pass root=..., or set REIDNB_DATA to the folder that holds "
            f"your datasets. {layout.about}"
        )
    root = _path("root", given)
    candidates = [root, *(root / usual for usual in layout.names)]
    for folder in candidates:
        if folder.is_dir() and not _lacking(folder, layout):
            return folder
    if not root.is_dir():
        raise FileNotFoundError(f"{name}: there is no folder {root}. Pass root=... or set REIDNB_DATA. {layout.about}")
    nearest = next((folder for folder in candidates[1:] if folder.is_dir()), root)
    lacking, found = ", ".join(_lacking(nearest, layout)), layouts.contents(nearest)
    looked = f"{name}: {nearest} lacks {lacking}; found there: {found}."
    for folder in (root.parent, root.parent.parent, *_below(root)):  # one level too deep, or too high?
        if not _lacking(folder, layout):
            raise FileNotFoundError(f"{looked} The dataset seems to lie in {folder}: pass root={str(folder)!r}.")
    raise FileNotFoundError(
        f"{looked} Pass root=..., the folder that holds them, or the one above it where it is "
        f"called {' or '.join(layout.names)}. {layout.about}"
    )


def _path(option: str, given: str | Path) -> Path:
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(f"{option} is the path of a folder, got {given!r}")
    return files.at_home(given)


def _lacking(folder: Path, layout: Layout) -> list[str]:
    return [
        mark.replace("|", " or ")
        for mark in layout.marks
        if not any(os.path.exists(folder / part) for part in mark.split("|"))
    ]


def _below(root: Path) -> list[Path]:
    """What lies one and two levels below, for a hint; the first thousand, since `root` may be anything."""
    return [path for pattern in ("*", "*/*") for path in itertools.islice(root.glob(pattern), 1000)]


def find_attributes(folder: Path, file_name: str, given: str | Path | None) -> Path | None:
    """The attribute file: the option (the file, or the folder it lies in), else in the dataset's folder or above it."""
    if given:
        path = _path("attributes", given)
        path = path / file_name if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"attributes={str(given)!r}: there is no file {path}")
        return path.resolve()
    places = (folder.resolve(), folder.resolve().parent)
    return next((place / file_name for place in places if (place / file_name).is_file()), None)


def _decode_all(name: str, folder: Path, size: tuple[int, int], options: dict, aside: Path) -> None:
    """Fill the folder `aside` with the dataset's arrays."""
    listings = list_splits(name, folder, options)
    check_protocol(SimpleNamespace(name=name, **listings))  # before the work
    table = folder / points.TABLE
    bodies = points.read_points(table) if table.is_file() else {}
    points.refuse_strangers(table, bodies, [file for listing in listings.values() for file in listing.files])
    cache.require_room(aside, sum(len(listing.files) for listing in listings.values()), size)
    labels, digests, found = {}, [], {}
    for split, listing in listings.items():
        n = len(listing.files)
        images = cache.in_threads(partial(_decode_one, LAYOUTS[name].source, folder, listing, size), range(n))
        images = cache.progress(images, n, f"decoding {name} {split}")
        digests.append(cache.write_arrays([aside / f"{split}.npy"], [(n, 3, *size)], ((image,) for image in images)))
        labels[f"{split}.files"] = np.array(listing.files)
        for field in ("pids", "camids", "attributes", "tracklets"):
            if getattr(listing, field) is not None:
                labels[f"{split}.{field}"] = getattr(listing, field).astype(np.int64)
    if bodies and listings["train"].boxes is None:  # a box is cut from a scene, which may hold many bodies
        joined = {"keypoints": points.join_points}
        joined |= {"masks": points.join_masks} if any(body.mask is not None for body in bodies.values()) else {}
        found = {
            f"{split}.{what}": join(one.files, bodies, size)
            for split, one in listings.items()
            for what, join in joined.items()
        }
    cache.write_labels(aside, labels, listings["train"].attribute_names, digests, found)


def _decode_one(source: Callable, folder: Path, listing: layouts.Listing, size: tuple[int, int], i: int) -> np.ndarray:
    return cache.decode(source(folder, listing.files[i]), size, None if listing.boxes is None else listing.boxes[i])
