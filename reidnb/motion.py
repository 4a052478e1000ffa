"""Motion as a second stream (AMOC; Liu et al., 2017): a network that sees two frames and says where each pixel goes.

A flow is (N, 2, h, w): how far to the right and down, in pixels of the *frame* at every scale. The motion network gives
three, of a half, a quarter and an eighth of the frame's size, each begun from the coarser one. It learns from a flow
that somebody knows: the drawn world's, or a classical estimator's, as in the paper.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidnb.datasets.tracklets import Tracklets
from reidnb.video import Recurrent

CELLS = (2, 4, 8)  # pixels of the frame along a side of a flow's cell, finest first
WEIGHTS = (1.0, 0.5, 0.25)  # of the three outputs in the loss
STIFF = 100.0  # squared greys a pixel: where neighbours differ by less, nothing seems to move
STEP = 2.0  # pixels: a usual motion, so that motion features are about as long as features of length 1


class MotionNet(nn.Module):
    """Two frames (N, 6, H, W), scaled by `six_channels`, -> three flows, finest first. H and W are multiples of 8.

    Like a U-Net, or FlowNet: three steps down, two up. The frames are compared by their features at a quarter of the
    size, each place with its neighbours up to `reach` cells away.
    """

    def __init__(self, channels: tuple[int, int, int] = (16, 32, 64), reach: int = 3):
        super().__init__()
        a, b, c = channels
        self.reach, places = reach, (2 * reach + 1) ** 2
        self.one = nn.Sequential(_conv(3, a, 2), _conv(a, a))  # of either frame by itself
        self.two = nn.Sequential(_conv(a, b, 2), _conv(b, b))
        self.both = _conv(b + places, b)
        self.three = nn.Sequential(_conv(b, c, 2), _conv(c, c))
        self.up2, self.up1 = _conv(c + b + 2, b), _conv(b + 2 * a + 2, b)
        self.say3, self.say2, self.say1 = (nn.Conv2d(width, 2, 3, padding=1) for width in (c, b, b))

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if pairs.ndim != 4 or pairs.shape[1] != 6 or pairs.shape[2] % 8 or pairs.shape[3] % 8:
            raise ValueError(f"wanted pairs (N, 6, H, W) with H and W multiples of 8; got {tuple(pairs.shape)}")
        first, second = (self.one(frame) for frame in pairs.split(3, 1))
        half = torch.cat([first, second], 1)
        first, second = self.two(first), self.two(second)
        quarter = self.both(torch.cat([first, correlation(first, second, self.reach)], 1))
        eighth = self.three(quarter)
        coarse = self.say3(eighth)
        begun = _double(coarse)
        quarter = self.up2(torch.cat([quarter, _double(eighth), begun], 1))
        middle = begun + self.say2(quarter)
        begun = _double(middle)
        half = self.up1(torch.cat([half, _double(quarter), begun], 1))
        return begun + self.say1(half), middle, coarse


def _conv(inputs, outputs, stride=1):
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def _double(maps):
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


def correlation(first: Tensor, second: Tensor, reach: int) -> Tensor:
    """How alike each cell of the first map (N, C, h, w) is to the second's cells up to `reach` away: the cosine of
    their features -> (N, (2 reach + 1)^2, h, w), row by row of shifts; 0 outside."""
    (h, w), side = first.shape[2:], 2 * reach + 1
    first, second = (F.normalize(maps, dim=1) for maps in (first, second))
    second = F.pad(second, [reach] * 4)
    shifts = [(y, x) for y in range(side) for x in range(side)]
    return torch.stack([(first * second[:, :, y : y + h, x : x + w]).sum(1) for y, x in shifts], 1)


def six_channels(before: np.ndarray, after: np.ndarray) -> Tensor:
    """Frames uint8 (N, 3, H, W), twice, -> what the network takes, float32 (N, 6, H, W)."""
    frames = np.concatenate([before, after], 1)
    return (torch.from_numpy(frames).float() - 128) / 64


# ------------------------------------------------------------------------------------------------------------ learning


def coarser(flow: Tensor, known: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """A flow (N, 2, H, W), known (N, H, W) in cells of cell x cell pixels: the mean of what is known in each, and where
    that is at least half of it."""
    share = F.avg_pool2d(known[:, None].to(flow.dtype), cell)
    total = F.avg_pool2d(flow * known[:, None], cell)
    return total / share.clamp(min=1e-6), share[:, 0] >= 0.5


def endpoint_error(flow: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """The mean distance in pixels between where two flows (N, 2, h, w) end, where `known` (N, h, w); 0 if nowhere."""
    apart = torch.linalg.vector_norm(flow - truth, dim=1)
    return (apart * known).sum() / known.sum().clamp(min=1)


def endpoint_loss(flows, truth: Tensor, known: Tensor, weights=WEIGHTS) -> Tensor:
    """The weighted sum of the endpoint errors of all scales; truth (N, 2, H, W) and known (N, H, W) at full size."""
    scales = [coarser(truth, known, truth.shape[2] // flow.shape[2]) for flow in flows]
    return sum(w * endpoint_error(flow, *scale) for w, flow, scale in zip(weights, flows, scales, strict=True))


def train_motion(
    images: np.ndarray,
    rows: np.ndarray,
    flow: np.ndarray,
    known: np.ndarray,
    seed: int = 0,
    steps: int = 600,
    batch: int = 32,
    lr: float = 3e-3,
) -> MotionNet:
    """Learn the flow (P, H, W, 2), known (P, H, W) of the pairs of frames rows and rows + 1 of images (M, 3, H, W).
    Half of every batch is seen in a mirror. ValueError without a pair."""
    if not len(rows) == len(flow) == len(known) or not len(rows):
        raise ValueError(f"each pair needs a flow, and there must be one; got {len(rows)}, {len(flow)}, {len(known)}")
    torch.manual_seed(seed)
    rng, net = np.random.default_rng(seed), MotionNet()
    optimizer = torch.optim.Adam(net.parameters(), lr)
    course = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = rng.choice(len(rows), batch)
        pairs = six_channels(images[rows[chosen]], images[rows[chosen] + 1])
        truth = torch.from_numpy(np.float32(flow[chosen])).permute(0, 3, 1, 2).contiguous()
        where, half = torch.from_numpy(known[chosen]), batch // 2
        pairs[:half], truth[:half], where[:half] = pairs[:half].flip(3), truth[:half].flip(3), where[:half].flip(2)
        truth[:half, 0] *= -1
        loss = endpoint_loss(net(pairs), truth, where)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.step()
    return net.eval()


# ------------------------------------------------------------------------------------------- a classical estimator


@torch.inference_mode()
def lucas_kanade(before: Tensor, after: Tensor, levels: int = 2, rounds: int = 5, window: int = 7) -> Tensor:
    """The flow of grey frames (N, H, W), 0 to 255, after Lucas and Kanade (1981), coarse to fine -> (N, 2, H, W).

    Around each pixel one motion is assumed that explains how the greys change: least squares over a window, solved anew
    from the frame brought back by what is found, and smoothed. Two frames are exposed alike first, by their means.
    (scikit-image and OpenCV have better ones; neither is needed here.)
    """
    after = after * (before.mean((1, 2), keepdim=True) + 1) / (after.mean((1, 2), keepdim=True) + 1)
    flow = before.new_zeros(len(before), 2, *[n >> levels for n in before.shape[1:]])
    for level in reversed(range(levels)):
        one, other = (F.avg_pool2d(frames[:, None], 2**level) for frames in (before, after))
        flow = 2 * F.interpolate(flow, one.shape[2:], mode="bilinear", align_corners=False)
        for _ in range(rounds):
            back = warped(other, flow)
            change = (one - back)[:, 0]
            dy, dx = torch.gradient((one + back)[:, 0] / 2, dim=(1, 2))
            xx, xy, yy, x, y = _windows(torch.stack([dx * dx, dx * dy, dy * dy, dx * change, dy * change], 1), window)
            xx, yy = xx + STIFF, yy + STIFF
            found = torch.stack([yy * x - xy * y, xx * y - xy * x], 1) / (xx * yy - xy * xy)[:, None]
            flow = torch.stack(_windows(flow + found.clamp(-1, 1), 3), 1)
    return flow


def _windows(maps, window):
    """The mean of maps (N, C, H, W) over a window around each pixel: C of (N, H, W)."""
    return F.avg_pool2d(maps, window, 1, window // 2, count_include_pad=False).unbind(1)


def warped(maps: Tensor, flow: Tensor) -> Tensor:
    """The next frame (N, C, H, W) brought back: read at p + flow(p), bilinear, at the border where that is outside."""
    height, width = flow.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = (columns + flow[:, 0] + 0.5) * 2 / width - 1, (rows + flow[:, 1] + 0.5) * 2 / height - 1
    return F.grid_sample(maps, torch.stack([x, y], 3), padding_mode="border", align_corners=False)


def grey(images: np.ndarray) -> Tensor:
    """uint8 (N, 3, H, W) -> brightness, float32 (N, H, W), 0 to 255."""
    return torch.from_numpy(np.asarray(images)).float().mean(1)


# --------------------------------------------------------------------------------------------------------- two streams


def next_frames(tracklets: Tracklets) -> tuple[np.ndarray, np.ndarray]:
    """For each frame a pair that says how it moves: (first, second), places among the F frames. A frame and its next;
    of a tracklet's last frame the pair before it once more, and of a single frame that frame twice."""
    starts = np.repeat(tracklets.starts, tracklets.lengths)
    ends = np.repeat(tracklets.starts + tracklets.lengths, tracklets.lengths)
    first = np.maximum(np.minimum(np.arange(len(starts)), ends - 2), starts)
    return first, np.minimum(first + 1, ends - 1)


@torch.inference_mode()
def motion_features(net: MotionNet, tracklets: Tracklets, block: int = 256) -> np.ndarray:
    """How each frame moves: the network's two coarse flows, read out -> float32 (F, 2 * cells), about as long as 1."""
    first, second = (tracklets.rows[places] for places in next_frames(tracklets))
    found = []
    for some in np.split(np.arange(len(first)), range(block, len(first), block)):
        _, middle, coarse = net(six_channels(tracklets.images[first[some]], tracklets.images[second[some]]))
        found.append(torch.cat([middle.flatten(1), coarse.flatten(1)], 1).numpy())
    found = np.concatenate(found)
    return found / (STEP * found.shape[1] ** 0.5)


class TwoStreams(nn.Module):
    """AMOC's head: frames (N, L, spatial + motion), mask (N, L) -> (N, hidden).

    A small network reads the motion, what it says is joined to the spatial feature, and `video.Recurrent` goes through
    the frames: the mean over time of what it says. A stream of width 0 is left out.
    """

    def __init__(self, spatial: int, motion: int, kind: str = "rnn", hidden: int = 128, inner: int = 64):
        super().__init__()
        if min(spatial, motion) < 0 or not spatial + motion:
            raise ValueError(f"two widths from 0, and not both 0; got {spatial} and {motion}")
        self.widths, inner = (spatial, motion), inner if motion else 0
        self.move = nn.Sequential(nn.Linear(motion, inner), nn.ReLU(), nn.Linear(inner, inner)) if motion else None
        self.memory = Recurrent(spatial + inner, kind, hidden)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        seen, moved = frames.split(self.widths, 2)
        if self.move is not None:
            said = self.move(moved * moved.shape[2] ** 0.5)
            seen = torch.cat([seen, said / said.shape[2] ** 0.5], 2)
        return self.memory(seen, mask)
