"""Which triplets of a batch a loss listens to: a ladder of rules from chance to the hardest, a memory of batches gone
by, and a learned matching function whose pairs are mined online.

`metric.Triplet`, `TriHard` and `MSML` are rungs of the same ladder; notebook 02 climbs it.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidnb import evaluation, losses
from reidnb.methods.parts import Trial
from reidnb.network import Output
from reidnb.training import Batch
from reidnb.values import Count, Weight, value

Rule = Literal["random", "all", "above_zero", "semi_hard", "distance", "hard"]
BINS = 20  # into which distance weighting sorts distances
NOBODY = -1  # the label of a place in the memory that nothing has filled yet


# ---------------------------------------------------------------------------------------------------------------- rules


@torch.no_grad()
def choose_triplets(
    distances: Tensor, positive: Tensor, negative: Tensor, rule: Rule, margin: float = 0.3
) -> tuple[Tensor, Tensor, Tensor]:
    """The triplets that a rule chooses -> anchors, positives, negatives, all (T,); T may be 0.

    distances (N, M) of N anchors to M candidates; positive, negative (N, M) bool: who shows the anchor's person, and
    who another. Rules, and how many triplets each chooses:

    random      an anchor's positive and negative by lot                                       one an anchor
    all         all of them                                                                    all
    above_zero  those whose hinge is above zero (batch all, Hermans et al., 2017)               as many as there are
    semi_hard   for each positive the nearest negative beyond it, and where there is none the
                farthest one (Schroff et al., 2015, in the form that TensorFlow's loss has)     one a positive pair
    distance    for each positive a negative by lot, far and near ones alike: a distance is
                drawn as rarely as it is common (Wu et al., 2017; they know how common from a
                sphere, we count it in the batch)                                               one a positive pair
    hard        the farthest positive and the nearest negative (TriHard)                        one an anchor
    """
    whole = positive.any(1) & negative.any(1)  # an anchor without either takes no part
    anchors = whole.nonzero().squeeze(1)
    if not len(anchors):
        return anchors, anchors, anchors
    if rule == "random":
        p, n = (torch.multinomial(some[anchors].float(), 1).squeeze(1) for some in (positive, negative))
        return anchors, p, n
    if rule == "hard":
        farthest = distances.masked_fill(~positive, -torch.inf)[anchors].argmax(1)
        return anchors, farthest, distances.masked_fill(~negative, torch.inf)[anchors].argmin(1)
    a, p = (positive & whole[:, None]).nonzero(as_tuple=True)
    far, others = distances[a], negative[a]
    near = distances[a, p][:, None]
    if rule in ("all", "above_zero"):
        pair, n = (others & (near - far + margin > 0) if rule == "above_zero" else others).nonzero(as_tuple=True)
        return a[pair], p[pair], n
    if rule == "semi_hard":
        beyond = far.masked_fill(~others | (far <= near), torch.inf)
        fallback = far.masked_fill(~others, -torch.inf).argmax(1)
        return a, p, torch.where(beyond.isfinite().any(1), beyond.argmin(1), fallback)
    return a, p, torch.multinomial(rarity(distances, negative)[a], 1).squeeze(1)


def rarity(distances: Tensor, negative: Tensor) -> Tensor:
    """Weights (N, M), 0 for who is no negative and for others one over the number of negatives that are about as far:
    drawn by them, every distance that occurs is as likely as any other."""
    found = distances[negative]
    if not len(found):
        return torch.zeros_like(distances)
    least, most = found.min(), found.max()
    place = ((distances - least) / (most - least).clamp(min=1e-12) * BINS).long().clamp(0, BINS - 1)
    counts = torch.bincount(place[negative], minlength=BINS)
    return torch.where(negative, 1 / counts.clamp(min=1)[place], 0.0)


def chosen_loss(distances: Tensor, triplets: tuple[Tensor, Tensor, Tensor], margin: float = 0.3) -> Tensor:
    """Mean over chosen triplets of  [ d(a, p) - d(a, n) + margin ]+  -> scalar; 0 with a gradient of 0 where none is.

    distances (N, M), differentiable; triplets as `choose_triplets` gives them.
    """
    a, p, n = triplets
    costs = F.relu(distances[a, p] - distances[a, n] + margin)
    return costs.sum() / max(len(costs), 1)


@value
class Mined:
    """The triplet loss on the triplets of a batch that a rule chooses (`choose_triplets`)."""

    choose: Rule = "random"
    margin: float = 0.3
    weight: Weight = 1.0
    on: str = "features"

    key, pairs = "mined", True

    def __call__(self, output: Output, batch: Batch) -> Tensor:
        distances = losses.pairwise_distances(output[self.on])
        same = batch.labels[:, None] == batch.labels
        triplets = choose_triplets(distances, same.clone().fill_diagonal_(False), ~same, self.choose, self.margin)
        return self.weight * chosen_loss(distances, triplets, self.margin)


# --------------------------------------------------------------------------------------------------------------- memory


@value
class Remembered:
    """As `Mined`, but the candidates are the batch and the features of the `last` images before it, as they were then
    (cross-batch memory, Wang et al., 2020). Only the batch is moved."""

    choose: Rule = "hard"
    last: Count = 1024
    margin: float = 0.3
    weight: Weight = 1.0
    on: str = "features"

    key, pairs = "mined", True

    def build(self, channels: int, facts: dict) -> nn.Module:
        return Memory(self.last, facts["values"])

    def bind(self, data, net: nn.Module) -> "Remembering":
        return Remembering(self, net.heads[self.key])

    def __call__(self, output: Output, batch: Batch) -> Tensor:
        raise TypeError("Remembered has no memory yet: bind(data, net) gives the term that does")


class Remembering:
    """Remembered with its memory."""

    key, pairs = Remembered.key, True

    def __init__(self, settings: Remembered, memory: "Memory"):
        self.settings, self.memory, self.on = settings, memory, settings.on

    def __call__(self, output: Output, batch: Batch) -> Tensor:
        settings, labels = self.settings, batch.labels
        x = output[settings.on]
        then, people = self.memory.features.clone(), self.memory.labels.clone()  # it changes before the backward pass
        middle = x.detach().mean(0)  # changes no distance, and keeps digits
        distances = torch.cat([losses.pairwise_distances(x), torch.cdist(x - middle, then - middle)], 1)
        everybody = torch.cat([labels, people])
        positive = labels[:, None] == everybody
        negative = ~positive & (everybody != NOBODY)
        positive[:, : len(labels)].fill_diagonal_(False)
        triplets = choose_triplets(distances, positive, negative, settings.choose, settings.margin)
        self.memory.keep(x.detach(), labels)
        return settings.weight * chosen_loss(distances, triplets, settings.margin)


class Memory(nn.Module):
    """A ring of features and labels, in the network's state so that a training that was killed goes on with it."""

    def __init__(self, last: int, values: int):
        super().__init__()
        self.register_buffer("features", torch.zeros(last, values))
        self.register_buffer("labels", torch.full((last,), NOBODY))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))

    def forward(self, output: Output) -> dict[str, Tensor]:
        return {}

    def keep(self, features: Tensor, labels: Tensor) -> None:
        """Put features (N, D) and labels (N,) in the place of the oldest; of more than fit the last."""
        features, labels = features[-len(self.labels) :], labels[-len(self.labels) :]
        places = (self.next + torch.arange(len(labels), device=self.labels.device)) % len(self.labels)
        self.features[places], self.labels[places] = features, labels
        self.next.copy_((self.next + len(labels)) % len(self.labels))


# ------------------------------------------------------------------------------------------------- a matching network


@value
class Matching:
    """One person or two? A network on the difference of two maps, each cell with the `reach` cells around its place in
    the other (cross-input differences of ImprovedReID, Ahmed et al., 2015, in a small form). It learns from an anchor's
    positive and negative by lot ("random"), from those that it judges worst among all pairs of the batch ("hard": the
    survey's plan), from both ("mixed"), or from "all" pairs. At the test it orders anew the `top` images nearest by the
    global feature.
    """

    pairs_by: Literal["random", "hard", "mixed", "all"] = "hard"
    cells: Count = 16  # values of a cell
    reach: Count = 1
    top: Count = 100
    weight: Weight = 1.0

    key, pairs, gives, outputs = "matching", True, ("cells",), ("cells",)

    def build(self, channels: int, facts: dict) -> nn.Module:
        return Matcher(channels, self.cells, self.reach)

    def bind(self, data, net: nn.Module) -> "BoundMatching":
        return BoundMatching(self, net.heads[self.key])

    def __call__(self, output: Output, batch: Batch) -> Tensor:
        raise TypeError("Matching has no network yet: bind(data, net) gives the term that does")


class BoundMatching:
    """Matching with its network."""

    key, pairs, outputs = Matching.key, True, Matching.outputs

    def __init__(self, settings: Matching, head: "Matcher"):
        self.settings, self.head = settings, head

    def __call__(self, output: Output, batch: Batch) -> Tensor:
        same, how = batch.labels[:, None] == batch.labels, self.settings.pairs_by
        positive = same.clone().fill_diagonal_(False)
        if how == "all":
            i, j = torch.triu_indices(len(same), len(same), 1, device=same.device)
            truth = same[i, j]
        else:
            unlike = positive.float() if how == "random" else -self.head.all_pairs(output.cells)
            rules = {"mixed": ("random", "hard")}.get(how, (how,))
            a, p, n = map(torch.cat, zip(*(choose_triplets(unlike, positive, ~same, rule) for rule in rules)))
            i, j = torch.cat([a, a]), torch.cat([p, n])
            truth = torch.arange(len(i), device=i.device) < len(a)
        costs = F.binary_cross_entropy_with_logits(
            self.head.match(output.cells[i], output.cells[j]), truth.float(), reduction="none"
        )
        halves = [costs[which].sum() / which.sum().clamp(min=1) for which in (truth, ~truth)]
        return self.settings.weight * (halves[0] + halves[1]) / 2

    @torch.no_grad()
    def test(self, query: dict, gallery: dict, trial: Trial) -> dict:
        """Scores of the order by the "match" alone among each query's `top` nearest, and by "both", the global distance
        plus how sure the matcher is that they are two."""
        apart = evaluation.euclidean_distances(query["whole"], gallery["whole"])
        top = min(self.settings.top, apart.shape[1])
        nearest = np.argpartition(apart, top - 1, axis=1)[:, :top]
        alone, both = apart + np.float64(1e4), apart + np.float64(1)  # float32 would make distances equal up there
        theirs, device = torch.from_numpy(gallery["cells"]), trial.device
        for q, (near, ours) in enumerate(zip(nearest, torch.from_numpy(query["cells"]))):
            shown = theirs[near].to(device)
            unlike = -self.head.match(ours.to(device).expand_as(shown), shown).cpu()
            alone[q, near] = unlike.numpy()
            both[q, near] = apart[q, near] + unlike.sigmoid().numpy()
        found = {"match": alone, "both": both}
        return {"scores": {name: evaluation.evaluate(matrix, *trial.data.ids) for name, matrix in found.items()}}


class Matcher(nn.Module):
    """The map (N, C, h, w) -> "cells" (N, c, h, w), and pairs of those -> how sure it is that they show one person.

    Each cell of one is compared with (2 reach + 1)^2 cells of the other, so that a shoulder may lie a little higher;
    1 x 1 convolutions read the differences, a 3 x 3 one their neighbourhood, a layer the whole. Both ways, in sum.
    """

    def __init__(self, channels: int, cells: int, reach: int = 1):
        super().__init__()
        self.reach = reach
        self.reduce = nn.Sequential(nn.Conv2d(channels, cells, 1, bias=False), nn.BatchNorm2d(cells))
        self.near = nn.Conv2d(cells * (2 * reach + 1) ** 2, 2 * cells, 1)
        self.around = nn.Conv2d(2 * cells, cells, 3, padding=1)
        self.whole = nn.Linear(cells, 1)

    def forward(self, output: Output) -> dict[str, Tensor]:
        return {"cells": self.reduce(output.map).float()}

    def match(self, x: Tensor, y: Tensor) -> Tensor:
        """Cells (T, c, h, w) of T pairs -> logits (T,), the same for (y, x)."""
        read = self.read(x, y) + self.read(y, x)
        return self.whole(F.relu(self.around(read)).mean((2, 3))).squeeze(1)

    def read(self, x: Tensor, y: Tensor) -> Tensor:
        """What the differences of x's cells to y's around the same place say: (T, c, h, w) twice -> (T, 2 c, h, w)."""
        side = 2 * self.reach + 1
        around = F.unfold(y, side, padding=self.reach).view(*y.shape[:2], side * side, *y.shape[2:])
        return F.relu(self.near(F.relu(x[:, :, None] - around).flatten(1, 2)))

    @torch.no_grad()
    def all_pairs(self, cells: Tensor) -> Tensor:
        """Cells (N, c, h, w) -> logits of all pairs (N, N), by the pairs i < j; 0 for a cell and itself."""
        i, j = torch.triu_indices(len(cells), len(cells), 1, device=cells.device)
        found = cells.new_zeros(len(cells), len(cells))
        found[i, j] = self.match(cells[i], cells[j])
        return found + found.T
