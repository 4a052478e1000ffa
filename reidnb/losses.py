"""Losses of person re-identification: plain functions of features (N, D) or logits, and labels (N,).

Distances are computed in float32 also under autocast; a square root of zero has gradient zero, never NaN.
"""

import torch
import torch.nn.functional as F

__all__ = ["cross_entropy", "pairwise_distances", "trihard_loss"]


def pairwise_distances(features):
    """Euclidean distances between all rows of features (N, D) -> (N, N) float32, differentiable, 0 on the diagonal."""
    if features.ndim != 2:
        raise ValueError(f"features must be a matrix (N, D), got shape {tuple(features.shape)}")
    with torch.autocast(features.device.type, enabled=False):
        x = features if features.dtype == torch.float64 else features.float()
        x = x - x.detach().mean(0)  # changes no distance, and keeps digits where all features lie far from the origin
        squares = x.square().sum(1)
        scale = squares[:, None] + squares
        squared = (scale - 2 * x @ x.T).clamp(min=0)
        i, j = torch.nonzero((squared < 1e-3 * scale).fill_diagonal_(False), as_tuple=True)
        if len(i):  # near-duplicates: the product form has cancelled their digits
            squared = squared.index_put((i, j), (x[i] - x[j]).square().sum(1))
        zero = (squared == 0).fill_diagonal_(True)  # the root's slope is infinite: give it a 1, then take it out again
        return torch.where(zero, 0, torch.where(zero, 1, squared).sqrt())


def cross_entropy(logits, labels, smoothing=0.0):
    """Mean cross-entropy of logits (N, C) with label smoothing -> scalar.

    The target is 1 - e + e / C for the label and e / C for every other class (Szegedy et al., 2016; LSR in CamStyle,
    eq. 4).
    """
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


def trihard_loss(features, labels, margin=0.3):
    """Triplet loss with batch-hard mining, TriHard (Hermans et al., 2017, eq. 5) -> scalar.

    Mean over the anchors a of  [ max_p d(a, p) - min_n d(a, n) + margin ]+ ; with `margin=None` the soft margin log(1
    + exp(.)). features (N, D), labels (N,). Anchors without another image of their person, or without anybody else,
    take no part; a batch without any anchor gives 0 (with a gradient of 0).
    """
    distances = pairwise_distances(features)
    same, anchors = _same(labels, features)
    farthest_positive = distances.masked_fill(~same, -torch.inf).amax(1)
    nearest_negative = distances.masked_fill(same, torch.inf).amin(1)
    gap = (farthest_positive - nearest_negative)[anchors]
    if not len(gap):
        return features.sum() * 0.0
    return (F.softplus(gap) if margin is None else F.relu(gap + margin)).mean()


def _same(labels, features):
    """Who is of one person (N, N), and which rows can be anchors: those with a positive besides themselves and a
    negative."""
    labels = torch.as_tensor(labels, device=features.device)
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels must be one integer a row of the {tuple(features.shape)} features, got shape {tuple(labels.shape)}"
        )
    same = labels[:, None] == labels
    return same, torch.nonzero((same.sum(1) > 1) & ~same.all(1)).flatten()
