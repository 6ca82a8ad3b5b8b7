"""Small models on which the extension's ways of keeping ranges matter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.torch import small_models
from tests.torch.small_models import FEATURES, first_tensor


class Residual(nn.Module):
    """What the LayerNorm returns is smoothed for one Linear, and added to what the other one returns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(FEATURES)
        self.up, self.down = nn.Linear(FEATURES, 32), nn.Linear(32, FEATURES)
        with torch.no_grad():
            self.norm.weight[[3, 7]] = 30.0
            self.up.weight[:, [3, 7]] /= 30.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x + self.down(torch.relu(self.up(x)))


class ReturnsItsInput(nn.Module):
    """One part of it returns the tensor that its Linear reads."""

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = nn.Linear(FEATURES, FEATURES)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.tanh(x)
            return self.read(x), x

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.part, self.head = self.Part(), nn.Linear(FEATURES, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 0:  # a branch, so that torch.fx does not flatten the model
            return x
        read, kept = self.part(x)
        return self.head(torch.relu(read + kept))


class CalledByName(nn.Module):
    """One of its Linears gets its input by keyword."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(input=x)))


class Pooled(nn.Module):
    """A residual block between a stem and pooling, as in a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.second(torch.relu(self.first(x))))
        return self.head(torch.flatten(self.pool(x), 1))


def flattened() -> nn.Module:
    """The end of most image classifiers: what the pooling returns has a far smaller range than what it reads."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(body, nn.Dropout(0.1), nn.Linear(32, 5)).eval()


def bert() -> nn.Module:
    """With matrix products that the extension quantizes."""
    model: Any = small_models.bert()
    model.set_attn_implementation("eager")
    return model


def output(model: Any, inputs: Any) -> Tensor:
    """The first tensor a model returns."""
    with torch.no_grad():
        result = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return first_tensor(next(iter(result.values())) if isinstance(result, dict) else result)


def traced(model: nn.Module, inputs: Any) -> Any:
    """Traced, frozen, and compiled by two passes."""
    how = {"example_kwarg_inputs": inputs} if isinstance(inputs, dict) else {"example_inputs": (inputs,)}
    with torch.no_grad():
        result = torch.jit.freeze(torch.jit.trace(model, strict=False, check_trace=False, **how))
    output(result, inputs), output(result, inputs)
    return result
