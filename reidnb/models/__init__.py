"""Backbones: a picture goes in, a map of features comes out. What is done with the map is `reidnb.network`'s."""

from reidnb.models.backbones import (
    BACKBONES,
    OURS,
    SHIPPED,
    STARTS,
    check_weights,
    load_backbone,
    save_backbone,
    weights_fingerprint,
)
from reidnb.models.efficientnet import Lite0
from reidnb.models.resnet import ResNet, xception_form
from reidnb.models.small import Small

__all__ = [
    "BACKBONES",
    "OURS",
    "Lite0",
    "ResNet",
    "SHIPPED",
    "STARTS",
    "Small",
    "check_weights",
    "load_backbone",
    "save_backbone",
    "weights_fingerprint",
    "xception_form",
]
