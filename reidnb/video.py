"""One feature of many frames: aggregation, the heads that learn it, tracklets against tracklets, rankings merged.

Frames come as features (F, D), a row a frame, with the lengths (T,) of the tracklets that they belong to, in order. An
aggregation is called with frames (N, L, D), padded, and a mask (N, L) that says which are real, and gives (N, D').
Those that look at frames one by one give the same whatever their order; `Recurrent` and `Volume` do not, and must not.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, nn

from reidnb.batches import make_batch
from reidnb.datasets.tracklets import Tracklets, tracklet_batches
from reidnb.evaluation import Scores, euclidean_distances, evaluate
from reidnb.losses import contrastive_loss, cross_entropy


def middle(frames: Tensor, mask: Tensor) -> Tensor:
    """The frame in the middle: what a still picture would have been (N, L, D) -> (N, D)."""
    return frames[torch.arange(len(frames)), (mask.sum(1) // 2).clamp(max=frames.shape[1] - 1)]


def mean(frames: Tensor, mask: Tensor) -> Tensor:
    """The mean over the real frames (N, L, D) -> (N, D); zero where there is none."""
    return weighted(frames, mask, mask)


def largest(frames: Tensor, mask: Tensor) -> Tensor:
    """Of each value the largest over the real frames (N, L, D) -> (N, D); zero where there is none."""
    found = frames.masked_fill(~mask[:, :, None], -torch.inf).amax(1)
    return found.masked_fill(~mask.any(1, keepdim=True), 0.0)


def weighted(frames: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """The mean of frames (N, L, D) weighted by (N, L) from 0 on, which need not add up to 1 -> (N, D).

    Where no real frame weighs anything (the person is hidden in all of them) it is the plain mean; zero without frames.
    """
    weights = weights * mask
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, mask).to(frames.dtype)
    return torch.bmm(weights[:, None], frames)[:, 0] / weights.sum(1, keepdim=True).clamp(min=1e-30)


def agreeing(frames: Tensor, mask: Tensor, sharpness: float = 8.0) -> Tensor:
    """The mean weighted by how well each frame agrees with the mean of all: the softmax of sharpness times their cosine
    (N, L, D) -> (N, D). Nothing is learned: a frame of somebody else stands out beside the others, and only there."""
    whole = F.normalize(mean(frames, mask), dim=1)
    cosine = (F.normalize(frames, dim=2) @ whole[:, :, None])[..., 0]
    return weighted(frames, mask, (sharpness * cosine).softmax(1))


class Scored(nn.Module):
    """A score a frame, and the mean weighted by it.

    form "attention": the scores' softmax over the frames; "quality": each frame's own quality in (0, 1), by a sigmoid,
    divided by their sum (Liu, Yan and Ouyang, 2017). It begins as the mean. `scores` gives one logit a frame.
    """

    def __init__(self, width: int, form: str = "quality", hidden: int = 64):
        super().__init__()
        if form not in ("attention", "quality"):
            raise ValueError(f"form must be 'attention' or 'quality', got {form!r}")
        self.form = form
        self.scorer = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        nn.init.zeros_(self.scorer[2].weight)
        nn.init.zeros_(self.scorer[2].bias)

    def scores(self, frames: Tensor) -> Tensor:
        return self.scorer(frames * frames.shape[-1] ** 0.5)[..., 0]  # of length 1: values of about 1 are learned from

    def weights(self, frames: Tensor, mask: Tensor) -> Tensor:
        """What each frame counts (N, L), adding up to 1 in a tracklet that has any, 0 where there is no frame."""
        scores = self.scores(frames)
        if self.form == "quality":
            weights = scores.sigmoid() * mask
        else:
            weights = scores.masked_fill(~mask, -1e30).softmax(1) * mask
        return weights / weights.sum(1, keepdim=True).clamp(min=1e-12)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        return weighted(frames, mask, self.weights(frames, mask))


class Recurrent(nn.Module):
    """Frames in their order through a network that remembers, then the mean over time of what it says.

    kind "rnn" is McLaughlin et al. (2016): o_t = W f_t + V r_(t-1), r_t = tanh(o_t), and the mean of all o_t; "lstm" a
    bidirectional LSTM, of twice `hidden` values; "convolution" one over time (kernel 3) and a ReLU, without which the
    mean over time would undo it; "layer" W f_t alone: a control that learns, and has no memory.
    """

    def __init__(self, width: int, kind: str = "rnn", hidden: int = 128):
        super().__init__()
        if kind not in ("rnn", "lstm", "convolution", "layer"):
            raise ValueError(f"kind must be 'rnn', 'lstm', 'convolution' or 'layer', got {kind!r}")
        self.kind = kind
        if kind == "lstm":
            self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        elif kind == "convolution":
            self.conv = nn.Conv1d(width, hidden, 3, padding=1)
        else:
            self.see = nn.Linear(width, hidden)
        if kind == "rnn":
            self.recall = nn.Linear(hidden, hidden, bias=False)

    def states(self, frames: Tensor, mask: Tensor) -> Tensor:
        """What it says after each frame (N, L, hidden); nothing that stands behind a tracklet's end is heard."""
        frames = frames * mask[:, :, None] * frames.shape[-1] ** 0.5
        if self.kind == "convolution":
            return self.conv(frames.transpose(1, 2)).relu().transpose(1, 2)
        if self.kind == "lstm":
            lengths = mask.sum(1).clamp(min=1).cpu()
            packed = nn.utils.rnn.pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
            return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], True, total_length=frames.shape[1])[0]
        seen = self.see(frames)
        if self.kind == "layer":
            return seen
        said, memory = [], torch.zeros_like(seen[:, 0])
        for t in range(frames.shape[1]):
            said.append(seen[:, t] + self.recall(memory))
            memory = said[-1].tanh()
        return torch.stack(said, 1)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        return mean(self.states(frames, mask), mask)


class Volume(nn.Module):
    """A 3-D convolution: the frames' maps through one over time, height and width, and the mean of all that it says.

    Frames are maps of `shape` (C, h, w), laid out in a row (N, L, C * h * w). `reach` is how many of them in a row the
    convolution sees; 1 is the control, the same convolution of each frame by itself, blind to the order.
    """

    def __init__(self, shape: tuple[int, int, int], reach: int = 3, inner: int = 64, hidden: int = 128):
        super().__init__()
        if reach < 1 or reach % 2 == 0:
            raise ValueError(f"reach must be an odd number of frames, got {reach}")
        self.shape = tuple(shape)
        self.narrow = nn.Sequential(nn.Conv3d(shape[0], inner, 1, bias=False), nn.BatchNorm3d(inner), nn.ReLU())
        self.conv = nn.Conv3d(inner, hidden, (reach, 3, 3), padding=(reach // 2, 1, 1))

    def states(self, frames: Tensor, mask: Tensor) -> Tensor:
        """What it says around each frame (N, L, hidden); nothing that stands behind a tracklet's end is heard."""
        cells = frames.unflatten(2, self.shape).transpose(1, 2)  # (N, C, L, h, w)
        seen = self.narrow(cells) * mask[:, None, :, None, None]
        return self.conv(seen).relu().mean((3, 4)).transpose(1, 2)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        return mean(self.states(frames, mask), mask)


# ------------------------------------------------------------------------------------------------------------- in bulk


@torch.inference_mode()
def aggregate(how: Callable, features, lengths, weights=None, block: int = 128) -> np.ndarray:
    """One feature a tracklet by an aggregation -> float32 (T, D') of unit length; a tracklet without frames gets zeros.

    features (F, D), lengths (T,); weights (F,) are given to `how` too, such as `weighted`. Tracklets of like length are
    padded together, `block` at a time.
    """
    features, lengths = _ragged(features, lengths)
    if weights is not None and np.shape(weights) != (len(features),):
        raise ValueError(f"weights must be one for each of {len(features)} frames; got shape {np.shape(weights)}")
    starts, order, out = np.cumsum(lengths) - lengths, np.argsort(lengths, kind="stable"), None
    for some in np.split(order, range(block, len(order), block)):
        longest = max(int(lengths[some].max(initial=0)), 1)
        inside, rows = np.arange(longest) < lengths[some, None], starts[some, None] + np.arange(longest)
        given = [_padded(features, rows, inside), torch.from_numpy(inside)]
        given += [] if weights is None else [_padded(np.asarray(weights, np.float32), rows, inside)]
        found = F.normalize(how(*given).float(), dim=1).numpy()
        out = np.zeros((len(lengths), found.shape[1]), np.float32) if out is None else out
        out[some] = found * (lengths[some] > 0)[:, None]
    return out


def pad(features, lengths) -> tuple[Tensor, Tensor]:
    """Frames (F, D) of tracklets of `lengths` (T,) -> (T, L, D), zeros behind each end, and the mask (T, L), L >= 1."""
    features, lengths = _ragged(features, lengths)
    place = np.arange(max(int(lengths.max(initial=0)), 1))
    inside, rows = place < lengths[:, None], (np.cumsum(lengths) - lengths)[:, None] + place
    return _padded(features, rows, inside), torch.from_numpy(inside)


def _padded(values: np.ndarray, rows: np.ndarray, inside: np.ndarray) -> Tensor:
    """values[rows] (N, L, ...), zero where it is not inside."""
    if not len(values):
        return torch.zeros(*rows.shape, *values.shape[1:])
    found = values.take(rows, axis=0, mode="clip")  # one pass; what lies beyond an end is put out afterwards
    found[~inside] = 0
    return torch.from_numpy(found)


def _ragged(features, lengths) -> tuple[np.ndarray, np.ndarray]:
    features, lengths = np.asarray(features, np.float32), np.asarray(lengths, np.int64)
    if features.ndim != 2 or lengths.ndim != 1 or lengths.sum() != len(features) or (lengths < 0).any():
        raise ValueError(f"lengths that add up to {lengths.sum()} for features (F, D) of shape {features.shape}")
    return features, lengths


@torch.inference_mode()
def maps(model: nn.Module, images, block: int = 256) -> tuple[np.ndarray, tuple[int, int, int]]:
    """What `Volume` looks at: the backbone's maps of images uint8 (N, 3, H, W), laid out in a row, float32
    (N, C * h * w), and their shape (C, h, w). The model is put in evaluation mode."""
    backbone = model.backbone.cpu().eval()
    rows = np.split(np.arange(len(images)), range(block, len(images), block))
    found = torch.cat([backbone(make_batch(images, some)).float() for some in rows])
    return found.flatten(1).numpy(), tuple(found.shape[1:])


def train_head(
    head: nn.Module,
    features: np.ndarray,
    tracklets: Tracklets,
    seed: int = 0,
    epochs: int = 20,
    frames: int = 8,
    lr: float = 3e-3,
    margin: float = 1.0,
    rule: str = "spread",
) -> nn.Module:
    """Train an aggregation on frozen features (F, D) of tracklets, in place: identification and contrastive loss of one
    feature a tracklet, of 16 people x 4 tracklets x T frames (the losses of McLaughlin et al. and of AMOC)."""
    torch.manual_seed(seed)
    rng, who = np.random.default_rng(seed), np.unique(tracklets.pids, return_inverse=True)[1]
    frame_features = torch.as_tensor(features, dtype=torch.float32)
    with torch.no_grad():
        width = head(frame_features[:1, None], torch.ones(1, 1, dtype=torch.bool)).shape[1]
    classifier = nn.Linear(width, int(who.max()) + 1, bias=False)
    weights = [*head.parameters(), *classifier.parameters()]
    optimizer = torch.optim.Adam(weights, lr, weight_decay=5e-4)
    steps = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for which, rows in tracklet_batches(tracklets, 16, 4, frames, rng, rule):
            labels = torch.from_numpy(who[which])
            x = frame_features[rows]
            feature = F.normalize(head(x, torch.ones(x.shape[:2], dtype=torch.bool)), dim=1)
            loss = cross_entropy(16 * classifier(feature), labels) + contrastive_loss(feature, labels, margin)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        steps.step()
    return head.eval()


class Landmarks(nn.Module):
    """Which of 14 key points of a person can be seen: images uint8 (N, 3, H, W) -> logits (N, 14). Three convolutions,
    instead of the landmark detector that the survey's paper takes from elsewhere."""

    def __init__(self, points: int = 14, channels: tuple[int, ...] = (8, 16, 32)):
        super().__init__()
        steps = zip((3, *channels), channels)
        layers = [(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in steps]
        self.layers = nn.Sequential(*[layer for three in layers for layer in three])
        self.points = nn.Linear(32 * channels[-1], points)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.layers((images.float() - 128) / 64)
        return self.points(F.adaptive_avg_pool2d(cells, (8, 4)).flatten(1))

    @torch.inference_mode()
    def quality(self, images: np.ndarray, sharpness: float = 4.0) -> np.ndarray:
        """What each picture (N, 3, H, W) is worth, float32 (N,): the mean probability that a point is seen, to a power,
        so that half a person counts far less than half."""
        pieces = np.array_split(np.asarray(images), -(-len(images) // 512) or 1)
        seen = [self(torch.from_numpy(np.array(piece))).sigmoid().mean(1) for piece in pieces]
        return (torch.cat(seen) ** sharpness).numpy()


def train_landmarks(images: np.ndarray, visible: np.ndarray, seed: int = 0, epochs: int = 8) -> Landmarks:
    """Learn which points are seen, from images uint8 (N, 3, H, W) and visible (N, 14); half of them an epoch."""
    torch.manual_seed(seed)
    rng, net = np.random.default_rng(seed), Landmarks(visible.shape[1])
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    steps = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.from_numpy(rng.permutation(len(images))[: max(len(images) // 2, 1)]).split(64):
            logits = net(torch.from_numpy(np.array(images[rows.numpy()])))
            loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(visible[rows.numpy()]).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        steps.step()
    return net.eval()


# ---------------------------------------------------------------------------------------------- tracklets are searched


def evaluate_tracklets(query_features, gallery_features, query: Tracklets, gallery: Tracklets) -> Scores:
    """Tracklet against tracklet by MARS's rules, which are those of `evaluation`: one feature each (Q, D), (G, D).

    A gallery tracklet without frames is farther than all others; a query without frames is as far from everybody, and
    scores as chance does.
    """
    distances = np.array(euclidean_distances(query_features, gallery_features))
    distances[:, gallery.lengths == 0] = distances.max() + 1
    distances[query.lengths == 0] = 0
    return evaluate(distances, query.pids, gallery.pids, query.camids, gallery.camids)


def merge_rankings(distances: np.ndarray, lengths, how: str = "mean") -> np.ndarray:
    """Each frame searched for itself, and the answers merged: distances (F, G) -> (T, G), small = alike.

    how "mean": of squared distances, which for features of unit length ranks as the mean feature does; "nearest": the
    smallest distance of any frame; "ranks": the mean place in the frames' rankings (Borda's count). A tracklet without
    frames gets zeros.
    """
    if how not in ("mean", "nearest", "ranks"):
        raise ValueError(f"how must be 'mean', 'nearest' or 'ranks', got {how!r}")
    values, lengths = np.asarray(distances, np.float64), np.asarray(lengths, np.int64)
    if values.ndim != 2 or lengths.sum() != len(values) or (lengths < 0).any():
        raise ValueError(f"lengths that add up to {lengths.sum()} for distances (F, G) of shape {values.shape}")
    if how == "ranks":
        values = rankdata(values, axis=1) - 1  # of equal distances each has their mean place
    values = values**2 if how == "mean" else values
    some, merged = lengths > 0, np.zeros((len(lengths), values.shape[1]))
    starts = (np.cumsum(lengths) - lengths)[some]
    merged[some] = (np.minimum if how == "nearest" else np.add).reduceat(values, starts) if some.any() else 0
    return merged if how == "nearest" else merged / np.maximum(lengths, 1)[:, None]
