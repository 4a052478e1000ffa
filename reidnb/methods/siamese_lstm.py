"""The Siamese LSTM (Varior et al., 2016): an early form of parts, stripes read one after the other from head to feet.

What a stripe means depends on those above it: the memory carries them on, and its gates choose what. The paper's
stripes are hand-made descriptors (LOMO, colour names) and two pictures make a pair; ours are the rows of the network's
map, learned with it, and all pairs of a batch count (`methods.Contrastive`, with `on="read"`).
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reidnb import evaluation
from reidnb.methods.parts import Trial
from reidnb.methods.stripes import horizontal_pooling
from reidnb.network import Output
from reidnb.values import Count, value


@value
class StripeLSTM:
    """`parts` stripes from head to feet, read by an LSTM of `width` units. `states`: what the feature is made of, "all"
    states in a row through one layer, or the "last" one, which has seen all stripes."""

    parts: Count = 8
    width: Count = 128
    states: Literal["all", "last"] = "all"

    key, gives, outputs = "lstm", ("read",), ("read", "features")

    def build(self, channels: int, facts: dict) -> nn.Module:
        return StripeLSTMHead(channels, self.parts, self.width, self.states)

    def test(self, query: dict, gallery: dict, trial: Trial) -> dict:
        """Scores by what the LSTM made of the stripes ("local"), and with the pooled map beside it ("both")."""
        scores = {}
        for name, parts in {"local": ("read",), "both": ("read", "features")}.items():
            rows = (np.concatenate([side[part] for part in parts], 1) for side in (query, gallery))
            unit = (F.normalize(torch.from_numpy(row)).numpy() for row in rows)
            scores[name] = evaluation.evaluate_features(*unit, *trial.data.ids)
        return {"scores": scores}


class StripeLSTMHead(nn.Module):
    """Map (N, C, h, w) -> "read" (N, width): the means of horizontal stripes, from head to feet through one LSTM."""

    def __init__(self, channels: int, parts: int, width: int, states: str):
        super().__init__()
        self.parts = parts
        self.lstm = nn.LSTM(channels, width, batch_first=True)
        self.combine = nn.Linear(parts * width, width, bias=False) if states == "all" else None

    def forward(self, output: Output) -> dict[str, torch.Tensor]:
        cells = output.map
        with torch.autocast(cells.device.type, enabled=False):
            states, _ = self.lstm(horizontal_pooling(cells.float(), self.parts))
            return {"read": states[:, -1] if self.combine is None else self.combine(states.flatten(1))}
