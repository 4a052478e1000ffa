"""Mutual learning: two students that see the same batches and learn from each other (AlignedReID, section 3.2)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from reidnb import evaluation, losses
from reidnb.inference import embed
from reidnb.methods.parts import Trial, bound
from reidnb.models import BACKBONES
from reidnb.network import Output
from reidnb.training import Batch, evaluate_terms
from reidnb.values import Weight, value


class Students(nn.Module):
    """Two networks that see the same pictures (AlignedReID, figure 4): the Output is the first one's, and in training
    the second's stands in it as "peer". After training the two stand for themselves."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, images: torch.Tensor) -> Output:
        output = self.first(images)
        if self.training:
            output["peer"] = self.second(images)
        return output


@value
class Mutual:
    """Both students learn by the `inner` terms, and from each other: `class_mutual` weighs the KL divergence between
    their classes, `metric_mutual` the squared difference of their distances (eq. 3), of which each takes the other's
    as given with `zero_gradient` (eq. 4). `peer` is the backbone of the second student."""

    inner: tuple
    peer: str = "small_xception"
    class_mutual: Weight = 1.0
    metric_mutual: Weight = 0.0
    zero_gradient: bool = True

    @property
    def pairs(self) -> bool:
        return any(getattr(loss, "pairs", False) for loss in self.inner)

    @property
    def needs(self) -> tuple[str, ...]:
        return ("logits",) if self.class_mutual else ()

    def __post_init__(self):
        if self.peer not in BACKBONES:
            raise ValueError(f"Mutual: peer must be one of {', '.join(BACKBONES)}; got {self.peer!r}")
        if not (self.inner or self.class_mutual or self.metric_mutual):
            raise ValueError("Mutual: nothing is learned: no inner terms, class_mutual and metric_mutual both 0")
        if any(getattr(loss, "sees_joined", False) for loss in self.inner):
            raise ValueError("Mutual: students see no pictures that join a batch, and an inner term looks at them")

    def wrap(self, net: nn.Module, build_like: Callable[[str], nn.Module]) -> Students:
        return Students(net, build_like(self.peer))

    def bind(self, data, net: Students) -> "Bound":
        theirs, ours = (tuple(bound(loss, data, one) for loss in self.inner) for one in (net.second, net.first))
        return Bound(self, ours, theirs)

    def __call__(self, output: Output, batch: Batch) -> dict[str, torch.Tensor]:
        return self.cost(output, batch, self.inner, self.inner)

    def cost(self, output: Output, batch: Batch, ours: tuple, theirs: tuple) -> dict[str, torch.Tensor]:
        """The terms of a batch, by name: the first student's own, `ours`, and the second's, `theirs`, in sum, and what
        passes between the two."""
        own = evaluate_terms(ours, output, batch), evaluate_terms(theirs, output.peer, batch)
        terms = {name: cost + own[1][name] for name, cost in own[0].items()}
        if self.class_mutual:
            a, b = output.logits, output.peer.logits
            terms["class_mutual"] = self.class_mutual * (
                losses.class_mutual_loss(a, b) + losses.class_mutual_loss(b, a)
            )
        if self.metric_mutual:
            apart = losses.metric_mutual_loss(output.features, output.peer.features, self.zero_gradient)
            terms["metric_mutual"] = self.metric_mutual * apart
        return terms

    def test(self, query: dict, gallery: dict, trial: Trial) -> dict:
        """The second student's scores, as "peer"."""
        how = {"flip": trial.recipe.flip_test, "compare": trial.recipe.compare}
        splits = trial.data.query, trial.data.gallery
        theirs = (embed(trial.net.second, split.images, trial.device, **how) for split in splits)
        whole = (F.normalize(said.flatten(1)) for said in theirs)
        return {"scores": {"peer": evaluation.evaluate_features(*whole, *trial.data.ids)}}


@dataclass(frozen=True)
class Bound:
    """Mutual learning of two students that are there: each has terms of its own, since one may hold something of its
    network, such as a memory."""

    how: Mutual
    inner: tuple  # the first one's
    of_peer: tuple

    key = "mutual"

    @property
    def pairs(self) -> bool:
        return self.how.pairs

    def __call__(self, output: Output, batch: Batch) -> dict[str, torch.Tensor]:
        return self.how.cost(output, batch, self.inner, self.of_peer)

    def test(self, query: dict, gallery: dict, trial: Trial) -> dict:
        return self.how.test(query, gallery, trial)
