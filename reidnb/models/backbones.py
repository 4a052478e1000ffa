"""A backbone by its name, and the weights it starts from."""

from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from reidnb.files import digest
from reidnb.models.resnet import ResNet, xception_form
from reidnb.models.small import Small
from reidnb.values import did_you_mean

BACKBONES = ("small", "small_xception", "resnet18", "resnet50", "resnet50_xception")
DRAWN = {name: Path(__file__).with_name(f"{name}_drawn.safetensors") for name in ("small", "small_xception")}


def load_backbone(name: str = "small", weights: str | Path | None = None, last_stride: int = 1) -> nn.Module:
    """A backbone, (N, 3, H, W) -> map (N, C, h, w), whose `channels` is C.

    name: one of BACKBONES. weights: None (random, from torch's seed), "drawn" (the small backbone pretrained on drawn
    people, shipped here; see `make pretrain`), "imagenet" (torchvision's, for the ResNets) or the path of a
    .safetensors file with a backbone. Raises ValueError for a name or weights that do not exist or do not fit,
    FileNotFoundError where weights cannot be had.
    """
    check_weights(name, weights)
    if last_stride not in (1, 2):
        raise ValueError(f"last_stride must be 1 or 2, got {last_stride!r}")
    backbone = Small() if name in DRAWN else ResNet(name.split("_")[0], last_stride)
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if weights == "imagenet":
        backbone.load_torchvision(_imagenet(name.split("_")[0]))
    if name.endswith("_xception"):  # ImageNet's 1x1 layers stay, the split 3x3 ones start anew
        xception_form(backbone.blocks if name in DRAWN else backbone)
    if weights not in (None, "imagenet"):
        path = _file(name, weights)
        try:
            state = safetensors.torch.load_file(path)
            backbone.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
        except (RuntimeError, safetensors.SafetensorError) as problem:
            raise ValueError(f"{path} does not hold a {name} backbone: {str(problem)[:200]}") from problem
    return backbone


def check_weights(name: str, weights: str | Path | None) -> None:
    """Refuse a backbone that is not known, and weights that are not there or belong to another: ValueError,
    FileNotFoundError."""
    if name not in BACKBONES:
        raise ValueError(f"unknown model {name!r}{did_you_mean(name, BACKBONES)}: take one of {', '.join(BACKBONES)}")
    if weights == "imagenet" and name in DRAWN:
        raise ValueError(f"the {name} backbone has no ImageNet weights: weights='drawn' or None")
    if weights == "drawn" and name not in DRAWN:
        raise ValueError(f"weights='drawn' belong to the small backbones, not to {name}: take 'imagenet' or None")
    if weights not in (None, "imagenet") and not (path := _file(name, weights)).is_file():
        raise FileNotFoundError(
            f"no weights at {str(path) or repr(weights)}: wanted 'drawn', 'imagenet', None (random) or the path of a "
            ".safetensors file with a backbone"
        )


def save_backbone(backbone: nn.Module, path: str | Path) -> None:
    """Save a backbone as float16 .safetensors: what `weights=` loads."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in backbone.state_dict().items()}
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)


def weights_fingerprint(name: str, weights: str | Path | None) -> str:
    """What goes into the key of a kept run: the file's content for weights in a file, their name otherwise."""
    path = _file(name, weights)
    return digest(path.read_bytes()) if path.is_file() else str(weights)


def _file(name: str, weights: str | Path | None) -> Path:
    """Where the weights of a model lie, when they lie in a file."""
    return DRAWN[name] if weights == "drawn" and name in DRAWN else Path(str(weights))


def _imagenet(name: str) -> dict[str, torch.Tensor]:
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
