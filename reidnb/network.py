"""The network of every recipe: a backbone, what is made of its map for the whole person, and heads.

images (N, 3, H, W) -> backbone -> map (N, C, h, w) -> mean over h and w -> features (N, C), or fewer by a layer
                                                    -> batch norm (BNNeck) -> embedding (N, C) -> logits (N, classes)
                                                    -> heads: whatever a method adds, each under names of its own
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from reidnb.models import load_backbone
from reidnb.values import key_of

GIVEN = ("map", "features", "embedding", "logits")  # what every network says; heads add to it
PAIRWISE = ("pairs",)  # outputs of N x N values


class Output(dict):
    """What a network says of N images, by name, `output.features` or `output["features"]`:

    map (N, C, h, w); features (N, C): the pooled map, where metric losses act; embedding (N, C): the same behind the
    BNNeck, compared at test; logits (N, classes), where there is a classifier; and what the heads add.
    """

    def __getattr__(self, name: str) -> torch.Tensor:
        if name.startswith("__"):  # Python asks for such names on its own account
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as missing:
            raise AttributeError(missing.args[0]) from None

    def __missing__(self, name: str):
        raise KeyError(f"the network gives no {name!r}, only {', '.join(self)}: is the head missing that does?")

    def rows(self, which: slice) -> "Output":
        """The Output of some of the images."""
        found = Output()
        for name, values in self.items():
            cut = values.rows(which) if isinstance(values, Output) else values[which]
            found[name] = cut[:, which] if name in PAIRWISE else cut
        return found


class ReIDModel(nn.Module):
    """A backbone, global pooling, a BNNeck (Luo et al., 2019), a linear classifier over the training identities where
    `classes` is not 0, and heads by name.

    The neck lets two losses work on two sides of it: distances on the features, angles on the embedding. Its shift
    stays zero and the classifier has no bias, so that classes lie around the origin. With `width` a linear layer turns
    the pooled map into so many values first. A head is given the Output so far and gives a dict that joins it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: int = 0,
        heads: Mapping[str, nn.Module] | None = None,
        pooling: str = "avg",
        width: int | None = None,
    ):
        super().__init__()
        self.backbone, self.pooling = backbone, pooling
        values = width or backbone.channels
        self.narrow = nn.Linear(backbone.channels, width, bias=False) if width else nn.Identity()
        if width:  # it begins as a projection, which keeps distances as well as so few values can
            nn.init.orthogonal_(self.narrow.weight)
        self.neck = nn.BatchNorm1d(values)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(values, classes, bias=False) if classes else None
        if classes:
            nn.init.normal_(self.classifier.weight, std=0.001)
        self.heads = nn.ModuleDict(heads or {})

    def forward(self, images: torch.Tensor) -> Output:
        cells = self.backbone(images)
        features = self.narrow(pool(cells.float(), self.pooling)).float()  # float32 from here on, under autocast too
        output = Output(map=cells, features=features, embedding=self.neck(features))
        if self.classifier is not None:
            output["logits"] = self.classifier(output.embedding).float()
        for head in self.heads.values():
            output.update(head(output))
        return output


def build_model(
    name: str = "small",
    classes: int = 0,
    weights: str | None = None,
    heads: Sequence = (),
    pooling: str = "avg",
    width: int | None = None,
    last_stride: int = 1,
    facts: Mapping | None = None,
) -> ReIDModel:
    """A ReIDModel: backbone `name` with its `weights` (see `models.load_backbone`), a classifier of `classes` outputs
    (0: none) and `heads`, the parts of a recipe that have one.

    A head is anything with `build(channels, facts)` that gives its nn.Module; `facts` says how many "classes" there
    are, how many "values" a feature has, how the map is pooled ("pooling"), and whatever else a head has to know.
    `width`: see ReIDModel.
    """
    check_pooling(pooling)
    for what, number, least in (("classes", classes, 0), ("width", 1 if width is None else width, 1)):
        if not isinstance(number, (int, np.integer)) or number < least:
            raise ValueError(f"{what} must be a whole number from {least} on, got {number!r}")
    heads = tuple(heads) if isinstance(heads, (tuple, list)) else (heads,)
    if unbuilt := [head for head in heads if not hasattr(head, "build")]:
        raise TypeError(
            f"heads must be parts with build(channels, facts), such as methods.Stripes(8); got {unbuilt[0]!r}"
        )
    backbone = load_backbone(name, weights, last_stride)
    facts = {"classes": classes, **(facts or {}), "values": width or backbone.channels, "pooling": pooling}
    modules = {key_of(head): head.build(backbone.channels, facts) for head in heads}
    return ReIDModel(backbone, classes, modules, pooling, width).to(memory_format=torch.channels_last)


def check_pooling(how: str) -> None:
    """ValueError for what is no way to pool a map."""
    if how not in ("avg", "max", "both"):
        raise ValueError(f"pooling must be 'avg', 'max' or 'both', got {how!r}")


def pool(cells: torch.Tensor, how: str = "avg") -> torch.Tensor:
    """Map (N, C, h, w) -> (N, C): the "avg" or the "max" of its cells, or "both", their sum.

    The LSTM paper joins the two (section 2.5) and does not say how; a sum keeps POOL-5 at 2048 values.
    """
    check_pooling(how)
    if how == "avg":
        return cells.mean((2, 3))
    most = cells.amax((2, 3))
    return most if how == "max" else cells.mean((2, 3)) + most
