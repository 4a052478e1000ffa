"""How networks with opposite aims are trained, whichever they are (StarGAN, DCGAN, PTGAN, PN-GAN): the loop, a step
down, weights averaged over the steps, a line of history."""

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from reidnb.runtime import TrainingDiverged, keep_checkpoint, load_checkpoint

SIDES = {"generator": ("generator",), "critic": ("critic",)}  # of the usual two
log = logging.getLogger("reidnb")


class Film(NamedTuple):
    """What is looked at while a generator learns."""

    shares: Sequence[float] = ()  # when a frame is taken, as shares of the steps
    shape: tuple[int, ...] = ()  # of a frame: pictures, 3, H, W
    look: Callable | None = None  # averaged networks by name -> a frame, uint8


def train_against(
    name: str,
    nets: nn.ModuleDict,
    sides: Mapping[str, Sequence[str]],
    step_of: Callable,
    plan,
    seed: int,
    checkpoint: Path | None,
    every: int,
    film: Film | None = None,
) -> tuple[nn.ModuleDict, list[dict], np.ndarray]:
    """`plan.steps` steps of two sides -> the networks of the first one, their weights averaged over the steps, history
    and film.

    sides: names of networks by the name of the optimizer that moves them; the painters come first. step_of(rng,
    optimizers) takes a step and gives its terms by name: rng is that step's own, so that a training that was killed
    goes on to the same weights. plan: its `steps`, `lr` (constant for half of them, then down to 0 in a straight line)
    and `average`. History has a dict for every `every` steps, with the means of the terms, and `checkpoint`, a path,
    the state as often. TrainingDiverged when a term is not finite.
    """
    film, device = film or Film(), next(nets.parameters()).device
    painters = next(iter(sides.values()))
    nets["average"] = nn.ModuleDict({net: copy.deepcopy(nets[net]) for net in painters})
    frames = torch.zeros(len(film.shares), *film.shape, dtype=torch.uint8, device=device)
    nets.register_buffer("film", frames)
    optimizers = {
        side: torch.optim.Adam([w for net in moved for w in nets[net].parameters()], betas=(0.5, 0.999))
        for side, moved in sides.items()
    }
    parts = {"nets": nets, **optimizers}
    history = load_checkpoint(checkpoint, parts)
    started, sums = time.perf_counter() - (history[-1]["seconds"] if history else 0.0), {}
    shots = [max(1, round(share * plan.steps)) for share in film.shares]
    for step in range(history[-1]["step"] if history else 0, plan.steps):
        for optimizer in optimizers.values():
            optimizer.param_groups[0]["lr"] = plan.lr * min(1.0, 2 - 2 * step / plan.steps)
        for term, cost in step_of(np.random.default_rng((seed, step)), optimizers).items():
            sums[term] = sums.get(term, 0.0) + cost.detach()
        for net in painters:
            follow(nets["average"][net], nets[net], min(plan.average, (step + 1) / (step + 10)))
        for frame, shot in enumerate(shots):
            if step + 1 == shot:
                nets.film[frame] = torch.as_tensor(film.look(nets["average"]), device=device)
        if (step + 1) % every == 0 or step + 1 == plan.steps:
            history.append(line_of(name, sums, step % every + 1, step + 1, plan, started))
            keep_checkpoint(checkpoint, parts, history)
            sums = {}
    return nets["average"].eval(), history, nets.film.cpu().numpy()


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
