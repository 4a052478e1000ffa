"""The training loop, the whole of it on one screen: batch -> network -> sum of the recipe's terms -> step.

    history = train(model, split.images, labels, recipe("ide"), seed=0)  # the loss falls, an epoch a line

It knows nothing of methods. A term is anything that is called with what the network says of a batch
(`network.Output`) and with the batch itself, and gives a scalar, or several by name; its weight is its own affair. The
line at the end of each epoch, and the history, hold the mean of every term.
"""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from reidnb import losses
from reidnb.batches import check_images, make_batch, pk_batches, shuffled_batches, wrong_labels
from reidnb.network import Output
from reidnb.runtime import TrainingDiverged, autocast, choose_device, keep_checkpoint, keep_memory, load_checkpoint
from reidnb.values import key_of

DIAGNOSTICS = ("length", "active_triplets", "active_anchors")  # in a line of history beside the terms
HISTORY = ("epoch", "loss", *DIAGNOSTICS, "lr", "seconds")  # so no term may be called
log = logging.getLogger("reidnb")


class Batch(NamedTuple):
    """Who is in a batch of N pictures, L of them from the training images and the others joined to them."""

    labels: torch.Tensor  # (N,) identities 0..C-1; what joined may count on from C
    indices: np.ndarray  # (L,) which training images the first L are


def train(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    recipe,
    seed: int = 0,
    device: str | torch.device | None = None,
    checkpoint: Path | None = None,
    terms: Sequence[Callable] | None = None,
    joined: Callable | None = None,
) -> list[dict]:
    """Train `model` in place on images (uint8, N x 3 x H x W) with labels 0..C-1 -> history, a dict an epoch.

    `recipe` (reidnb.recipes.Recipe) holds every hyper-parameter. `terms` are its loss terms where some had to be told
    of the data first (`experiments.prepare`). `joined`, called with a batch's indices, all labels and an rng, gives
    pictures uint8 (M, 3, H, W) and labels (M,) that join the batch. With `checkpoint`, a path, the state after each
    epoch is kept there: the same call after a kill goes on from it and ends at the same numbers, since every epoch
    draws from (seed, epoch) alone. Raises TrainingDiverged when a term is not finite, and TypeError or ValueError for
    what cannot be trained.
    """
    labels = _check(model, images, labels, recipe, seed)
    device, terms = choose_device(device), recipe.terms if terms is None else terms
    model.to(device).train()
    if device.type == "cpu":
        keep_memory()
    images, labels = _on_device(images, device), wrong_labels(labels, recipe.label_noise, np.random.default_rng(seed))
    optimizer = make_optimizer(model, recipe)
    parts = {"model": model, "optimizer": optimizer}
    history = load_checkpoint(checkpoint, parts)
    for epoch in (bar := _progress(recipe, len(history))):
        torch.manual_seed(seed * 100_003 + epoch)
        rng, started, sums = np.random.default_rng((seed, epoch)), time.perf_counter(), {}
        batches, pixels = choose_batches(labels, recipe, rng), None
        for step, indices in enumerate(batches):
            rate = learning_rate(recipe, epoch + step / len(batches))
            for group in optimizer.param_groups:
                group["lr"] = rate
            pixels = pictures = make_batch(images, indices, recipe.augmentation, rng, device, out=pixels)
            people = labels[indices]
            if joined:
                others, theirs = joined(indices, labels, rng)
                others = make_batch(others, np.arange(len(others)), recipe.augmentation, rng, device)
                pictures, people = torch.cat([pixels, others]), np.r_[people, theirs]
            batch = Batch(torch.as_tensor(people, device=device), indices)
            with autocast(device):
                output = model(pictures)
            values = evaluate_terms(terms, output, batch)
            loss = sum(values.values())
            if not torch.isfinite(loss):
                raise TrainingDiverged(recipe.name, f"epoch {epoch + 1}, step {step + 1}", rate, values)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            for name, value in {**values, "loss": loss, **diagnostics(terms, output, batch)}.items():
                sums[name] = sums.get(name, 0.0) + value.detach()
        means = {name: float(value) / len(batches) for name, value in sums.items()}
        history.append({"epoch": epoch + 1, **means, "lr": rate, "seconds": time.perf_counter() - started})
        _report(bar, history[-1], recipe)
        keep_checkpoint(checkpoint, parts, history)
    return history


def evaluate_terms(terms: Iterable[Callable], output: Output, batch: Batch) -> dict[str, torch.Tensor]:
    """The weighted terms of the loss by name: what is summed, printed, and shown when training diverges.

    A term is shown the training images of a batch; one whose `sees_joined` is true is also shown what joined them.
    """
    ours, known, count = output, batch, len(batch.indices)
    if count < len(batch.labels):
        ours, known = output.rows(slice(count)), Batch(batch.labels[:count], batch.indices)
    values = {}
    for term in terms:
        found = term(output, batch) if getattr(term, "sees_joined", False) else term(ours, known)
        for name, value in (found if isinstance(found, dict) else {key_of(term): found}).items():
            if not isinstance(value, torch.Tensor) or value.numel() != 1:
                got = tuple(value.shape) if isinstance(value, torch.Tensor) else repr(value)
                raise TypeError(f"loss term {name} must give a scalar tensor, or several in a dict by name; got {got}")
            if name in values or name in HISTORY:
                raise ValueError(f"two loss terms give {name!r}, or history calls something else so: rename one")
            values[name] = value
    return values


def diagnostics(terms: Iterable[Callable], output: Output, batch: Batch) -> dict[str, torch.Tensor]:
    """How training fares, whatever its loss: the mean length of the features that are compared and, in P x K batches,
    the share of triplets and of anchors that a margin of 0.3 would still move. A share of triplets that rises to 1:
    collapse."""
    comparing = [term for term in terms if getattr(term, "pairs", False)]
    count, features = len(batch.indices), output[getattr(comparing[0], "on", "features") if comparing else "features"]
    features = features.detach()[:count]
    features = features[:, 0] if features.ndim == 3 else features  # of several branches the first
    found = {"length": features.norm(dim=1).mean()}
    if comparing:
        shares = losses.active_shares(features, batch.labels[:count], margin=0.3)
        found["active_triplets"], found["active_anchors"] = shares
    return found


def choose_batches(labels: np.ndarray, recipe, rng: np.random.Generator) -> list[np.ndarray]:
    """P x K batches for a loss that needs pairs of one person; plain shuffled ones otherwise."""
    if recipe.needs_pairs:
        return pk_batches(labels, recipe.p, recipe.k, rng)
    return shuffled_batches(labels, recipe.p * recipe.k, rng)


def learning_rate(recipe, epoch: float) -> float:
    """The rate at a (fractional) epoch: a linear warm-up, then a half cosine to 0 or a factor 0.1 at each of
    recipe.steps."""
    if epoch < recipe.warmup:
        return recipe.lr * (0.01 + 0.99 * epoch / recipe.warmup)
    if recipe.schedule == "cosine":
        done = (epoch - recipe.warmup) / (recipe.epochs - recipe.warmup)
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))
    return recipe.lr * 0.1 ** sum(epoch >= step for step in recipe.steps)


def make_optimizer(model: nn.Module, recipe) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD; norms and biases (everything of one dimension) carry no weight decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.lr, momentum=0.9, nesterov=True)
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[recipe.optimizer](groups, recipe.lr)


def _check(model, images, labels, recipe, seed):
    """The labels as an array, where all else is what `train` wants."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, such as network.build_model gives; got {model!r:.60}")
    if not getattr(recipe, "terms", None):
        raise TypeError(f"wanted a Recipe with loss terms, such as recipes.recipe('ide'); got {recipe!r:.60}")
    check_images(images)
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0 on, got {seed!r}")
    found = np.asarray(labels)
    if found.shape != (len(images),) or found.dtype.kind not in "iu" or found.min(initial=0) < 0:
        got = f"{found.dtype} {found.shape}" + (f" from {found.min(initial=0)} on" if found.dtype.kind in "iu" else "")
        raise ValueError(
            f"labels must be whole numbers from 0, one for each of the {len(images)} images (`datasets.relabel` makes "
            f"them of pids); got {got}"
        )
    return found


def _on_device(images, device):
    """On a GPU the whole training set lies in its memory as uint8; on the CPU it stays the memory map it is."""
    return images if device.type == "cpu" else torch.from_numpy(np.array(images)).to(device)


def _progress(recipe, done):
    """The epochs still to come; with a bar where someone watches."""
    shown = {"desc": recipe.name, "total": recipe.epochs, "initial": done, "unit": "epoch", "leave": False}
    return tqdm(range(done, recipe.epochs), disable=not sys.stderr.isatty(), **shown)


def _report(bar, line, recipe):
    """A bar where someone watches, a line an epoch where nobody does (a log, a batch)."""
    hidden = ("epoch", "lr", "seconds", *DIAGNOSTICS)
    text = "  ".join(f"{name} {value:.3f}" for name, value in line.items() if name not in hidden)
    text += f"  length {line['length']:.2f}"
    if "active_triplets" in line:
        text += f"  active {line['active_triplets']:.0%} of triplets, {line['active_anchors']:.0%} of anchors"
    if sys.stderr.isatty():
        bar.set_postfix_str(text)
    else:
        about = recipe.name, line["epoch"], recipe.epochs, text, line["lr"], line["seconds"]
        log.info("%s epoch %d/%d  %s  lr %.1e  %.1f s", *about)
