"""Key points of a body as data: what a detector does to them, how good it is (PCK), and a small one to train.

Key points (N, 14, 3) are x and y in pixels from the picture's corner, and how sure it is that the point is seen, 0 to
1; in the order of `synthetic.KEYPOINTS`. Noise is drawn here and not in a dataset, so that it is in the key of a run.
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reidnb.batches import make_batch
from reidnb.files import cache_root, digest, kept
from reidnb.sources import source_of
from reidnb.synthetic import KEYPOINTS

COUNT = len(KEYPOINTS)
NECK = KEYPOINTS.index("neck")
OTHER_SIDE = {"left": "right", "right": "left"}
MIRROR = np.array(
    [KEYPOINTS.index("_".join(OTHER_SIDE.get(word, word) for word in name.split("_"))) for name in KEYPOINTS]
)
JITTER, MISSED, SWAPPED = 0.1, 0.1, 0.1  # at noise 1: in torso lengths; shares of the points, and of the bodies


def check_points(points: np.ndarray | None, count: int | None = None, who: str = "pose parts") -> np.ndarray:
    """Key points as float32 (N, 14, 3), or ValueError that says what is wrong; visibility is held within 0 and 1."""
    if points is None:
        raise ValueError(f"{who} need key points, which this dataset does not have; the built-in world does, uncut")
    points = np.asarray(points, np.float32)
    if points.ndim != 3 or points.shape[1:] != (COUNT, 3) or (count is not None and len(points) != count):
        wanted = "N" if count is None else count
        raise ValueError(f"key points must be ({wanted}, {COUNT}, 3): x, y, visible; got {points.shape}")
    seen = np.isfinite(points).all(2)
    points = np.where(seen[..., None], points, 0)  # a point without a place is not seen
    points[..., 2] = points[..., 2].clip(0, 1)
    return points


def torso_lengths(points: np.ndarray) -> np.ndarray:
    """Key points (N, 14, 3) -> from the neck to the middle of the hips, in pixels (N,); at least 1."""
    hips = points[:, [KEYPOINTS.index("left_hip"), KEYPOINTS.index("right_hip")], :2].mean(1)
    return np.linalg.norm(points[:, NECK, :2] - hips, axis=1).clip(1)


def noisy_keypoints(points: np.ndarray, noise: float, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Key points (N, 14, 3) as a detector might find them -> the same shape.

    noise: a dial, 0 (as they are) to 2. At 1 every coordinate is off by 0.1 torso lengths (standard deviation), one
    point in ten is missed (not seen, and lying anywhere in the picture of `size`, (H, W)), and in one body of ten left
    and right are taken for each other. All three grow in proportion.
    """
    if isinstance(noise, bool) or not isinstance(noise, (int, float, np.number)) or not 0 <= noise <= 2:
        raise ValueError(f"keypoint_noise is a number from 0 to 2, got {noise!r}")
    points = check_points(points).copy()
    n = len(points)
    # all draws are made whatever the dial says, so that more noise is the same noise, and more of it
    swapped, missed = rng.random(n), rng.random((n, COUNT))
    jitter, anywhere = rng.standard_normal((n, COUNT, 2)), rng.random((n, COUNT, 2)) * (size[1], size[0])
    points[..., :2] += noise * JITTER * torso_lengths(points)[:, None, None] * jitter
    body = swapped < SWAPPED * noise
    points[body] = points[body][:, MIRROR]
    lost = missed < MISSED * noise
    points[lost] = np.concatenate([anywhere, np.zeros((n, COUNT, 1))], 2)[lost]
    return points.astype(np.float32)


def pck(found: np.ndarray, truth: np.ndarray, share: float = 0.2) -> float:
    """Percentage of correct key points: of the points that are seen in truth, how many were found within `share` of
    the torso's length -> 0 to 1. Both (N, 14, 3). ValueError where no point is seen."""
    truth = check_points(truth)
    found = check_points(found, len(truth))
    seen = truth[..., 2] >= 0.5
    if not seen.any():
        raise ValueError("no point is seen in truth: there is nothing to find")
    apart = np.linalg.norm(found[..., :2] - truth[..., :2], axis=2) / torso_lengths(truth)[:, None]
    return float(((apart <= share) & (found[..., 2] >= 0.5))[seen].mean())


# ------------------------------------------------------------------------------------------------- a detector of points


class PoseNet(nn.Module):
    """Pictures (N, 3, H, W) -> heat maps (N, 14, H / 4, W / 4), logits of where a point is, and logits (N, 14) of
    whether it is seen. 0.14 M parameters; what each cell says rests on the whole body (a path through H / 16)."""

    def __init__(self, width: int = 48):
        super().__init__()

        def layer(inputs, outputs, stride=1):
            conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

        self.stem = nn.Sequential(layer(3, 24, 2), layer(24, width, 2))
        self.fine = layer(width, width)
        self.coarse = nn.Sequential(layer(width, width, 2), layer(width, width, 2), layer(width, width))
        self.join = nn.Sequential(layer(2 * width, width), nn.Conv2d(width, COUNT, 1))
        self.seen = nn.Linear(2 * width, COUNT)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stem = self.stem(images)
        fine, coarse = self.fine(stem), self.coarse(stem)
        both = torch.cat([fine, F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=False)], 1)
        return self.join(both), self.seen(both.mean((2, 3)))


def heat_targets(points: torch.Tensor, shape: tuple[int, int], stride: int = 4, sigma: float = 0.7) -> torch.Tensor:
    """Points (N, 14, 3) in pixels -> what the heat maps should say, (N, 14, h w): a bell of `sigma` cells, sum 1."""
    (h, w), (x, y) = shape, (points[..., :2] / stride - 0.5).unbind(2)
    rows = torch.arange(h, device=points.device) - y[..., None]
    columns = torch.arange(w, device=points.device) - x[..., None]
    bell = -(rows.square()[..., None] + columns.square()[..., None, :]) / (2 * sigma**2)
    return bell.flatten(2).softmax(2)


def read_heat_maps(heat: torch.Tensor, stride: int = 4) -> torch.Tensor:
    """Heat maps (N, 14, h, w), logits -> x and y in pixels (N, 14, 2): the mean place of the 3 x 3 cells about the
    highest one."""
    h, w = heat.shape[2:]
    flat = heat.flatten(2)
    best = flat.argmax(2)
    row, column = best // w, best % w
    rows, columns = torch.arange(h, device=heat.device), torch.arange(w, device=heat.device)
    near = ((rows - row[..., None]).abs() <= 1)[..., None] & ((columns - column[..., None]).abs() <= 1)[..., None, :]
    weight = flat.masked_fill(~near.flatten(2), -torch.inf).softmax(2).view_as(heat)
    x, y = (weight.sum(2) * columns).sum(2), (weight.sum(3) * rows).sum(2)
    return (torch.stack([x, y], 2) + 0.5) * stride


def train_pose_network(
    images: np.ndarray, points: np.ndarray, epochs: int = 6, seed: int = 0, device: str | torch.device = "cpu"
) -> PoseNet:
    """A PoseNet that has learned pictures uint8 (N, 3, H, W) with their key points (N, 14, 3), in evaluation mode.

    Cross-entropy of each seen point's heat map, and of whether a point is seen; pictures are mirrored by lot, left and
    right with them. About half a minute of one core for 3,300 pictures.
    """
    points, rng = check_points(points, len(images)), np.random.default_rng(seed)
    width, place = images.shape[3], torch.device(device)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = PoseNet().to(place).train()
    steps = epochs * -(-len(images) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.15)
    for _ in range(steps):
        chosen = rng.integers(0, len(images), 64)
        pixels, mirrored = make_batch(images, chosen, device=place), rng.random(64) < 0.5
        wanted = points[chosen].copy()
        wanted[mirrored] = wanted[mirrored][:, MIRROR] * (-1, 1, 1) + (width, 0, 0)
        turned = torch.as_tensor(mirrored, device=place)[:, None, None, None]
        wanted, pixels = torch.as_tensor(wanted, device=place), torch.where(turned, pixels.flip(3), pixels)
        heat, seen = net(pixels)
        there = wanted[..., 2]
        said = -(heat_targets(wanted, heat.shape[2:]) * heat.flatten(2).log_softmax(2)).sum(2)
        loss = (said * there).sum() / there.sum().clamp(min=1) + F.binary_cross_entropy_with_logits(seen, there)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def find_points(net: PoseNet, images: np.ndarray, device: str | torch.device = "cpu", batch: int = 256) -> np.ndarray:
    """Key points float32 (N, 14, 3) that a network finds in pictures uint8 (N, 3, H, W)."""
    net, found = net.to(device).eval(), []
    for start in range(0, len(images), batch):
        heat, seen = net(make_batch(images, np.arange(start, min(start + batch, len(images))), device=device))
        found.append(torch.cat([read_heat_maps(heat), seen.sigmoid()[..., None]], 2).cpu().numpy())
    return np.concatenate(found) if found else np.zeros((0, COUNT, 3), np.float32)


def kept_pose_network(data, device: str | torch.device = "cpu") -> PoseNet:
    """The PoseNet of a dataset's training pictures, trained once and kept in the cache."""
    code, torch_version = source_of(train_pose_network), torch.__version__.split("+")[0]
    seen = data.train.images, data.train.keypoints  # not the fingerprint: a dataset made by hand may have none
    name = digest([code, torch_version, seen, torch.device(device).type])
    opened = []

    def make(file):
        net = train_pose_network(data.train.images, data.train.keypoints, device=device)
        state = {name: value.cpu().numpy() for name, value in net.state_dict().items()}
        buffer = io.BytesIO()
        np.savez(buffer, **state)
        file.write_bytes(buffer.getvalue())

    def read(file):
        with np.load(file) as state:
            opened.append({name: torch.from_numpy(state[name]) for name in state.files})

    kept(cache_root() / "pose" / f"{name}.npz", make, readable=read)
    net = PoseNet()
    net.load_state_dict(opened[-1])
    return net.to(device).eval()
