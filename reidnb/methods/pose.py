"""Geometry of parts that follow the body: PoseBox (PIE), GLAD's three boxes, Spindle's regions, from 14 key points.

A part is an affine map (2, 3) from a place in the part's own picture to one in the whole picture, both in [-1, 1] as
`grid_sample` has them; so parts can be cut from pictures or from maps, and gradients reach pixels and points.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

from reidnb.synthetic import KEYPOINTS

AT = {name: i for i, name in enumerate(KEYPOINTS)}
SEEN = 0.5  # from here on a point counts as seen
OUTSIDE = -3.0  # beyond any picture, which ends at -1 and 1
TORSO, TALL, WIDE = 20.0, 64.0, 32.0  # the upright box: rows of its torso, of itself, and its columns


class Part(NamedTuple):
    """One of the ten of a PoseBox: from which point to which, and where it lies in a box of 64 x 32."""

    start: str
    end: str
    rows: tuple[int, int]
    columns: tuple[int, int]


PARTS = {
    "head": Part("head_top", "neck", (0, 10), (10, 22)),
    "torso": Part("neck", "hips", (10, 30), (8, 24)),
    "right thigh": Part("right_hip", "right_knee", (30, 47), (8, 16)),
    "left thigh": Part("left_hip", "left_knee", (30, 47), (16, 24)),
    "right shin": Part("right_knee", "right_ankle", (47, 64), (8, 16)),
    "left shin": Part("left_knee", "left_ankle", (47, 64), (16, 24)),
    "right upper arm": Part("right_shoulder", "right_elbow", (10, 20), (0, 8)),
    "left upper arm": Part("left_shoulder", "left_elbow", (10, 20), (24, 32)),
    "right forearm": Part("right_elbow", "right_wrist", (20, 30), (0, 8)),
    "left forearm": Part("left_elbow", "left_wrist", (20, 30), (24, 32)),
}
STARTS = [AT[part.start] for part in PARTS.values()]
ENDS = [AT.get(part.end, len(KEYPOINTS)) for part in PARTS.values()]  # the hips' middle comes behind the points
HIPS = [AT["left_hip"], AT["right_hip"]]
SHARE = [(part.rows[1] - part.rows[0]) / TORSO for part in PARTS.values()]  # lengths, in torsos
HALF_WIDTHS = [(part.columns[1] - part.columns[0]) / (2 * TORSO) for part in PARTS.values()]
ARMS = tuple(name for name in PARTS if "arm" in name)
SPINE = [float(name not in ARMS) for name in PARTS]  # arms swing: they tell little of the scale
BOXES = {  # what a PoseBox leaves out: 1 is torso and legs, 2 has the arms too, 3 the head as well (PIE, section 3.1)
    "posebox1": ("head", *ARMS),
    "posebox2": ("head",),
    "posebox3": (),
}
GLAD = ("head", "upper body", "lower body")
SPINDLE = {  # seven regions: three large ones, four limbs
    "head and shoulders": ("head_top", "neck", "left_shoulder", "right_shoulder"),
    "upper body": ("neck", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_hip", "right_hip"),
    "lower body": ("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
    "right arm": ("right_shoulder", "right_elbow", "right_wrist"),
    "left arm": ("left_shoulder", "left_elbow", "left_wrist"),
    "right leg": ("right_hip", "right_knee", "right_ankle"),
    "left leg": ("left_hip", "left_knee", "left_ankle"),
}


# ------------------------------------------------------------------------------------------------------------- geometry


def _points(points):
    """A tensor (N, 14, 3) of floats, or ValueError."""
    points = torch.as_tensor(points)
    if points.ndim != 3 or points.shape[1:] != (len(KEYPOINTS), 3):
        raise ValueError(f"key points must be (N, {len(KEYPOINTS)}, 3): x, y, visible; got {tuple(points.shape)}")
    return points if points.is_floating_point() else points.float()


def _mean_of_seen(places, seen):
    """The mean place of what is seen of some points, (N, K, 2) and (N, K); of all where none is."""
    weight = (seen | ~seen.any(1, keepdim=True)).to(places.dtype)[..., None]
    return (places * weight).sum(1) / weight.sum(1)


def _with_hips(points):
    """Places (N, 15, 2) and whether they are seen (N, 15), the middle of the hips behind the 14 points."""
    places, seen = points[..., :2], points[..., 2] >= SEEN
    both = seen[:, HIPS]
    hips = _mean_of_seen(places[:, HIPS], both)[:, None]
    return torch.cat([places, hips], 1), torch.cat([seen, both.any(1, keepdim=True)], 1)


def _bones(points):
    """The ends of each part (N, 10, 2) twice, whether both are seen (N, 10), their distance (N, 10), the scale (N,)."""
    places, seen = _with_hips(points)
    a, b, found = places[:, STARTS], places[:, ENDS], seen[:, STARTS] & seen[:, ENDS]
    long = ((b - a).square().sum(2) + 1e-12).sqrt()
    counts, share = found * _like(SPINE, long), _like(SHARE, long)
    wanted = counts @ share
    scale = torch.where(wanted > 0, (counts * long).sum(1) / wanted.clamp(min=1e-6), 1.0).clamp(min=1.0)
    return a, b, found, long, scale


def _like(values, other):
    return torch.tensor(values, dtype=other.dtype, device=other.device)


def body_scale(points: torch.Tensor) -> torch.Tensor:
    """How long a torso is in each picture, in pixels (N,): all seen bones of head, torso and legs together, over their
    share of the upright box, so that one bone that points at the camera does not decide. At least 1."""
    return _bones(_points(points))[-1]


def posebox_parts(points: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Key points (N, 14, 3) in pixels of pictures of `size` (H, W) -> the affine maps of PARTS (N, 10, 2, 3), and
    whether both ends of a part are seen (N, 10).

    A part's own upright axis goes from its one point to the other; its width is the body's scale times the share that
    it has in the upright box, since two points know nothing of width.
    """
    a, b, found, long, scale = _bones(_points(points))
    down = (b - a) / 2
    half = scale[:, None, None] * _like(HALF_WIDTHS, long)[:, None]
    right = 2 * half * down.flip(2) * down.new_tensor([1.0, -1.0]) / long[..., None]  # what points down, turned
    return _to_units(torch.stack([right, down, (a + b) / 2], 3), size), found


def box_maps(low: torch.Tensor, high: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Upright boxes by their corners (..., 2), x and y in pixels -> affine maps (..., 2, 3)."""
    half = (high - low) / 2
    zero = torch.zeros_like(half[..., 0])
    columns = torch.stack([half[..., 0], zero], -1), torch.stack([zero, half[..., 1]], -1), (low + high) / 2
    return _to_units(torch.stack(columns, -1), size)


def _to_units(maps, size):
    """Maps into pixels -> maps into [-1, 1]."""
    half = maps.new_tensor([size[1] / 2, size[0] / 2])[:, None]
    return maps / half - torch.cat([torch.zeros_like(maps[..., :2]), torch.ones_like(maps[..., 2:])], -1)


def glad_parts(points: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Key points (N, 14, 3) -> GLAD's head, upper and lower body as upright boxes: affine maps (N, 3, 2, 3), and
    whether a box is known (N, 3); one that is not is the whole picture.

    Rows: from the top of the head to the neck, from the neck to the hips, from the hips to the lowest foot or knee
    that is seen, each with some torso lengths to spare; columns: about the part's points. GLAD's own margins are
    pixels of its pictures; ours are shares of the body.
    """
    points = _points(points)
    (places, seen), scale = _with_hips(points), body_scale(points)
    (top, neck, hips), (top_seen, neck_seen, hips_seen) = (
        [values[:, i] for i in (AT["head_top"], AT["neck"], len(KEYPOINTS))] for values in (places, seen)
    )
    feet = [AT[f"{side}_{joint}"] for joint in ("knee", "ankle") for side in ("left", "right")]
    foot_seen = points[:, feet, 2] >= SEEN
    foot = points[:, feet, 1].masked_fill(~foot_seen, -torch.inf).amax(1)
    foot = torch.where(foot_seen.any(1), foot, hips[:, 1])
    legs = _mean_of_seen(points[:, feet, 0, None], foot_seen)[:, 0]
    rows = (  # from, to, the middle column; then torso lengths to spare above and below, and half as wide as what
        (top[:, 1], neck[:, 1], (top[:, 0] + neck[:, 0]) / 2, 0.1, 0.1, 0.4, top_seen & neck_seen),
        (neck[:, 1], hips[:, 1], (neck[:, 0] + hips[:, 0]) / 2, 0.15, 0.2, 0.6, neck_seen & hips_seen),
        (hips[:, 1], foot, (hips[:, 0] + legs) / 2, 0.1, 0.15, 0.6, hips_seen & foot_seen.any(1)),
    )
    maps, found = [], []
    for low, high, middle, above, below, half, seen in rows:
        corners = torch.stack([middle - half * scale, low - above * scale], 1)
        opposite = torch.stack([middle + half * scale, high + below * scale], 1)
        known = seen & (high > low)
        maps.append(torch.where(known[:, None, None], box_maps(corners, opposite, size), whole(points)))
        found.append(known)
    return torch.stack(maps, 1), torch.stack(found, 1)


def spindle_regions(points: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Key points (N, 14, 3) -> Spindle's seven regions, the boxes about what is seen of their points and a quarter of a
    torso more: affine maps (N, 7, 2, 3), and whether two points or more of a region are seen (N, 7)."""
    points = _points(points)
    spare, maps, found = body_scale(points)[:, None] / 4, [], []
    for names in SPINDLE.values():
        chosen = points[:, [AT[name] for name in names]]
        seen = (chosen[..., 2] >= SEEN)[..., None]
        low = chosen[..., :2].masked_fill(~seen, torch.inf).amin(1) - spare
        high = chosen[..., :2].masked_fill(~seen, -torch.inf).amax(1) + spare
        known = seen.sum((1, 2)) >= 2
        low, high = (torch.where(known[:, None], edge, 0.0) for edge in (low, high))
        maps.append(torch.where(known[:, None, None], box_maps(low, high, size), whole(points)))
        found.append(known)
    return torch.stack(maps, 1), torch.stack(found, 1)


def whole(like: torch.Tensor) -> torch.Tensor:
    """The map (2, 3) whose part is the whole picture."""
    return torch.eye(2, 3, dtype=like.dtype, device=like.device)


def cut(images: torch.Tensor, maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Pictures or maps (N, C, H, W) and affine maps (N, P, 2, 3) -> the parts (N, P, C, h, w), bilinear, 0 outside."""
    n, parts = maps.shape[:2]
    grid = F.affine_grid(maps.flatten(0, 1), [n * parts, 1, *size], align_corners=False)
    found = F.grid_sample(images, grid.view(n, parts * size[0], size[1], 2), align_corners=False)
    return found.view(n, images.shape[1], parts, *size).transpose(1, 2)


def roi_pool(cells: torch.Tensor, maps: torch.Tensor, bins: tuple[int, int] = (2, 2)) -> torch.Tensor:
    """A map (N, C, h, w) and regions (N, P, 2, 3) -> the mean of 2 x 2 samples in each of `bins` (N, P, C, *bins), as
    RoI align does it; a form that has a gradient to the region too."""
    fine = cut(cells, maps, (2 * bins[0], 2 * bins[1]))
    return F.avg_pool2d(fine.flatten(0, 1), 2).view(*fine.shape[:3], *bins)


def posebox(images: torch.Tensor, points: torch.Tensor, boxes: str = "posebox3") -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 3, H, W) and their key points (N, 14, 3) in pixels -> the same bodies upright (N, 3, H, W), every
    part at its place and 0 elsewhere, and which of the ten parts are there (N, 10).

    One `grid_sample`: each pixel of the upright box knows of which part it is, and asks that part's map where to look.
    A picture none of whose parts is known comes back whole.
    """
    if boxes not in BOXES:
        raise ValueError(f"boxes must be one of {', '.join(BOXES)}; got {boxes!r}")
    size = images.shape[2:]
    maps, found = posebox_parts(torch.as_tensor(points, dtype=images.dtype, device=images.device), size)
    found = found & torch.tensor([name not in BOXES[boxes] for name in PARTS], device=images.device)
    nowhere = maps.new_tensor([[0, 0, OUTSIDE], [0, 0, OUTSIDE]])
    maps = torch.where(found[..., None, None], maps, nowhere).transpose(1, 2).flatten(2)  # (N, 2, 30)
    maps = torch.cat([maps, maps.new_full((len(maps), 2, 1), OUTSIDE)], 2)
    grid = (maps @ _layout(*size).to(maps)).transpose(1, 2).view(-1, *size, 2)
    if (lost := ~found.any(1)).any():
        own = F.affine_grid(whole(maps)[None], [1, 1, *size], align_corners=False)
        grid = torch.where(lost[:, None, None, None], own, grid)
    return F.grid_sample(images, grid, align_corners=False), found


@lru_cache(maxsize=8)
def _layout(height, width):
    """What each pixel of the upright box asks of the maps, (31, H W): of its own part's three columns its place there,
    x, y and 1; or, where no part is, the last one."""
    asked = torch.zeros(3 * len(PARTS) + 1, height, width)
    asked[-1] = 1
    y, x = (torch.arange(height) + 0.5) * TALL / height, (torch.arange(width) + 0.5) * WIDE / width
    for i, part in enumerate(PARTS.values()):
        (top, bottom), (left, right) = part.rows, part.columns
        v, u = (2 * y - top - bottom) / (bottom - top), (2 * x - left - right) / (right - left)
        inside = ((v.abs() < 1)[:, None] & (u.abs() < 1)).float()
        asked[3 * i : 3 * i + 3] = torch.stack([u * inside, v[:, None] * inside, inside])
        asked[-1] -= inside
    return asked.flatten(1)


def standard_pose(size: tuple[int, int]) -> torch.Tensor:
    """The key points (14, 3) of a body that stands as the upright box has it: its PoseBox is its picture."""
    points = torch.ones(len(KEYPOINTS), 3)
    for part in PARTS.values():
        x = sum(part.columns) / 2
        for name, y in zip((part.start, part.end), part.rows):
            if name in AT:
                points[AT[name], :2] = torch.tensor([x * size[1] / WIDE, y * size[0] / TALL])
    return points
