"""torchvision's ResNets as ReID uses them, and the Xception form of ResNet-50 from AlignedReID."""

from collections.abc import Mapping

import torch
from torch import nn

LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")  # torchvision's names


class ResNet(nn.Module):
    """torchvision's resnet18 or resnet50 without its classifier: images (N, 3, H, W) -> map (N, C, H / 16, W / 16).

    C is 512 or 2048. `last_stride=1` keeps the resolution in the last stage (Luo et al., 2019); with 2 the map is (H
    / 32, W / 32).
    """

    def __init__(self, name: str, last_stride: int = 1):
        super().__init__()
        if name not in ("resnet18", "resnet50") or last_stride not in (1, 2):
            raise ValueError(
                f"ResNet takes resnet18 or resnet50 with last_stride 1 or 2, got {name!r} with {last_stride!r}"
            )
        import torchvision  # here: it takes five seconds to import, and the small backbones need nothing of it

        net = getattr(torchvision.models, name)(weights=None)
        self.channels = net.fc.in_features
        for layer in LAYERS:
            self.add_module(layer, getattr(net, layer))
        if last_stride == 1:
            first = net.layer4[0]
            (first.conv2 if name == "resnet50" else first.conv1).stride = (1, 1)
            first.downsample[0].stride = (1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            images = layer(images)
        return images

    def load_released(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take a torchvision state dict, its classifier left out."""
        self.load_state_dict({name: values for name, values in state.items() if not name.startswith("fc.")})


class Channelwise(nn.Conv2d):
    """A convolution of each channel by itself; on a CPU in float32 also under autocast, since bfloat16 there takes
    two to five times as long, most of it on the way back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


def xception_form(module: nn.Module) -> nn.Module:
    """ResNet50-Xception (AlignedReID, section 4.1): each 3x3 convolution becomes a channel-wise 3x3 and a 1x1. In
    place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
            c, o = child.in_channels, child.out_channels
            pair = nn.Sequential(
                Channelwise(c, c, 3, child.stride, 1, groups=c, bias=False), nn.Conv2d(c, o, 1, bias=False)
            )
            for conv in pair:
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            setattr(module, name, pair)
        else:
            xception_form(child)
    return module
