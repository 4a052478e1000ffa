"""PTGAN (Wei et al., 2018): pictures of one domain moved into another, with the people kept.

    painter = load_or_train_ptgan(summer.train, winter.train, "synthetic_summer->synthetic_winter")
    moved = move(painter.generator, summer.train.images)      # uint8 in, uint8 out: who they are stays known

It is CycleGAN (Zhu et al., 2017), two generators and two critics, of which nobody has to know who is on which picture,
and one term more: where a mask says that there is a person, a picture must stay as it was.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from reidnb.generators.descent import Film, descend, train_against
from reidnb.generators.keeping import Kept, load_or_train
from reidnb.generators.stargan import Residual, to_pictures
from reidnb.runtime import autocast, choose_device
from reidnb.sources import source_of
from reidnb.values import Count, Positive, Share, Weight, value

SHOWN = 6  # pictures of each frame of the film
FRAMES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # when a frame is taken, as shares of the steps


@value
class PTGAN:
    """Everything that decides what a pair of generators becomes, apart from the pictures and the seed."""

    width: Count = 16  # channels of a generator at half the picture's size; twice as many at a quarter
    blocks: Count = 3  # residual blocks at a quarter
    critic_width: Count = 16
    cycle: Weight = 0.5  # there and back again gives the picture (the paper's lambda 2)
    same: Weight = 0.1  # what is of a domain already stays as it is: CycleGAN's identity mapping
    person: Weight = 2.0  # the person stays as she is (lambda 1); 0 is CycleGAN. The paper's 10 and 10 hold ours still
    steps: Count = 700
    batch: Count = 8
    lr: Positive = 1e-3  # constant for half of the steps, then down to 0 in a straight line
    average: Share = 0.99  # of the generators' weights over the steps, which is what paints in the end


# ------------------------------------------------------------------------------------------------------- two networks


class Mover(nn.Module):
    """Pictures (N, 3, H, W) in [-1, 1] -> the same in another domain; H and W multiples of 4.

    As StarGAN's generator here it paints a change. That begins small but not at nothing, where the absolute differences
    would hold it: their slope does not fade as they do.
    """

    def __init__(self, width=16, blocks=3):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU()),
            *(Residual(2 * width) for _ in range(blocks)),
            *(nn.Upsample(scale_factor=2), nn.Conv2d(2 * width, width, 3, 1, 1), nn.ReLU()),
            *(nn.Upsample(scale_factor=2), nn.Conv2d(width, 3, 5, 1, 2)),
        )
        nn.init.normal_(self.layers[-1].weight, std=0.02)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, pictures):
        return pictures + self.layers(pictures)


class PatchCritic(nn.Module):
    """Pictures (N, 3, H, W) -> how much each cell of them looks like its domain (N, H / 8, W / 8): 1 yes, 0 no."""

    def __init__(self, width=16):
        super().__init__()
        layers, inputs = [], 3
        for outputs in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2)]
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 1, 3, 1, 1), nn.Flatten(1, 1))

    def forward(self, pictures):
        return self.layers(pictures).squeeze(1).float()


def person_difference(moved: torch.Tensor, pictures: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of two batches (N, 3, H, W) where masks (N, H, W) are above 0; 0 where nobody is."""
    person = (masks > 0).to(moved)[:, None]
    return ((moved - pictures).abs() * person).sum() / (3 * person.sum()).clamp(min=1)


def build_nets(plan: PTGAN) -> nn.ModuleDict:
    """Two generators, "forth" to the target and "back", and the critics of the target ("there") and source ("here")."""
    movers = {name: Mover(plan.width, plan.blocks) for name in ("forth", "back")}
    return nn.ModuleDict(movers | {name: PatchCritic(plan.critic_width) for name in ("there", "here")})


def generator_terms(nets: nn.ModuleDict, source, target, source_masks, target_masks, plan: PTGAN) -> tuple:
    """What both generators minimise, weighted and by name (PTGAN, eq. 1 to 3, with least squares for the critics), and
    what they painted: terms, (moved, moved back)."""
    _learn(nets, False)
    there, here = nets["forth"](source), nets["back"](target)
    terms = {"fool": (nets["there"](there) - 1).square().mean() + (nets["here"](here) - 1).square().mean()}
    if plan.cycle:
        again = (nets["back"](there) - source).abs().mean() + (nets["forth"](here) - target).abs().mean()
        terms["cycle"] = plan.cycle * again
    if plan.same:
        kept = (nets["forth"](target) - target).abs().mean() + (nets["back"](source) - source).abs().mean()
        terms["same"] = plan.same * kept
    if plan.person:
        changed = person_difference(there, source, source_masks) + person_difference(here, target, target_masks)
        terms["person"] = plan.person * changed
    _learn(nets, True)
    return terms, (there.detach(), here.detach())


def critic_terms(nets: nn.ModuleDict, source, target, there, here) -> dict[str, torch.Tensor]:
    """What both critics minimise, by name: 1 for real pictures of their domain, 0 for painted ones, least squares."""
    pairs = {"there": (target, there), "here": (source, here)}
    return {
        name: (nets[name](real) - 1).square().mean() + nets[name](fake).square().mean()
        for name, (real, fake) in pairs.items()
    }


def _learn(nets, yes):
    for name in ("there", "here"):
        nets[name].requires_grad_(yes)


# ----------------------------------------------------------------------------------------------------------- training


def train_ptgan(source, target, *given, **how) -> tuple[Mover, list[dict], np.ndarray]:
    """`train_both`, of whose two generators the one that moves pictures from the source to the target is given."""
    both, history, film = train_both(source, target, *given, **how)
    return both["forth"], history, film


def train_both(
    source,
    target,
    plan: PTGAN | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    checkpoint: Path | None = None,
    every: int = 100,
) -> tuple[nn.ModuleDict, list[dict], np.ndarray]:
    """Train on two splits with `images` (uint8, N x 3 x H x W) and `masks` (N, H, W), above 0 where the person is ->
    the generators that move pictures "forth" from the source to the target and "back", history, film.

    Of neither split the identities are looked at. `film`, uint8 (FRAMES, SHOWN, 3, H, W), is what became of the same
    pictures of the source (the first, and every 37th after it). With `checkpoint` it goes on after a kill to the same
    weights. Raises ValueError for pictures without masks where the person is to be kept, or of sizes that do not fit;
    TrainingDiverged when a term is not finite.
    """
    plan, device = plan or PTGAN(), choose_device(device)
    _check(source, target, plan)
    torch.manual_seed(seed)
    nets = build_nets(plan).to(device, memory_format=torch.channels_last)

    def one_step(rng, optimizers):
        (real, masks), (theirs, their_masks) = (_draw(part, rng, plan, device) for part in (source, target))
        with autocast(device):
            terms, painted = generator_terms(nets, real, theirs, masks, their_masks, plan)
        descend(optimizers["generators"], terms)
        with autocast(device):
            judged = critic_terms(nets, real, theirs, *painted)
        descend(optimizers["critics"], judged)
        return judged | terms

    some = np.asarray(source.images[shown_rows(len(source.images))])
    film = Film(FRAMES, some.shape, lambda average: move(average["forth"], some))
    sides = {"generators": ("forth", "back"), "critics": ("there", "here")}
    return train_against("PTGAN", nets, sides, one_step, plan, seed, checkpoint, every, film)


def shown_rows(count: int) -> np.ndarray:
    """Which of the source's pictures the film shows."""
    return np.arange(SHOWN) * 37 % count


def _check(source, target, plan):
    for which, split in (("source", source), ("target", target)):
        shape = tuple(split.images.shape)
        if not len(split.images) or shape[2] % 8 or shape[3] % 8:
            raise ValueError(f"PTGAN needs pictures whose sides are multiples of 8; the {which} has {shape}")
        if plan.person and (split.masks is None or split.masks.shape != (shape[0], *shape[2:])):
            got = None if split.masks is None else split.masks.shape
            raise ValueError(
                f"PTGAN keeps people where a mask says that they are: the {which} has masks {got} for pictures "
                f"{shape}; with person=0 it is CycleGAN and needs none"
            )
    if source.images.shape[2:] != target.images.shape[2:]:
        raise ValueError(f"two sizes of pictures: {source.images.shape[2:]} and {target.images.shape[2:]}")


def _draw(split, rng, plan, device):
    """A batch of a split's pictures, half of them mirrored, and their masks with them."""
    chosen, flip = rng.integers(0, len(split.images), plan.batch), rng.random(plan.batch) < 0.5
    pictures = to_pictures(split.images, chosen, device, flip)
    if split.masks is None:
        return pictures, None
    masks = np.asarray(split.masks[chosen])
    masks = np.where(flip[:, None, None], masks[..., ::-1], masks)
    return pictures, torch.from_numpy(masks).to(device)


@torch.inference_mode()
def move(generator: Mover, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """Images uint8 (N, 3, H, W) moved into the other domain -> uint8, as many."""
    device, out = next(generator.parameters()).device, np.empty(images.shape, np.uint8)
    for start in range(0, len(images), batch):
        here = np.arange(start, min(start + batch, len(images)))
        painted = generator(to_pictures(images, here, device))
        out[here] = painted.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return out


# ------------------------------------------------------------------------------------------------------------- keeping


def load_or_train_ptgan(
    source, target, name: str, options: dict | None = None, plan: PTGAN | None = None, seed: int = 0, device=None
) -> Kept:
    """The generator that moves the pictures of one training split to another's domain -> keeping.Kept, whose
    `extra["film"]` is the film: shipped, kept from an earlier call, or trained now (and kept).

    name, options: of the pair, as `open_dataset` takes them.
    """
    plan = plan or PTGAN()

    def train(checkpoint):
        generator, history, film = train_ptgan(source, target, plan, seed, device, checkpoint)
        return generator, history, {"film": film}

    pictures = [source.images, target.images, *(part.masks for part in (source, target) if part.masks is not None)]
    build, code = lambda: Mover(plan.width, plan.blocks), source_of(train_ptgan)
    return load_or_train("ptgan", name, options, plan, seed, pictures, train, build, code, device)
