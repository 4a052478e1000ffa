"""Poses of bodies: the few that stand for all, and a pose as a picture that a network can be given.

Key points are (N, 14, 3), in the order of `synthetic.KEYPOINTS`: x and y in pixels, and whether the point is seen.
"""

import numpy as np
import torch

from reidnb.synthetic import KEYPOINTS

POSES = 8  # as many as PN-GAN takes
SIDES = ("left", "right")
LIMBS = (("neck", "shoulder"), ("shoulder", "elbow"), ("elbow", "wrist"))
LIMBS += (("neck", "hip"), ("hip", "knee"), ("knee", "ankle"))
BONES = (  # of a skeleton: where each begins and ends, and the colour that it is drawn in
    (KEYPOINTS.index("head_top"), KEYPOINTS.index("neck"), 0),
    *(
        (KEYPOINTS.index(a if a == "neck" else f"{side}_{a}"), KEYPOINTS.index(f"{side}_{b}"), 1 + SIDES.index(side))
        for side in SIDES
        for a, b in LIMBS
    ),
)


def draw_poses(points: np.ndarray | torch.Tensor, size: tuple[int, int], thick: float = 0.8) -> torch.Tensor:
    """Key points (N, 14, 3), x and y in pixels and whether it is seen -> skeletons (N, 3, H, W) in [0, 1]: head, left
    side, right side.

    A pixel at distance d from the nearest bone of a colour is exp(-d^2 / 2 thick^2). A bone of which an end is not seen
    is left out; of nobody's body nothing is drawn. ValueError for another shape.
    """
    points = _checked(points)
    begins, ends, colours = (list(part) for part in zip(*BONES))
    a, b = points[:, begins, None, :2], points[:, ends, None, :2]
    seen = (points[:, begins, 2] >= 0.5) & (points[:, ends, 2] >= 0.5)
    y, x = torch.meshgrid(*(torch.arange(n, device=points.device) + 0.5 for n in size), indexing="ij")
    pixels, bone = torch.stack([x.flatten(), y.flatten()], 1), b - a
    along = ((pixels - a) * bone).sum(3, keepdim=True) / bone.square().sum(3, keepdim=True).clamp(min=1e-6)
    far = (a + along.clamp(0, 1) * bone - pixels).square().sum(3)
    bright = torch.exp(-far / (2 * thick**2)) * seen[..., None]
    drawn = [bright[:, [c == colour for c in colours]].amax(1) for colour in range(3)]
    return torch.stack(drawn, 1).unflatten(2, size)


def canonical_poses(points: np.ndarray, count: int = POSES, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The poses that stand for all, by k-means -> rows (count,) of `points` (N, 14, 3), each the nearest to a centre,
    and their bodies float32 (count, 14, 3), all of mean height and in the mean place.

    Bodies are compared centred and divided by their height; those of which a point is not seen take no part. In order
    of how far the left shoulder lies to the right of the other: a person seen from the front comes last. ValueError
    where fewer than `count` are seen whole.
    """
    from sklearn.cluster import KMeans  # here: it takes a second to import

    points = _checked(points).numpy()
    whole = np.flatnonzero((points[..., 2] >= 0.5).all(1))
    if len(whole) < count:
        raise ValueError(
            f"{count} poses need as many bodies of which every key point is seen; there are {len(whole)} among "
            f"{len(points)}: ask for fewer poses"
        )
    middle, tall = points[whole, :, :2].mean(1, keepdims=True), np.ptp(points[whole, :, 1], 1)[:, None, None]
    bodies = (points[whole, :, :2] - middle) / tall.clip(1)
    cluster = KMeans(count, n_init=4, random_state=seed).fit(bodies.reshape(len(whole), -1))
    nearest = cluster.transform(bodies.reshape(len(whole), -1)).argmin(0)
    left, right = (KEYPOINTS.index(f"{side}_shoulder") for side in SIDES)
    nearest = nearest[np.argsort(bodies[nearest, left, 0] - bodies[nearest, right, 0], kind="stable")]
    placed = bodies[nearest] * tall.mean() + middle.mean(0)
    return whole[nearest], np.concatenate([placed, np.ones((count, len(KEYPOINTS), 1))], 2).astype(np.float32)


def _checked(points):
    """Key points as float32 (N, 14, 3); what is without a place is not seen."""
    if points is None:
        raise ValueError("poses are made of key points, which this dataset does not have; the built-in world does")
    points = torch.from_numpy(np.array(points, np.float32))  # a copy: what is mapped from disk cannot be written
    if points.ndim != 3 or points.shape[1:] != (len(KEYPOINTS), 3):
        raise ValueError(f"key points must be (N, {len(KEYPOINTS)}, 3): x, y, seen; got {tuple(points.shape)}")
    return torch.where(points.isfinite().all(2, keepdim=True), points, torch.zeros(()))
