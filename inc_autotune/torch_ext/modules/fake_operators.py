"""The prepared form of each operator type with one weight, and how it is made of the fp32 module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import weight_parameters
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.modules.availability import multiplies_integers, writes_integers, zero_point_parts
from inc_autotune.torch_ext.modules.corrections import bias_shift, given_back, restore_weight
from inc_autotune.torch_ext.modules.fake_quantized import FakeQuantized
from inc_autotune.torch_ext.modules.operator_ranges import (
    checked_shift,
    checked_smoothing,
    keep,
    known_grid,
    register_range,
    stored_grid,
)
from inc_autotune.torch_ext.modules.prepared import adopt
from inc_autotune.torch_ext.modules.rounding import straight_through
from inc_autotune.torch_ext.modules.weight_rounding import round_weight
from inc_autotune.torch_ext.operators import reduce_bags


class FakeQuantizedLinear(FakeQuantized, nn.Linear):
    """See `FakeQuantized`."""


class FakeQuantizedConv1d(FakeQuantized, nn.Conv1d):
    """See `FakeQuantized`."""


class FakeQuantizedConv2d(FakeQuantized, nn.Conv2d):
    """See `FakeQuantized`."""


class FakeQuantizedConv3d(FakeQuantized, nn.Conv3d):
    """See `FakeQuantized`."""


class FakeQuantizedTransposed(FakeQuantized):
    """A transposed convolution: the weight is [in_channels, out_channels / groups, *kernel].

    Output channels of different groups have ranges of their own, so the weight is rounded with them in front.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(x, output_size)

    def integer_weight(self) -> Tensor:
        return self._in_strides(super().integer_weight())

    def fake_weight(self) -> Tensor:
        return self._in_strides(super().fake_weight())

    @property
    def weight_output_axis(self) -> int:
        return 0

    def weight_rows(self, weight: Tensor) -> Tensor:
        return _swapped(self, weight)

    def weight_from_rows(self, rows: Tensor) -> Tensor:
        return _swapped(self, rows)

    def beside_weight(self, values: Tensor) -> Tensor:
        if values.dim() == 0:
            return values
        # Of one group, [1, out]; of several, [in, out / groups].
        kernel, groups = (1,) * (self.weight.dim() - 2), len(values) // self.weight.shape[1]
        inputs = 1 if groups == 1 else self.weight.shape[0] // groups
        return self.weight_from_rows(values.reshape(-1, 1, *kernel).expand(-1, inputs, *kernel))

    def _in_strides(self, weight: Tensor) -> Tensor:
        """Channels last where the module's weight is, since that decides how the output lies."""
        last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(weight.dim(), torch.contiguous_format)
        is_last = self.weight.is_contiguous(memory_format=last) and not self.weight.is_contiguous()
        return weight.contiguous(memory_format=last if is_last else torch.contiguous_format)


class FakeQuantizedConvTranspose1d(FakeQuantizedTransposed, nn.ConvTranspose1d):
    """See `FakeQuantized`."""


class FakeQuantizedConvTranspose2d(FakeQuantizedTransposed, nn.ConvTranspose2d):
    """See `FakeQuantized`."""


class FakeQuantizedConvTranspose3d(FakeQuantizedTransposed, nn.ConvTranspose3d):
    """See `FakeQuantized`."""


class FakeQuantizedConv1D(FakeQuantized):
    """See `FakeQuantized`. Weight [in_features, out_features]; no subclass of the transformers library's class."""

    def extra_repr(self) -> str:
        return f"nf={self.nf}, nx={self.nx}, {super().extra_repr()}"


class FakeQuantizedEmbedding(FakeQuantized, nn.Embedding):
    """See `FakeQuantized`. Rows are looked up first, so only those used are rounded."""

    def forward(self, ids: Tensor) -> Tensor:
        rows = _rounded_rows(self, self.operator.compute(self, ids, {"weight": self.weight}).float(), ids)
        return rows.to(self.layer_dtype)


class FakeQuantizedEmbeddingBag(FakeQuantized, nn.EmbeddingBag):
    """See `FakeQuantizedEmbedding`. Bags are reduced in float32."""

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        rows = _rounded_rows(self, torch.embedding(self.weight, input).float(), input)
        factors = None if per_sample_weights is None else per_sample_weights.float()
        return reduce_bags(self, rows, input, offsets, factors).to(self.layer_dtype)


def _rounded_rows(table: FakeQuantized, rows: Tensor, ids: Tensor) -> Tensor:
    scale, zero_point = table.weight_scale, table.weight_zero_point
    if scale.dim():
        # [*ids, groups, 1]
        scale, zero_point = (each.reshape(len(table.weight), -1)[ids].unsqueeze(-1) for each in (scale, zero_point))
    with torch.no_grad():
        values = rows if table.smoothing is None else rows * table.smoothing
        count = scale.shape[-2] if scale.dim() else 1
        groups = values.reshape(*ids.shape, count, values.shape[-1] // count)
        whole = zero_point.round()
        quantized = torch.round(groups / scale + (zero_point - whole)) + whole
        quantized = (quantized.clamp_(table.weight_minimum, table.weight_maximum) - zero_point) * scale
        quantized = quantized.reshape(values.shape)
        quantized = quantized if table.smoothing is None else quantized / table.smoothing
    return straight_through(rows, quantized)


_FAKE_QUANTIZED: Mapping[str, type[FakeQuantized]] = {
    "Linear": FakeQuantizedLinear,
    "Conv1D": FakeQuantizedConv1D,
    "Conv1d": FakeQuantizedConv1d,
    "Conv2d": FakeQuantizedConv2d,
    "Conv3d": FakeQuantizedConv3d,
    "ConvTranspose1d": FakeQuantizedConvTranspose1d,
    "ConvTranspose2d": FakeQuantizedConvTranspose2d,
    "ConvTranspose3d": FakeQuantizedConvTranspose3d,
    "Embedding": FakeQuantizedEmbedding,
    "EmbeddingBag": FakeQuantizedEmbeddingBag,
}


def _swapped(module: Any, weight: Tensor) -> Tensor:
    """[in, out / groups, ...] as [out, in / groups, ...], and the other way round; a view where there is one group."""
    return weight.reshape(module.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)


def prepare_fake_quantized(
    module: nn.Module, operator_name: str, config: OpConfig, calibration: OperatorCalibration, reduce_range: bool
) -> FakeQuantized:
    """The fake-quantized form of an fp32 module, sharing its parameters.

    Raises:
        ArgumentError: the calibration lacks a range the config needs, or does not fit the module.
    """
    prepared = adopt(module, _FAKE_QUANTIZED[operator_name], operator_name, config)
    device = prepared.weight.device
    keep(prepared, "smoothing", checked_smoothing(prepared, calibration.smoothing))
    keep(prepared, "input_shift", checked_shift(prepared, calibration.shift))
    smoothed, taken = prepared.smoothed_weight().detach(), given_back(prepared)
    parameters = weight_parameters(
        prepared.weight_rows(smoothed),
        config.weight,
        axis=prepared.weight_output_axis,
        reduce_range=reduce_range and multiplies_integers(operator_name, config),
        zero_point_parts=zero_point_parts(operator_name, config),
    )
    if "weight_correction" in config.corrections and config.rounding == "nearest":
        parameters = restore_weight(prepared, parameters)
    parameters = stored_grid(prepared, known_grid(prepared, parameters, calibration))
    prepared.weight_minimum, prepared.weight_maximum = parameters.quant_min, parameters.quant_max
    prepared.bears_channels_last = calibration.channels_last
    prepared.hands_on_integers, prepared.rounds_sums = calibration.hands_on_integers, calibration.rounds_sums
    prepared.register_buffer("weight_scale", parameters.scale)
    prepared.register_buffer("weight_zero_point", parameters.zero_point)
    activation = config.activation
    needs_input = config.approach == "static" and not activation.is_float
    input_range = (calibration.input_minimum, calibration.input_maximum) if needs_input else None
    register_range(prepared, "input", input_range, activation.dtype, activation.scheme or "asym", device)
    output_range = (calibration.output_minimum, calibration.output_maximum)
    needs_output = writes_integers(operator_name, config)
    register_range(prepared, "output", output_range if needs_output else None, "uint8", "asym", device)
    if config.rounding == "second_moment" or calibration.steps is not None:
        round_weight(prepared, calibration.moments.get("weight"), calibration.steps)
    means = calibration.input_means
    shift = None if means is None else bias_shift(prepared, smoothed, means)
    now = given_back(prepared)
    if taken is not None and now is not None:
        # A weight that was rounded by now gives back another product than the fp32 one.
        shift = (taken - now).detach() + (0 if shift is None else shift)
    keep(prepared, "bias_shift", shift)
    return prepared
