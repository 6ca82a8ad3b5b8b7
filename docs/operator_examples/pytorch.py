"""Operators of PyTorch, each in a model of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .example import Example

WIDTH = 16
SAMPLES = 4

EVERY = "static, dynamic, weight-only, bf16"
RECURRENT = "dynamic, bf16"
NOTHING = "-"


class WithParameter(nn.Module):
    """Computes `function(x, w)` with a parameter of its own."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.randn(shape) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.w)


class Experts(nn.Module):
    """All experts of a mixture in one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, WIDTH, WIDTH) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.w[0]) + F.linear(x, self.w[1])


class LowRank(nn.Module):
    """A layer with a low-rank adapter beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH)
        self.lora_a, self.lora_b = nn.Linear(WIDTH, 4, bias=False), nn.Linear(4, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_b(self.lora_a(x))


class TiedHead(nn.Module):
    """Logits by the table of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(self.body(self.embedding(ids)), self.embedding.weight)


class TwoInputs(nn.Module):
    """A bilinear form of a tensor with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.product = nn.Bilinear(WIDTH, WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.product(x, x)
        return result


class Attention(nn.Module):
    """Self attention, without the weights of the attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return result


class Products(nn.Module):
    """Products of two activations behind a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.layer(x)
        return F.scaled_dot_product_attention(queries, x, x)


def tensors(*shape: int) -> Callable[[], Sequence[Any]]:
    """One batch of random numbers."""
    return lambda: [torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(1))]


def ids(*shape: int) -> Callable[[], Sequence[Any]]:
    """One batch of rows to look up."""
    return lambda: [torch.randint(0, 20, (SAMPLES, *shape), generator=torch.Generator().manual_seed(1))]


def _of(*modules: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(make() for make in modules)).eval()


def _weight_norm() -> nn.Module:
    return torch.nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))


_ROWS, _SEQUENCE = tensors(WIDTH), tensors(6, WIDTH)

EXAMPLES = (
    Example("`nn.Linear`", EVERY, _of(lambda: nn.Linear(WIDTH, WIDTH)), _ROWS),
    Example("transformers' `Conv1D`", NOTHING, _of(lambda: Conv1D(WIDTH, WIDTH)), _ROWS),
    *(
        Example(
            f"`nn.Conv{n}d`",
            "static, dynamic, bf16",
            _of(lambda n=n: getattr(nn, f"Conv{n}d")(8, 8, 3)),
            tensors(8, *(6,) * n),
        )
        for n in (1, 2, 3)
    ),
    Example(
        "`nn.Conv2d`, grouped", "static, dynamic, bf16", _of(lambda: nn.Conv2d(8, 8, 3, groups=2)), tensors(8, 6, 6)
    ),
    Example(
        "`nn.Conv2d`, depthwise", "static, dynamic, bf16", _of(lambda: nn.Conv2d(8, 8, 3, groups=8)), tensors(8, 6, 6)
    ),
    *(
        Example(
            f"`nn.ConvTranspose{n}d`",
            "static, dynamic",
            _of(lambda n=n: getattr(nn, f"ConvTranspose{n}d")(8, 8, 3, stride=2)),
            tensors(8, *(6,) * n),
        )
        for n in (1, 2, 3)
    ),
    Example("`nn.LSTM`", RECURRENT, lambda: nn.LSTM(WIDTH, WIDTH, batch_first=True), _SEQUENCE),
    Example("`nn.GRU`", RECURRENT, lambda: nn.GRU(WIDTH, WIDTH, batch_first=True), _SEQUENCE),
    Example("`nn.RNN`", NOTHING, lambda: nn.RNN(WIDTH, WIDTH, batch_first=True), _SEQUENCE),
    Example("`nn.LSTMCell`", RECURRENT, lambda: nn.LSTMCell(WIDTH, WIDTH), _ROWS),
    Example("`nn.GRUCell`", RECURRENT, lambda: nn.GRUCell(WIDTH, WIDTH), _ROWS),
    Example("`nn.RNNCell`", "dynamic", lambda: nn.RNNCell(WIDTH, WIDTH), _ROWS),
    Example("`nn.MultiheadAttention`", "out_proj alone", Attention, _SEQUENCE),
    Example(
        "`nn.TransformerEncoderLayer`",
        "its Linears",
        _of(lambda: nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)),
        _SEQUENCE,
    ),
    Example("`nn.Bilinear`", NOTHING, TwoInputs, _ROWS),
    Example("`nn.Embedding`", "weight uint8", _of(lambda: nn.Embedding(20, WIDTH)), ids(6)),
    Example("`nn.EmbeddingBag`", "weight uint8", _of(lambda: nn.EmbeddingBag(20, WIDTH)), ids(6)),
    Example("`F.linear(x, self.w)`", NOTHING, lambda: WithParameter(F.linear, WIDTH, WIDTH), _ROWS),
    Example("`x @ self.w`", NOTHING, lambda: WithParameter(torch.matmul, WIDTH, WIDTH), _ROWS),
    Example(
        '`torch.einsum("bsd,dhk->bshk", x, self.w)`',
        NOTHING,
        lambda: WithParameter(lambda x, w: torch.einsum("bsd,dhk->bshk", x, w), WIDTH, 2, 8),
        _SEQUENCE,
    ),
    Example("`F.conv2d(x, self.w)`", NOTHING, lambda: WithParameter(F.conv2d, 8, 8, 3, 3), tensors(8, 6, 6)),
    Example("`F.linear(x, self.w[i])`", NOTHING, Experts, _ROWS),
    Example("`F.linear(x, embedding.weight)`", NOTHING, TiedHead, ids(6)),
    Example("weight norm and other parametrizations", NOTHING, _of(_weight_norm), _ROWS),
    Example("a Linear with a low-rank adapter", EVERY, LowRank, _ROWS),
    Example("products of two activations", "bf16", Products, _SEQUENCE),
)
