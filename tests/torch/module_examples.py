"""Small operators of every kind with configurations and calibration, and one network that holds them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inc_autotune.core.op_config import FP32_TENSOR, OpConfig, TensorConfig
from inc_autotune.torch_ext.calibration.operator_calibration import OperatorCalibration
from inc_autotune.torch_ext.modules import convert_module, prepare_module

BF16 = OpConfig(TensorConfig("bf16"), TensorConfig("bf16"))


def integer_config(
    weight: str = "int8",
    activation: str = "uint8",
    *,
    weight_scheme: str = "sym",
    scheme: str = "asym",
    granularity: str = "per_channel",
    approach: str = "static",
    ranges: str = "per_tensor",
) -> OpConfig:
    rounded = FP32_TENSOR if approach == "weight_only" else TensorConfig(activation, scheme, ranges, "minmax")
    return OpConfig(TensorConfig(weight, weight_scheme, granularity, "minmax"), rounded, approach)  # type: ignore[arg-type]


EMBEDDING = integer_config("uint8", weight_scheme="asym", approach="weight_only")


@dataclass(frozen=True, eq=False)
class Example:
    module: nn.Module
    config: OpConfig
    calibration: OperatorCalibration
    x: Tensor

    def prepared(self, reduce_range: bool = False) -> nn.Module:
        return prepare_module(self.module, self.config, self.calibration, reduce_range=reduce_range)

    def quantized(self, reduce_range: bool = False) -> nn.Module:
        return convert_module(self.prepared(reduce_range)).eval()


def calibrated(
    module: nn.Module, config: OpConfig, x: Tensor, smoothing: Tensor | None = None, shift: Tensor | None = None
) -> Example:
    """An example calibrated on its own input."""
    if not x.is_floating_point():
        return Example(module, config, OperatorCalibration(), x)
    smoothed = x if smoothing is None else (x if shift is None else x - shift) / smoothing
    with torch.no_grad():
        y = module(x)
    ranges = (smoothed.min(), smoothed.max()) if config.approach == "static" else (None, None)
    bounds = [None if value is None else float(value) for value in ranges]
    calibration = OperatorCalibration(bounds[0], bounds[1], smoothing, float(y.min()), float(y.max()), shift=shift)
    return Example(module, config, calibration, x)


def linear(config: OpConfig, *, smoothed: bool = False, shifted: bool = False, bias: bool = True) -> Example:
    torch.manual_seed(0)
    smoothing = torch.rand(96) + 0.5 if smoothed or shifted else None
    shift = torch.linspace(-3, 3, 96) if shifted else None
    x = torch.randn(4, 17, 96) + (0.3 if shift is None else shift)
    return calibrated(nn.Linear(96, 64, bias=bias), config, x, smoothing, shift)


def transformers_linear(config: OpConfig, *, smoothed: bool = False, shifted: bool = False) -> Example:
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    module = Conv1D(48, 96)
    nn.init.normal_(module.weight, std=0.2)
    nn.init.normal_(module.bias)
    smoothing, shift = torch.rand(96) + 0.5 if smoothed else None, torch.full((96,), 0.3) if shifted else None
    return calibrated(module, config, torch.randn(4, 17, 96) + 0.3, smoothing, shift)


def convolution(dimensions: int, config: OpConfig | None = None, *, transposed: bool = False, **arguments) -> Example:
    torch.manual_seed(0)
    cls = getattr(nn, f"{'ConvTranspose' if transposed else 'Conv'}{dimensions}d")
    module = cls(8, 12, arguments.pop("kernel_size", 3), **arguments)
    return calibrated(module, config or integer_config(), torch.randn(2, 8, *[9] * dimensions))


def embedding(config: OpConfig = EMBEDDING) -> Example:
    torch.manual_seed(0)
    return calibrated(nn.Embedding(50, 24, padding_idx=3), config, torch.randint(0, 50, (3, 7)))


def bag(config: OpConfig, **arguments) -> Example:
    torch.manual_seed(0)
    return calibrated(nn.EmbeddingBag(50, 23, padding_idx=3, **arguments), config, torch.randint(0, 50, (3, 7)))


EXAMPLES: dict[str, Callable[[], Example]] = {
    "linear": lambda: linear(integer_config()),
    "linear smoothed": lambda: linear(integer_config(), smoothed=True),
    "linear shifted": lambda: linear(integer_config(), shifted=True),
    "linear shifted without bias": lambda: linear(integer_config(), shifted=True, bias=False),
    "linear shifted dynamic": lambda: linear(integer_config(approach="dynamic"), shifted=True),
    "linear without bias": lambda: linear(integer_config(), bias=False),
    "linear per tensor": lambda: linear(integer_config(granularity="per_tensor")),
    "linear sym": lambda: linear(integer_config(scheme="sym"), smoothed=True),
    "linear signed": lambda: linear(integer_config(activation="int8")),
    "linear dynamic": lambda: linear(integer_config(approach="dynamic")),
    "linear dynamic smoothed": lambda: linear(integer_config(approach="dynamic"), smoothed=True),
    "linear dynamic by token": lambda: linear(integer_config(approach="dynamic", ranges="per_token"), smoothed=True),
    "linear dynamic sym": lambda: linear(integer_config(approach="dynamic", scheme="sym"), smoothed=True),
    "linear weight only": lambda: linear(integer_config(approach="weight_only")),
    "linear int4 in groups": lambda: linear(
        integer_config("int4", approach="weight_only", granularity="per_group_32"), smoothed=True
    ),
    "linear int4 in groups, shifted": lambda: linear(
        integer_config("int4", approach="weight_only", granularity="per_group_32"), shifted=True
    ),
    "linear int4 asym in groups": lambda: linear(
        integer_config("int4", weight_scheme="asym", approach="weight_only", granularity="per_group_32"), bias=False
    ),
    "linear int4 per channel": lambda: linear(integer_config("int4", approach="weight_only")),
    "linear int8 in groups": lambda: linear(integer_config(approach="weight_only", granularity="per_group_32")),
    "Conv1D int4 in groups": lambda: transformers_linear(
        integer_config("int4", approach="weight_only", granularity="per_group_32"), smoothed=True
    ),
    "linear int4": lambda: linear(integer_config("int4", "uint4"), smoothed=True),
    "linear bf16": lambda: linear(BF16),
    "Conv1D": lambda: transformers_linear(integer_config(), smoothed=True),
    "Conv1D dynamic": lambda: transformers_linear(integer_config(approach="dynamic"), smoothed=True),
    "Conv1D int4": lambda: transformers_linear(integer_config("int4", "uint4"), smoothed=True, shifted=True),
    "Conv1d": lambda: convolution(1, padding=1),
    "Conv2d": lambda: convolution(2, stride=2, padding=1),
    "Conv2d int4": lambda: convolution(2, integer_config("int4", "uint4", scheme="sym"), padding=1),
    "Conv2d dynamic": lambda: convolution(2, integer_config(approach="dynamic")),
    "Conv3d": lambda: convolution(3, padding=1),
    "ConvTranspose1d": lambda: convolution(1, transposed=True, stride=2),
    "ConvTranspose2d": lambda: convolution(2, integer_config(granularity="per_tensor"), transposed=True, groups=2),
    "ConvTranspose2d grouped": lambda: convolution(2, transposed=True, stride=2, padding=1, groups=4),
    "ConvTranspose2d int4": lambda: convolution(2, integer_config("int4", "uint4"), transposed=True, groups=2),
    "ConvTranspose3d": lambda: convolution(3, transposed=True, stride=2, output_padding=1),
    "Embedding": embedding,
    "Embedding int4": lambda: embedding(integer_config("int4", approach="weight_only")),
    "Embedding int8": lambda: embedding(integer_config("int8", approach="weight_only")),
    "Embedding uint4": lambda: embedding(integer_config("uint4", weight_scheme="asym", approach="weight_only")),
    "EmbeddingBag": lambda: bag(EMBEDDING),
    "EmbeddingBag int4": lambda: bag(integer_config("int4", approach="weight_only")),
    "Embedding bf16": lambda: embedding(BF16),
}


class EveryKind(nn.Module):
    """A network of quantized operators of every kind, for deployment tests; takes token ids [batch, sequence].

    Args:
        reduce_range: whether weights that integer kernels multiply have 7 bits.
    """

    def __init__(self, reduce_range: bool = False) -> None:
        super().__init__()
        self.reduce_range = reduce_range
        torch.manual_seed(0)
        smoothing = torch.rand(32) + 0.5
        self.embedding = self._quantized(nn.Embedding(50, 32, padding_idx=0), EMBEDDING)
        self.wide = self._quantized(nn.Linear(32, 48), integer_config(), smoothing)
        self.narrow = self._quantized(nn.Linear(48, 32), integer_config(), torch.ones(48), torch.full((48,), 0.1))
        self.dynamic = self._quantized(nn.Linear(32, 32), integer_config(approach="dynamic"), smoothing)
        self.integer = self._quantized(nn.Linear(32, 32), integer_config())
        self.integer.keep_packed(None)  # the form of a machine without FBGEMM
        self.symmetric = self._quantized(nn.Linear(32, 32), integer_config(approach="dynamic", scheme="sym"))
        self.simulated = self._quantized(nn.Linear(32, 32), integer_config("int4", "uint4"))
        self.bf16 = self._quantized(nn.Linear(32, 32), BF16)
        self.conv1d = self._quantized(nn.Conv1d(32, 8, 3, padding=1), integer_config())
        self.conv2d = self._quantized(nn.Conv2d(8, 8, 3, padding=1), integer_config())
        self.reflected = self._quantized(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), integer_config())
        self.conv3d = self._quantized(nn.Conv3d(8, 8, 3, padding=1), integer_config())
        self.transposed = self._quantized(nn.ConvTranspose2d(8, 4, 2, stride=2), integer_config())

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embedding(ids)
        x = self.narrow(self.wide(x)) + self.dynamic(x) + self.integer(x) + self.symmetric(x) + self.simulated(x)
        x = x + self.bf16(x)
        image = self.conv1d(x.transpose(1, 2)).unsqueeze(2).expand(-1, -1, 3, -1)
        image = self.reflected(torch.relu(self.conv2d(image)))
        image = self.conv3d(image.unsqueeze(2)).squeeze(2)
        return x, self.transposed(image)

    def _quantized(
        self, module: nn.Module, config: OpConfig, smoothing: Tensor | None = None, shift: Tensor | None = None
    ) -> nn.Module:
        calibration = OperatorCalibration(-4.0, 4.1, smoothing, -4.0, 4.1, shift=shift)
        return convert_module(prepare_module(module, config, calibration, reduce_range=self.reduce_range)).eval()
