"""Parts of a dataset: queries and galleries of which a part was cut off, as detectors and doorways do
(Market1501-Partial, and of any other dataset the same: Luo et al., 2019, AlignedReID++, cut their pictures at random;
how much they do not say); and fewer people to learn from, as whoever labels his own has."""

from dataclasses import replace

import numpy as np
from PIL import Image

from reidnb.datasets.points import without_points
from reidnb.datasets.splits import ReIDDataset, Split
from reidnb.files import digest

FORMAT = 1  # raise it when a change to this file gives other pictures


def check_share(share: float) -> float:
    """`share` as a float from 0 to 0.9, or ValueError."""
    if isinstance(share, bool) or not isinstance(share, (int, float, np.number)) or not 0 <= share <= 0.9:
        raise ValueError(f"partial is the largest share of height and width that is cut off, 0 to 0.9; got {share!r}")
    return float(share)


def with_people(dataset: ReIDDataset, count: int) -> ReIDDataset:
    """`dataset` with `count` of its training people, drawn by lot: the same each time, and fewer are among more. Their
    pictures lie in memory. Raises ValueError unless it has so many."""
    people = np.unique(dataset.train.pids)
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or not 1 <= count <= len(people):
        raise ValueError(
            f"{dataset.name} has {len(people)} people to learn from: train_identities must be a whole number from 1 to "
            f"that; got {count!r}"
        )
    kept = np.random.default_rng(len(people)).permutation(people)[:count]
    plain = without_points(dataset.fingerprint)
    told = digest(plain, "train_identities", int(count)) + dataset.fingerprint.removeprefix(plain)
    return replace(dataset, train=dataset.train.select(np.isin(dataset.train.pids, kept)), fingerprint=told)


def cut(dataset: ReIDDataset, twice: ReIDDataset, share: float) -> ReIDDataset:
    """`dataset` with its query and gallery pictures cut from those of `twice`, the same opened at twice the size.

    Of each picture's height and width up to `share` is cut off, by lot, and what is left, somewhere in it, is scaled to
    the dataset's size. Training pictures stay whole. Masks and key points of what was cut are left out. The pieces
    lie in memory, and are cut anew each time the dataset is opened (a third of a millisecond each).
    """
    height, width = dataset.query.images.shape[2:]
    splits = {}
    for number, name in enumerate(("query", "gallery", "multi_query")):
        whole, large = getattr(dataset, name), getattr(twice, name)
        if whole is not None:
            rng = np.random.default_rng((number, len(whole)))
            kept, corner = 1 - share * rng.random((len(whole), 2)), rng.random((len(whole), 2))
            pictures = np.empty(whole.images.shape, np.uint8)
            for row, image in enumerate(large.images):
                pictures[row] = _cut(image, kept[row], corner[row], (height, width))
            known = {"files": whole.files, "attributes": whole.attributes, "tracklets": whole.tracklets}
            splits[name] = Split(pictures, whole.pids, whole.camids, **known, shots=whole.shots)
    prints = without_points(dataset.fingerprint), without_points(twice.fingerprint)
    told = digest(*prints, "partial", FORMAT, share)
    told += dataset.fingerprint.removeprefix(prints[0])  # the training pictures' points are still there
    return replace(dataset, **splits, fingerprint=told)


def _cut(image, kept, corner, size):
    """One picture (3, 2H, 2W): a box of the `kept` shares of its sides, at a `corner`, both (vertical, horizontal)."""
    sides = np.array(image.shape[1:])
    box = np.maximum(2, np.rint(kept * sides)).astype(int)
    top, left = np.rint(corner * (sides - box)).astype(int)
    piece = image[:, top : top + box[0], left : left + box[1]].transpose(1, 2, 0)
    scaled = Image.fromarray(np.ascontiguousarray(piece)).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(scaled).transpose(2, 0, 1)
