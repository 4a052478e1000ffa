"""The datasets' own layouts on disk: what lies where, what a file name or a list says. Nothing is decoded here.

Each reader takes the dataset's folder, and its options as keywords, and returns a `Listing` per split: "train",
"query", "gallery" and, where there is one, "multi_query". Images keep the order of the sorted file names or of the
official lists. Identities are the dataset's own, shifted where 0 must stay free for distractors.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from reidnb.files import passing


@dataclass(frozen=True)
class Listing:
    """The N images of one split before they are decoded."""

    files: list[str]  # relative to the dataset's folder
    pids: np.ndarray  # int64 (N,)   0 = distractor, -1 = junk
    camids: np.ndarray  # int64 (N,)   from 0
    attributes: np.ndarray | None = None  # int64 (N, A) from 0; -1 where unknown
    attribute_names: tuple[str, ...] = ()
    tracklets: np.ndarray | None = None  # int64 (N,)
    boxes: np.ndarray | None = None  # int64 (N, 4) x, y, width, height of the crop in pixels
    place: str = ""  # where its images or its list lie, below the dataset's folder


# 0002_c1s1_000451_03.jpg is identity 2, camera 1, sequence 1, frame 451, box 3; -1 is junk, 0000 a distractor.
# In DukeMTMC-reID: 0001_c2_f0046182.jpg. Only the file's own name is matched, and a camera may have two digits.
MARKET_NAME = re.compile(r"(-1|\d+)_c(\d+)(?:s\d+)?_.+\.(?:jpg|jpeg|png)", re.IGNORECASE)
MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
MARKET_ATTRIBUTES = (
    "age", "backpack", "bag", "handbag", "clothes", "down", "up", "hair", "hat", "gender", "upblack", "upwhite",
    "upred", "uppurple", "upyellow", "upgray", "upblue", "upgreen", "downblack", "downwhite", "downpink",
    "downpurple", "downyellow", "downgray", "downblue", "downgreen", "downbrown",
)  # fmt: skip
DUKE_ATTRIBUTES = (
    "backpack", "bag", "handbag", "boots", "gender", "hat", "shoes", "top", "upblack", "upwhite", "upred",
    "uppurple", "upgray", "upblue", "upgreen", "upbrown", "downblack", "downwhite", "downred", "downgray",
    "downblue", "downgreen", "downbrown",
)  # fmt: skip


def market1501(folder: Path, attributes: Path | None = None) -> dict[str, Listing]:
    """Market-1501, with the hand-drawn boxes of gt_bbox for multi-query and market_attribute.mat where they are there.

    The gallery is the whole bounding_box_test, its 2,798 distractors and 3,819 junk boxes included.
    """
    parts = MARKET_FOLDERS | ({"multi_query": "gt_bbox"} if (folder / "gt_bbox").is_dir() else {})
    return _named_splits(folder, parts, attributes, "market_attribute", MARKET_ATTRIBUTES)


def market1501_half(
    folder: Path, attributes: Path | None = None, cameras: tuple[int, ...] = (1, 2, 3), part: int = 0
) -> dict[str, Listing]:
    """Market-1501 as one of two domains that share no person and no camera: what some of its `cameras` (from 1) saw of
    one half of its training people (`part` 0 or 1) and of its test people. Queries whom no other of its cameras saw are
    left out."""
    whole = market1501(folder, attributes)
    people = np.unique(whole["train"].pids)
    half = np.random.default_rng(0).permutation(people)[part::2]
    inside = {split: np.isin(listing.camids, np.array(cameras) - 1) for split, listing in whole.items()}
    if missing := [f"c{camera}" for camera in cameras if not (whole["train"].camids == camera - 1).any()]:
        raise ValueError(f"{folder} has no training pictures of {', '.join(missing)}, which this half of it is made of")
    inside["train"] &= np.isin(whole["train"].pids, half)
    seen, asked = whole["gallery"], whole["query"]
    by = np.array([np.isin(asked.pids, seen.pids[seen.camids == camera - 1]) for camera in cameras])
    own = asked.camids == np.array(cameras)[:, None] - 1
    inside["query"] &= (by & ~own).any(0)
    found = {split: _chosen(listing, inside[split]) for split, listing in whole.items()}
    first = min(cameras) - 1  # cameras count from 0 in every dataset
    return {split: replace(listing, camids=listing.camids - first) for split, listing in found.items()}


def _chosen(listing: Listing, which: np.ndarray) -> Listing:
    """Some of a split's images."""
    arrays = ("pids", "camids", "attributes", "tracklets", "boxes")
    kept = {name: getattr(listing, name)[which] for name in arrays if getattr(listing, name) is not None}
    return replace(listing, files=[listing.files[i] for i in np.flatnonzero(which)], **kept)


def dukemtmc(folder: Path, attributes: Path | None = None) -> dict[str, Listing]:
    """DukeMTMC-reID, with duke_attribute.mat where it is there."""
    return _named_splits(folder, MARKET_FOLDERS, attributes, "duke_attribute", DUKE_ATTRIBUTES)


def _named_splits(
    folder: Path, parts: dict[str, str], attributes: Path | None, key: str, names: tuple[str, ...]
) -> dict[str, Listing]:
    """The splits whose files' names say identity and camera. Cameras count from c1; or from c0, where there is a c0."""
    listings = {split: _named_images(folder, part) for split, part in parts.items()}
    first = min((int(listing.camids.min(initial=1)) for listing in listings.values()), default=1)
    listings = {split: replace(listing, camids=listing.camids - first) for split, listing in listings.items()}
    return with_attributes(listings, attributes, key, names) if attributes else listings


def _named_images(folder: Path, part: str) -> Listing:
    """The images of a folder, sorted: file systems list them in any order. Cameras as the names say them."""
    names = sorted(name for name in os.listdir(folder / part) if name.lower().endswith((".jpg", ".jpeg", ".png")))
    found = [MARKET_NAME.fullmatch(name) for name in names]
    if None in found:
        odd = names[found.index(None)]
        raise ValueError(
            f"the name of {folder / part / odd} does not parse: wanted <identity>_c<camera>..., for example "
            f"0002_c1s1_000451_03.jpg or 0001_c2_f0046182.jpg (pattern {MARKET_NAME.pattern}). Move the file out of "
            "the folder, or describe the folder by a table and use open_dataset('csv')"
        )
    pids, camids = np.array([match.groups() for match in found], dtype=np.int64).reshape(-1, 2).T
    return Listing([f"{part}/{name}" for name in names], pids, camids, place=part)


def with_attributes(listings: dict[str, Listing], path: Path, key: str, names: tuple[str, ...]) -> dict[str, Listing]:
    """The listings with the attributes of a .mat file (`key`.train and `key`.test), spread from identities to images.

    The file counts from 1 (1 no, 2 yes; age 1 to 4); here every value counts from 0. Images of identities it does not
    list (distractors, junk) and values that are NaN get -1. Its two halves order their fields differently, so they are
    taken by name. Raises ValueError for a file that is not so.
    """
    content, of_identity = read_mat(path, key), {}
    for half in ("train", "test"):
        people = getattr(content, half, None)
        if people is None or not hasattr(people, "image_index"):
            raise ValueError(f"{path} has no people in {key}.{half}.image_index: copy it again from its authors")
        if missing := [name for name in names if not hasattr(people, name)]:
            got = ", ".join(people._fieldnames)
            raise ValueError(f"{path} lacks the attributes {', '.join(missing)}; it has {got}")
        pids = [int(str(pid)) for pid in np.atleast_1d(people.image_index).tolist()]
        columns = [np.atleast_1d(getattr(people, name)).astype(float) for name in names]
        for name, values in zip(names, columns, strict=True):
            allowed = (1, 2, 3, 4) if name == "age" else (1, 2)
            if len(values) != len(pids):
                raise ValueError(f"{path}: {len(values)} values of {name} for the {len(pids)} people of {key}.{half}")
            if odd := sorted(set(values[~np.isnan(values)].tolist()) - set(allowed)):
                raise ValueError(
                    f"{path}: {name} is {', '.join(f'{value:g}' for value in odd)} in {key}.{half}, wanted one of "
                    f"{allowed}, as its authors wrote it (1 no, 2 yes): add 1 to labels that count from 0"
                )
        of_identity |= zip(pids, np.nan_to_num(np.column_stack(columns), nan=0).astype(np.int64) - 1, strict=True)
    unknown = np.full(len(names), -1)
    return {
        split: replace(
            listing,
            attribute_names=names,
            attributes=np.reshape([of_identity.get(pid, unknown) for pid in listing.pids.tolist()], (-1, len(names))),
        )
        for split, listing in listings.items()
    }


def cuhk03(folder: Path, images: str = "detected", protocol: str = "767/700", trial: int = 0) -> dict[str, Listing]:
    """CUHK03 from cuhk-03.mat: detected or labeled boxes, five pairs of cameras, a person seen by one pair.

    protocol="767/700": the lists of cuhk03_new_protocol_config_<images>.mat (Zhong et al. 2017), 2 queries an identity.
    protocol="1367/100": the original one, repeated 20 times: trial=0..19 picks one of the file's 20 lists of 100 test
        identities. All their images of the pair's first view are queries; the gallery has one image each of the
        second view (single shot), drawn with the trial as seed. Report the mean over the trials; each trial keeps
        its own decoded images, 1.4 GB at 256 x 128.
    protocol="1267/200": AlignedReID's harder variant, one random split with 200 identities in the gallery, single
        shot as above. Its authors did not publish their list: this one is drawn with the trial as seed, among the
        identities that both views saw.

    Cameras are 0 and 1, the two views of a pair; identities count through the five pairs from 1 to 1467.
    """
    _one_of("images", images, ("detected", "labeled"))
    _one_of("protocol", protocol, ("767/700", "1367/100", "1267/200"))
    if not isinstance(trial, int) or not 0 <= trial < 20 or (protocol == "767/700" and trial):
        raise ValueError(
            f"trial is 0..19 and belongs to the protocols 1367/100 and 1267/200; got trial={trial!r} "
            f"with protocol={protocol!r}"
        )
    if protocol == "767/700":
        return _cuhk03_new_protocol(folder, images)

    with _hdf5().File(existing(folder, *CUHK03_MAT), "r") as mat:
        names, pids, before = [], [], [0]  # before: how many people the earlier pairs have
        for pair, pair_ref in enumerate(np.ravel(mat[images]), start=1):
            cells = mat[pair_ref]  # (10, people); cells 0-4 are the first view, 5-9 the second, and some are empty
            for person, index in np.ndindex(cells.shape[::-1]):
                if mat[cells[index, person]].ndim == 3:
                    names.append(f"{pair}_{person + 1:03d}_{1 + (index >= 5)}_{index + 1:02d}.png")
                    pids.append(before[-1] + person + 1)
            before.append(before[-1] + cells.shape[1])
        chosen = mat[np.ravel(mat["testsets"])[trial]][:].T.astype(int)  # (100, 2): pair and person, from 1
    files = [f"{images}/{name}" for name in names]
    pids, camids = np.array(pids), np.array([int(name[6]) - 1 for name in names])
    rng = np.random.default_rng(trial)
    if protocol == "1367/100":
        test = [before[pair - 1] + person for pair, person in chosen.tolist()]
    else:
        test = rng.choice(np.intersect1d(pids[camids == 0], pids[camids == 1]), 200, replace=False)
    tested = np.isin(pids, test)
    single = [rng.choice(shots) for pid in np.sort(test) if len(shots := np.flatnonzero((pids == pid) & (camids == 1)))]
    rows = {
        "train": np.flatnonzero(~tested),
        "query": np.flatnonzero(tested & (camids == 0)),
        "gallery": np.array(single, np.int64),
    }
    return {split: Listing([files[i] for i in index], pids[index], camids[index]) for split, index in rows.items()}


CUHK03_MAT = ("cuhk-03.mat", "cuhk03_release/cuhk-03.mat")


def _cuhk03_new_protocol(folder: Path, images: str) -> dict[str, Listing]:
    name = f"cuhk03_new_protocol_config_{images}.mat"
    config = existing(folder, name, f"cuhk03_release/{name}")
    names, pids, camids = (np.atleast_1d(read_mat(config, key)) for key in ("filelist", "labels", "camId"))
    listings = {}
    for split in ("train", "query", "gallery"):
        rows = np.atleast_1d(read_mat(config, f"{split}_idx")).astype(np.int64) - 1
        listings[split] = Listing(
            [f"{images}/{file}" for file in names[rows]], pids[rows].astype(np.int64), camids[rows].astype(np.int64) - 1
        )
    return listings


def _hdf5():
    """h5py, which only CUHK03 needs."""
    try:
        import h5py
    except ImportError as missing:
        raise ImportError("cuhk-03.mat is an HDF5 file, and h5py reads it: pip install 'reidnb[cuhk03]'") from missing
    return h5py


def cuhk03_image(folder: Path, file: str) -> Image.Image:
    """The image of "detected/1_012_2_07.png", pair 1, person 12, cell 7 (the second view), out of cuhk-03.mat."""
    images, name = file.split("/")
    pair, person, _, index = (int(part) for part in name.removesuffix(".png").split("_"))
    path = existing(folder, *CUHK03_MAT)
    try:
        with _hdf5().File(path, "r") as mat:
            cells = mat[np.ravel(mat[images])[pair - 1]]
            return Image.fromarray(np.ascontiguousarray(mat[cells[index - 1, person - 1]][:].T))  # Matlab: (3, W, H)
    except Exception as error:
        if passing(error):
            raise
        raise ValueError(f"cannot read {file} of {path} ({error}). Copy it again from where it came") from error


def msmt17(folder: Path) -> dict[str, Listing]:
    """MSMT17, either version: train/ and test/, or mask_train_v2/ and mask_test_v2/ (the faces are blurred).

    Training is list_train.txt and list_val.txt together, the paper's 32,621 images. The lists count identities from 0;
    here they count from 1. Training and test identities are different people with the same numbers.
    """
    train = next(name for name in ("train", "mask_train_v2") if (folder / name).is_dir())
    test = next(name for name in ("test", "mask_test_v2") if (folder / name).is_dir())
    lists = {
        "train": (train, "list_train.txt", "list_val.txt"),
        "query": (test, "list_query.txt"),
        "gallery": (test, "list_gallery.txt"),
    }
    listings = {}
    for split, (part, *names) in lists.items():
        files, labels = [], []
        for path in (folder / name for name in names):
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                # 0000/0000_000_01_0303morning_0008_0.jpg 0: folder, identity, number, camera, when ...; identity
                match = re.fullmatch(r"(\S+/\d+_\d+_(\d+)_\S+) (\d+)", line.strip())
                if not match:
                    raise ValueError(
                        f"line {number} of {path} does not parse: {line!r}; wanted "
                        "<folder>/<identity>_<number>_<camera>_....jpg <identity>"
                    )
                files.append(f"{part}/{match[1]}")
                labels.append((int(match[3]) + 1, int(match[2]) - 1))
        listings[split] = Listing(files, *np.array(labels, np.int64).reshape(-1, 2).T, place=names[0])
    return listings


def mars(folder: Path, frames: int | None = None, queries_in_gallery: bool = True) -> dict[str, Listing]:
    """MARS: every image of every tracklet, or `frames` of each, evenly spaced (all of them fill 100 GB at 256 x 128).

    The gallery is all 12,180 test tracklets, the queries' own included, as in the authors' evaluation: without them
    (queries_in_gallery=False, common elsewhere) 140 of the 1,980 queries have no answer. Junk tracklets are kept as -1.
    """
    if frames is not None and (not isinstance(frames, int) or frames < 1):
        raise ValueError(f"frames is how many images of a tracklet to keep, at least 1, None for all; got {frames!r}")
    train = read_mat(folder / "info/tracks_train_info.mat", "track_train_info").reshape(-1, 4)
    test = read_mat(folder / "info/tracks_test_info.mat", "track_test_info").reshape(-1, 4)
    query = np.atleast_1d(read_mat(folder / "info/query_IDX.mat", "query_IDX")).astype(np.int64) - 1
    gallery = np.arange(len(test)) if queries_in_gallery else np.setdiff1d(np.arange(len(test)), query)
    return {
        "train": _tracklets(folder, "train", train, np.arange(len(train)), frames),
        "query": _tracklets(folder, "test", test, query, frames),
        "gallery": _tracklets(folder, "test", test, gallery, frames),
    }


def _tracklets(folder: Path, half: str, tracks: np.ndarray, chosen: np.ndarray, frames: int | None) -> Listing:
    """The images of the `chosen` rows of tracks (T, 4): first and last line of <half>_name.txt, identity, camera."""
    path = existing(folder / "info", f"{half}_name.txt")
    names = path.read_text().split()
    if len(names) < tracks[:, 1].max(initial=0):
        raise ValueError(
            f"{path} has {len(names)} names, but the tracklets reach line {tracks[:, 1].max()}: copy the "
            "info folder again"
        )
    lines, rows = [], []
    for row in chosen.tolist():
        start, stop = int(tracks[row, 0]) - 1, int(tracks[row, 1])
        count = stop - start if frames is None else min(frames, stop - start)
        lines.append(np.linspace(start, stop - 1, count).round().astype(np.int64))
        rows.append(np.full(count, row))
    lines, rows = (np.concatenate(parts) if parts else np.empty(0, np.int64) for parts in (lines, rows))
    return Listing(
        [f"bbox_{half}/{names[line][:4]}/{names[line]}" for line in lines.tolist()],
        tracks[rows, 2].astype(np.int64),
        tracks[rows, 3].astype(np.int64) - 1,
        tracklets=rows,
    )


def cuhk_sysu(folder: Path) -> dict[str, Listing]:
    """CUHK-SYSU (person search) as re-identification: people are cut out of the scenes by the annotated boxes.

    train: all boxes of the people in Train.mat. query: the 2,900 query boxes of TestG50.mat or TestG100.mat.
    gallery: those people's other boxes and, where annotation/Images.mat is there, every other box in the scenes of
    pool.mat as a distractor. One gallery serves all queries; person search gives each its own 50 or 100 scenes.
    Scenes have no cameras: queries are camera 0 and the gallery is camera 1, so the same-camera rule drops nothing.
    """
    lists = folder / "annotation/test/train_test"
    train = [
        (scene.imname, scene.idlocate, _number(person.idname))
        for person in np.atleast_1d(read_mat(lists / "Train.mat", "Train"))
        for scene in np.atleast_1d(person.scene)
    ]
    test_path = existing(lists, "TestG50.mat", "TestG100.mat")
    tests = np.atleast_1d(read_mat(test_path, test_path.stem))
    query = [(test.Query.imname, test.Query.idlocate, _number(test.Query.idname)) for test in tests]
    gallery = [
        (scene.imname, scene.idlocate, _number(test.Query.idname))
        for test in tests
        for scene in np.atleast_1d(test.Gallery)
        if np.size(scene.idlocate) == 4
    ]
    if (folder / "annotation/Images.mat").is_file():
        taken = {(scene, *box.tolist()) for scene, box, _ in query + gallery}
        pool = set(np.atleast_1d(read_mat(folder / "annotation/pool.mat", "pool")).tolist())
        gallery += [
            (scene.imname, box.idlocate, 0)
            for scene in np.atleast_1d(read_mat(folder / "annotation/Images.mat", "Img"))
            if scene.imname in pool
            for box in np.atleast_1d(scene.box)
            if (scene.imname, *box.idlocate.tolist()) not in taken and min(box.idlocate[2:]) > 0
        ]
    listings = {}
    for split, camera, found in (("train", 0, train), ("query", 0, query), ("gallery", 1, gallery)):
        found = sorted(found, key=lambda one: (one[0], *one[1].tolist()))
        listings[split] = Listing(
            [f"Image/SSM/{scene}" for scene, _, _ in found],
            np.array([pid for _, _, pid in found], np.int64),
            np.full(len(found), camera),
            boxes=np.array([box for _, box, _ in found], np.int64).reshape(-1, 4),
        )
    return listings


def _number(idname: str) -> int:
    """Identities are called "p11422"."""
    return int(re.sub(r"\D", "", str(idname)))


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{option} is one of {', '.join(allowed)}; got {value!r}")


def existing(folder: Path, *names: str) -> Path:
    """The first of these files that is there, or FileNotFoundError."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} has no {' or '.join(names)}; found there: {contents(folder)}")


def contents(folder: Path) -> str:
    """What lies in a folder, in a few words for an error message."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") or "nothing"


def read_mat(path: Path, key: str):
    """The variable `key` of a .mat file (before version 7.3): structs as objects, axes of length 1 dropped."""
    from scipy.io import loadmat

    existing(path.parent, path.name)
    try:
        content = loadmat(path, squeeze_me=True, struct_as_record=False)
    except Exception as error:
        raise ValueError(f"cannot read {path} ({error}): copy it again from the dataset's archive") from error
    if key not in content:
        raise ValueError(f"{path} has no variable {key}, but {', '.join(k for k in content if not k.startswith('__'))}")
    return content[key]
