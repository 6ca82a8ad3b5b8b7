"""A ResNet-20 for CIFAR images (He et al. 2015) of any width, with random weights."""

from __future__ import annotations

import torch
from resnet18 import BasicBlock
from torch import nn


def cifar_resnet(width: int = 16, blocks: int = 3, classes: int = 10) -> nn.Sequential:
    """Logits [batch, classes] from images [batch, 3, 32, 32]; three stages of `blocks` blocks, in eval mode."""
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    stages, channels = [], width
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            stages.append(BasicBlock(channels, width << stage, stride))
            channels = width << stage
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return nn.Sequential(stem, *stages, head).eval()
