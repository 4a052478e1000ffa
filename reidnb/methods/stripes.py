"""A person in horizontal stripes: HPLF's rigid ones, AlignedReID's aligned ones, and PCB's, each with a classifier."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reidnb import evaluation, losses
from reidnb.alignment import local_distance_matrix, local_distances, rigid_distances
from reidnb.methods.parts import Trial
from reidnb.network import Output
from reidnb.training import Batch
from reidnb.values import Count, Share, Weight, value


def horizontal_pooling(cells: torch.Tensor, parts: int | None = None) -> torch.Tensor:
    """Map (N, C, h, w) -> (N, parts, C), the mean of each horizontal stripe from head to feet (HPLF, section 2.2).

    `parts=None` cuts with a 1 x w window, one stripe a row. Where parts do not divide h, neighbours share a row.
    """
    return F.adaptive_avg_pool2d(cells, (parts or cells.shape[2], 1)).squeeze(3).transpose(1, 2)


@value
class Stripes:
    """The local branch: `parts` stripes of `width` values each, after a 1x1 convolution (AlignedReID, section 3.1), or
    of the map's own with `width=None` (HPLF). With `classifiers`, each also says who it is (PCB). `norm`: batch norm
    behind it; `unit`: distances in training are between stripes of unit length, as at the test they always are.
    Neither paper has the two."""

    parts: Count = 8
    width: Count | None = 128
    classifiers: bool = False
    norm: bool = True
    unit: bool = True

    @property
    def gives(self) -> tuple[str, ...]:
        return ("local", "part_logits") if self.classifiers else ("local",)

    def build(self, channels: int, facts: dict) -> nn.Module:
        classes = facts["classes"] * self.classifiers
        return StripeHead(channels, self.parts, self.width, classes, self.norm, self.unit)


class StripeHead(nn.Module):
    """Map (N, C, h, w) -> "local" features (N, parts, c): horizontal pooling, then batch norm, the same for all
    stripes, and unit length; without either with `norm` or `unit` False. With `classes`, also "part_logits" (N, parts,
    classes) by a classifier for each stripe (PCB, Sun et al., 2018)."""

    def __init__(
        self,
        channels: int,
        parts: int,
        width: int | None = None,
        classes: int = 0,
        norm: bool = True,
        unit: bool = True,
    ):
        super().__init__()
        self.parts, self.unit = parts, unit
        # on (N, parts, C) a 1x1 convolution is a linear layer
        self.reduce = nn.Linear(channels, width, bias=False) if width else nn.Identity()
        self.norm = nn.BatchNorm1d(width or channels) if norm else nn.Identity()
        self.classifiers = nn.Parameter(0.001 * torch.randn(parts, width or channels, classes)) if classes else None

    def forward(self, output: Output) -> dict[str, torch.Tensor]:
        stripes = self.reduce(horizontal_pooling(output.map, self.parts)).float()
        local = self.norm(stripes.flatten(0, 1)).view_as(stripes)
        found = {"local": F.normalize(local, dim=2) if self.unit else local}
        if self.classifiers is not None:
            found["part_logits"] = torch.einsum("npc,pck->npk", local, self.classifiers).float()
        return found


@value
class PartIdentity:
    """PCB (Sun et al., 2018): the cross-entropy of every stripe's own classifier, a mean over stripes."""

    weight: Weight = 1.0
    smoothing: Share = 0.1

    key, needs = "parts", ("part_logits",)

    def __call__(self, output: Output, batch: Batch) -> torch.Tensor:
        labels = batch.labels.repeat_interleave(output.part_logits.shape[1])
        return self.weight * losses.cross_entropy(output.part_logits.flatten(0, 1), labels, self.smoothing)


@value
class LocalTriHard:
    """TriHard on the global distance and on the stripes', "aligned" (AlignedReID) or "rigid" (HPLF), in sum.

    `mining` says what chooses the triplets of both: the "global" distance (AlignedReID, section 3.1), the "local" one,
    "both" in sum; or "each" for itself (HPLF, section 2.1).
    """

    distance: Literal["rigid", "aligned"] = "aligned"
    margin: float = 0.3
    local_margin: float = 0.3
    weight: Weight = 1.0
    local_weight: Weight = 0.3
    mining: Literal["global", "local", "both", "each"] = "global"

    key, pairs, needs, outputs = "trihard", True, ("local",), ("local",)

    def __call__(self, output: Output, batch: Batch) -> dict[str, torch.Tensor]:
        apart = losses.pairwise_distances(output.features)
        between = local_distances if self.distance == "aligned" else rigid_distances
        local = between(output.local, output.local)
        by = {"global": (apart, apart), "local": (local, local), "both": (apart + local,) * 2, "each": (apart, local)}
        for_global, for_local = (losses.hardest_triplets(distances, batch.labels) for distances in by[self.mining])
        return {
            "trihard": self.weight * losses.mined_loss(apart, for_global, self.margin),
            "local": self.local_weight * losses.mined_loss(local, for_local, self.local_margin),
        }

    def test(self, query: dict, gallery: dict, trial: Trial) -> dict:
        """Scores by the "local" distance alone, and by "both", the global one plus the mean of a path's cells."""
        aligned, parts = self.distance == "aligned", query["local"].shape[1]
        local = local_distance_matrix(query["local"], gallery["local"], aligned)
        cells = np.float32(2 * parts - 1 if aligned else parts)
        both = evaluation.euclidean_distances(query["whole"], gallery["whole"]) + local / cells
        found = {"local": local, "both": both}
        return {"scores": {name: evaluation.evaluate(matrix, *trial.data.ids) for name, matrix in found.items()}}
