"""Features of unit length for losses to act on: the survey's distance, and the one that is compared at the test."""

import torch.nn.functional as F
from torch import nn

from reidnb.network import Output
from reidnb.values import value


@value
class UnitLength:
    """A head without weights that gives "unit", the features (N, C) at length 1, so that a loss with on="unit" sees the
    distances that the test compares (Schroff et al., 2015; the survey, section 2). `on`: what is brought to length 1.
    A row of zeros stays so."""

    on: str = "features"

    gives = ("unit",)

    def build(self, channels: int, facts: dict) -> nn.Module:
        return ToUnitLength(self.on)


class ToUnitLength(nn.Module):
    """What the network calls `on` (N, C) -> "unit" (N, C)."""

    def __init__(self, on: str = "features"):
        super().__init__()
        self.on = on

    def forward(self, output: Output) -> dict:
        return {"unit": F.normalize(output[self.on], dim=-1)}
