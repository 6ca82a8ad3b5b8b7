"""Convolutional nets trained on the digits of scikit-learn, and what they are scored by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

SIZE, DIGIT, CELLS = 32, 16, 4
TRAINED, TESTED = 1200, 597
CLASSES = 10


# Images


@dataclass(frozen=True)
class Images:
    """Digits at random places of a noisy canvas.

    Args:
        pixels: [N, 3, SIZE, SIZE].
        classes: [N].
        corners: [N, 2], row and column of the digit's upper left corner.
    """

    pixels: Tensor
    classes: Tensor
    corners: Tensor


def images(first: int, count: int, seed: int) -> Images:
    """Digits of scikit-learn, twice as large as there; places, colours and noise are random.

    Args:
        first: index of the first digit.
        count: of digits.
        seed: of places, colours and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    digits = load_digits()
    chosen = slice(first, first + count)
    large = F.interpolate(torch.tensor(digits.images[chosen]).float()[:, None] / 16, DIGIT, mode="bilinear")
    classes = torch.tensor(digits.target[chosen])
    corners = torch.randint(0, SIZE - DIGIT + 1, (len(classes), 2), generator=generator)
    pixels = 0.15 * torch.randn(len(classes), 3, SIZE, SIZE, generator=generator)
    colours = 0.4 + 0.6 * torch.rand(len(classes), 3, 1, 1, generator=generator)
    for canvas, digit, colour, (row, column) in zip(pixels, large, colours, corners.tolist(), strict=True):
        canvas[:, row : row + DIGIT, column : column + DIGIT] += colour * digit
    return Images(pixels, classes, corners)


# Nets


def convolution(
    before: int, after: int, kernel: int, activation: nn.Module, *, stride: int = 1, groups: int = 1
) -> nn.Module:
    """With batch normalization and activation."""
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), activation)


class SqueezeExcitation(nn.Module):
    """Channels weighted by what their averages say (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return x * weights


class InvertedResidual(nn.Module):
    """Wide depthwise convolution between two narrow ends (Sandler et al. 2018)."""

    def __init__(
        self, before: int, after: int, stride: int, activation: Callable[[], nn.Module], *, excited: bool
    ) -> None:
        super().__init__()
        wide = 4 * before
        self.body = nn.Sequential(
            convolution(before, wide, 1, activation()),
            convolution(wide, wide, 3, activation(), stride=stride, groups=wide),
            SqueezeExcitation(wide) if excited else nn.Identity(),
            convolution(wide, after, 1, nn.Identity()),
        )
        self.is_residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.is_residual else y


class Classifier(nn.Module):
    """A trunk, an average over the image, and a Linear."""

    def __init__(self, trunk: nn.Module, channels: int) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.trunk(x).mean((2, 3)))
        return result


def _inverted(activation: Callable[[], nn.Module], *, excited: bool) -> nn.Module:
    widths = (32, 32, 64, 64, 64, 96, 96)
    blocks = [
        InvertedResidual(before, after, 2 if before != after else 1, activation, excited=excited)
        for before, after in pairwise(widths)
    ]
    return Classifier(nn.Sequential(convolution(3, 32, 3, activation(), stride=2), *blocks), widths[-1])


def mobilenet() -> nn.Module:
    """MobileNetV2's blocks, six of them."""
    return _inverted(nn.ReLU6, excited=False)


def efficientnet() -> nn.Module:
    """EfficientNet's blocks: with SiLU and squeeze and excitation."""
    return _inverted(nn.SiLU, excited=True)


def separable() -> nn.Module:
    """Separable convolutions without residuals, as nets for faces have (MobileNetV1, Howard et al. 2017)."""
    widths = (32, 64, 64, 128, 128, 128)
    layers: list[nn.Module] = [convolution(3, 32, 3, nn.ReLU(), stride=2)]
    for before, after in pairwise(widths):
        layers.append(convolution(before, before, 3, nn.ReLU(), stride=2 if before != after else 1, groups=before))
        layers.append(convolution(before, after, 1, nn.ReLU()))
    return Classifier(nn.Sequential(*layers), widths[-1])


class Bottleneck(nn.Module):
    """Two convolutions and a residual, as in YOLO's C2f."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (convolution(channels, channels, 3, nn.SiLU()) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.second(self.first(x))
        return y


class Split(nn.Module):
    """Half of the channels through bottlenecks, all joined (C2f of YOLOv8)."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        half = channels // 2
        self.enter = convolution(channels, channels, 1, nn.SiLU())
        self.blocks = nn.ModuleList(Bottleneck(half) for _ in range(depth))
        self.leave = convolution(half * (depth + 2), channels, 1, nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        joined: Tensor = self.leave(torch.cat(parts, 1))
        return joined


class Detector(nn.Module):
    """Objectness, corner and class in each of CELLS x CELLS cells: [N, 3 + CLASSES, CELLS, CELLS]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 96)):
            layers += [convolution(before, after, 3, nn.SiLU(), stride=2), Split(after, 1)]
        self.trunk, self.head = nn.Sequential(*layers), nn.Conv2d(96, 3 + CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.trunk(x))
        return result


# Training and scores


def classified(output: Tensor, data: Images) -> Tensor:
    """1 where the class is right, else 0."""
    return (output.argmax(1) == data.classes).float()


def classification_loss(output: Tensor, data: Images) -> Tensor:
    """Cross entropy."""
    return F.cross_entropy(output, data.classes)


def _cells(data: Images) -> tuple[Tensor, Tensor]:
    """The cell of each digit's middle, and where in it the middle lies, from 0 to 1."""
    middle = (data.corners + DIGIT / 2) / (SIZE / CELLS)
    cell = middle.long().clamp(max=CELLS - 1)
    return cell, middle - cell


def detection_loss(output: Tensor, data: Images) -> Tensor:
    """Of objectness in all cells; of place and class in the digit's."""
    cell, place = _cells(data)
    index = torch.arange(len(output))
    objectness = torch.zeros(len(output), CELLS, CELLS)
    objectness[index, cell[:, 0], cell[:, 1]] = 1
    own = output[index, :, cell[:, 0], cell[:, 1]]
    found = F.binary_cross_entropy_with_logits(output[:, 0], objectness)
    return 5 * found + 5 * F.l1_loss(own[:, 1:3].sigmoid(), place) + F.cross_entropy(own[:, 3:], data.classes)


def detected(output: Tensor, data: Images) -> Tensor:
    """1 where the class is right and the box overlaps by 0.7 of the union, else 0."""
    index, best = torch.arange(len(output)), output[:, 0].flatten(1).argmax(1)
    row, column = best // CELLS, best % CELLS
    own = output[index, :, row, column]
    corner = (torch.stack([row, column], 1) + own[:, 1:3].sigmoid()) * (SIZE / CELLS) - DIGIT / 2
    common = (DIGIT - (corner - data.corners).abs()).clamp(min=0).prod(1)
    overlap = common / (2 * DIGIT**2 - common)
    return ((own[:, 3:].argmax(1) == data.classes) & (overlap > 0.7)).float()


@dataclass(frozen=True)
class Task:
    """A net with its loss and the score of each image."""

    build: Callable[[], nn.Module]
    loss: Callable[[Tensor, Images], Tensor]
    score: Callable[[Tensor, Images], Tensor]


TASKS = {
    "MobileNetV2": Task(mobilenet, classification_loss, classified),
    "EfficientNet": Task(efficientnet, classification_loss, classified),
    "separable": Task(separable, classification_loss, classified),
    "SiLU detector": Task(Detector, detection_loss, detected),
}


def trained(task: Task, epochs: int) -> nn.Module:
    """The net of a task, trained with Adam and a falling rate; the same for the same number of epochs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = task.build()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    steps = epochs * TRAINED // 50
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for epoch in range(epochs):
        data = images(0, TRAINED, seed=epoch)
        for batch in _batches(data, 50, seed=epoch):
            optimizer.zero_grad()
            task.loss(model(batch.pixels), batch).backward()
            optimizer.step()
            falling.step()
    return model.eval()


def _batches(data: Images, size: int, seed: int) -> Sequence[Images]:
    order = torch.randperm(len(data.classes), generator=torch.Generator().manual_seed(seed))
    return [Images(data.pixels[part], data.classes[part], data.corners[part]) for part in order.split(size)]


def tested() -> Images:
    """Digits that no net has seen."""
    return images(TRAINED, TESTED, seed=1000)
