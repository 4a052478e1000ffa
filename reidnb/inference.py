"""What a trained model says of pictures, and batch norms that take their statistics from other pictures."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reidnb.batches import check_images, make_batch
from reidnb.datasets import decode, pictures_below
from reidnb.datasets.cache import in_threads
from reidnb.descriptors import DESCRIPTORS
from reidnb.runtime import autocast, choose_device


@torch.no_grad()  # and no inference mode: what it gives may be learned from
def embed(
    model: nn.Module,
    images: np.ndarray | torch.Tensor | Sequence[str | Path] | str | Path,
    device: str | torch.device | None = None,
    batch: int = 256,
    flip: bool = True,
    compare: str | Sequence[str] = "embedding",
    size: tuple[int, int] = (64, 32),
) -> torch.Tensor | list[torch.Tensor]:
    """Unit-length embeddings (N, C) float32 on the CPU, of images uint8 (N, 3, H, W), of files, or of a folder's.

    `compare` names what the model says, in `network.Output`: "embedding", behind the BNNeck, "features", before it, or
    what a head adds. Whatever is called logits comes as it is, all else of unit length along its last axis; a tuple of
    names gives a list of results. The model is put in evaluation mode, so a picture's embedding does not depend on its
    neighbours in the batch. With `flip` the picture and its mirror image are averaged, as is usual in ReID. `size`, (H,
    W), is what files are scaled to: the one that the model learned at. A folder's files come in the order of their
    names. Raises ValueError for what is no picture, for no pictures at all, and for a name that the model does not say.
    """
    names = (compare,) if isinstance(compare, str) else compare
    if not names or not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"compare must be a name in network.Output, or a tuple of names; got {compare!r}")
    if not isinstance(flip, bool):
        raise ValueError(f"flip must be True or False, got {flip!r}")
    images, device = _check(model, images, batch, size), choose_device(device)
    was_training = model.training
    model.to(device).eval()
    out = [[] for _ in names]
    try:
        for start in range(0, len(images), batch):
            pixels = make_batch(images, np.arange(start, min(start + batch, len(images))), device=device)
            with autocast(device):
                views = [model(pixels), model(pixels.flip(3))] if flip else [model(pixels)]
            if not isinstance(views[0], Mapping):
                raise TypeError(f"the model must give a network.Output, values by name; got {type(views[0]).__name__}")
            if missing := [name for name in names if name not in views[0]]:
                raise ValueError(f"the model says nothing called {missing[0]!r}; it says {', '.join(views[0])}")
            for name, parts in zip(names, out):
                mean = sum(view[name].float() for view in views) / len(views)
                parts.append(as_compared(mean, name).cpu())
    finally:
        model.train(was_training)
    found = [torch.cat(parts) for parts in out]
    return found[0] if isinstance(compare, str) else found


def as_compared(said: torch.Tensor, name: str) -> torch.Tensor:
    """What a network says under a name, as pictures are compared by it: of unit length, but logits as they are."""
    return said if name.endswith("logits") else F.normalize(said, dim=-1)


def _check(model, images, batch, size=(64, 32)):
    """uint8 (N, 3, H, W) of whatever `embed` takes, where all else is what it wants too."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, such as network.build_model gives; got {model!r:.60}")
    if not isinstance(batch, (int, np.integer)) or batch < 1:
        raise ValueError(f"batch must be a whole number of pictures, at least 1; got {batch!r}")
    if isinstance(images, (str, Path)):
        folder = Path(images)
        if not folder.is_dir():
            raise ValueError(
                f"wanted a folder of pictures, uint8 images or a list of files; there is no folder {folder}"
            )
        images = pictures_below(folder)
    if not isinstance(images, (np.ndarray, torch.Tensor)):
        files = list(images) if isinstance(images, Iterable) else [images]
        if not files or (odd := [file for file in files if not isinstance(file, (str, Path))]):
            got = f"{odd[0]!r:.60} among {len(files)}" if files else "an empty list"
            raise ValueError(f"wanted images uint8 (N, 3, H, W), a folder or a list of files, at least one; got {got}")
        images = np.stack([*in_threads(partial(decode, size=size), map(Path, files))])
    check_images(images)
    if not len(images):
        raise ValueError("there are no pictures: N is 0")
    return images


def describe(
    recipe, model: nn.Module | None, images: np.ndarray, device: torch.device | None = None, outputs: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """What a recipe's model says of images -> "whole" (N, D) float32 of unit length, which is compared, and `outputs`
    by their names in `network.Output`. A recipe that learns nothing has a descriptor for a model."""
    if recipe.model in DESCRIPTORS:
        return {"whole": DESCRIPTORS[recipe.model](images)}
    whole, *found = embed(model, images, device, flip=recipe.flip_test, compare=(recipe.compare, *outputs))
    whole = F.normalize(whole.flatten(1))  # stripes in a row, where they are what is compared
    return {"whole": whole.numpy(), **{name: values.numpy() for name, values in zip(outputs, found)}}


@torch.no_grad()
def adapt_batch_norm(
    model: nn.Module, images: np.ndarray, device: str | torch.device | None = None, batch: int = 256
) -> None:
    """Take the statistics of every batch norm anew, from `images`, in place (AdaBN, Li et al., 2016)."""
    images, device, was_training = _check(model, images, batch), choose_device(device), model.training
    norms = [layer for layer in model.modules() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
    model.to(device).train()
    try:
        for indices in np.array_split(np.arange(len(images)), -(-len(images) // batch)):  # alike: means of means
            with autocast(device):
                model(make_batch(images, indices, device=device))
    finally:
        for layer, momentum in zip(norms, momenta):
            layer.momentum = momentum
        model.train(was_training)
