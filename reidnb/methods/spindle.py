"""Spindle Net (Zhao et al., 2017): seven regions of a body, each read by itself, merged step by step with the whole.

The paper cuts regions out of its network's map (RoI pooling): the three large ones early, the four limbs late. A head
sees one map and no key points, and training varies pictures after they are read; so our regions are cut from the
pictures, by the same boxes and before anything is varied, and each passes the whole backbone, as a picture that joins
the batch. The tree that merges them is that of the authors' release. They train region by region and the tree at last;
here everything learns at once.
"""

from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reidnb import evaluation, inference, losses
from reidnb.methods.parts import Trial
from reidnb.methods.pose import SPINDLE, cut, spindle_regions
from reidnb.methods.pose_parts import PoseParts, cut_all
from reidnb.network import Output
from reidnb.training import Batch
from reidnb.values import Count, Share, Weight, Within, value

REGIONS = len(SPINDLE)
KIND = (0, *(2 if "arm" in name or "leg" in name else 1 for name in SPINDLE))  # 0 whole, 1 large, 2 limb: who shares


@value
class SpindleRegions:
    """The seven regions of the pictures of a batch, which join it, each enlarged to the size of the whole; one that is
    not known is the whole picture. `points` and `keypoint_noise`: as PoseParts has them."""

    points: Literal["true", "network", "mean"] = "true"
    keypoint_noise: Annotated[float, Within(0, 2)] = 0.0

    needs_target, boxes = False, "spindle"
    bind, where = PoseParts.bind, PoseParts.where

    def cut(self, data, split: str) -> tuple[np.ndarray, np.ndarray]:
        """The regions of a split's pictures, uint8 (N, 7, 3, H, W), grey (128) outside the picture, and whether each is
        known, bool (N, 7)."""

        def parts_of(pixels, where, size):
            maps, found = spindle_regions(where, size)
            return cut(pixels, maps, size), found

        return cut_all(getattr(data, split).images, self.where(data, split), REGIONS, parts_of, bool)


@value
class SpindleTree:
    """Identification of the whole and of what the tree makes of the whole and its seven regions, a loss each (the
    paper's release has a loss for each region too, before the tree is trained). `width`: values of every vector in it,
    256 in the paper. At the test the fused feature is what "both" compares."""

    width: Count = 256
    smoothing: Share = 0.1
    weight: Weight = 1.0

    key, sees_joined, needs, outputs = "spindle", True, ("fused_logits",), ("region_vectors",)
    gives = ("whole_embedding", "whole_logits", "region_vectors", "fused_logits")

    def build(self, channels: int, facts: dict) -> nn.Module:
        return SpindleHead(channels, facts["values"], facts["classes"], self.width)

    def __call__(self, output: Output, batch: Batch) -> dict[str, torch.Tensor]:
        count = len(batch.indices)
        if len(batch.labels) != count * (1 + REGIONS):
            raise ValueError(
                f"SpindleTree merges {REGIONS} regions with each picture, and {len(batch.labels) - count} pictures "
                f"joined a batch of {count}: extra must be SpindleRegions"
            )
        labels = batch.labels[:count]
        whole, fused = (
            losses.cross_entropy(said[:count], labels, self.smoothing)
            for said in (output.whole_logits, output.fused_logits)
        )
        return {"whole": whole, "spindle": self.weight * fused}

    def test(self, query: dict, gallery: dict, trial: Trial) -> dict:
        """Scores by the fused feature ("both") and by what the tree made of the regions before the whole came to it
        ("local"); and which share of the regions was not known."""
        head, sides, known = trial.net.heads[self.key], [], []
        for split, side in (("query", query), ("gallery", gallery)):
            cuts, found = trial.recipe.extra.cut(trial.data, split)
            flip, said = trial.recipe.flip_test, [torch.from_numpy(side["region_vectors"][:, 0])]
            for r, kind in enumerate(KIND[1:]):
                read = inference.embed(trial.net, cuts[:, r], trial.device, flip=flip, compare="region_vectors")
                said.append(read[:, kind])
            sides.append(head.compared(torch.stack(said, 1)))
            known.append(found)
        scores = {
            name: evaluation.evaluate_features(sides[0][name], sides[1][name], *trial.data.ids)
            for name in ("local", "both")
        }
        return {"scores": scores, "numbers": {"parts_unseen": float(1 - np.concatenate(known).mean())}}


class SpindleHead(nn.Module):
    """The map (M, C, h, w) and features (M, V) of a batch of N and its regions, one region after the other (M = 8 N) ->
    in training "whole_logits" (N, classes), by the features of the first N, and "fused_logits" (N, classes).

    At the test, of any M pictures, "whole_embedding" (M, V), the whole's, and "region_vectors" (M, 3, width), each of
    unit length: what a picture is where it is a whole, a large region or a limb. `merge` takes vectors on from there.
    """

    def __init__(self, channels: int, values: int, classes: int, width: int):
        super().__init__()
        self.read = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()) for _ in range(3)
        )
        self.tree = SpindleFusion(width)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(3))
        self.necks = nn.ModuleDict({"whole": nn.BatchNorm1d(values), "fused": nn.BatchNorm1d(width)})
        for neck in self.necks.values():
            neck.bias.requires_grad_(False)
        sizes = {"whole": values, "fused": width}
        self.classifiers = nn.ParameterDict({k: 0.001 * torch.randn(n, classes) for k, n in sizes.items()})

    def vectors(self, cells: torch.Tensor, kind: int) -> torch.Tensor:
        """Maps of one kind (M, C, h, w) -> (M, width) of unit length: a 1x1 convolution, the mean, batch norm."""
        return F.normalize(self.norms[kind](self.read[kind](cells).mean((2, 3)).float()), dim=1)

    def forward(self, output: Output) -> dict[str, torch.Tensor]:
        cells, features = output.map, output.features
        if not self.training:
            said = torch.stack([self.vectors(cells, kind) for kind in range(3)], 1)
            return {"whole_embedding": self.necks["whole"](features), "region_vectors": said}
        if len(cells) % (1 + REGIONS):
            raise ValueError(f"{len(cells)} pictures are no batch with {REGIONS} regions of each picture")
        n = len(cells) // (1 + REGIONS)
        large = KIND.count(1)  # in SPINDLE the large ones come first, and limbs behind
        whole, macro, limbs = (
            self.vectors(part, kind) for kind, part in enumerate(cells.split([n, large * n, (REGIONS - large) * n]))
        )
        fused, _ = self.tree(torch.cat([whole, macro, limbs]).view(1 + REGIONS, n, -1).transpose(0, 1))
        said = {"whole": features[:n], "fused": fused}
        logits = {k: (self.necks[k](x.float()) @ self.classifiers[k]).float() for k, x in said.items()}
        return {f"{name}_logits": values for name, values in logits.items()}

    @torch.inference_mode()
    def compared(self, vectors: torch.Tensor) -> dict[str, np.ndarray]:
        """Vectors (M, 8, width) of pictures and their regions -> what is compared, (M, width) of unit length: "both",
        the fused feature behind its neck, and "local", the regions' before the whole."""
        self.eval()
        fused, local = self.tree(vectors.to(self.classifiers["fused"].device))
        found = {"both": self.necks["fused"](fused), "local": local}
        return {name: F.normalize(x, dim=1).cpu().numpy() for name, x in found.items()}


class SpindleFusion(nn.Module):
    """Vectors (N, 8, D), the whole's and those of pose.SPINDLE's regions -> the fused feature (N, D), and what there is
    of the regions alone (N, D).

    What competes is merged by the larger of two values, place by place, so left and right need not be told apart; then
    a layer each: arms, legs; arms with the upper body, legs with the lower; these two with the head; and in the end the
    whole beside it, through one layer of both.
    """

    def __init__(self, width: int):
        super().__init__()
        steps = {"arms": 1, "legs": 1, "upper": 1, "lower": 1, "regions": 1, "fused": 2}
        self.layers = nn.ModuleDict({name: nn.Linear(many * width, width) for name, many in steps.items()})
        for layer in self.layers.values():  # it begins as a turn: lengths and angles stay what they are
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if vectors.ndim != 3 or vectors.shape[1] != 1 + REGIONS:
            raise ValueError(
                f"the tree takes vectors (N, {1 + REGIONS}, D), the whole's and those of its regions; got "
                f"{tuple(vectors.shape)}"
            )
        whole, (head, upper, lower, *limbs) = vectors[:, 0], vectors[:, 1:].unbind(1)
        arms = self.layers["arms"](torch.maximum(*limbs[:2]))
        legs = self.layers["legs"](torch.maximum(*limbs[2:]))
        upper = self.layers["upper"](torch.maximum(upper, arms))
        lower = self.layers["lower"](torch.maximum(lower, legs))
        regions = self.layers["regions"](torch.maximum(head, torch.maximum(upper, lower)))
        return self.layers["fused"](torch.cat([whole, regions], 1)), regions
