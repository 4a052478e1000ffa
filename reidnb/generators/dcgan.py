"""DCGAN (Radford et al., 2016): pictures of people who are nobody, painted from noise, as LSRO (Zheng et al., 2017)
uses them.

    painter = load_or_train_dcgan(data.train, "synthetic")   # shipped, kept, or trained now
    pictures = imagine(painter.generator, 100, seed=0)       # uint8 (100, 3, 64, 32)

The generator is given noise and nothing else; the critic says how sure it is that a picture is a real one. Who is on
the pictures is never told.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reidnb.generators.descent import SIDES, Film, descend, train_against
from reidnb.generators.keeping import Kept, load_or_train
from reidnb.runtime import autocast, choose_device
from reidnb.sources import source_of
from reidnb.values import Count, Positive, Share, value

SHIPPED_WEIGHTS = "fc38e451459281dd"  # a digest of what ships: so that it is in the key of who learns from it
SHOWN = 6  # pictures of each frame of the film
FRAMES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # when a frame is taken, as shares of the steps


@value
class DCGAN:
    """Everything that decides what a generator becomes, apart from the pictures and the seed."""

    noise: Count = 64  # numbers, from a normal distribution, that a picture is made of
    width: Count = 20  # channels of the generator at half the picture's size, doubled at each halving
    critic_width: Count = 24  # and of the critic
    steps: Count = 4000  # of each of the two
    batch: Count = 32
    lr: Positive = 2e-4  # constant for half of the steps, then down to 0 in a straight line
    average: Share = 0.995  # of the generator's weights over the steps, which is what paints in the end


# ------------------------------------------------------------------------------------------------------- two networks


class NoiseGenerator(nn.Module):
    """Noise (N, noise) -> pictures (N, 3, H, W) in (-1, 1); H and W multiples of 16.

    A layer makes a map of a sixteenth of the picture's size; four transposed convolutions double it.
    """

    def __init__(self, noise=64, width=20, size=(64, 32)):
        super().__init__()
        self.noise, self.start = noise, (8 * width, size[0] // 16, size[1] // 16)
        self.first = nn.Linear(noise, math.prod(self.start), bias=False)
        layers = [nn.BatchNorm2d(8 * width), nn.ReLU()]
        for n in (8 * width, 4 * width, 2 * width):
            layers += [nn.ConvTranspose2d(n, n // 2, 4, 2, 1, bias=False), nn.BatchNorm2d(n // 2), nn.ReLU()]
        self.up = nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh())
        self.apply(small_normal)

    def forward(self, noise):
        return self.up(self.first(noise).unflatten(1, self.start))


class Critic(nn.Module):
    """Pictures (N, 3, H, W) -> how sure it is that each is a real one (N,), as a logit."""

    def __init__(self, width=24, size=(64, 32)):
        super().__init__()
        layers = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for n in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(n, 2 * n, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * n), nn.LeakyReLU(0.2)]
        last = nn.Conv2d(8 * width, 1, (size[0] // 16, size[1] // 16))
        self.layers = nn.Sequential(*layers, last, nn.Flatten(0))
        self.apply(small_normal)

    def forward(self, pictures):
        return self.layers(pictures).float()


def small_normal(layer: nn.Module) -> None:
    """The paper's start: weights with a standard deviation of 0.02, around 1 for the scales of a batch norm."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)):
        nn.init.normal_(layer.weight, 1.0 if isinstance(layer, nn.BatchNorm2d) else 0.0, 0.02)


def critic_cost(nets: nn.ModuleDict, real: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the critic minimises, by name: -log D(x) of real pictures, -log(1 - D(G(z))) of painted ones, means."""
    with torch.no_grad():
        fake = nets["generator"](noise)
    return {"real": F.softplus(-nets["critic"](real)).mean(), "fake": F.softplus(nets["critic"](fake)).mean()}


def generator_cost(nets: nn.ModuleDict, noise: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the generator minimises, by name: -log D(G(z)), which has a slope where log(1 - D(G(z))) has none."""
    nets["critic"].requires_grad_(False)
    cost = F.softplus(-nets["critic"](nets["generator"](noise))).mean()
    nets["critic"].requires_grad_(True)
    return {"fool": cost}


# ----------------------------------------------------------------------------------------------------------- training


def train_dcgan(
    images: np.ndarray,
    plan: DCGAN | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    checkpoint: Path | None = None,
    every: int = 100,
) -> tuple[NoiseGenerator, list[dict], np.ndarray]:
    """Train on images (uint8, N x 3 x H x W) -> generator, history, film.

    `history` has a dict for every `every` steps, with the means of the terms; `film`, uint8 (FRAMES, SHOWN, 3, H, W),
    what the same noise gave at FRAMES of the steps. With `checkpoint`, a path, the state is kept there as often, and
    the same call after a kill goes on from it to the same weights. Raises ValueError for sides that are no multiples of
    16 and for fewer than two images, TrainingDiverged when a term is not finite.
    """
    plan, device, size = plan or DCGAN(), choose_device(device), tuple(images.shape[2:])
    if len(images) < 2 or len(size) != 2 or size[0] % 16 or size[1] % 16:
        raise ValueError(
            f"DCGAN needs two pictures or more whose sides are multiples of 16; got {len(images)} of {size}"
        )
    torch.manual_seed(seed)
    nets = nn.ModuleDict(
        {"generator": NoiseGenerator(plan.noise, plan.width, size), "critic": Critic(plan.critic_width, size)}
    ).to(device, memory_format=torch.channels_last)

    def one_step(rng, optimizers):
        real = _pictures(images, rng, plan.batch, device)
        with autocast(device):
            found = critic_cost(nets, real, _noise(rng, plan, device))
        descend(optimizers["critic"], found)
        with autocast(device):
            painted = generator_cost(nets, _noise(rng, plan, device))
        descend(optimizers["generator"], painted)
        return found | painted

    film = Film(FRAMES, (SHOWN, 3, *size), lambda average: _frame(average["generator"], plan, seed, device))
    average, *told = train_against("DCGAN", nets, SIDES, one_step, plan, seed, checkpoint, every, film)
    _settle(average["generator"], plan, seed, device)
    return average["generator"].eval(), *told


def _pictures(images, rng, count, device):
    """Some of the images in [-1, 1], half of them mirrored."""
    chosen = np.asarray(images[rng.integers(0, len(images), count)])
    chosen = np.where(rng.random(count)[:, None, None, None] < 0.5, chosen[..., ::-1], chosen)
    pictures = torch.from_numpy(chosen).to(device).float().div_(127.5).sub_(1)
    return pictures.contiguous(memory_format=torch.channels_last)


def _noise(rng, plan, device):
    return torch.as_tensor(rng.standard_normal((plan.batch, plan.noise)), dtype=torch.float32, device=device)


@torch.no_grad()
def _frame(average, plan, seed, device):
    """What the same noise gives now; batch norm takes the batch's own statistics, as in training."""
    rng, count = np.random.default_rng((seed, 2**31)), max(plan.batch, SHOWN)
    noise = torch.as_tensor(rng.standard_normal((count, plan.noise)), dtype=torch.float32, device=device)
    return _levels(average.train()(noise)[:SHOWN])


@torch.no_grad()
def _settle(average, plan, seed, device):
    """Batch norm's statistics of the averaged weights, which were never trained themselves."""
    norms = [layer for layer in average.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over what it is shown
    rng = np.random.default_rng((seed, 2**31 + 1))
    for _ in range(32):
        average.train()(_noise(rng, plan, device))


def _levels(pictures):
    return pictures.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


@torch.inference_mode()
def imagine(generator: NoiseGenerator, count: int, seed: int = 0, batch: int = 256) -> np.ndarray:
    """`count` pictures of nobody -> uint8 (count, 3, H, W); the first n are the same however many are asked for."""
    if count < 0:
        raise ValueError(f"a number of pictures from 0 on, got {count}")
    device, noise = next(generator.parameters()).device, np.random.default_rng(seed)
    noise = torch.as_tensor(noise.standard_normal((count, generator.noise)), dtype=torch.float32)
    height, width = (16 * n for n in generator.start[1:])
    out = np.empty((count, 3, height, width), np.uint8)
    for start in range(0, count, batch):
        out[start : start + batch] = _levels(generator(noise[start : start + batch].to(device))).cpu().numpy()
    return out


# ------------------------------------------------------------------------------------------------------------- keeping


def load_or_train_dcgan(
    split, name: str, options: dict | None = None, plan: DCGAN | None = None, seed: int = 0, device=None
) -> Kept:
    """The generator that knows the pictures of a training split -> keeping.Kept, whose `extra["film"]` is the film:
    shipped with the package, kept from an earlier call, or trained now (and kept).

    name, options: of the dataset, as `open_dataset` takes them, "world" among them: its people are what is learned.
    """
    plan, size = plan or DCGAN(), tuple(split.images.shape[2:])

    def train(checkpoint):
        generator, history, film = train_dcgan(split.images, plan, seed, device, checkpoint)
        return generator, history, {"film": film}

    def build():
        return NoiseGenerator(plan.noise, plan.width, size)

    return load_or_train(
        "dcgan", name, options, plan, seed, [split.images], train, build, source_of(train_dcgan), device
    )
