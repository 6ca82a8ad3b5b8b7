"""Convolutional nets of the sizes that are deployed, with random weights: for speed and noise, not for scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.torch.models import resnet18


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with BatchNorm."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class InvertedResidual(nn.Module):
    """Wide depthwise convolution between two narrow ends (Sandler et al. 2018); squeeze and excitation if asked."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, act: Callable[..., Tensor], squeeze: bool
    ):
        super().__init__()
        wide = inputs * expansion
        self.expand = convolution(inputs, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = convolution(wide, wide, 3, stride, wide)
        self.squeeze = nn.Conv2d(wide, max(inputs // 4, 4), 1) if squeeze else None
        self.excite = nn.Conv2d(max(inputs // 4, 4), wide, 1) if squeeze else None
        self.project = convolution(wide, outputs, 1)
        self.act, self.has_residual = act, stride == 1 and inputs == outputs
        self.is_expanded = expansion > 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.expand(x)) if self.is_expanded else x
        y = self.act(self.depthwise(y))
        if self.squeeze is not None and self.excite is not None:
            y = y * torch.sigmoid(self.excite(self.act(self.squeeze(y.mean((2, 3), keepdim=True)))))
        y = self.project(y)
        return x + y if self.has_residual else y


class Mobile(nn.Module):
    """MobileNetV2, or EfficientNet's blocks in MobileNetV2's sizes."""

    SIZES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self, act: Callable[..., Tensor], squeeze: bool) -> None:
        super().__init__()
        self.stem, self.act, width, blocks = convolution(3, 32, 3, 2), act, 32, []
        for expansion, outputs, count, stride in self.SIZES:
            for index in range(count):
                blocks.append(InvertedResidual(width, outputs, stride if index == 0 else 1, expansion, act, squeeze))
                width = outputs
        self.blocks, self.last, self.head = nn.Sequential(*blocks), convolution(width, 1280, 1), nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.last(self.blocks(self.act(self.stem(x))))).mean((2, 3)))


class Split(nn.Module):
    """Half of the channels through a bottleneck, all joined, as in YOLOv8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.enter, self.leave = convolution(channels, channels, 1), convolution(3 * half, channels, 1)
        self.first, self.second = convolution(half, half, 3), convolution(half, half, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.silu(self.enter(x)).chunk(2, 1)
        deep = right + F.silu(self.second(F.silu(self.first(right))))
        return F.silu(self.leave(torch.cat([left, right, deep], 1)))


class Detector(nn.Module):
    """A SiLU detector in the manner of YOLOv8-nano: three stages, pyramid pooling, one head."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 128)
        self.down = nn.ModuleList(convolution(a, b, 3, 2) for a, b in pairwise(widths))
        self.stages = nn.ModuleList(Split(width) for width in widths[2:])
        self.enter, self.leave = convolution(128, 64, 1), convolution(256, 128, 1)
        self.head = nn.Conv2d(128, 85, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.down[0](x))
        for down, stage in zip(list(self.down)[1:], self.stages, strict=True):
            x = stage(F.silu(down(x)))
        pools = [F.silu(self.enter(x))]
        for _ in range(3):
            pools.append(F.max_pool2d(pools[-1], 5, 1, 2))
        return self.head(F.silu(self.leave(torch.cat(pools, 1))))


class UNet(nn.Module):
    """Three levels down and, by transposed convolutions, up again."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.down = nn.ModuleList(self._double(a, b) for a, b in zip((3, *widths), widths, strict=False))
        pairs = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.join = nn.ModuleList(self._double(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(widths[0], 2, 1)

    @staticmethod
    def _double(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            *convolution(inputs, outputs, 3),
            nn.ReLU(inplace=True),
            *convolution(outputs, outputs, 3),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for index, down in enumerate(self.down):
            x = down(x if index == 0 else F.max_pool2d(x, 2))
            levels.append(x)
        for up, join, level in zip(self.up, self.join, levels[-2::-1], strict=True):
            x = join(torch.cat([up(x), level], 1))
        return self.head(x)


MODELS: Mapping[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet-18": (resnet18, 224),
    "MobileNetV2": (lambda: Mobile(F.relu6, squeeze=False), 224),
    "EfficientNet's blocks": (lambda: Mobile(F.silu, squeeze=True), 224),
    "SiLU detector": (Detector, 320),
    "UNet": (UNet, 128),
}
"""Models in training mode, and the side of their images."""


def made(name: str, seed: int = 0) -> tuple[nn.Module, list[Tensor]]:
    """A model in evaluation mode, whose activations have the sizes of a trained one, and batches of one image."""
    torch.manual_seed(seed)
    build, side = MODELS[name]
    model = build()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    batches = [torch.randn(1, 3, side, side) for _ in range(8)]
    with torch.no_grad():
        model.train()(torch.cat(batches))  # statistics of the BatchNorms
    return model.eval(), batches
