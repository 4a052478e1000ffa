"""Backbones and the head that turns their maps into features: `build_model` is the way in.

images (N, 3, H, W) -> backbone -> map (N, C, h, w) -> mean over h and w -> features (N, C), or fewer by a linear layer
                                                             -> batch norm (BNNeck) -> embedding (N, C) -> logits
                                                                                    -> same or not, for each pair (N, N)
                                   -> mean of each stripe -> local features (N, parts, c) -> logits, a stripe each
                                   -> mean of overlapping stripes -> logits of statements (N, stripes, K)
                                   -> branches: the whole, parts read by an LSTM -> triplet features, logits (N, B, .)
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from reidnb.models.branches import BRANCHES, Branches, pool
from reidnb.models.resnet import ResNet, xception_form
from reidnb.models.small import Small
from reidnb.models.stripes import AttributeHead, Stripes, horizontal_pooling, overlapping_pooling, stripe_edges

__all__ = [
    "BRANCHES",
    "MODELS",
    "AttributeHead",
    "Branches",
    "Output",
    "ReIDModel",
    "Students",
    "Stripes",
    "Verifier",
    "build_model",
    "horizontal_pooling",
    "overlapping_pooling",
    "pool",
    "save_backbone",
    "stripe_edges",
    "weights_fingerprint",
]

MODELS = ("small", "small_xception", "resnet18", "resnet50", "resnet50_xception")
DRAWN = {name: Path(__file__).with_name(f"{name}_drawn.safetensors") for name in ("small", "small_xception")}


class Output(NamedTuple):
    """What a model says of N images."""

    features: torch.Tensor  # (N, C) pooled map, or (N, width) of the layer behind it: metric losses act here
    embedding: torch.Tensor  # the same after the BNNeck: compared at test
    logits: torch.Tensor | None  # (N, classes), None without a classifier
    map: torch.Tensor  # (N, C, h, w)
    pairs: torch.Tensor | None = None  # (N, N) logits of "one person", in training with a verifier
    local: torch.Tensor | None = None  # (N, parts, c) unit-length features of the stripes, with a local branch
    part_logits: torch.Tensor | None = None  # (N, parts, classes), with a classifier a stripe
    attributes: torch.Tensor | None = None  # (N, stripes, K) logits of statements, with an attribute head
    branch_features: torch.Tensor | None = None  # (N, B, 128), with branches: triplets act here, not on the features
    branch_logits: torch.Tensor | None = None  # (N, B, classes)
    peer: tuple | None = None  # what the other student says, in mutual learning


class ReIDModel(nn.Module):
    """A backbone, global pooling, a BNNeck (Luo et al., 2019) and a linear classifier over the training
    identities.

    The neck lets the two losses work on two sides of it: distances on the features, angles on the embedding. Its
    shift stays zero and the classifier has no bias, so that classes lie around the origin. With `branches` the
    classifier and the triplets are theirs. With `width` a linear layer turns the pooled map into so many values first.
    """

    def __init__(
        self, backbone, classes, verify=False, stripes=None, attributes=None, pooling="avg", branches=None, width=None
    ):
        super().__init__()
        self.backbone = backbone
        values = width or backbone.channels
        self.narrow = nn.Linear(backbone.channels, width, bias=False) if width else nn.Identity()
        if width:  # it begins as a projection, which keeps distances as well as so few values can
            nn.init.orthogonal_(self.narrow.weight)
        self.neck = nn.BatchNorm1d(values)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(values, classes, bias=False) if classes else None
        if classes:
            nn.init.normal_(self.classifier.weight, std=0.001)
        self.verifier = Verifier(values) if verify else None
        self.stripes = stripes
        self.attributes = attributes
        self.pooling = pooling
        self.branches = branches

    def forward(self, images):
        cells = self.backbone(images)
        pooled = pool(cells.float(), self.pooling)  # float32 from here on, also under autocast
        features = self.narrow(pooled).float()
        embedding = self.neck(features)
        logits = self.classifier(embedding).float() if self.classifier else None
        pairs = self.verifier(embedding) if self.verifier and self.training else None
        local, part_logits = self.stripes(cells) if self.stripes else (None, None)
        local = F.normalize(local, dim=2) if self.stripes else None
        said = self.attributes(cells) if self.attributes else None
        branches = self.branches(cells, pooled) if self.branches else (None, None)
        return Output(features, embedding, logits, cells, pairs, local, part_logits, said, *branches)


class Students(nn.Module):
    """Two models that see the same batches and learn from each other (AlignedReID, figure 4).

    In training the first one's Output carries the second's as `peer`; after it the two stand for themselves.
    """

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, images):
        output = self.first(images)
        return output._replace(peer=self.second(images)) if self.training else output


class Verifier(nn.Module):
    """One person or two? A linear layer on the squared difference of two embeddings (Zheng et al., 2016), for every
    pair of a batch: (N, C) -> logits (N, N).

    w . (x - y)^2 = w . x^2 + w . y^2 - 2 (w x) . y , so that the N x N x C differences never exist.
    """

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, channels), -1.0 / channels))  # near: one person
        self.bias = nn.Parameter(torch.ones(1))

    def forward(self, embedding):
        with torch.autocast(embedding.device.type, enabled=False):
            x = embedding.float()
            squares = (x.square() @ self.weight.T).squeeze(1)
            return squares[:, None] + squares - 2 * (x * self.weight) @ x.T + self.bias


def build_model(
    name="small",
    classes=0,
    weights=None,
    last_stride=1,
    verify=False,
    parts=0,
    local_width=128,
    part_classes=False,
    start=None,
    attribute_parts=1,
    attribute_overlap=0.5,
    pooling="avg",
    branches=None,
    dropout=0.5,
    width=None,
):
    """A ReIDModel whose classifier has `classes` outputs (0: none), with `verify` also a Verifier.

    With `parts` it has a local branch of so many stripes and `local_width` values each, with `part_classes` also a
    classifier for each of them. With `start` (K,), the logits at which K statements begin, it has an attribute
    head on `attribute_parts` stripes. `branches`, one of BRANCHES, puts the LSTM paper's in the classifier's place.
    `width` is the number of values of its features; None: those of the map.
    name: one of MODELS. weights: None (random, from torch's seed), "drawn" (the small backbone pretrained on drawn
    people, shipped here; see `make pretrain`), "imagenet" (torchvision's, for the ResNets) or the path of a
    .safetensors file with a backbone. Raises ValueError for a name or weights that do not exist or do not fit,
    FileNotFoundError where weights cannot be had.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: take one of {', '.join(MODELS)}")
    backbone = Small() if name in DRAWN else ResNet(name.split("_")[0], last_stride)
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    check_weights(name, weights)
    if weights == "imagenet":
        backbone.load_torchvision(_imagenet(name.split("_")[0]))
    if name.endswith("_xception"):  # ImageNet's 1x1 layers stay, the split 3x3 ones start anew
        xception_form(backbone.blocks if name in DRAWN else backbone)
    if weights not in (None, "imagenet"):
        _load_backbone(backbone, _file(name, weights), name)
    local = parts and not branches
    stripes = Stripes(backbone.channels, parts, local_width, classes * part_classes) if local else None
    head = None if start is None else AttributeHead(backbone.channels, start, attribute_parts, attribute_overlap)
    if branches:
        branches, classes = Branches(backbone.channels, classes, branches, parts or 3, pooling, dropout), 0
    model = ReIDModel(backbone, classes, verify, stripes, head, pooling, branches, width)
    return model.to(memory_format=torch.channels_last)


def check_weights(name, weights):
    """Refuse weights that are not there or belong to another model: ValueError, FileNotFoundError."""
    if weights == "imagenet" and name in DRAWN:
        raise ValueError(f"the {name} backbone has no ImageNet weights: weights='drawn' or None")
    if weights == "drawn" and name not in DRAWN:
        raise ValueError(f"weights='drawn' belong to the small backbones, not to {name}: take 'imagenet' or None")
    if weights not in (None, "imagenet") and not (path := _file(name, weights)).exists():
        raise FileNotFoundError(f"no weights at {path}; make them by `make pretrain`, or take weights=None")


def save_backbone(model, path):
    """Save a backbone as float16 .safetensors: what `weights="drawn"` loads."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.backbone.state_dict().items()}
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)


def _load_backbone(backbone, path, name):
    try:
        state = safetensors.torch.load_file(path)
        backbone.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except (RuntimeError, safetensors.SafetensorError) as problem:
        raise ValueError(f"{path} does not hold a {name} backbone: {str(problem)[:200]}") from problem


def _file(name, weights):
    """Where the weights of a model lie, when they lie in a file."""
    return DRAWN[name] if weights == "drawn" else Path(str(weights))


def weights_fingerprint(name, weights):
    """What goes into the key of a kept run: the file's content for weights in a file, their name otherwise."""
    path = _file(name, weights)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else str(weights)


def _imagenet(name):
    import torchvision  # slow to import, see ResNet

    entry = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return entry.get_state_dict(progress=False, check_hash=True)
    except Exception as problem:  # URLError, a time-out, a bad hash: all mean the same to the reader
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        raise FileNotFoundError(
            f"the ImageNet weights of {name} could not be downloaded ({problem}). Fetch {entry.url} on a machine that "
            f"can and put it at {file}, or train from scratch with weights=None"
        ) from problem
