"""Recipes: one named value for each row of a table, and what each profile changes in them.

>>> print(recipe("baseline", "quick"))
"""

import difflib
from dataclasses import dataclass, field, fields, replace

from reidnb.batches import Augmentation
from reidnb.models import MODELS

__all__ = ["PROFILES", "RECIPES", "Recipe", "recipe"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a model becomes, apart from the data and the seed."""

    name: str
    title: str
    # the model
    model: str = "small"  # one of reidnb.models.MODELS, or "colour_histogram", which learns nothing
    weights: str | None = "drawn"  # where the backbone starts: "drawn", "imagenet", None (random) or a file
    last_stride: int = 1  # of a ResNet
    size: tuple[int, int] = (64, 32)  # height and width of the pictures
    # the batches
    p: int = 16  # identities in a batch
    k: int = 4  # images of each
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(colour=0.1))
    # the losses
    identity_weight: float = 1.0  # of the cross-entropy over training identities
    label_smoothing: float = 0.1
    metric: str | None = None  # "trihard"
    metric_weight: float = 1.0
    margin: float | None = 0.3  # None: soft margin
    # the schedule
    epochs: int = 8
    optimizer: str = "adamw"
    lr: float = 3e-3
    weight_decay: float = 0.4
    warmup: float = 1.0  # epochs
    schedule: str = "cosine"  # or "step": a factor 0.1 at each of `steps`
    steps: tuple[int, ...] = ()
    # the test
    flip_test: bool = True  # average a picture's embedding with its mirror image's

    def __post_init__(self):
        allowed = {
            "model": (*MODELS, "colour_histogram"),
            "optimizer": ("adamw", "adam", "sgd"),
            "schedule": ("cosine", "step"),
            "metric": (None, "trihard"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"recipe {self.name}: {name} must be one of {values}, got {getattr(self, name)!r}")
        for name in ("epochs", "p", "k", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"recipe {self.name}: {name} must be positive, got {getattr(self, name)!r}")
        if self.schedule == "cosine" and self.warmup >= self.epochs:
            raise ValueError(f"recipe {self.name}: a warm-up of {self.warmup} epochs leaves nothing of {self.epochs}")


RECIPES = {
    r.name: r
    for r in (
        Recipe("colour_histogram", "Colour histogram, nothing learned", model="colour_histogram", weights=None),
        Recipe("ide", "Identification (IDE)"),
        Recipe("ide_scratch", "Identification (IDE) from scratch", weights=None),
        Recipe("baseline", "Identification + TriHard: our baseline", metric="trihard"),
        Recipe("baseline_scratch", "Our baseline from scratch", metric="trihard", weights=None),
    )
}

# What a profile changes in every recipe; SCRATCH adds to it where the start is random.
PROFILES = {
    "quick": {},
    "full": {},
    "laptop": {"size": (64, 32), "epochs": 30},
    "paper": {
        "model": "resnet50",
        "weights": "imagenet",
        "size": (256, 128),
        "epochs": 120,
        "optimizer": "adam",
        "lr": 3.5e-4,
        "weight_decay": 5e-4,
        "warmup": 10.0,
        "schedule": "step",
        "steps": (40, 70),
        "augmentation": Augmentation(),
    },
}
SCRATCH = {"paper": {"weights": None, "epochs": 300, "schedule": "cosine"}}


def recipe(name, profile="quick", **changes):
    """The recipe called `name` (or a Recipe) under a profile, with single fields changed -> Recipe.

    Raises ValueError for an unknown recipe or profile, TypeError for a field no recipe has.
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}: take one of {', '.join(PROFILES)}")
    known = {f.name for f in fields(Recipe)}
    for field_name in changes.keys() - known:
        raise TypeError(f"a recipe has no {field_name!r}{_near(field_name, known)}; it has {', '.join(sorted(known))}")
    if isinstance(name, Recipe):
        base = name
    elif name in RECIPES:
        base = RECIPES[name]
    else:
        raise ValueError(f"unknown recipe {name!r}{_near(name, RECIPES)}; there are {', '.join(RECIPES)}")
    if base.model != "colour_histogram":
        scratch = SCRATCH.get(profile, {}) if changes.get("weights", base.weights) is None else {}
        changes = {**PROFILES[profile], **scratch, **changes}
    elif profile == "paper":
        changes = {"size": (128, 64), **changes}
    return replace(base, **changes)


def _near(name, known):
    near = difflib.get_close_matches(str(name), known, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
