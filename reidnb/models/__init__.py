"""Backbones: a picture goes in, a map of features comes out. What is done with the map is `reidnb.network`'s."""

from reidnb.models.backbones import (
    BACKBONES,
    DRAWN,
    check_weights,
    load_backbone,
    save_backbone,
    weights_fingerprint,
)
from reidnb.models.resnet import ResNet, xception_form
from reidnb.models.small import Small

__all__ = [
    "BACKBONES",
    "DRAWN",
    "ResNet",
    "Small",
    "check_weights",
    "load_backbone",
    "save_backbone",
    "weights_fingerprint",
    "xception_form",
]
