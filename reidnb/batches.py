"""From a split of images to training batches: who is in a batch, and how each picture is varied.

A batch is chosen by index (`pk_batches`, `shuffled_batches`) and then made from the uint8 images in one go
(`make_batch`): crop and flip are a single copy, colour jitter costs nothing because it folds into the normalisation,
and every image has draws of its own. On a GPU the same params are applied to the whole batch at once.
"""

import threading
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F

from reidnb.values import Share, Within, value

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of RGB in [0, 1]: what pretrained weights expect


# -------------------------------------------------------------------------------------------------- who is in a batch


def pk_batches(labels: np.ndarray, p: int, k: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Batches of P identities x K images (Hermans et al., 2017) that cover every image at least once -> list of (P *
    K,) indices.

    labels: int (N,), an identity an image. Identities with fewer than K images, and the last K of any other, are
    filled up with images of the same identity drawn again. The fullest identities go first, so that few are left over
    at the end; a last batch that is short of identities is filled up with others. Raises ValueError when there are
    fewer than P identities.
    """
    labels = np.asarray(labels)
    people = np.unique(labels)
    if p < 1 or k < 1 or len(people) < p:
        raise ValueError(
            f"P x K = {p} x {k} needs at least {max(p, 1)} identities with K >= 1; the labels hold {len(people)}"
        )
    by_person = np.split(np.argsort(labels, kind="stable"), np.flatnonzero(np.diff(np.sort(labels))) + 1)
    waiting = [_groups_of_k(rng.permutation(images), k, rng) for images in by_person]
    batches = []
    while any(waiting):
        left = np.array([len(groups) for groups in waiting])
        chosen = np.lexsort((rng.random(len(left)), -left))[:p]
        batches.append(
            np.concatenate(
                [
                    waiting[i].pop() if waiting[i] else _groups_of_k(rng.permutation(by_person[i])[:k], k, rng)[0]
                    for i in chosen
                ]
            )
        )
    return [batches[i] for i in rng.permutation(len(batches))]


def _groups_of_k(images, k, rng):
    """Groups of K; the last is filled up with images drawn again, from outside of it where there are enough."""
    missing = -len(images) % k
    others = images[: max(0, len(images) - k + missing)]
    pool = others if len(others) >= missing else images
    return list(np.r_[images, rng.choice(pool, missing, replace=missing > len(pool))].reshape(-1, k))


def shuffled_batches(labels: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """All images once, in random order -> list of index arrays of `size` (the last one wraps round to full size)."""
    if size < 1 or not len(labels):
        raise ValueError(f"batches of {size} out of {len(labels)} images: both must be at least 1")
    order = rng.permutation(len(labels))
    return np.split(np.resize(order, -(-len(order) // size) * size), -(-len(order) // size))


def wrong_labels(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A copy of the labels (N,) in which a share of the images, drawn at random, carry another person's label.

    What annotators and trackers do to a dataset by mistake; the wrong label is any other one with the same chance.
    """
    labels = np.asarray(labels)
    people, index = np.unique(labels, return_inverse=True)
    if not 0 <= share < 1 or (share and len(people) < 2):
        raise ValueError(f"a share from 0 to 1 of the labels of two people or more, got {share!r} of {len(people)}")
    wrong = rng.choice(len(labels), round(share * len(labels)), replace=False)
    index[wrong] = (index[wrong] + rng.integers(1, max(len(people), 2), len(wrong))) % len(people)
    return people[index]


# ------------------------------------------------------------------------------- pictures in the style of other cameras


@dataclass(frozen=True)
class Styled:
    """N pictures and their copies in the style of each of C cameras (`reidnb.generators`)."""

    images: np.ndarray  # uint8 (N, 3, H, W)
    camids: np.ndarray  # int64 (N,) which camera took them
    copies: np.ndarray  # uint8 (N, C, 3, H, W)

    def __post_init__(self):
        counts = len(self.images), len(self.camids), len(self.copies)
        if len(set(counts)) != 1 or self.copies.shape[2:] != self.images.shape[1:]:
            raise ValueError(f"pictures, cameras and copies must belong together; got {counts} of them")


def with_copies(
    styled: Styled, indices: np.ndarray, copies: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures, each followed by `copies` of it in the styles of other cameras, drawn by lot -> uint8
    (len(indices) * (1 + copies), 3, H, W) and int64 labels 0..len(indices)-1: a picture and its copies are one class,
    all others apart (the LSTM paper, section 2.2)."""
    cameras = styled.copies.shape[1]
    if not 0 < copies < cameras:
        raise ValueError(f"copies must lie between 1 and {cameras - 1}, the cameras that did not take it; got {copies}")
    others = np.argsort(rng.random((len(indices), cameras - 1)), axis=1)[:, :copies]
    others += others >= styled.camids[indices, None]
    pictures = np.concatenate([styled.images[indices][:, None], styled.copies[indices[:, None], others]], 1)
    return pictures.reshape(-1, *pictures.shape[2:]), np.repeat(np.arange(len(indices)), 1 + copies)


def fakes(styled: Styled, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One copy of each picture, in the style of another camera drawn by lot -> uint8 (len(indices), 3, H, W)."""
    pictures, _ = with_copies(styled, np.asarray(indices), 1, rng)
    return pictures[1::2]


# -------------------------------------------------------------------------------------------- how a picture is varied


@value
class Augmentation:
    """How far a training image may be varied; the defaults are the usual ones of ReID (Luo et al., 2019)."""

    flip: Share = 0.5  # probability of a mirror image
    pad: Annotated[float, Within(0, 0.5)] = 0.08  # shift by up to this share of the height, black behind: 10 of 128
    erase: Share = 0.5  # probability that a rectangle of 2-33 % of the picture is erased (Zhong et al., 2017)
    colour: Share = 0.0  # strength of brightness and contrast jitter, and half as much of each channel's own gain
    crop: Share = 1.0  # least share of the picture's area that is cut out, 2 to 3 times as high as wide, and enlarged


@dataclass(frozen=True)
class AugmentationParams:
    """The random choices for a batch of N images, made at once so that CPU and GPU apply the same ones."""

    flip: np.ndarray  # bool (N,)
    shift: np.ndarray  # int (N, 2): rows, columns
    boxes: np.ndarray  # int (N, 4): top, bottom, left, right of what is erased; empty where nothing is
    gain: np.ndarray  # float32 (N, 3): factor on the pixel value
    offset: np.ndarray  # float32 (N, 3): added to it (in 0..255)
    cuts: np.ndarray | None = None  # float32 (N, 2, 3): the affine map of what is cut out and enlarged


def sample_augmentation(
    n: int, height: int, width: int, augmentation: Augmentation, rng: np.random.Generator
) -> AugmentationParams:
    """Choose the variations of n images at random."""
    a = augmentation
    reach = round(a.pad * height)
    area = rng.uniform(0.02, 0.33, n) * height * width
    aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3), n))
    size = np.stack([np.minimum(np.sqrt(area * aspect), height), np.minimum(np.sqrt(area / aspect), width)], 1).astype(
        int
    )
    size[rng.random(n) >= a.erase] = 0
    corner = (rng.random((n, 2)) * (np.array([height, width]) - size + 1)).astype(int)
    boxes = np.stack([corner[:, 0], corner[:, 0] + size[:, 0], corner[:, 1], corner[:, 1] + size[:, 1]], 1)
    contrast = np.exp(a.colour * rng.uniform(-1, 1, (n, 1)))
    tint = np.exp(a.colour / 2 * rng.uniform(-1, 1, (n, 3)))
    brightness = 128 * a.colour * rng.uniform(-1, 1, (n, 1))
    gain = contrast * tint
    return AugmentationParams(
        rng.random(n) < a.flip,
        rng.integers(-reach, reach + 1, (n, 2)),
        boxes,
        gain.astype(np.float32),
        np.broadcast_to(128 * (1 - contrast) + brightness, gain.shape).astype(np.float32),
        _cuts(n, height, width, a.crop, rng) if a.crop < 1 else None,
    )


def _cuts(n, height, width, least, rng):
    """Rectangles of an area in [least, 1] and 2 to 3 times as high as wide, as far as they fit in (the LSTM paper,
    section 3.2) -> (N, 2, 3), from the new picture's coordinates to the old one's, both in [-1, 1]."""
    area, aspect = rng.uniform(least, 1, n) * height * width, rng.uniform(2, 3, n)
    size = np.stack([np.sqrt(area / aspect) / width, np.sqrt(area * aspect) / height], 1).clip(max=1)
    cuts = np.zeros((n, 2, 3), np.float32)
    cuts[:, 0, 0], cuts[:, 1, 1] = size.T
    cuts[:, :, 2] = (2 * rng.random((n, 2)) - 1) * (1 - size)
    return cuts


def _enlarge(pictures, cuts):
    """Normalised pictures (N, 3, H, W), each replaced by what its cut shows."""
    grid = F.affine_grid(torch.as_tensor(cuts, device=pictures.device), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def check_images(images: np.ndarray | torch.Tensor) -> None:
    """Refuse what is not uint8 (N, 3, H, W): TypeError for no array at all, ValueError for another."""
    if not isinstance(images, (np.ndarray, torch.Tensor)):
        raise TypeError(f"images must be a uint8 array or tensor (N, 3, H, W), got {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] != 3 or str(images.dtype).split(".")[-1] != "uint8":
        raise ValueError(f"images must be uint8 (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")


def make_batch(
    images: np.ndarray | torch.Tensor,
    indices: np.ndarray,
    augmentation: Augmentation | None = None,
    rng: np.random.Generator | None = None,
    device: str | torch.device = "cpu",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalised float32 batch (B, 3, H, W) on `device`.

    images: uint8 (N, 3, H, W), a numpy array (memory map) or, to keep a whole dataset on a GPU, a tensor there.
    indices: (B,). Without `augmentation` pictures are only normalised. `out` may be the batch before, whose memory is
    then used again: fresh memory costs more than all the arithmetic.
    """
    check_images(images)
    if augmentation and rng is None:
        raise ValueError("augmentation draws at random: give an rng, such as numpy.random.default_rng(seed)")
    height, width = images.shape[2:]
    params = sample_augmentation(len(indices), height, width, augmentation, rng) if augmentation else None
    if isinstance(images, torch.Tensor) and images.device.type != "cpu":
        return _make_on_device(images, torch.as_tensor(np.asarray(indices), device=images.device), params)
    pixels = _cut_out(np.asarray(images), np.asarray(indices), params)
    if out is None or out.shape != pixels.shape or out.device.type != "cpu":
        out = torch.empty(pixels.shape)
    scale, shift = _normalisation(params, "cpu")
    out.copy_(torch.from_numpy(pixels)).mul_(scale).add_(shift)
    if params is not None:
        values = out.numpy()
        for picture, (top, bottom, left, right) in zip(values, params.boxes.tolist()):
            picture[:, top:bottom, left:right] = 0  # zero is the mean colour
    if params is not None and params.cuts is not None:
        out = _enlarge(out, params.cuts)
    return out.to(device, non_blocking=True)


def _cut_out(images, indices, params):
    """Shifted and mirrored copies, black where the picture ends: a slice copy an image, ten times faster than a gather.

    The array is used again by the next call.
    """
    if params is None:
        return images[indices]
    height, width = images.shape[2:]
    pixels = _canvas((len(indices), *images.shape[1:]))
    pixels.fill(0)
    moves = np.clip(params.shift, (-height, -width), (height, width))  # farther away there is nothing either
    for to, i, (y, x), flip in zip(pixels, indices, moves.tolist(), params.flip.tolist()):
        source = images[i, :, :, ::-1] if flip else images[i]
        part = source[:, max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)]
        to[:, max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)] = part
    return pixels


_memory = threading.local()


def _canvas(shape):
    """An array whose memory is used again by the next batch of this thread."""
    if getattr(_memory, "canvas", None) is None or _memory.canvas.shape != shape:
        _memory.canvas = np.empty(shape, np.uint8)
    return _memory.canvas


def _normalisation(params, device):
    """scale and shift (N or 1, 3, 1, 1) that turn pixel values into jittered, normalised ones."""
    mean, std = 255 * np.array(MEAN, np.float32), 255 * np.array(STD, np.float32)
    gain, offset = (
        (np.ones((1, 3), np.float32), np.zeros((1, 3), np.float32)) if params is None else (params.gain, params.offset)
    )
    scale, shift = gain / std, (offset - mean) / std
    return (torch.from_numpy(a.astype(np.float32)[:, :, None, None]).to(device) for a in (scale, shift))


def _make_on_device(images, indices, params):
    """The same batch from images that lie on a GPU: crop and flip as one gather, erasing as one mask."""
    device, (height, width) = images.device, images.shape[2:]
    scale, shift = _normalisation(params, device)
    if params is None:
        return images[indices].float().mul_(scale).add_(shift)
    move, flip, boxes = (torch.as_tensor(a, device=device) for a in (params.shift, params.flip, params.boxes))
    rows = torch.arange(height, device=device) + move[:, :1]
    columns = torch.arange(width, device=device) + move[:, 1:]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    columns = torch.where(flip[:, None], width - 1 - columns, columns)
    channels = torch.arange(3, device=device)[None, :, None, None]
    pixels = images[indices[:, None, None, None], channels, rows[:, None, :, None], columns[:, None, None, :]]
    batch = torch.where(inside, pixels, 0).float().mul_(scale).add_(shift)
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    erased = ((y >= boxes[:, :1]) & (y < boxes[:, 1:2]))[:, None, :, None] & (
        (x >= boxes[:, 2:3]) & (x < boxes[:, 3:])
    )[:, None, None, :]
    batch = batch.masked_fill_(erased, 0)
    return batch if params.cuts is None else _enlarge(batch, params.cuts)
