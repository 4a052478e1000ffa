"""What the loops of DCGAN, PTGAN and PN-GAN share: a step down, weights averaged over the steps, a line of history."""

import logging
import math
import time
from collections.abc import Mapping

import torch
from torch import nn

from reidnb.runtime import TrainingDiverged

log = logging.getLogger("reidnb")


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


def line_of(name: str, sums: Mapping[str, torch.Tensor], count: int, step: int, plan, started: float) -> dict:
    """A line of history, logged too: the mean of each term over `count` steps up to `step`, and the seconds since
    `started`. TrainingDiverged where one is not finite."""
    line = {term: float(total) / count for term, total in sums.items()}
    if not all(map(math.isfinite, line.values())):
        raise TrainingDiverged(name, f"step {step}", plan.lr, line)
    seconds = time.perf_counter() - started
    shown = "  ".join(f"{term} {mean:.3f}" for term, mean in line.items())
    log.info("%s step %d/%d  %s  %.0f s", name, step, plan.steps, shown, seconds)
    return {"step": step, **line, "seconds": seconds}
