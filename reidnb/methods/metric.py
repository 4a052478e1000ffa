"""The metric losses of notebooks 01 and 02 as terms of a recipe. The losses themselves are in `reidnb.losses`.

All act on the pooled features; of several branches (N, B, D), named by `on`, on each, in sum.
"""

from collections.abc import Callable
from functools import partial

import torch

from reidnb import losses
from reidnb.network import Output
from reidnb.training import Batch
from reidnb.values import Weight, value


def over_branches(loss: Callable, features: torch.Tensor) -> torch.Tensor:
    """A loss of features (N, D), or its sum over branches (N, B, D)."""
    return sum(map(loss, features.unbind(1))) if features.ndim == 3 else loss(features)


@value
class Contrastive:
    """Every pair by itself, against a fixed distance (Hadsell et al., 2006)."""

    margin: float = 1.0
    weight: Weight = 1.0
    on: str = "features"

    key, pairs = "contrastive", True

    def __call__(self, output: Output, batch: Batch) -> torch.Tensor:
        loss = partial(losses.contrastive_loss, labels=batch.labels, margin=self.margin)
        return self.weight * over_branches(loss, output[self.on])


@value
class Triplet:
    """Every triplet of the batch (Schroff et al., 2015)."""

    margin: float = 0.3
    weight: Weight = 1.0
    on: str = "features"

    key, pairs = "triplet", True

    def __call__(self, output: Output, batch: Batch) -> torch.Tensor:
        loss = partial(losses.triplet_loss, labels=batch.labels, margin=self.margin)
        return self.weight * over_branches(loss, output[self.on])


@value
class ImprovedTriplet:
    """Every triplet, and positives pulled near by `pull` (Cheng et al., 2016)."""

    margin: float = 0.3
    pull: Weight = 1.0
    weight: Weight = 1.0
    on: str = "features"

    key, pairs = "improved_triplet", True

    def __call__(self, output: Output, batch: Batch) -> torch.Tensor:
        loss = partial(losses.improved_triplet_loss, labels=batch.labels, margin=self.margin, pull=self.pull)
        return self.weight * over_branches(loss, output[self.on])


@value
class Quadruplet:
    """Every quadruplet, the second hinge with `margin2` (Chen et al., 2017)."""

    margin: float = 0.3
    margin2: float = 0.15
    weight: Weight = 1.0
    on: str = "features"

    key, pairs = "quadruplet", True

    def __call__(self, output: Output, batch: Batch) -> torch.Tensor:
        loss = partial(losses.quadruplet_loss, labels=batch.labels, margin=self.margin, margin2=self.margin2)
        return self.weight * over_branches(loss, output[self.on])


@value
class TriHard:
    """Each anchor with its hardest positive and negative (Hermans et al., 2017); `margin=None`: the soft margin."""

    margin: float | None = 0.3
    weight: Weight = 1.0
    on: str = "features"

    key, pairs = "trihard", True

    def __call__(self, output: Output, batch: Batch) -> torch.Tensor:
        loss = partial(losses.trihard_loss, labels=batch.labels, margin=self.margin)
        return self.weight * over_branches(loss, output[self.on])


@value
class MSML:
    """The hardest pair of pairs of the whole batch (Xiao et al., 2017)."""

    margin: float = 0.3
    weight: Weight = 1.0
    on: str = "features"

    key, pairs = "msml", True

    def __call__(self, output: Output, batch: Batch) -> torch.Tensor:
        loss = partial(losses.msml_loss, labels=batch.labels, margin=self.margin)
        return self.weight * over_branches(loss, output[self.on])
