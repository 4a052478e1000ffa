"""Where the small backbones start: ImageNet's eye, taught to a network a tenth of its size.

`make pretrain` distils EfficientNet-Lite0 (extra `[imagenet]`) into `small` and `small_xception`. No identity is told
and no photograph of a person is seen: teacher and student look at the same pictures, the teacher at twice the size, and
the student learns to say of each cell of its map what the teacher says there. The pictures are drawn people of worlds
that no chapter uses, pieces of scikit-learn's two sample photographs, and dead leaves (overlapping shapes, a model of
natural images; Baradad et al., 2021). A card beside the weights says what they saw.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter
from torch import nn

from reidnb.batches import make_batch
from reidnb.datasets import open_dataset
from reidnb.files import atomic_write, cache_root, digest, kept
from reidnb.models import SHIPPED, load_backbone, save_backbone
from reidnb.runtime import autocast, choose_device, keep_checkpoint, load_checkpoint

SIZE = (128, 64)  # the teacher's; the student sees half
# Worlds of which no chapter uses the domain (0, 2 and 3): other people, cameras, places and clothes.
WORLDS = tuple(
    {"seed": 100 + domain, "domain": domain, "season": season, "cameras": 16}
    for domain, season in ((1, 1.0), (4, 0.0), (5, 2.0), (6, 1.0), (7, 0.5), (8, 1.5))
)
PEOPLE = {"train_identities": 300, "test_identities": 2, "distractors": 0, "junk": 0}
COUNTS = {"people": 24_000, "photographs": 8_000, "leaves": 8_000}
TARGETS = 256  # directions of the teacher's cells that are kept, by their variance
EPOCHS, BATCH, RATE, DECAY = 8, 128, 3e-3, 0.05
SOURCE = digest(Path(__file__).read_bytes())  # pictures and targets are made anew when this file changes
log = logging.getLogger("reidnb")


def pretrain(model: str = "small", path: Path | None = None, epochs: int = EPOCHS, counts: dict | None = None) -> float:
    """Distil and save a backbone, "small" or "small_xception" -> the mean cosine between student and teacher, cell by
    cell, over pictures it did not learn from.

    Resumes where it was stopped. ImportError, before any work, where the teacher's wheel is not installed.
    """
    teacher = load_backbone("lite0", "imagenet")
    counts, path = COUNTS | (counts or {}), path or SHIPPED[model, "distilled"]
    pictures = make_pictures(counts)
    targets = make_targets(teacher, pictures)
    backbone = load_backbone(model)
    held_out = len(pictures) // 40
    checkpoint = cache_root() / "pretraining" / f"{model}.checkpoint"
    started = time.perf_counter()
    student = distil(backbone, pictures[held_out:], targets[held_out:], epochs, checkpoint=checkpoint)
    cosine, seconds = agreement(student, pictures[:held_out], targets[:held_out]), time.perf_counter() - started
    atomic_write(path, lambda file: save_backbone(backbone, file))
    card = {
        "what": f"{model}, distilled from EfficientNet-Lite0's ImageNet features; no identity was told",
        "saw": counts | {"worlds": [world["seed"] for world in WORLDS], "domains": [w["domain"] for w in WORLDS]},
        "photographs": "china.jpg and flower.jpg of scikit-learn (CC BY 2.0)",
        "epochs": epochs,
        "cosine with its teacher": round(cosine, 4),
        "seconds": round(seconds),
    }
    atomic_write(path.with_suffix(".json"), lambda file: file.write_text(json.dumps(card, indent=1) + "\n"))
    checkpoint.unlink(missing_ok=True)
    log.info("%s distilled: cosine %.3f with its teacher\nwritten: %s", model, cosine, path)
    return cosine


# ------------------------------------------------------------------------------------------------------- the pictures


def make_pictures(counts: dict = COUNTS) -> np.ndarray:
    """Pictures of all kinds, shuffled -> uint8 (N, 3, 128, 64), drawn once and kept."""
    rng, total = np.random.default_rng(0), sum(counts.values())

    def fill(file):
        out = np.lib.format.open_memmap(file, "w+", np.uint8, (total, 3, *SIZE))
        sources = _people(counts["people"], rng), _photographs(counts["photographs"], rng)
        places = iter(rng.permutation(total))
        for source in (*sources, (_leaves(rng) for _ in range(counts["leaves"]))):
            for picture in source:
                out[next(places)] = _coloured(picture, rng)
        out.flush()

    return _kept("pictures", [counts, PEOPLE, WORLDS, SOURCE], fill)


def _kept(what: str, of: list, fill: Callable) -> np.ndarray:
    """An array that `fill` writes into a file once, mapped from then on; another for anything else in `of`."""
    opened = {}

    def read(path):
        opened[path] = np.load(path, mmap_mode="r")

    return opened[kept(cache_root() / "pretraining" / f"{what}-{digest(of)}.npy", fill, read)]


def _people(count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Drawn people, each zoomed in by up to two and mirrored by chance."""
    worlds = [open_dataset("synthetic", size=(256, 128), **PEOPLE, **world).train.images for world in WORLDS]
    for i in range(count):
        images = worlds[i % len(worlds)]
        yield _piece(Image.fromarray(images[rng.integers(len(images))].transpose(1, 2, 0)), rng, 0.5)


def _photographs(count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Pieces of a palace and of a flower, upright or turned."""
    from sklearn.datasets import load_sample_images

    whole = [Image.fromarray(image) for image in load_sample_images().images]
    for i in range(count):
        turned = whole[i % 2].rotate(90 * int(rng.integers(4)), expand=True)
        yield _piece(turned, rng, 0.15)


def _piece(image, rng, least):
    """A piece twice as high as wide, of `least` to all of what fits in -> uint8 (3, H, W)."""
    width, height = image.size
    tall = rng.uniform(least, 1) * min(height, 2 * width)
    left, top = rng.uniform(0, width - tall / 2), rng.uniform(0, height - tall)
    cut = image.resize(SIZE[::-1], Image.Resampling.BILINEAR, (left, top, left + tall / 2, top + tall))
    pixels = np.asarray(cut).transpose(2, 0, 1)
    return pixels[:, :, ::-1] if rng.random() < 0.5 else pixels


def _leaves(rng):
    """Dead leaves: shapes of all sizes that hide one another, plain, striped or grained -> uint8 (3, H, W)."""
    height, width = SIZE
    middle, spread, least = rng.uniform(40, 215, 3), rng.uniform(15, 80), rng.uniform(3, 10)
    image = Image.new("RGB", (width, height), tuple(middle.astype(int).tolist()))
    draw = ImageDraw.Draw(image)
    for radius in np.sort(least / np.sqrt(rng.uniform((least / 60) ** 2, 1, 90)))[::-1]:  # a power law, to 60 pixels
        x, y, turn = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, np.pi)
        sides, stretch = int(rng.choice((3, 4, 5, 24))), rng.uniform(0.4, 1)
        angles = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        across, along = radius * np.cos(angles), radius * stretch * np.sin(angles)
        corners = np.stack([x + across * np.cos(turn) - along * np.sin(turn), y + across * np.sin(turn) + along], 1)
        colour, other = (tuple(rng.normal(middle, spread).clip(0, 255).astype(int).tolist()) for _ in range(2))
        draw.polygon([tuple(corner) for corner in corners.tolist()], fill=colour)
        if rng.random() < 0.3:
            step = rng.uniform(2, 8)
            for line in np.arange(-radius, radius, step):
                ends = [(x - radius * 0.7, y + line * 0.7), (x + radius * 0.7, y + line * 0.7)]
                draw.line([ends[0][::-1], ends[1][::-1]] if turn > 1.5 else ends, fill=other, width=1)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    grain = rng.normal(0, rng.uniform(0, 12), (*SIZE, 1))
    return np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8).transpose(2, 0, 1)


def _coloured(pixels, rng):
    """Brightness, contrast and the channels' gains varied by up to a quarter, for teacher and student alike."""
    gain = np.exp(rng.uniform(-0.25, 0.25) + rng.uniform(-0.12, 0.12, 3))[:, None, None]
    return np.clip(128 + (pixels - 128.0) * gain + rng.uniform(-30, 30), 0, 255).astype(np.uint8)


# -------------------------------------------------------------------------------------------------------- the teacher


@torch.no_grad()
def make_targets(teacher: nn.Module, pictures: np.ndarray) -> np.ndarray:
    """What the teacher says of every cell: its middle, last and widened maps side by side, each channel standardised,
    along the TARGETS directions of largest variance -> float16 (N, TARGETS, 8, 4), computed once and kept."""
    device = choose_device()
    teacher = teacher.to(device, memory_format=torch.channels_last).eval()

    def say(start, count=64):
        x = make_batch(pictures, np.arange(start, min(start + count, len(pictures))), device=device)
        with autocast(device):
            return torch.cat([cells.float() for cells in teacher.stages(x)], 1)

    def fill(file):
        some = [say(start) for start in range(0, min(len(pictures), 2048), 64)]
        cells = torch.cat([part.movedim(1, 3).flatten(0, 2) for part in some])
        mean, std = cells.mean(0), cells.std(0) + 1e-3
        _, _, directions = torch.svd_lowrank((cells - mean) / std, q=TARGETS, niter=4)
        out = np.lib.format.open_memmap(file, "w+", np.float16, (len(pictures), TARGETS, 8, 4))
        for start in range(0, len(pictures), 64):
            found = ((say(start).movedim(1, 3) - mean) / std) @ directions
            out[start : start + 64] = found.movedim(3, 1).half().cpu().numpy()
        out.flush()

    of = [len(pictures), np.ascontiguousarray(pictures[:: max(1, len(pictures) // 50)]).tobytes(), TARGETS, SOURCE]
    return _kept("targets", of, fill)


# -------------------------------------------------------------------------------------------------------- the student


class Student(nn.Module):
    """A backbone, and a 1x1 convolution that says what the teacher would."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone, self.say = backbone, nn.Conv2d(backbone.channels, TARGETS, 1)

    def forward(self, images):
        return self.say(self.backbone(images))


def distil(
    backbone: nn.Module,
    pictures: np.ndarray,
    targets: np.ndarray,
    epochs: int = EPOCHS,
    seed: int = 0,
    checkpoint: Path | None = None,
    until: int | None = None,
) -> nn.Module:
    """Teach a backbone in place, at half the pictures' size -> the Student around it. The loss of a cell is one minus
    the cosine to its target; a picture and its target are mirrored together. `until`: stop after so many epochs."""
    device = choose_device()
    torch.manual_seed(seed)
    student = Student(backbone).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(student.parameters(), RATE, weight_decay=DECAY)
    steps = len(pictures) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * steps, pct_start=0.1)
    parts = {"student": student, "optimizer": optimizer, "schedule": schedule}
    history = load_checkpoint(checkpoint, parts)
    for epoch in range(len(history), until or epochs):
        rng, started, total = np.random.default_rng((seed, epoch)), time.perf_counter(), 0.0
        for indices in np.split(rng.permutation(len(pictures))[: steps * BATCH], steps):
            said, wanted = _pair(student, pictures, targets, np.sort(indices), device, rng.random() < 0.5)
            loss = 1 - F.cosine_similarity(said, wanted).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        history.append({"epoch": epoch + 1, "loss": total / steps, "seconds": time.perf_counter() - started})
        log.info("epoch %d of %d: cosine %.4f, %.0f s", epoch + 1, epochs, 1 - total / steps, history[-1]["seconds"])
        keep_checkpoint(checkpoint, parts, history)
    return student


@torch.no_grad()
def agreement(student: nn.Module, pictures: np.ndarray, targets: np.ndarray) -> float:
    """The mean cosine between student and targets, over the cells of pictures."""
    student.eval()
    some = np.array_split(np.arange(len(pictures)), max(1, len(pictures) // BATCH))
    device = next(student.parameters()).device
    found = [F.cosine_similarity(*_pair(student, pictures, targets, indices, device, False)) for indices in some]
    return float(torch.cat([part.flatten() for part in found]).mean())


def _pair(student, pictures, targets, indices, device, mirrored):
    """What the student says of pictures at half their size, and what it should."""
    x = F.avg_pool2d(make_batch(pictures, indices, device=device), 2)
    wanted = torch.from_numpy(np.asarray(targets[indices])).to(device).float()
    if mirrored:
        x, wanted = x.flip(3), wanted.flip(3)
    with autocast(device):
        said = student(x.contiguous(memory_format=torch.channels_last))
    return said.float(), wanted
