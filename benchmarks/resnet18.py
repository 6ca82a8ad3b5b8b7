"""A ResNet-18 (He et al. 2015) with random weights, so that no download and no torchvision is needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample = nn.Identity()
        if stride != 1 or channels != channels_in:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.downsample(x))


def resnet18(classes: int = 1000) -> nn.Sequential:
    """Logits [batch, classes] from images [batch, 3, height, width]; in eval mode."""
    torch.manual_seed(0)
    stages = []
    for index, channels in enumerate((64, 128, 256, 512)):
        stride = 1 if index == 0 else 2
        first = BasicBlock(64 if index == 0 else channels // 2, channels, stride)
        stages.append(nn.Sequential(first, BasicBlock(channels, channels, 1)))
    stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))
    return nn.Sequential(stem, *stages, head).eval()
