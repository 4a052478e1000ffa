"""What the loops of DCGAN and PTGAN share: a step down, and weights averaged over the steps."""

from collections.abc import Mapping

import torch
from torch import nn


def descend(optimizer: torch.optim.Optimizer, terms: Mapping[str, torch.Tensor]) -> None:
    """One step down the sum of the terms."""
    cost = torch.stack([*terms.values()]).sum()
    optimizer.zero_grad(set_to_none=True)
    cost.backward()
    optimizer.step()


@torch.no_grad()
def follow(average: nn.Module, net: nn.Module, share: float) -> None:
    """Move the averaged weights toward a net's, by 1 - share of the way."""
    for slow, fast in zip(average.parameters(), net.parameters()):
        slow.lerp_(fast, 1 - share)
