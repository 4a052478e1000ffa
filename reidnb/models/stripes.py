"""The local branch: one feature for each horizontal stripe of a person."""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Stripes", "horizontal_pooling"]


def horizontal_pooling(cells, parts=None):
    """Map (N, C, h, w) -> (N, parts, C), the mean of each horizontal stripe from head to feet (HPLF, section 2.2).

    `parts=None` cuts with a 1 x w window, one stripe a row. Where parts do not divide h, neighbours share a row.
    """
    return F.adaptive_avg_pool2d(cells, (parts or cells.shape[2], 1)).squeeze(3).transpose(1, 2)


class Stripes(nn.Module):
    """Map (N, C, h, w) -> local features (N, parts, c): horizontal pooling, then batch norm, the same for all stripes.

    With a `width`, a 1x1 convolution between the two reduces C to it (AlignedReID, section 3.1); HPLF has none. With
    `classes`, each stripe has a classifier of its own (PCB, Sun et al., 2018): -> logits (N, parts, classes).
    """

    def __init__(self, channels, parts, width=None, classes=0):
        super().__init__()
        self.parts = parts
        # on (N, parts, C) a 1x1 convolution is a linear layer
        self.reduce = nn.Linear(channels, width, bias=False) if width else nn.Identity()
        self.norm = nn.BatchNorm1d(width or channels)
        self.classifiers = nn.Parameter(0.001 * torch.randn(parts, width or channels, classes)) if classes else None

    def forward(self, cells):
        stripes = self.reduce(horizontal_pooling(cells, self.parts)).float()
        local = self.norm(stripes.flatten(0, 1)).view_as(stripes)
        if self.classifiers is None:
            return local, None
        return local, torch.einsum("npc,pck->npk", local, self.classifiers).float()
