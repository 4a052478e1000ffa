"""The small backbone: a residual network that trains on a laptop's CPU within seconds."""

import torch
from torch import nn


class Small(nn.Module):
    """Images (N, 3, H, W) -> feature map (N, 256, H / 8, W / 8); 0.34 M parameters.

    Three residual blocks (He et al., 2016) and a 1x1 convolution that widens the map. A 64 x 32 picture ends in 8 x 4
    cells, eight horizontal stripes of a person, as a 256 x 128 one does in ReID's ResNets.
    """

    def __init__(self, widths=(32, 64, 128), channels=256):
        super().__init__()
        self.channels = channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        inputs = (widths[0], *widths[:-1])
        self.blocks = nn.Sequential(*(Block(i, o, s) for i, o, s in zip(inputs, widths, (1, 2, 2))))
        self.widen = nn.Sequential(nn.Conv2d(widths[-1], channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, images):
        return self.widen(self.blocks(self.stem(images)))


class Block(nn.Module):
    """Two 3x3 convolutions and a way round them."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))
