"""What every dataset looks like once it is open: three splits of uint8 images with their labels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd  # slow to import, and only the built-in world has a table


@dataclass(frozen=True)
class Split:
    """N images and what is known about them; a field is None where the dataset does not have it."""

    images: np.ndarray  # uint8 (N, 3, H, W), a read-only memory map, decoded once
    pids: np.ndarray  # int64 (N,) the dataset's own identities; 0 = distractor, -1 = junk
    camids: np.ndarray  # int64 (N,) from 0
    files: np.ndarray | None = None  # str (N,) paths relative to the dataset's folder
    attributes: np.ndarray | None = None  # int64 (N, A) from 0; -1 where unknown
    tracklets: np.ndarray | None = None  # int64 (N,)
    keypoints: np.ndarray | None = None  # float32 (N, 14, 3): x, y in pixels, visible (built-in world, keypoints.csv)
    masks: np.ndarray | None = None  # uint8 (N, H, W), 0 where nobody is; else the part, or 1 (from keypoints.csv)
    shots: pd.DataFrame | None = None  # N rows of ground truth: view, occlusion, box error... (built-in world)

    def __post_init__(self):
        """ValueError for pieces of unequal length, or identities and cameras that are no whole numbers."""
        for name in ("pids", "camids"):
            values = np.asarray(getattr(self, name))
            if values.ndim != 1 or values.dtype.kind not in "iu" and values.size:
                got = f"{values.dtype} of shape {values.shape}"
                raise ValueError(f"{name} must be whole numbers, an array of shape (N,); got {got}")
            object.__setattr__(self, name, values.astype(np.int64, copy=False))
        lengths = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        lengths = {name: len(value) for name, value in lengths.items() if value is not None}
        if odd := [f"{count} {name}" for name, count in lengths.items() if count != len(self.pids)]:
            raise ValueError(f"each of the {len(self.pids)} pids stands for an image, but there are {', '.join(odd)}")

    def __len__(self) -> int:
        return len(self.pids)

    def select(self, which) -> Split:
        """The images that `which` picks: a slice (nothing is copied), a bool mask (N,), or integer indices."""
        if not isinstance(which, slice):
            which = np.asarray(which)
            if which.size == 0:
                which = which.astype(bool if which.shape == (len(self),) else np.int64)
            if which.ndim != 1 or which.dtype.kind not in "biu" or (which.dtype == bool and len(which) != len(self)):
                raise ValueError(
                    f"select wants a slice, a bool mask of shape ({len(self)},) or integer indices; "
                    f"got {which.dtype} of shape {which.shape}"
                )
        picked = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            picked[item.name] = (
                value
                if value is None
                else value[which]
                if isinstance(value, np.ndarray)
                else value.iloc[which].reset_index(drop=True)
            )
        return Split(**picked)


@dataclass(frozen=True)
class ReIDDataset:
    """A dataset under its official split; `print(dataset)` shows the counts."""

    name: str
    train: Split
    query: Split
    gallery: Split
    attribute_names: tuple[str, ...] = ()
    multi_query: Split | None = None  # Market-1501's hand-drawn boxes (gt_bbox): more images of the queries' identities
    fingerprint: str = ""  # a digest of all images and labels: the same on every machine that holds the same
    target: Split | None = None  # of a pair of domains: the target's training images, whose identities are hidden
    options: dict = field(default_factory=dict)  # what `open_dataset` was given beside the name and the size

    @property
    def ids(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(query pids, gallery pids, query camids, gallery camids), as the functions of `evaluation` take them."""
        return self.query.pids, self.gallery.pids, self.query.camids, self.gallery.camids

    def __str__(self) -> str:
        lines = [f"{self.name:<12}{'images':>9}{'identities':>12}{'cameras':>9}"]
        for split in ("train", "target", "query", "gallery", "multi_query"):
            if (part := getattr(self, split)) is not None:
                images, identities, cameras = counts(part.pids, part.camids)
                lines.append(f"{split:<12}{images:>9}{identities:>12}{cameras:>9}")
        return "\n".join(lines)


def counts(pids: np.ndarray, camids: np.ndarray) -> tuple[int, int, int]:
    """(images, identities, cameras); distractors (0) and junk (-1) are images, but no identities."""
    return len(pids), len(np.unique(pids[pids > 0])), len(np.unique(camids))


def relabel(pids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Identities (N,) -> labels int64 (N,) in 0..C-1, and the sorted classes (C,): classes[labels] == pids."""
    classes, labels = np.unique(np.asarray(pids), return_inverse=True)
    return labels.astype(np.int64), classes


def check_labels(dataset: ReIDDataset) -> None:
    """Refuse identities and cameras that no run could use: ValueError that says which, and what to do.

    Who is learned from or asked for is somebody (from 1); the gallery has distractors (0) and junk (-1) too. Cameras
    count from 0. Both stay below 2^31, so that the two make one 64-bit number. `dataset` may hold undecoded listings.
    """
    for split in ("train", "query", "gallery", "multi_query"):
        part, somebody = getattr(dataset, split, None), split in ("train", "query")
        if part is None:
            continue
        for name, values, least in (("pids", part.pids, 1 if somebody else -1), ("camids", part.camids, 0)):
            odd = values[(values < least) | (values >= 2**31)]
            if odd.size:
                found, rule = ", ".join(map(str, np.unique(odd)[:5].tolist())), f"count from {least}, below 2^31"
                if name == "pids":
                    rule = "people count from 1, below 2^31; 0 and -1 are distractors and junk, in the gallery only"
                raise ValueError(
                    f"{dataset.name}: {odd.size} of the {len(values)} {name} of the {split} split cannot be used "
                    f"({found}): {rule}. Number them anew, or leave these images out"
                )


def check_protocol(dataset: ReIDDataset) -> dict[str, int]:
    """How many queries can be answered: {"queries", "answerable", "same_camera_only", "not_in_gallery"}.

    A gallery image of the query's identity *and* camera is not an answer (the same-camera rule). Raises ValueError if
    no query has an answer at all (mAP and CMC are not defined), and for labels that `check_labels` refuses.
    """
    check_labels(dataset)
    query, gallery = dataset.query, dataset.gallery
    seen = np.unique(np.stack([gallery.pids, gallery.camids], axis=1), axis=0)  # each (identity, camera) once
    cameras_of = dict(zip(*np.unique(seen[:, 0], return_counts=True), strict=True))
    pairs = set(map(tuple, seen.tolist()))
    in_gallery = np.array([cameras_of.get(pid, 0) for pid in query.pids.tolist()])
    own_camera = np.array([pair in pairs for pair in zip(query.pids.tolist(), query.camids.tolist(), strict=True)])
    answerable = in_gallery > own_camera
    found = {
        "queries": len(query.pids),
        "answerable": int(answerable.sum()),
        "same_camera_only": int((~answerable & (in_gallery > 0)).sum()),
        "not_in_gallery": int((in_gallery == 0).sum()),
    }
    if not answerable.any():
        raise ValueError(
            f"{dataset.name}: none of the {len(query.pids)} queries has an answer in the gallery of "
            f"{len(gallery.pids)} images. By the same-camera rule a gallery image of the query's own identity and "
            f"camera does not count: {found['same_camera_only']} queries have only such images, "
            f"{found['not_in_gallery']} have an identity that is not in the gallery. Query cameras "
            f"{np.unique(query.camids).tolist()}, gallery cameras {np.unique(gallery.camids).tolist()} (from 0): check "
            "how cameras and identities were numbered"
        )
    return found
