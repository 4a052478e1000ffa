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

    images: np.ndarray                    # uint8 (N, 3, H, W), a read-only memory map, decoded once
    pids: np.ndarray                      # int64 (N,) the dataset's own identities; 0 = distractor, -1 = junk
    camids: np.ndarray                    # int64 (N,) from 0
    files: np.ndarray | None = None       # str (N,) paths relative to the dataset's folder
    attributes: np.ndarray | None = None  # int64 (N, A) from 0; -1 where unknown
    tracklets: np.ndarray | None = None   # int64 (N,)
    keypoints: np.ndarray | None = None   # float32 (N, 14, 3): x, y in pixels, visible (built-in world)
    masks: np.ndarray | None = None       # uint8 (N, H, W) part masks (built-in world)
    shots: pd.DataFrame | None = None     # N rows of ground truth: view, occlusion, box error... (built-in world)

    def __len__(self) -> int:
        return len(self.pids)

    def select(self, which) -> Split:
        """The images that `which` picks: a slice (nothing is copied), a bool mask (N,), or integer indices."""
        if not isinstance(which, slice):
            which = np.asarray(which)
            if which.size == 0:
                which = which.astype(bool if which.shape == (len(self),) else np.int64)
            if which.ndim != 1 or which.dtype.kind not in "biu" or (which.dtype == bool and len(which) != len(self)):
                raise ValueError(f"select wants a slice, a bool mask of shape ({len(self)},) or integer indices; "
                                 f"got {which.dtype} of shape {which.shape}")
        picked = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            picked[item.name] = (value if value is None else value[which] if isinstance(value, np.ndarray)
                                  else value.iloc[which].reset_index(drop=True))
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
    fingerprint: str = ""             # a digest of all images and labels: the same on every machine that holds the same
    target: Split | None = None       # of a pair of domains: the target's training images, whose identities are hidden
    options: dict = field(default_factory=dict)  # what `open_dataset` was given beside the name and the size

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


def check_protocol(dataset: ReIDDataset) -> dict[str, int]:
    """How many queries can be answered: {"queries", "answerable", "same_camera_only", "not_in_gallery"}.

    A gallery image of the query's identity *and* camera is not an answer (the same-camera rule). Raises ValueError if
    no query has an answer at all: then mAP and CMC are not defined.
    """
    query, gallery = dataset.query, dataset.gallery
    seen = np.unique(np.stack([gallery.pids, gallery.camids], axis=1), axis=0)  # each (identity, camera) once
    cameras_of = dict(zip(*np.unique(seen[:, 0], return_counts=True), strict=True))
    pairs = set(map(tuple, seen.tolist()))
    in_gallery = np.array([cameras_of.get(pid, 0) for pid in query.pids.tolist()])
    own_camera = np.array([pair in pairs for pair in zip(query.pids.tolist(), query.camids.tolist(), strict=True)])
    answerable = (in_gallery > own_camera) & (query.pids > 0)
    found = {"queries": len(query), "answerable": int(answerable.sum()),
             "same_camera_only": int((~answerable & (in_gallery > 0)).sum()),
             "not_in_gallery": int((in_gallery == 0).sum())}
    if not answerable.any():
        raise ValueError(
            f"{dataset.name}: none of the {len(query)} queries has an answer in the gallery of {len(gallery)} images. "
            "By the same-camera rule a gallery image of the query's own identity and camera does not count: "
            f"{found['same_camera_only']} queries have only such images, {found['not_in_gallery']} have an identity "
            f"that is not in the gallery. Query cameras {np.unique(query.camids).tolist()}, gallery cameras "
            f"{np.unique(gallery.camids).tolist()} (from 0): check how cameras and identities were numbered")
    return found
