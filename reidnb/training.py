"""The training loop, and features from a trained model.

`train` is the whole of it, on one screen: batches -> model -> losses -> step, an epoch at a time, with a checkpoint
after each.
"""

import copy
import logging
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from reidnb import losses
from reidnb.alignment import local_distances, rigid_distances
from reidnb.batches import fakes, make_batch, pk_batches, shuffled_batches, with_copies, wrong_labels
from reidnb.files import write_aside

__all__ = [
    "TrainingDiverged",
    "autocast",
    "choose_device",
    "elect",
    "embed",
    "keep_checkpoint",
    "load_checkpoint",
    "renew_norms",
    "train",
]

LOCAL_DISTANCES = {"rigid": rigid_distances, "aligned": local_distances}
SIGNS = ("length", "active_triplets", "active_anchors")  # in a line of history beside the loss terms
log = logging.getLogger("reidnb")


def train(
    model, images, labels, recipe, seed=0, device=None, checkpoint=None, questions=None, answers=None, styled=None
):
    """Train `model` in place on images (uint8, N x 3 x H x W) with labels 0..C-1 -> history, a dict an epoch.

    `recipe` (reidnb.recipes.Recipe) holds every hyper-parameter. `questions` (attributes.Questions) and the images'
    `answers` (N, K) are what a recipe with attributes learns besides. `styled` (batches.Styled) are the target's
    pictures under a recipe that adapts, or the images themselves with the copies that a recipe with fakes adds.
    With `checkpoint`, a path, the state after each epoch is kept there: the same call after a kill goes on from it
    and ends at the same numbers, since every epoch draws from (seed, epoch) alone. Raises TrainingDiverged when a
    loss term is not finite.
    """
    device = choose_device(device)
    model.to(device).train()
    images, labels = _on_device(images, device), wrong_labels(labels, recipe.label_noise, np.random.default_rng(seed))
    optimizer = make_optimizer(model, recipe)
    parts = {"model": model, "optimizer": optimizer}
    history = load_checkpoint(checkpoint, parts)
    for epoch in (bar := _progress(recipe, len(history))):
        torch.manual_seed(seed * 100_003 + epoch)
        rng, started, sums = np.random.default_rng((seed, epoch)), time.perf_counter(), {}
        batches, batch = choose_batches(labels, recipe, rng), None
        for step, indices in enumerate(batches):
            rate = learning_rate(recipe, epoch + step / len(batches))
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = make_batch(images, indices, recipe.augmentation, rng, device, out=batch)
            more, theirs = more_pictures(styled, indices, labels, recipe, rng)
            people = torch.as_tensor(np.r_[labels[indices], theirs], device=device)
            with autocast(device):
                output = model(batch if more is None else torch.cat([batch, more.to(device)]))
            known = None if answers is None else torch.as_tensor(answers[indices], device=device)
            terms = all_terms(output, people, len(indices), recipe, questions, known)
            loss = sum(terms.values())
            if not torch.isfinite(loss):
                raise TrainingDiverged(recipe, epoch, step, rate, terms)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            for name, value in {**terms, "loss": loss, **vital_signs(output, people, len(indices), recipe)}.items():
                sums[name] = sums.get(name, 0.0) + value.detach()
        means = {name: float(value) / len(batches) for name, value in sums.items()}
        history.append({"epoch": epoch + 1, **means, "lr": rate, "seconds": time.perf_counter() - started})
        _report(bar, history[-1], recipe)
        keep_checkpoint(checkpoint, parts, history)
    return history


def more_pictures(styled, indices, labels, recipe, rng):
    """What joins a batch of labelled images: pictures of the target with their copies, each a class of its own, or
    fakes -> normalised pictures (M, 3, H, W) or None, and their labels (M,)."""
    if recipe.adapt and recipe.metric_weight:
        chosen = rng.choice(len(styled.images), min(recipe.target_p, len(styled.images)), replace=False)
        pictures, theirs = with_copies(styled, chosen, recipe.copies, rng)
        theirs = theirs + labels.max() + 1
    elif recipe.fakes:
        chosen = rng.choice(indices, max(1, round(recipe.fakes * len(indices))), replace=False)
        pictures, theirs = fakes(styled, chosen, rng), labels[chosen]
    else:
        return None, labels[:0]
    return make_batch(pictures, np.arange(len(pictures)), recipe.augmentation, rng), theirs


def all_terms(output, labels, labelled, recipe, questions=None, answers=None):
    """`loss_terms` of the first `labelled` pictures, and what those after them add: the domain loss, or the fakes'."""
    if labelled == len(labels):
        return loss_terms(output, labels, recipe, questions, answers)
    ours, theirs = rows(output, slice(labelled)), rows(output, slice(labelled, None))
    terms = loss_terms(ours, labels[:labelled], recipe, questions, answers)
    if recipe.adapt == "domain":  # eq. 3: over source, target and copies, whatever the domain
        terms[recipe.metric] = metric_term(output, labels, recipe)
    elif recipe.adapt == "style":  # two losses, no triplet across the domains
        terms["style"] = metric_term(theirs, labels[labelled:], recipe)
    else:
        smoothing = {"own": 0.0, "smooth": 0.1, "uniform": 1.0}[recipe.fake_labels]
        terms["fakes"] = recipe.identity_weight * losses.cross_entropy(theirs.logits, labels[labelled:], smoothing)
    return terms


def rows(output, which):
    """The Output of some of the images, without what is said of pairs or by another student."""
    values = output._asdict() | {"pairs": None, "peer": None}
    return type(output)(**{name: value if value is None else value[which] for name, value in values.items()})


def heads(output):
    """(features, logits) of each branch; a model without branches is one itself."""
    if output.branch_features is None:
        return [(output.features, output.logits)]
    return list(zip(output.branch_features.unbind(1), output.branch_logits.unbind(1)))


def metric_term(output, labels, recipe):
    """The weighted metric loss, over the branches in sum."""
    loss = getattr(losses, f"{recipe.metric}_loss")
    more = {"quadruplet": [recipe.margin2], "improved_triplet": [recipe.pull]}.get(recipe.metric, [])
    return recipe.metric_weight * sum(loss(features, labels, recipe.margin, *more) for features, _ in heads(output))


def loss_terms(output, labels, recipe, questions=None, answers=None):
    """The weighted terms of the loss, by name: what is summed, printed, and shown when training diverges."""
    terms, smoothing = {}, recipe.label_smoothing
    if recipe.identity_weight:
        costs = sum(losses.cross_entropy(logits, labels, smoothing) for _, logits in heads(output))
        terms["identity"] = recipe.identity_weight * costs
    if recipe.verification_weight:
        terms["verification"] = recipe.verification_weight * losses.verification_loss(output.pairs, labels)
    if recipe.part_weight:
        stripes = output.part_logits.shape[1]
        costs = losses.cross_entropy(output.part_logits.flatten(0, 1), labels.repeat_interleave(stripes), smoothing)
        terms["parts"] = recipe.part_weight * costs
    if recipe.attribute_weight:
        costs = losses.attribute_costs(output.attributes, answers, questions, **_form(recipe))
        terms["attributes"] = recipe.attribute_weight * losses.voted_loss(*costs, recipe.vote)
    if recipe.local:
        terms |= metric_terms(output, labels, recipe)
    elif recipe.metric:
        terms[recipe.metric] = metric_term(output, labels, recipe)
    if output.peer is not None:
        theirs = loss_terms(output.peer, labels, recipe, questions, answers)
        terms = {name: value + theirs[name] for name, value in terms.items()}
        terms |= mutual_terms(output, output.peer, recipe)
    return terms


def _form(recipe):
    return {"form": recipe.attribute_loss, "gamma": recipe.focal_gamma, "alpha": recipe.focal_alpha}


def metric_terms(output, labels, recipe):
    """TriHard on the global and on the local distance, by one choice of triplets (AlignedReID, section 3.1) or, mined
    by "each", by one for each distance (HPLF, section 2.1)."""
    apart = losses.pairwise_distances(output.features)
    local = LOCAL_DISTANCES[recipe.local](output.local, output.local)
    by = {"global": (apart, apart), "local": (local, local), "both": (apart + local,) * 2, "each": (apart, local)}
    for_global, for_local = (losses.hardest_triplets(distances, labels) for distances in by[recipe.mining])
    return {
        "trihard": recipe.metric_weight * losses.mined_loss(apart, for_global, recipe.margin),
        "local": recipe.local_weight * losses.mined_loss(local, for_local, recipe.local_margin),
    }


def mutual_terms(output, peer, recipe):
    """What two students learn from each other: classes, distances (AlignedReID, section 3.2)."""
    terms = {}
    if recipe.class_mutual:
        ours, theirs = output.logits, peer.logits
        loss = losses.class_mutual_loss(ours, theirs) + losses.class_mutual_loss(theirs, ours)
        terms["class_mutual"] = recipe.class_mutual * loss
    if recipe.metric_mutual:
        loss = losses.metric_mutual_loss(output.features, peer.features, recipe.zero_gradient)
        terms["metric_mutual"] = recipe.metric_mutual * loss
    return terms


def vital_signs(output, labels, labelled, recipe):
    """How training fares, whatever its loss: the features' mean length and, in P x K batches, the share of triplets
    and of anchors that a margin of 0.3 would still move. A share of triplets that rises to 1: collapse."""
    features, labels = heads(output)[0][0].detach()[:labelled], labels[:labelled]
    signs = {"length": features.norm(dim=1).mean()}
    if recipe.needs_pairs:
        signs["active_triplets"], signs["active_anchors"] = losses.active_shares(features, labels, margin=0.3)
    return signs


def choose_batches(labels, recipe, rng):
    """P x K batches for a loss that needs pairs of one person; plain shuffled ones otherwise."""
    if recipe.needs_pairs:
        return pk_batches(labels, recipe.p, recipe.k, rng)
    return shuffled_batches(labels, recipe.p * recipe.k, rng)


def learning_rate(recipe, epoch):
    """The rate at a (fractional) epoch: a linear warm-up, then a half cosine to 0 or a factor 0.1 at each of
    recipe.steps."""
    if epoch < recipe.warmup:
        return recipe.lr * (0.01 + 0.99 * epoch / recipe.warmup)
    if recipe.schedule == "cosine":
        done = (epoch - recipe.warmup) / (recipe.epochs - recipe.warmup)
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))
    return recipe.lr * 0.1 ** sum(epoch >= step for step in recipe.steps)


def make_optimizer(model, recipe):
    """AdamW, Adam or SGD; norms and biases (everything of one dimension) carry no weight decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.lr, momentum=0.9, nesterov=True)
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[recipe.optimizer](groups, recipe.lr)


class TrainingDiverged(RuntimeError):
    """A loss term is NaN or infinite; the message shows every term."""

    def __init__(self, recipe, epoch, step, rate, terms):
        shown = ", ".join(f"{name} = {float(value.detach()):g}" for name, value in terms.items())
        super().__init__(
            f"{recipe.name}: the loss is not finite in epoch {epoch + 1}, step {step + 1}: {shown}. The learning rate "
            f"stood at {rate:.2g}: try a lower one, or a longer warm-up"
        )


# ----------------------------------------------------------------------------------------------------------- features


@torch.inference_mode()
def embed(model, images, device=None, batch=256, flip=True, compare="embedding"):
    """Unit-length embeddings (N, C) float32 on the CPU, of images uint8 (N, 3, H, W).

    `compare` names the model's output: "embedding", behind the BNNeck, "features", before it, "local", the stripes'
    features (N, parts, c), "branch_features", the branches' (N, B, 128), each of unit length, or "attributes", logits
    (N, stripes, K) as they are; a tuple of names gives a list of results. The model is put in
    evaluation mode, so a picture's embedding does not depend on its neighbours in the batch. With `flip` the picture
    and its mirror image are averaged, as is usual in ReID.
    """
    names = (compare,) if isinstance(compare, str) else compare
    device = choose_device(device)
    was_training = model.training
    model.to(device).eval()
    out = [[] for _ in names]
    for start in range(0, len(images), batch):
        pixels = make_batch(images, np.arange(start, min(start + batch, len(images))), device=device)
        with autocast(device):
            views = [model(pixels), model(pixels.flip(3))] if flip else [model(pixels)]
        for name, parts in zip(names, out):
            mean = sum(getattr(view, name).float() for view in views) / len(views)
            parts.append((mean if name == "attributes" else F.normalize(mean, dim=-1)).cpu())
    model.train(was_training)
    found = [torch.cat(parts) for parts in out]
    return found[0] if isinstance(compare, str) else found


@torch.no_grad()
def renew_norms(model, images, device=None, batch=256):
    """Take the statistics of every batch norm anew, from `images`, in place (AdaBN, Li et al., 2016)."""
    device = choose_device(device)
    norms = [layer for layer in model.modules() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
    model.to(device).train()
    for indices in np.array_split(np.arange(len(images)), -(-len(images) // batch)):  # alike in size: means of means
        with autocast(device):
            model(make_batch(images, indices, device=device))
    for layer, momentum in zip(norms, momenta):
        layer.momentum = momentum


def elect(model, images, questions, answers, recipe, device=None):
    """Hold the vote over the training images: which stripe answers which question from now on (ALFO, section 2.3).

    The one with the lowest mean loss is trusted; under recipe.vote="mean" all stay so alike. answers (N, K) as
    `train` takes them -> the mean loss of each stripe in each question (stripes, M), and the share of the images for
    which it has the lowest.
    """
    model.to(choose_device(device))  # before inference mode: `trust` is written below
    logits = embed(model, images, device, flip=recipe.flip_test, compare="attributes")
    costs, asked = losses.attribute_costs(logits, torch.as_tensor(answers), questions, **_form(recipe))
    count = asked.sum(0).clamp(min=1)
    means = costs.sum(0) / count
    lowest = F.one_hot(costs.argmin(1), costs.shape[1]).transpose(1, 2) * asked[:, None]
    if recipe.vote != "mean":
        winners = means.argmin(0)
        for group, winner in zip(questions.groups, winners.tolist()):
            model.attributes.trust[:, group] = 0
            model.attributes.trust[winner, group] = 1
    return means.numpy(), (lowest.sum(0) / count).numpy()


# ----------------------------------------------------------------------------------------------- device and precision


def choose_device(device=None):
    """None or "auto": a GPU when there is one, else the CPU. Raises ValueError for a device that is not there."""
    if device in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as problem:
        raise ValueError(f"unknown device {device!r}: take 'auto', 'cpu' or 'cuda'") from problem
    if chosen.type not in ("cpu", "cuda") or (chosen.type == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"device {device!r} is not available here: take 'auto' or 'cpu'")
    return chosen


def autocast(device):
    """bf16 where the hardware multiplies it: GPUs, and CPUs with AVX512-BF16 or AMX; elsewhere float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or _cpu_has_bf16())


def _cpu_has_bf16():
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "REIDNB_FP32" not in os.environ and bool(supported())


def _on_device(images, device):
    """On a GPU the whole training set lies in its memory as uint8; on the CPU it stays the memory map it is."""
    return torch.from_numpy(np.array(images)).to(device) if device.type == "cuda" else images


# -------------------------------------------------------------------------------------------------------- checkpoints


def keep_checkpoint(path, parts, history):
    """Write the state of `parts`, modules and optimizers by name, and the history to `path`; nothing without one."""
    if path:
        state = {name: part.state_dict() for name, part in parts.items()} | {"history": history}
        write_aside(Path(path), lambda file: torch.save(state, file))


def load_checkpoint(path, parts):
    """Put the state of `parts` back as it was kept -> the history; [] where nothing was.

    A file that holds something else is put aside with a warning, and the parts stay as they are.
    """
    if not path or not Path(path).exists():
        return []
    fresh = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return state["history"]
    except (OSError, torch.OutOfMemoryError):
        raise  # the file may be whole
    except Exception as problem:
        aside = Path(path).with_suffix(".damaged")
        os.replace(path, aside)
        log.warning(
            "the checkpoint %s cannot be read (%s): put aside as %s, training starts anew", path, problem, aside.name
        )
        for name, part in parts.items():
            part.load_state_dict(fresh[name])
        return []


# ----------------------------------------------------------------------------------------------------------- progress


def _interactive():
    return sys.stderr.isatty()


def _progress(recipe, done):
    """The epochs still to come; with a bar where someone watches."""
    shown = {"desc": recipe.name, "total": recipe.epochs, "initial": done, "unit": "epoch", "leave": False}
    return tqdm(range(done, recipe.epochs), disable=not _interactive(), **shown)


def _report(bar, line, recipe):
    """A bar where someone watches, a line an epoch where nobody does (a log, a batch)."""
    shown = [f"{name} {value:.3f}" for name, value in line.items() if name not in ("epoch", "lr", "seconds", *SIGNS)]
    shown.append(f"length {line['length']:.2f}")
    if "active_triplets" in line:
        shown.append(f"active {line['active_triplets']:.0%} of triplets, {line['active_anchors']:.0%} of anchors")
    text = "  ".join(shown)
    if _interactive():
        bar.set_postfix_str(text)
    else:
        log.info(
            "%s epoch %d/%d  %s  lr %.1e  %.1f s",
            recipe.name,
            line["epoch"],
            recipe.epochs,
            text,
            line["lr"],
            line["seconds"],
        )
