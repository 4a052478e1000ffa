"""Horizontal stripes of a person: a feature for each (the local branch), or what each says of attributes."""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["AttributeHead", "Stripes", "horizontal_pooling", "overlapping_pooling", "stripe_edges"]


def horizontal_pooling(cells, parts=None):
    """Map (N, C, h, w) -> (N, parts, C), the mean of each horizontal stripe from head to feet (HPLF, section 2.2).

    `parts=None` cuts with a 1 x w window, one stripe a row. Where parts do not divide h, neighbours share a row.
    """
    return F.adaptive_avg_pool2d(cells, (parts or cells.shape[2], 1)).squeeze(3).transpose(1, 2)


def stripe_edges(height, parts, overlap=0.5):
    """Tops and bottoms of `parts` stripes of equal height that cover `height` rows and share `overlap` of their own
    height with the next one -> float tensor (parts, 2), in rows.

    ALFO cuts the 7 rows of its map into 6: two rows each, one of them shared, which is an overlap of a half.
    """
    if parts < 1 or not 0 <= overlap < 1:
        raise ValueError(f"wanted at least one stripe and an overlap from 0 to below 1; got {parts!r} and {overlap!r}")
    tall = height / (1 + (parts - 1) * (1 - overlap))
    tops = torch.arange(parts) * tall * (1 - overlap)
    return torch.stack([tops, tops + tall], 1)


def overlapping_pooling(cells, parts, overlap=0.5):
    """Map (N, C, h, w) -> (N, parts, C), the mean of each of `stripe_edges`; a row that a stripe cuts counts by what
    it holds of it."""
    rows = torch.arange(cells.shape[2])
    tops, bottoms = stripe_edges(cells.shape[2], parts, overlap).unsqueeze(2).unbind(1)
    held = (torch.minimum(bottoms, rows + 1) - torch.maximum(tops, rows)).clamp(min=0)
    return (held / held.sum(1, keepdim=True)).to(cells) @ cells.mean(3).transpose(1, 2)


class AttributeHead(nn.Module):
    """Map (N, C, h, w) -> logits (N, parts, K) of K statements about a person, by each of the overlapping stripes.

    One stripe is the whole body: that is APR; several are ALFO. Each stripe has classifiers of its own behind a batch
    norm they share, whose biases begin at `start` (K,), see `losses.blind_logits`. `trust` (parts, K) says who answers
    at test: all alike, until `training.elect` has held the vote.
    """

    def __init__(self, channels, start, parts=1, overlap=0.5):
        super().__init__()
        self.parts, self.overlap, statements = parts, overlap, len(start)
        self.norm = nn.BatchNorm1d(channels)
        self.weight = nn.Parameter(0.001 * torch.randn(parts, channels, statements))
        # of one dimension: no weight decay
        self.bias = nn.Parameter(torch.as_tensor(start, dtype=torch.float32).repeat(parts))
        self.register_buffer("trust", torch.full((parts, statements), 1 / parts))

    def forward(self, cells):
        with torch.autocast(cells.device.type, enabled=False):  # log-odds of rare statements need their digits
            stripes = overlapping_pooling(cells.float(), self.parts, self.overlap)
            stripes = self.norm(stripes.flatten(0, 1)).view_as(stripes)
            return torch.einsum("npc,pck->npk", stripes, self.weight) + self.bias.view_as(self.trust)

    def answer(self, logits):
        """What the stripes say together: logits (N, parts, K) -> (N, K)."""
        return (logits * self.trust.to(logits)).sum(1)


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
