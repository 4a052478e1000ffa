"""Latent parts (Li et al., 2017): nobody says where parts are; a small spatial transformer on the map finds them."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reidnb import evaluation, losses
from reidnb.methods.parts import Trial
from reidnb.methods.pose import cut
from reidnb.network import Output
from reidnb.training import Batch
from reidnb.values import Count, Share, Weight, value

CELLS = (8, 4)  # of a map, as the localiser sees it
SAMPLES = (4, 4)  # places at which a part is read


def bands(parts: int) -> torch.Tensor:
    """The prior (P, 4): horizontal bands of equal height from head to feet, each as (s_x, s_y, t_x, t_y) of eq. 1.5."""
    middle = (2 * torch.arange(parts) + 1) / parts - 1
    return torch.stack([torch.ones(parts), torch.full((parts,), 1 / parts), torch.zeros(parts), middle], 1)


def as_maps(freedom: torch.Tensor) -> torch.Tensor:
    """Four degrees of freedom (..., 4) -> affine maps (..., 2, 3): scale and shift, no turn and no shear (eq. 1.5)."""
    sx, sy, tx, ty = freedom.unbind(-1)
    zero = torch.zeros_like(sx)
    return torch.stack([torch.stack([sx, zero, tx], -1), torch.stack([zero, sy, ty], -1)], -2)


@value
class LatentParts:
    """`parts` parts that a spatial transformer finds on the map, each with a layer of `width` values and a classifier;
    the whole and the parts stand together at the test. `prior`: the weight of the squared distance of the four degrees
    of freedom to three bands (the paper's has a margin and keeps parts inside the picture; ours is the plain square).
    `start`: where the localiser begins, at the "prior" or anywhere ("random")."""

    parts: Count = 3
    width: Count = 128
    prior: Weight = 1.0
    start: Literal["prior", "random"] = "prior"
    smoothing: Share = 0.1
    weight: Weight = 1.0

    key, needs, outputs = "latent", ("latent_logits", "latent_maps"), ("latent_embedding",)
    gives = ("latent_logits", "latent_maps", "latent_embedding")

    def build(self, channels: int, facts: dict) -> nn.Module:
        return LatentHead(channels, facts["classes"], self.parts, self.width, self.start)

    def __call__(self, output: Output, batch: Batch) -> dict[str, torch.Tensor]:
        labels = batch.labels.repeat_interleave(self.parts)
        said = losses.cross_entropy(output.latent_logits.flatten(0, 1), labels, self.smoothing)
        return {"latent": self.weight * said, "prior": self.prior * prior_loss(output.latent_maps)}

    def test(self, query: dict, gallery: dict, trial: Trial) -> dict:
        """Scores by the parts alone ("local"), and with the whole, each part counting as much as it ("both")."""
        local = [part["latent_embedding"].reshape(len(part["whole"]), -1) for part in (query, gallery)]
        both = [np.concatenate([side["whole"], part], 1) for side, part in zip((query, gallery), local)]
        scores = {}
        for name, pair in (("local", local), ("both", both)):
            unit = (F.normalize(torch.from_numpy(np.ascontiguousarray(side))).numpy() for side in pair)
            scores[name] = evaluation.evaluate_features(*unit, *trial.data.ids)
        return {"scores": scores}


def prior_loss(maps: torch.Tensor) -> torch.Tensor:
    """How far parts (N, P, 2, 3) are from the bands: the squared difference of the four degrees of freedom, their sum,
    a mean over pictures and parts."""
    freedom = torch.stack([maps[..., 0, 0], maps[..., 1, 1], maps[..., 0, 2], maps[..., 1, 2]], -1)
    return (freedom - bands(maps.shape[1]).to(maps)).square().sum(2).mean()


class LatentHead(nn.Module):
    """The map (N, C, h, w) -> "latent_maps" (N, P, 2, 3), where the parts are; "latent_embedding" (N, P, width), what
    is read there; "latent_logits" (N, P, classes)."""

    def __init__(self, channels: int, classes: int, parts: int, width: int, start: str):
        super().__init__()
        self.parts = parts
        self.squeeze = nn.Conv2d(channels, 16, 1)
        self.locate = nn.Sequential(nn.Linear(16 * CELLS[0] * CELLS[1], 64), nn.ReLU(), nn.Linear(64, 4 * parts))
        last = self.locate[-1]
        if start == "prior":
            nn.init.zeros_(last.weight)
            last.bias.data = bands(parts).flatten()
        else:
            nn.init.normal_(last.bias, std=0.5)
        self.reduce = nn.Parameter(torch.randn(parts, channels, width) / channels**0.5)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(parts))
        self.classifiers = nn.Parameter(0.001 * torch.randn(parts, width, classes))

    def forward(self, output: Output) -> dict[str, torch.Tensor]:
        cells = output.map
        with torch.autocast(cells.device.type, enabled=False):
            cells = cells.float()
            seen = F.adaptive_avg_pool2d(self.squeeze(cells).relu(), CELLS).flatten(1)
            maps = as_maps(self.locate(seen).view(-1, self.parts, 4))
            read = cut(cells, maps, SAMPLES).mean((3, 4))  # (N, P, C)
            local = torch.einsum("npc,pcw->npw", read, self.reduce)
            local = torch.stack([norm(part) for norm, part in zip(self.norms, local.unbind(1))], 1)
            logits = torch.einsum("npw,pwk->npk", local, self.classifiers)
        return {"latent_maps": maps, "latent_embedding": local, "latent_logits": logits}
