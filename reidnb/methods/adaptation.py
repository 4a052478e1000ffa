"""Another domain, known by its pictures and cameras alone (the LSTM paper), and copies of the training people
(CamStyle).

What joins a batch is a part of the recipe too: told of the data by `bind(data, device)`, it is called with a batch's
indices, all labels and an rng, and gives pictures and their labels.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reidnb import evaluation, losses
from reidnb.batches import Styled, fakes, with_copies
from reidnb.datasets import is_drawn, open_dataset, true_styles
from reidnb.generators.camera_pairs import all_pair_styles, load_or_train_pairs
from reidnb.generators.styles import all_styles, load_or_train_generator
from reidnb.methods.metric import over_branches
from reidnb.methods.parts import Trial
from reidnb.methods.stripes import horizontal_pooling
from reidnb.network import Output
from reidnb.training import Batch
from reidnb.values import Count, Positive, Share, Weight, value

# Who paints copies: one network for all cameras, or one for each pair of them (CamStyle). And what nobody can paint:
# the picture as another camera of the drawn world would have taken it; of that the person alone, or the ground alone.
Painter = Literal["stargan", "cyclegan", "truth", "truth_person", "truth_ground"]
HIDDEN, METRIC = 256, 128  # units of the LSTM in each direction; values of a triplet feature (section 3.2)
SMOOTHING = {"own": 0.0, "smooth": 0.1, "uniform": 1.0}  # what a copy is told to be


# ------------------------------------------------------------------------------------------- pictures that join a batch


def target_of(recipe, data):
    """The target domain of a pair of datasets -> Split; ValueError where there is none."""
    if data.target is None:
        raise ValueError(
            f"recipe {recipe} learns from a target's pictures: name the dataset source->target, such "
            f"as synthetic_summer->synthetic_winter; got {data.name}"
        )
    return data.target


@value
class TargetStyles:
    """`target_p` pictures of the target, each with `copies` in the styles of other cameras drawn by lot (the paper
    paints all of them), a class of their own. `styles`: who paints."""

    target_p: Count = 16
    copies: Count = 3
    styles: Painter = "stargan"

    needs_target = True

    def bind(self, recipe: str, data, device: torch.device) -> Callable:
        split = target_of(recipe, data)
        styled = _styled(split, data.name.split("->")[-1], data.options, self.styles, self.copies, device)

        def pictures(indices, labels, rng):
            chosen = rng.choice(len(styled.images), min(self.target_p, len(styled.images)), replace=False)
            found, theirs = with_copies(styled, chosen, self.copies, rng)
            return found, theirs + labels.max() + 1

        return pictures


@value
class TrainingCopies:
    """Copies of a batch's own pictures in the styles of other cameras, a share `fakes` of the real ones (CamStyle)."""

    fakes: Positive = 1 / 3
    styles: Painter = "stargan"

    needs_target = False

    def __post_init__(self):
        if self.fakes > 1:
            raise ValueError(f"TrainingCopies: fakes is a share of the real pictures, up to 1; got {self.fakes!r}")

    def bind(self, recipe: str, data, device: torch.device) -> Callable:
        styled = _styled(data.train, data.name.split("->")[0], data.options, self.styles, 1, device)

        def pictures(indices, labels, rng):
            chosen = rng.choice(indices, max(1, round(self.fakes * len(indices))), replace=False)
            return fakes(styled, chosen, rng), labels[chosen]

        return pictures


def _styled(split, name, options, styles, copies, device) -> Styled:
    """A split's pictures with their copies in the style of every camera."""
    cameras, options = len(np.unique(split.camids)), {k: v for k, v in options.items() if k != "partial"}
    if copies >= cameras:
        raise ValueError(
            f"wanted {copies} copies of a picture, each by a camera that did not take it; {name} has {cameras} "
            "cameras: set copies lower"
        )
    if styles.startswith("truth"):
        drawn = true_styles(name, split.images.shape[2:], options)
        if styles != "truth":
            known = open_dataset(name, size=split.images.shape[2:], **options).train  # a target's masks are hidden
            person = (np.asarray(known.masks) > 0)[:, None, None]
            drawn = np.where(person == (styles == "truth_person"), drawn, split.images[:, None])
        return Styled(split.images, split.camids, drawn)
    place = {option: given for option, given in options.items() if option != "world"}  # cameras, whoever passes them
    learned_from = open_dataset(name, size=split.images.shape[2:], **place).train if is_drawn(name) else split
    if styles == "cyclegan":
        return all_pair_styles(split, load_or_train_pairs(learned_from, name, place, device=device), device)
    return all_styles(split, load_or_train_generator(learned_from, name, place, device=device), device)


# ---------------------------------------------------------------------------------------------------------- loss terms


@value
class AdaptedTriHard:
    """TriHard with the target's pictures: "style", on the two domains each for itself, or "domain", over source, target
    and copies, whatever the domain (the LSTM paper, eq. 3)."""

    adapt: Literal["style", "domain"] = "domain"
    margin: float | None = 0.5
    weight: Weight = 0.3
    on: str = "branch_features"

    key, pairs, sees_joined = "trihard", True, True

    def __call__(self, output: Output, batch: Batch) -> dict[str, torch.Tensor]:
        features, labels, count = output[self.on], batch.labels, len(batch.indices)

        def cost(some):
            return over_branches(lambda x: losses.trihard_loss(x, labels[some], self.margin), features[some])

        if self.adapt == "domain":
            return {"trihard": self.weight * cost(slice(None))}
        ours, theirs = slice(count), slice(count, None)  # no triplet across the domains
        return {"trihard": self.weight * cost(ours), "style": self.weight * cost(theirs)}


@value
class CopiesIdentity:
    """The cross-entropy of copies, who are who they were ("own"), so by 0.9 ("smooth": LSR, CamStyle, eq. 4), or nobody
    ("uniform": LSRO)."""

    fake_labels: Literal["own", "smooth", "uniform"] = "smooth"
    weight: Weight = 1.0

    key, sees_joined, needs = "fakes", True, ("logits",)

    def __call__(self, output: Output, batch: Batch) -> torch.Tensor:
        count = len(batch.indices)
        return self.weight * losses.cross_entropy(
            output.logits[count:], batch.labels[count:], SMOOTHING[self.fake_labels]
        )


# ----------------------------------------------------------------------------------------------------------- the head


@value
class Branches:
    """Branches that classify and compare, in the classifier's place (the LSTM paper, section 2.1): the whole body alone
    ("global"), or beside it three horizontal parts, read by an LSTM from head to feet ("lstm") or each by a layer of
    its own ("parts")."""

    branches: Literal["global", "parts", "lstm"] = "lstm"
    parts: Count = 3
    dropout: Share = 0.5

    gives, outputs = ("branch_features", "branch_logits"), ("branch_features",)

    def build(self, channels: int, facts: dict) -> nn.Module:
        if facts["values"] != channels:
            raise ValueError(f"branches read the whole map of {channels} values: width goes without them")
        return BranchHead(channels, facts["classes"], self.branches, self.parts, facts["pooling"], self.dropout)

    def test(self, query: dict, gallery: dict, trial: Trial) -> dict:
        """Scores by the branches' triplet features in a row."""
        row = (F.normalize(torch.from_numpy(part["branch_features"]).flatten(1)) for part in (query, gallery))
        return {"scores": {"branches": evaluation.evaluate_features(*row, *trial.data.ids)}}


class Branch(nn.Module):
    """Features (N, inputs) -> a triplet feature (N, 128) and logits (N, classes).

    FC-2048, as wide as the backbone's map, with batch norm, ReLU and dropout; behind it FC-#ID and the layer of the
    triplet loss. The paper names the two layers and the dropout; the norm between them is ours.
    """

    def __init__(self, inputs: int, width: int, classes: int, dropout: float = 0.5):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout)
        )
        self.metric = nn.Linear(width, METRIC)
        self.classifier = nn.Linear(width, classes)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.fc(features)
        return self.metric(hidden), self.classifier(hidden)


class BranchHead(nn.Module):
    """The map (N, C, h, w) and the features (N, C) -> "branch_features" (N, B, 128), "branch_logits" (N, B, classes).

    kind: "global" has the branch of the whole person alone (B = 1); "lstm" adds the one of three horizontal parts,
    which a bidirectional LSTM reads from head to feet (B = 2); "parts" adds one in which each part has a layer of its
    own, as wide as the LSTM's output, and knows nothing of the others until the branch joins them.
    """

    def __init__(self, channels: int, classes: int, kind: str, parts: int, pooling: str, dropout: float):
        super().__init__()
        self.kind, self.parts, self.pooling = kind, parts, pooling
        self.whole = Branch(channels, channels, classes, dropout)
        if kind == "lstm":
            self.lstm = nn.LSTM(channels, HIDDEN, batch_first=True, bidirectional=True)
        elif kind == "parts":
            self.own = nn.ModuleList(nn.Linear(channels, 2 * HIDDEN) for _ in range(parts))
        if kind != "global":
            self.local = Branch(parts * 2 * HIDDEN, channels, classes, dropout)

    def forward(self, output: Output) -> dict[str, torch.Tensor]:
        cells = output.map
        with torch.autocast(cells.device.type, enabled=False):
            found = [self.whole(output.features)]
            if self.kind != "global":
                found.append(self.local(self.read(cells.float()).flatten(1)))
        features, logits = (torch.stack(values, 1) for values in zip(*found))
        return {"branch_features": features, "branch_logits": logits}

    def read(self, cells: torch.Tensor) -> torch.Tensor:
        """Map (N, C, h, w) -> what is known at each part, from head to feet (N, parts, 512)."""
        bodies = horizontal_pooling(cells, self.parts)
        if self.pooling != "avg":
            most = F.adaptive_max_pool2d(cells, (self.parts, 1)).squeeze(3).transpose(1, 2)
            bodies = most if self.pooling == "max" else bodies + most
        if self.kind == "lstm":
            return self.lstm(bodies)[0]
        return torch.stack([layer(part) for layer, part in zip(self.own, bodies.unbind(1))], 1)
