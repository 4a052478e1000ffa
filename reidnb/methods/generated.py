"""Pictures that belong to nobody join a batch (LSRO, Zheng et al., 2017), and what they are said to be.

A class has to be chosen for a picture that shows none of the people: all of them by equal shares (LSRO), one class more
that is everybody else's ("all in one", Salimans et al., 2016), or whoever the network takes it for (a pseudo label).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from reidnb import losses
from reidnb.generators.dcgan import imagine, load_or_train_dcgan
from reidnb.methods.strangers import drawn_strangers
from reidnb.network import Output
from reidnb.runtime import choose_device
from reidnb.training import Batch
from reidnb.values import Count, Weight, value


@value
class GeneratedPictures:
    """`generated` pictures of nobody, of which as many join a batch, by lot, as there are of them in an epoch.

    `painter`: "dcgan", trained on the same training pictures; "noise", pixels that know each channel's mean and
    deviation and nothing else; "strangers", people whom the built-in world draws and nobody has met.
    """

    generated: Count = 1600
    painter: Literal["dcgan", "noise", "strangers"] = "dcgan"

    key, needs_target = "generated_pictures", False

    def bind(self, recipe: str, data, device: torch.device) -> Callable:
        pool, count = nobodies(self.painter, data, self.generated, device), len(data.train)

        def pictures(indices, labels, rng):
            joining = max(1, round(len(indices) * self.generated / count))
            chosen = rng.integers(0, len(pool), joining)
            return pool[chosen], np.full(joining, labels.max() + 1)  # a class that none of the people is

        return pictures


def nobodies(painter: str, data, count: int, device=None) -> np.ndarray:
    """`count` pictures that belong to none of a dataset's training people -> uint8 (count, 3, H, W)."""
    images = data.train.images
    if painter == "strangers":
        return drawn_strangers(data, count)
    if painter == "noise":
        some = np.asarray(images[:: max(1, len(images) // 500)], np.float32)
        mean, spread = (f(some, axis=(0, 2, 3))[:, None, None] for f in (np.mean, np.std))
        noise = np.random.default_rng(0).standard_normal((count, *images.shape[1:]), np.float32)
        return (mean + spread * noise).round().clip(0, 255).astype(np.uint8)
    options = {option: held for option, held in data.options.items() if option != "partial"}
    kept = load_or_train_dcgan(data.train, data.name.split("->")[0], options, device=device)
    return imagine(kept.generator.to(choose_device(device)), count)


@value
class NobodyIdentity:
    """The cross-entropy of pictures of nobody, each weighing as much as one of the training pictures.

    `nobody_labels`: "uniform" (LSRO), "one_more" class for all of them, or "predicted", the one of the
    people that the network takes each for now.
    """

    nobody_labels: Literal["uniform", "one_more", "predicted"] = "uniform"
    weight: Weight = 1.0

    key, sees_joined, needs = "nobody", True, ("logits",)

    def facts(self, data) -> dict:
        return {"classes": len(np.unique(data.train.pids)) + 1} if self.nobody_labels == "one_more" else {}

    def __call__(self, output: Output, batch: Batch) -> torch.Tensor:
        count = len(batch.indices)
        logits, labels = output.logits[count:], batch.labels[count:]
        if self.nobody_labels == "uniform":
            cost = -F.log_softmax(logits.float(), 1).mean()
        else:
            taken_for = labels if self.nobody_labels == "one_more" else logits.detach().argmax(1)
            cost = losses.cross_entropy(logits, taken_for)
        return self.weight * cost * len(labels) / count
