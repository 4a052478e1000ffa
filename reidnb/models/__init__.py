"""Backbones and the head that turns their maps into features: `build_model` is the way in.

images (N, 3, H, W) -> backbone -> map (N, C, h, w) -> mean over h and w -> features (N, C)
                                                             -> batch norm (BNNeck) -> embedding (N, C) -> logits
                                                                                    -> same or not, for each pair (N, N)
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
import torchvision
from torch import nn

from reidnb.models.resnet import ResNet, xception_form
from reidnb.models.small import Small

__all__ = ["MODELS", "Output", "ReIDModel", "Verifier", "build_model", "save_backbone", "weights_fingerprint"]

MODELS = ("small", "resnet18", "resnet50", "resnet50_xception")
DRAWN = Path(__file__).with_name("small_drawn.safetensors")


class Output(NamedTuple):
    """What a model says of N images."""

    features: torch.Tensor  # (N, C) pooled map: metric losses act here
    embedding: torch.Tensor  # (N, C) the same after the BNNeck: compared at test
    logits: torch.Tensor | None  # (N, classes), None without a classifier
    map: torch.Tensor  # (N, C, h, w)
    pairs: torch.Tensor | None = None  # (N, N) logits of "one person", in training with a verifier


class ReIDModel(nn.Module):
    """A backbone, global average pooling, a BNNeck (Luo et al., 2019) and a linear classifier over the training
    identities.

    The neck lets the two losses work on two sides of it: distances on the features, angles on the embedding. Its
    shift stays zero and the classifier has no bias, so that classes lie around the origin.
    """

    def __init__(self, backbone, classes, verify=False):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.BatchNorm1d(backbone.channels)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(backbone.channels, classes, bias=False) if classes else None
        if classes:
            nn.init.normal_(self.classifier.weight, std=0.001)
        self.verifier = Verifier(backbone.channels) if verify else None

    def forward(self, images):
        cells = self.backbone(images)
        features = cells.float().mean((2, 3))  # float32 from here on, also under autocast
        embedding = self.neck(features)
        logits = self.classifier(embedding).float() if self.classifier else None
        pairs = self.verifier(embedding) if self.verifier and self.training else None
        return Output(features, embedding, logits, cells, pairs)


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


def build_model(name="small", classes=0, weights=None, last_stride=1, verify=False):
    """A ReIDModel whose classifier has `classes` outputs (0: none), with `verify` also a Verifier.

    name: one of MODELS. weights: None (random, from torch's seed), "drawn" (the small backbone pretrained on drawn
    people, shipped here; see `make pretrain`), "imagenet" (torchvision's, for the ResNets) or the path of a
    .safetensors file with a backbone. Raises ValueError for a name or weights that do not exist or do not fit,
    FileNotFoundError where weights cannot be had.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: take one of {', '.join(MODELS)}")
    backbone = Small() if name == "small" else ResNet(name.split("_")[0], last_stride)
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    check_weights(name, weights)
    if weights == "imagenet":
        backbone.load_torchvision(_imagenet(name.split("_")[0]))
    if name.endswith("_xception"):  # ImageNet's 1x1 layers stay, the split 3x3 ones start anew
        xception_form(backbone)
    if weights not in (None, "imagenet"):
        _load_backbone(backbone, DRAWN if weights == "drawn" else Path(weights), name)
    return ReIDModel(backbone, classes, verify).to(memory_format=torch.channels_last)


def check_weights(name, weights):
    """Refuse weights that are not there or belong to another model: ValueError, FileNotFoundError."""
    if weights == "imagenet" and name == "small":
        raise ValueError("the small backbone has no ImageNet weights: weights='drawn' or None")
    if weights == "drawn" and name != "small":
        raise ValueError(f"weights='drawn' belong to the small backbone, not to {name}: take 'imagenet' or None")
    path = DRAWN if weights == "drawn" else Path(str(weights))
    if weights not in (None, "imagenet") and not path.exists():
        raise FileNotFoundError(f"no weights at {path}; make them by `make pretrain`, or take weights=None")


def save_backbone(model, path=DRAWN):
    """Save a backbone as float16 .safetensors: what `weights="drawn"` loads."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.backbone.state_dict().items()}
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)


def _load_backbone(backbone, path, name):
    try:
        state = safetensors.torch.load_file(path)
        backbone.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except (RuntimeError, safetensors.SafetensorError) as problem:
        raise ValueError(f"{path} does not hold a {name} backbone: {str(problem)[:200]}") from problem


def weights_fingerprint(weights):
    """What goes into the key of a kept run: the file's content for weights in a file, their name otherwise."""
    path = DRAWN if weights == "drawn" else Path(str(weights))
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else str(weights)


def _imagenet(name):
    entry = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return entry.get_state_dict(progress=False, check_hash=True)
    except Exception as problem:  # URLError, a time-out, a bad hash: all mean the same to the reader
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        raise FileNotFoundError(
            f"the ImageNet weights of {name} could not be downloaded ({problem}). Fetch {entry.url} on a machine that "
            f"can and put it at {file}, or train from scratch with weights=None"
        ) from problem
