"""The losses as slow loops over their formulas, and the batches that tests of losses share."""

from itertools import combinations

import pytest
import torch
from hypothesis import strategies as st

from reidnb.losses import (
    contrastive_loss,
    improved_triplet_loss,
    msml_loss,
    quadruplet_loss,
    trihard_loss,
    triplet_loss,
)

KINDS = [torch.float32, torch.float64]
COUNTS = [(4, 4, 4, 4), (2, 6), (1, 2, 9), (1, 1, 1, 2), (3, 1, 2, 4)]
ANY_COUNTS = st.lists(st.integers(1, 5), min_size=2, max_size=5).map(tuple)
SEEDS = st.integers(0, 999)


def close(kind):
    """The product form |x|^2 + |y|^2 - 2 x.y loses about three of float32's seven digits; float64 has plenty."""
    return {"rtol": 2e-4, "atol": 2e-4} if kind == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}


def batch(seed=0, counts=(4, 4, 4, 4), dimensions=16, kind=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)] * 7 + 3
    return torch.randn(len(labels), dimensions, generator=generator, dtype=torch.float64).to(kind), labels


# ---- the slow losses: d[i][j] are distances, tensors or floats, and labels a list -----------------------------------


def mean(terms):
    terms = list(terms)
    return sum(terms) / max(len(terms), 1)


def hinge(x):
    return x if x > 0 else 0 * x


def triplets(labels):
    every = range(len(labels))
    return [(a, p, n) for a in every for p in every for n in every if a != p and labels[a] == labels[p] != labels[n]]


def quadruplets(labels):
    """(a, p, n1, n2): three persons, and every order."""
    every = range(len(labels))
    return [(a, p, n, m) for a, p, n in triplets(labels) for m in every if labels[m] not in (labels[a], labels[n])]


def slow_contrastive(d, labels, margin=1.0):
    return mean(
        d[i][j] ** 2 if labels[i] == labels[j] else hinge(margin - d[i][j]) ** 2
        for i, j in combinations(range(len(labels)), 2)
    )


def slow_triplet(d, labels, margin=0.3):
    return mean(hinge(d[a][p] - d[a][n] + margin) for a, p, n in triplets(labels))


def slow_improved_triplet(d, labels, margin=0.3, pull=1.0):
    return mean(pull * d[a][p] + hinge(d[a][p] - d[a][n] + margin) for a, p, n in triplets(labels))


def slow_quadruplet(d, labels, margin=0.3, margin2=0.15):
    return mean(
        hinge(d[a][p] - d[a][n] + margin) + hinge(d[a][p] - d[n][m] + margin2) for a, p, n, m in quadruplets(labels)
    )


def slow_trihard(d, labels, margin=0.3):
    """One anchor at a time: its farthest positive, its nearest negative."""
    costs = []
    for a in range(len(labels)):
        positives = [d[a][p] for p in range(len(labels)) if p != a and labels[p] == labels[a]]
        negatives = [d[a][n] for n in range(len(labels)) if labels[n] != labels[a]]
        if positives and negatives:
            gap = max(positives) - min(negatives)
            costs.append(torch.log1p(torch.exp(gap)) if margin is None else hinge(gap + margin))
    return mean(costs)


def slow_msml(d, labels, margin=0.3):
    positives = [d[i][j] for i, j in combinations(range(len(labels)), 2) if labels[i] == labels[j]]
    negatives = [d[i][j] for i, j in combinations(range(len(labels)), 2) if labels[i] != labels[j]]
    return hinge(max(positives) - min(negatives) + margin) if positives and negatives else 0.0


SLOW = {
    contrastive_loss: slow_contrastive,
    triplet_loss: slow_triplet,
    improved_triplet_loss: slow_improved_triplet,
    quadruplet_loss: slow_quadruplet,
    trihard_loss: slow_trihard,
    msml_loss: slow_msml,
}
CASES = [(loss, margins) for loss in SLOW if loss != quadruplet_loss for margins in [(0.3,), (2.0,), (4.0,)]]
CASES += [(quadruplet_loss, margins) for margins in [(0.3, 0.15), (0.3, 2.0), (2.0, -0.5)]] + [(trihard_loss, (None,))]
CASES += [(improved_triplet_loss, (0.3, pull)) for pull in (0.002, 0.5)]
# Each loss with its usual margin, but the contrastive loss with one that reaches as far as Gaussian features lie apart.
USUAL = [(loss, (4.0,) if loss == contrastive_loss else ()) for loss in SLOW] + [(trihard_loss, (None,))]


def name(value):
    return getattr(value, "__name__", None)


each_loss = pytest.mark.parametrize("loss", SLOW, ids=name)
each_case = pytest.mark.parametrize("loss, margins", CASES, ids=name)
each_usual = pytest.mark.parametrize("loss, margins", USUAL, ids=name)


def slow(loss, features, labels, *margins):
    """The loop's value, a tensor with a gradient also where there is nothing to sum up."""
    d = [[torch.linalg.norm(x - y) for y in features] for x in features]
    return SLOW[loss](d, labels.tolist(), *margins) + 0 * features.sum()


def any_distances(seed, n):
    """Of no space: not symmetric, so that rows and columns are not the same."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, n, generator=generator, dtype=torch.float64).add(0.1).fill_diagonal_(0)
