"""Two branches on one map: the whole person, and the body read from head to feet (the LSTM paper, section 2.1)."""

import torch
import torch.nn.functional as F
from torch import nn

from reidnb.models.stripes import horizontal_pooling

__all__ = ["BRANCHES", "Branch", "Branches", "pool"]

BRANCHES = ("global", "parts", "lstm")
HIDDEN, METRIC = 256, 128  # units of the LSTM in each direction; values of a triplet feature (section 3.2)


def pool(cells, how="avg"):
    """Map (N, C, h, w) -> (N, C): the "avg" or the "max" of its cells, or "both", their sum.

    The paper joins the two (section 2.5) and does not say how; a sum keeps POOL-5 at 2048 values.
    """
    if how == "avg":
        return cells.mean((2, 3))
    most = cells.amax((2, 3))
    return most if how == "max" else cells.mean((2, 3)) + most


class Branch(nn.Module):
    """Features (N, inputs) -> a triplet feature (N, 128) and logits (N, classes).

    FC-2048, as wide as the backbone's map, with batch norm, ReLU and dropout; behind it FC-#ID and the layer of the
    triplet loss. The paper names the two layers and the dropout; the norm between them is ours.
    """

    def __init__(self, inputs, width, classes, dropout=0.5):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout)
        )
        self.metric = nn.Linear(width, METRIC)
        self.classifier = nn.Linear(width, classes)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features):
        hidden = self.fc(features)
        return self.metric(hidden), self.classifier(hidden)


class Branches(nn.Module):
    """Map (N, C, h, w) and its pooled features (N, C) -> triplet features (N, B, 128), logits (N, B, classes).

    kind: "global" has the branch of the whole person alone (B = 1); "lstm" adds the one of three horizontal parts,
    which a bidirectional LSTM reads from head to feet (B = 2); "parts" adds one in which each part has a layer of its
    own, as wide as the LSTM's output, and knows nothing of the others until the branch joins them.
    """

    def __init__(self, channels, classes, kind="lstm", parts=3, pooling="avg", dropout=0.5):
        super().__init__()
        self.kind, self.parts, self.pooling = kind, parts, pooling
        self.whole = Branch(channels, channels, classes, dropout)
        if kind == "lstm":
            self.lstm = nn.LSTM(channels, HIDDEN, batch_first=True, bidirectional=True)
        elif kind == "parts":
            self.own = nn.ModuleList(nn.Linear(channels, 2 * HIDDEN) for _ in range(parts))
        if kind != "global":
            self.local = Branch(parts * 2 * HIDDEN, channels, classes, dropout)

    def forward(self, cells, features):
        with torch.autocast(cells.device.type, enabled=False):
            found = [self.whole(features)]
            if self.kind != "global":
                found.append(self.local(self.read(cells.float()).flatten(1)))
        return tuple(torch.stack(values, 1) for values in zip(*found))

    def read(self, cells):
        """Map (N, C, h, w) -> what is known at each part, from head to feet (N, parts, 512)."""
        bodies = horizontal_pooling(cells, self.parts)
        if self.pooling != "avg":
            most = F.adaptive_max_pool2d(cells, (self.parts, 1)).squeeze(3).transpose(1, 2)
            bodies = most if self.pooling == "max" else bodies + most
        if self.kind == "lstm":
            return self.lstm(bodies)[0]
        return torch.stack([layer(part) for layer, part in zip(self.own, bodies.unbind(1))], 1)
