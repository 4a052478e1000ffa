"""People as classes, and pairs of pictures as a question: identification (IDE) and verification."""

import torch
from torch import nn

from reidnb import losses
from reidnb.network import Output
from reidnb.training import Batch
from reidnb.values import Share, Weight, value


@value
class Identity:
    """Cross-entropy over the training identities (IDE, Zheng et al., 2016), with label smoothing; of several branches'
    logits (N, B, classes) the sum."""

    weight: Weight = 1.0
    smoothing: Share = 0.1
    on: str = "logits"

    def __call__(self, output: Output, batch: Batch) -> torch.Tensor:
        logits = output[self.on]
        branches = logits.unbind(1) if logits.ndim == 3 else [logits]
        return self.weight * sum(losses.cross_entropy(branch, batch.labels, self.smoothing) for branch in branches)


@value
class Verification:
    """The siamese network's question on every pair of a batch, one person or two? (Zheng et al., 2016)."""

    weight: Weight = 1.0

    gives = needs = ("pairs",)
    pairs = True

    def build(self, channels: int, facts: dict) -> nn.Module:
        return Verifier(facts["values"])

    def __call__(self, output: Output, batch: Batch) -> torch.Tensor:
        return self.weight * losses.verification_loss(output.pairs, batch.labels)


class Verifier(nn.Module):
    """One person or two? A linear layer on the squared difference of two embeddings (Zheng et al., 2016), for every
    pair of a batch: (N, C) -> logits "pairs" (N, N), in training only.

    w . (x - y)^2 = w . x^2 + w . y^2 - 2 (w x) . y , so that the N x N x C differences never exist.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, channels), -1.0 / channels))  # near: one person
        self.bias = nn.Parameter(torch.ones(1))

    def forward(self, output: Output) -> dict[str, torch.Tensor]:
        return {"pairs": self.all_pairs(output.embedding)} if self.training else {}

    def all_pairs(self, embedding: torch.Tensor) -> torch.Tensor:
        """Embeddings (N, C) -> how sure it is that two of them are one person's (N, N)."""
        with torch.autocast(embedding.device.type, enabled=False):
            x = embedding.float()
            squares = (x.square() @ self.weight.T).squeeze(1)
            return squares[:, None] + squares - 2 * (x * self.weight) @ x.T + self.bias
