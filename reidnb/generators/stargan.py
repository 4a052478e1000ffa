"""StarGAN (Choi et al., 2018): one generator that repaints a picture as any camera of a dataset would have taken it.

    generator, history = train_stargan(split.images, split.camids)
    copies = restyle(generator, split.images[:8], cameras=np.full(8, 3))      # uint8 in, uint8 out

The generator is given a picture and the number of a camera; the discriminator says whether a picture is a real one and
which camera took it. Nobody has to know who is on the pictures: of an unlabelled target, cameras are all that is known.
"""

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reidnb.generators.descent import SIDES, descend, train_against
from reidnb.runtime import choose_device
from reidnb.values import Count, Positive, Share, Weight, value


@value
class StarGAN:
    """Everything that decides what a generator becomes, apart from the pictures and the seed."""

    width: Count = 32  # channels of the generator at half the picture's size; twice as many at a quarter
    blocks: Count = 3  # residual blocks at a quarter
    critic_width: Count = 16  # channels of the discriminator's first layer, doubled at each halving
    reconstruction: Weight = 20.0  # of the cycle: there and back again gives the picture
    classification: Weight = 1.0  # of the camera
    penalty: Weight = 10.0  # of the gradient penalty
    critic: Count = 2  # steps of the discriminator for each of the generator's
    steps: Count = 1600  # of the generator
    batch: Count = 16
    lr: Positive = 3e-4  # constant for half of the steps, then down to 0 in a straight line
    average: Share = 0.995  # of the generator's weights over the steps, which is what paints in the end


# ------------------------------------------------------------------------------------------------------- two networks


class Generator(nn.Module):
    """Pictures (N, 3, H, W) in [-1, 1] and cameras (N,) -> pictures as those cameras take them; H and W multiples of 4.

    The camera comes as C more channels, all zero but its own. Unlike the original it paints a change, which is added
    to the picture and is nothing at the start, and it has no instance norm: both keep clothes as they are.
    """

    def __init__(self, cameras, width=32, blocks=3):
        super().__init__()
        self.cameras = cameras
        self.down = nn.Sequential(
            *(nn.Conv2d(3 + cameras, width, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU()),
        )
        self.blocks = nn.Sequential(*(Residual(2 * width) for _ in range(blocks)))
        self.up = nn.Sequential(
            *(nn.Upsample(scale_factor=2), nn.Conv2d(2 * width, width, 3, 1, 1), nn.ReLU()),
            *(nn.Upsample(scale_factor=2), nn.Conv2d(width, 3, 5, 1, 2)),
        )
        nn.init.zeros_(self.up[-1].weight)
        nn.init.zeros_(self.up[-1].bias)

    def forward(self, pictures, cameras):
        which = F.one_hot(cameras, self.cameras).to(pictures)[:, :, None, None]
        asked = torch.cat([pictures, which.expand(-1, -1, *pictures.shape[2:])], 1)
        return pictures + self.up(self.blocks(self.down(asked)))


class Residual(nn.Module):
    """Two 3x3 convolutions and a way round them."""

    def __init__(self, channels):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1), nn.ReLU(), nn.Conv2d(channels, channels, 3, 1, 1)
        )

    def forward(self, x):
        return x + self.layers(x)


class Discriminator(nn.Module):
    """Pictures (N, 3, H, W) -> how real each looks (N,), and logits of the camera that took it (N, C).

    Convolutions halve the picture down to 4 x 2 cells; each cell says how real it looks (a PatchGAN), all together
    which camera it was.
    """

    def __init__(self, cameras, width=16, size=(64, 32)):
        super().__init__()
        depth, layers, inputs = int(math.log2(min(size))) - 1, [], 3
        for i in range(depth):
            outputs = min(width * 2**i, 512)
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.01)]
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.real = nn.Conv2d(inputs, 1, 3, 1, 1)
        self.camera = nn.Conv2d(inputs, cameras, [n // 2**depth for n in size])

    def forward(self, pictures):
        cells = self.layers(pictures)
        return self.real(cells).mean((1, 2, 3)), self.camera(cells).flatten(1)


def gradient_penalty(critic: nn.Module, real: torch.Tensor, fake: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """WGAN-GP (Gulrajani et al., 2017): mean over pictures of (|gradient of the critic| - 1)^2, taken on the line
    between a real picture and a fake, at `mix` (N, 1, 1, 1) in [0, 1] from the fake."""
    between = (mix * real + (1 - mix) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


# ----------------------------------------------------------------------------------------------------------- training


def train_stargan(
    images: np.ndarray,
    camids: np.ndarray,
    plan: StarGAN | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    checkpoint: Path | None = None,
    every: int = 100,
) -> tuple["Generator", list[dict]]:
    """Train on images (uint8, N x 3 x H x W) and the cameras that took them (N,) -> Generator, history.

    `history` has a dict for every `every` steps, with the means of the weighted terms. With `checkpoint`, a path, the
    state is kept there as often, and the same call after a kill goes on from it to the same weights. Raises
    ValueError where there are fewer than two cameras, TrainingDiverged when a term is not finite.
    """
    plan, device = plan or StarGAN(), choose_device(device)
    cameras = int(np.max(camids)) + 1 if len(camids) else 0
    if cameras > 1 and len(np.unique(camids)) < cameras:
        missing = np.setdiff1d(np.arange(cameras), camids).tolist()
        raise ValueError(f"StarGAN needs pictures of every camera it is to imitate; there is none of {missing}")
    if cameras < 2 or images.shape[2] % 4 or images.shape[3] % 4:
        raise ValueError(
            f"StarGAN needs at least two cameras and pictures whose sides are multiples of 4; got {cameras} and "
            f"{tuple(images.shape[2:])}"
        )
    torch.manual_seed(seed)
    nets = nn.ModuleDict(
        {
            "generator": Generator(cameras, plan.width, plan.blocks),
            "critic": Discriminator(cameras, plan.critic_width, images.shape[2:]),
        }
    ).to(device, memory_format=torch.channels_last)

    step_of = partial(one_step, nets, images, camids, plan)
    average, history, _ = train_against("StarGAN", nets, SIDES, step_of, plan, seed, checkpoint, every)
    return average["generator"], history


def one_step(
    nets: nn.ModuleDict, images, camids, plan: StarGAN, rng: np.random.Generator, optimizers: dict, more=None
) -> dict[str, torch.Tensor]:
    """A step of training: `plan.critic` of the critic, one of the generator -> the terms by name. more(real, took)
    gives the generator further terms."""
    cameras, device = nets["generator"].cameras, next(nets.parameters()).device
    for _ in range(plan.critic):
        chosen = rng.integers(0, len(images), plan.batch)
        real = to_pictures(images, chosen, device, flip=rng.random(plan.batch) < 0.5)
        took = torch.as_tensor(np.asarray(camids)[chosen], device=device)
        asked = torch.as_tensor(rng.integers(0, cameras, plan.batch), device=device)
        mix = torch.as_tensor(rng.random((plan.batch, 1, 1, 1)), dtype=torch.float32, device=device)
        terms = critic_terms(nets, real, took, asked, mix, plan)
        descend(optimizers["critic"], terms)
    painted = generator_terms(nets, real, took, asked, plan) | (more(real, took) if more else {})
    descend(optimizers["generator"], painted)
    return terms | painted


def critic_terms(nets: nn.ModuleDict, real, took, asked, mix, plan: StarGAN) -> dict[str, torch.Tensor]:
    """What the discriminator minimises (StarGAN, eq. 1, 2, 5), by name."""
    with torch.no_grad():
        fake = nets["generator"](real, asked)
    real_score, camera = nets["critic"](real)
    fake_score, _ = nets["critic"](fake)
    gap = gradient_penalty(lambda pictures: nets["critic"](pictures)[0], real, fake, mix)
    return {
        "critic": fake_score.mean() - real_score.mean(),
        "penalty": plan.penalty * gap,
        "camera": plan.classification * F.cross_entropy(camera, took),
    }


def generator_terms(nets: nn.ModuleDict, real, took, asked, plan: StarGAN) -> dict[str, torch.Tensor]:
    """What the generator minimises (StarGAN, eq. 3, 4, 6; L1 distances), by name."""
    nets["critic"].requires_grad_(False)
    fake = nets["generator"](real, asked)
    score, camera = nets["critic"](fake)
    terms = {"fool": -score.mean(), "style": plan.classification * F.cross_entropy(camera, asked)}
    if plan.reconstruction:
        terms["cycle"] = plan.reconstruction * (real - nets["generator"](fake, took)).abs().mean()
    nets["critic"].requires_grad_(True)
    return terms


def to_pictures(images, indices, device, flip=None) -> torch.Tensor:
    """Some of the images uint8 (N, 3, H, W) -> float32 in [-1, 1], those of `flip` mirrored."""
    chosen = np.asarray(images[indices])
    if flip is not None:
        chosen = np.where(flip[:, None, None, None], chosen[..., ::-1], chosen)
    pictures = torch.from_numpy(chosen).to(device).float().div_(127.5).sub_(1)
    return pictures.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def restyle(generator: Generator, images: np.ndarray, cameras: np.ndarray | int, batch: int = 256) -> np.ndarray:
    """Images uint8 (N, 3, H, W) as `cameras` (N,), or one camera for all, would have taken them -> uint8, as many."""
    cameras = np.broadcast_to(cameras, len(images)).astype(np.int64)
    if len(cameras) and not 0 <= cameras.min() <= cameras.max() < generator.cameras:
        raise ValueError(f"cameras count from 0 to {generator.cameras - 1}; got {cameras.min()} to {cameras.max()}")
    device, out = next(generator.parameters()).device, np.empty(images.shape, np.uint8)
    for start in range(0, len(images), batch):
        here = np.arange(start, min(start + batch, len(images)))
        painted = generator(to_pictures(images, here, device), torch.as_tensor(cameras[here], device=device))
        out[here] = painted.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return out
