"""PN-GAN (Qian et al., 2018): a person painted in other poses, so that one query becomes nine.

    painter = load_or_train_pngan(data.train, "synthetic")                     # shipped, kept, or trained now
    pictures = paint(painter.generator, images, painter.extra["poses"])        # uint8 (8, N, 3, 64, 32)
    features = fuse(embed(images), [embed(part) for part in pictures])         # (N, D), of unit length

The generator is given a picture and a pose, drawn as a skeleton in three colours, and is asked for the person of the
picture in that pose. It learns from pairs of pictures of one person: the second one's key points are the pose, the
second one itself is what should come out.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reidnb.files import digest
from reidnb.generators.descent import SIDES, Film, descend, train_against
from reidnb.generators.keeping import Kept, load_or_train
from reidnb.generators.poses import canonical_poses, draw_poses
from reidnb.generators.ptgan import PatchCritic
from reidnb.generators.stargan import to_pictures
from reidnb.runtime import autocast, choose_device
from reidnb.sources import source_of
from reidnb.synthetic import KEYPOINTS
from reidnb.values import Count, Positive, Share, Weight, value

SHOWN = 5  # pictures of each frame of the film
FRAMES = (1 / 32, 1 / 8, 1 / 4, 1 / 2, 1)  # when a frame is taken, as shares of the steps


@value
class PNGAN:
    """Everything that decides what a generator becomes, apart from the pictures, who is on them, and the seed."""

    width: Count = 20  # channels of the generator at half the picture's size; at most four times as many further down
    critic_width: Count = 16
    same: Weight = 10.0  # of the absolute difference to the true picture (the paper's lambda 1)
    steps: Count = 9000
    batch: Count = 16
    lr: Positive = 1e-3  # constant for half of the steps, then down to 0 in a straight line
    average: Share = 0.99  # of the generator's weights over the steps, which is what paints in the end


# ------------------------------------------------------------------------------------------------------------ networks


class PoseGenerator(nn.Module):
    """Pictures (N, 3, H, W) in [-1, 1] and skeletons (N, 3, H, W) -> those people in those poses.

    H and W are multiples of 16. A U-Net: four convolutions halve the map, four double it, and each of these is given
    what went in on the way down.
    """

    def __init__(self, width=20):
        super().__init__()
        n = (6, width, 2 * width, 4 * width, 4 * width)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in zip(n, n[1:]))
        up = ((n[4], n[3]), (2 * n[3], n[2]), (2 * n[2], n[1]), (2 * n[1], n[1]))
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1) for a, b in up)
        self.last = nn.Conv2d(n[1] + 6, 3, 3, 1, 1)

    def forward(self, pictures, skeletons):
        x, seen = torch.cat([pictures, skeletons], 1), []
        for layer in self.down:
            seen.append(x)
            x = F.relu(layer(x))
        for layer in self.up:
            x = F.relu(layer(F.interpolate(x, scale_factor=2)))
            x = torch.cat([x, seen.pop()], 1)
        return torch.tanh(self.last(x))


def generator_terms(nets: nn.ModuleDict, pictures, skeletons, wanted, plan: PNGAN) -> tuple[dict, torch.Tensor]:
    """What the generator minimises, weighted and by name, and what it painted: near to the wanted picture pixel by
    pixel, and taken for a real one by the critic, with least squares."""
    nets["critic"].requires_grad_(False)
    painted = nets["generator"](pictures, skeletons)
    terms = {"fool": (nets["critic"](painted) - 1).square().mean()}
    if plan.same:
        terms["same"] = plan.same * (painted - wanted).abs().mean()
    nets["critic"].requires_grad_(True)
    return terms, painted.detach()


def critic_terms(nets: nn.ModuleDict, wanted, painted) -> dict[str, torch.Tensor]:
    """What the critic minimises, by name: 1 for real pictures, 0 for painted ones, least squares."""
    real, fake = (nets["critic"](pictures) for pictures in (wanted, painted))
    return {"real": (real - 1).square().mean(), "fake": fake.square().mean()}


# ------------------------------------------------------------------------------------------------------------ training


def train_pngan(
    split,
    plan: PNGAN | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    checkpoint: Path | None = None,
    every: int = 100,
) -> tuple[PoseGenerator, list[dict], np.ndarray]:
    """Train on a split with `images` (uint8, N x 3 x H x W), `pids` (N,) and `keypoints` (N, 14, 3) -> generator,
    history, film.

    A pair is any two pictures of one person, whichever cameras took them; who has one picture only takes no part.
    `film`, uint8 (FRAMES, SHOWN, 3, H, W), is what became of the first pictures of `shown_pairs` in the poses of the
    second ones. With `checkpoint` it goes on after a kill to the same weights. Raises ValueError where there is no
    pair, for pictures without key points, or of sides that are no multiples of 16;
    TrainingDiverged when a term is not finite.
    """
    plan, device = plan or PNGAN(), choose_device(device)
    groups, size = _check(split), split.images.shape[1:]
    torch.manual_seed(seed)
    nets = nn.ModuleDict({"generator": PoseGenerator(plan.width), "critic": PatchCritic(plan.critic_width)})
    nets = nets.to(device, memory_format=torch.channels_last)

    def one_step(rng, optimizers):
        pictures, skeletons, wanted = _draw(split, groups, rng, plan, device)
        with autocast(device):
            terms, painted = generator_terms(nets, pictures, skeletons, wanted, plan)
        descend(optimizers["generator"], terms)
        with autocast(device):
            judged = critic_terms(nets, wanted, painted)
        descend(optimizers["critic"], judged)
        return judged | terms

    film = Film(FRAMES, (SHOWN, *size), lambda average: _frame(average["generator"], split))
    average, *told = train_against("PNGAN", nets, SIDES, one_step, plan, seed, checkpoint, every, film)
    return average["generator"], *told


def pairs_of(pids: np.ndarray) -> list[np.ndarray]:
    """Rows of the pictures of each person of whom there are two or more; distractors (0) and junk (-1) are nobody."""
    return [rows for pid in np.unique(pids) if pid > 0 and len(rows := np.flatnonzero(pids == pid)) > 1]


def shown_pairs(pids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of the film: rows (SHOWN,) of whom is painted, and (SHOWN,) of who stands for the pose."""
    groups = pairs_of(pids)
    chosen = [groups[i * len(groups) // SHOWN] for i in range(SHOWN)]
    return np.array([rows[0] for rows in chosen]), np.array([rows[-1] for rows in chosen])


def _check(split):
    """The people of a split who have pairs, where all else is as it must be."""
    shape, points = tuple(split.images.shape), split.keypoints
    if len(shape) != 4 or not shape[0] or shape[2] % 16 or shape[3] % 16:
        raise ValueError(f"PN-GAN needs pictures whose sides are multiples of 16, one or more; got {shape}")
    if points is None or points.shape != (shape[0], len(KEYPOINTS), 3):
        got = None if points is None else points.shape
        raise ValueError(f"PN-GAN needs key points ({shape[0]}, {len(KEYPOINTS)}, 3) of pictures {shape}; got {got}")
    groups = pairs_of(np.asarray(split.pids))
    if not groups:
        raise ValueError(
            f"PN-GAN learns from two pictures of one person, and of {len(np.unique(split.pids))} people in {shape[0]} "
            "pictures nobody has two"
        )
    return groups


def _draw(split, groups, rng, plan, device):
    """A batch of pairs: a picture, the skeleton of another one of the same person, and that one. Half are mirrored,
    and of a mirrored skeleton left is right."""
    sizes = np.array([len(rows) for rows in groups])
    people = rng.choice(len(groups), plan.batch, p=sizes / sizes.sum())  # who has more pictures is asked more often
    both = np.array([rng.choice(groups[person], 2, replace=False) for person in people])
    flip = rng.random(plan.batch) < 0.5
    skeletons = draw_poses(np.asarray(split.keypoints[both[:, 1]]), split.images.shape[2:]).to(device)
    turned = torch.from_numpy(flip).to(device)[:, None, None, None]
    skeletons = torch.where(turned, skeletons[:, [0, 2, 1]].flip(3), skeletons)
    pictures, wanted = (to_pictures(split.images, rows, device, flip) for rows in both.T)
    return pictures, skeletons, wanted


def _frame(generator, split):
    """The first picture of each pair of the film in the pose of the second."""
    whom, poses = shown_pairs(np.asarray(split.pids))
    return np.concatenate([paint(generator, split.images[[w]], split.keypoints[[p]])[0] for w, p in zip(whom, poses)])


@torch.inference_mode()
def paint(generator: PoseGenerator, images: np.ndarray, poses: np.ndarray, batch: int = 256) -> np.ndarray:
    """Images uint8 (N, 3, H, W) in each of the poses (K, 14, 3) -> uint8 (K, N, 3, H, W)."""
    device, out = next(generator.parameters()).device, np.empty((len(poses), *images.shape), np.uint8)
    skeletons = draw_poses(poses, images.shape[2:]).to(device)
    for start in range(0, len(images), batch):
        here = np.arange(start, min(start + batch, len(images)))
        pictures = to_pictures(images, here, device)
        for pose, skeleton in enumerate(skeletons):
            painted = generator(pictures, skeleton.expand(len(here), -1, -1, -1))
            out[pose, here] = painted.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return out


def fuse(features: np.ndarray, painted: Sequence[np.ndarray], how: str = "max") -> np.ndarray:
    """One feature of a picture and its painted ones -> float32 (N, D), of unit length: of each of the D values the
    largest (`how` "max", the paper's choice), or the mean ("mean").

    features (N, D) of the real pictures, painted (K, N, D). ValueError for shapes that do not fit.
    """
    features, painted = np.asarray(features, np.float32), np.asarray(painted, np.float32)
    if how not in ("max", "mean"):
        raise ValueError(f"how is 'max' or 'mean', got {how!r}")
    if features.ndim != 2 or painted.shape[1:] != features.shape:
        raise ValueError(f"features (N, D) and painted ones (K, N, D); got {features.shape} and {painted.shape}")
    every = np.concatenate([features[None], painted])
    fused = every.max(0) if how == "max" else every.mean(0)
    return fused / np.linalg.norm(fused, axis=1, keepdims=True).clip(1e-12)


# ------------------------------------------------------------------------------------------------------------- keeping


def load_or_train_pngan(
    split, name: str, options: dict | None = None, plan: PNGAN | None = None, seed: int = 0, device=None
) -> Kept:
    """The generator that paints the people of a training split in other poses -> keeping.Kept, whose `extra` holds the
    "film", the eight canonical "poses" (8, 14, 3) and the "rows" (8,) of the split that they come from: shipped, kept
    from an earlier call, or trained now (and kept).

    name, options: of the dataset, as `open_dataset` takes them, "world" among them: its people are what is learned.
    """
    plan = plan or PNGAN()

    def train(checkpoint):
        rows, poses = canonical_poses(split.keypoints)
        generator, history, film = train_pngan(split, plan, seed, device, checkpoint)
        return generator, history, {"film": film, "poses": poses, "rows": rows}

    pictures = [split.images, np.asarray(split.keypoints)[None], np.asarray(split.pids)[None]]  # of these two all
    build, code = lambda: PoseGenerator(plan.width), digest(*map(source_of, (train_pngan, draw_poses, canonical_poses)))
    return load_or_train("pngan", name, options, plan, seed, pictures, train, build, code, device)
