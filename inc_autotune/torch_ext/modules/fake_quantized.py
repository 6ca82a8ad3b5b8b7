"""Operators in fp32 that behave as their integer forms will: the tuned model before `convert`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core.quantization import (
    QuantizationParameters,
    as_groups,
    beside_columns,
    dequantize,
    integer_type,
    quantize,
)
from inc_autotune.torch_ext.modules.corrections import given_back
from inc_autotune.torch_ext.modules.prepared import PreparedInteger, describe
from inc_autotune.torch_ext.modules.rounding import (
    fake_quantize,
    fake_quantized_input,
    smoothed_input,
    straight_through,
)
from inc_autotune.torch_ext.modules.trained_ranges import UINT8, RangeTraining

# A weight is quantized this many elements at a time: larger temporaries go back to the system whenever they are freed,
# and the page faults of getting them again cost more than the arithmetic.
_BLOCK_ELEMENTS = 1 << 20


class FakeQuantized(PreparedInteger):
    """Mixin of every prepared operator with one weight: parameters of the fp32 module, ranges as buffers.

    `weight` and `bias` are the parameters of the module it was made from, and trainable: gradients pass rounding
    straight through, and are zero for inputs outside the calibrated range. Ranges are fixed when it is made, unless
    `range_training` is given.

    Attributes:
        bears_channels_last: whether the quantized form of a convolution may write channels last.
        hands_on_integers: whether it hands its output on as integers.
        rounds_sums: whether other readers of a sum that it reads get it as integers.
        smoothing: float32 [in_features] or None; the input is divided by it.
        input_shift: float32 [in_features] or None; taken from the input before, and given back by the bias.
        bias_shift: float32 [out_channels] or None; added to the bias, for what rounding takes from the mean output.
        weight_scale: float32, 0-d or [out_channels].
        weight_zero_point: int32, or float32 where it has fractions, the same shape.
        input_scale, input_zero_point: 0-d; None for dynamic and weight_only.
        output_scale, output_zero_point: 0-d, where the kernel writes uint8, else None.
        range_training: how ranges are trained with the weights; None: they are fixed. The other five are its own.
        followed: names of its tensors that are an earlier operator's, which has them in the state_dict: checkpoints of
            several libraries refuse one tensor under two names.
    """

    bears_channels_last: bool
    hands_on_integers: bool
    rounds_sums: bool
    smoothing: Tensor | None
    input_shift: Tensor | None
    bias_shift: Tensor | None
    weight_scale: Tensor
    weight_zero_point: Tensor
    input_scale: Tensor | None
    input_zero_point: Tensor
    output_scale: Tensor | None
    output_zero_point: Tensor
    range_training: RangeTraining | None = None
    followed: tuple[str, ...] = ()
    weight_range: nn.Parameter
    input_range: nn.Parameter
    output_range: nn.Parameter
    input_limits: Tensor
    output_limits: Tensor

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        dtype = x.dtype
        y = self._computed(self.fake_input(x.float()), self.fake_weight(), *arguments)
        return self.fake_output(y).to(dtype)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.followed:
            destination.pop(prefix + name, None)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str], *others: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *others)
        for name in self.followed:
            if prefix + name in missing_keys:
                missing_keys.remove(prefix + name)

    def half_rounded(self, rounds_weight: bool, *arguments: Any, **keywords: Any) -> Tensor:
        given, *others = *arguments, *keywords.values()
        x = given.float()
        if rounds_weight:
            smoothed = smoothed_input(x, self.smoothing, self.input_shift)
            return self._computed(smoothed, self.fake_weight(), *others).to(given.dtype)
        y = self.fake_output(self._computed(self.fake_input(x), self.smoothed_weight(), *others))
        return y.to(given.dtype)

    def _computed(self, x: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
        y: Tensor = self.operator.compute(self, x, {"weight": weight, "bias": self.corrected_bias()}, *arguments)
        return y

    def corrected_bias(self) -> Tensor | None:
        """The bias with its shift, and with what the input's shift takes from the product, float32."""
        bias: Tensor | None = None if self.bias is None else self.bias.float()
        for added in (self.bias_shift, given_back(self)):
            if added is not None:
                bias = added if bias is None else bias + added
        return bias

    def smoothed_weight(self) -> Tensor:
        """The weight with its input channels multiplied by the smoothing scale, float32."""
        if self.smoothing is None:
            return self.weight.float()
        return self.weight.float() * (self.smoothing if self.operator.output_axis == 0 else self.smoothing.unsqueeze(1))

    def take_weight(self, weight: Tensor) -> None:
        """Have a weight of its own from now on, given as smoothed, on the grid.

        In bf16 it is off the grid by at most 255 / 512 of a step, so it gives the same integers again.
        """
        if self.smoothing is not None:
            weight = weight / (self.smoothing if self.operator.output_axis == 0 else self.smoothing.unsqueeze(1))
        own = torch.empty_like(self.weight).copy_(weight)
        self.weight = nn.Parameter(own, requires_grad=self.weight.requires_grad)

    def integer_weight(self) -> Tensor:
        """Integers of the smoothed weight, int8 or uint8, arranged as `weight_rows`; a convolution's in its strides."""
        dtype = torch.int8 if integer_type(self.config.weight.dtype).signed else torch.uint8
        with torch.no_grad():
            if self.weight_axis != 0:
                whole: Tensor = quantize(
                    self.weight_rows(self.smoothed_weight()), self.weight_parameters(), self.weight_axis
                )
                return whole.to(dtype)
            # A convolution writes channels last where its weight lies so; kernels of a matrix want it row by row.
            strides = torch.preserve_format if self.weight.dim() > 2 else torch.contiguous_format
            smoothing = self.smoothing if self.group_size is None else None
            rows = self.weight_rows(self.weight if smoothing is self.smoothing else self.smoothed_weight())
            integers = torch.empty_like(rows, dtype=dtype, memory_format=strides)
            step = max(_BLOCK_ELEMENTS // max(rows[0].numel(), 1), 1)
            for start in range(0, len(rows), step):
                block = slice(start, start + step)
                weight = rows[block].float() if smoothing is None else rows[block].float() * smoothing
                integers[block] = quantize(weight, self.weight_parameters(block), 0)
        return integers

    @property
    def weight_axis(self) -> int | None:
        """The axis of `weight_rows(weight)` along which scales differ; None for one scale."""
        return self.weight_output_axis if self.weight_scale.dim() else None

    @property
    def weight_output_axis(self) -> int:
        """The axis of `weight_rows(weight)` that holds the output channels, or their groups."""
        return self.operator.output_axis if self.group_size is None else 0

    @property
    def group_size(self) -> int | None:
        """Weights of an output channel that share a scale; None where all do."""
        return self.config.weight.group_size

    def fake_weight(self) -> Tensor:
        weight = self.smoothed_weight()
        if self.range_training is not None:
            return self.weight_from_rows(self.range_training.weight(self, self.weight_rows(weight)))
        parameters = self.weight_parameters()
        with torch.no_grad():
            integers = quantize(self.weight_rows(weight), parameters, self.weight_axis)
            quantized = self.weight_from_rows(dequantize(integers, parameters, self.weight_axis))
        return straight_through(weight, quantized)

    def weight_rows(self, weight: Tensor) -> Tensor:
        """The weight with all output channels, or all their groups, along one axis; a view if it can be."""
        return weight if self.group_size is None else as_groups(self.weight_matrix(weight), self.group_size)

    def weight_from_rows(self, rows: Tensor) -> Tensor:
        """Inverse of `weight_rows`."""
        if self.group_size is None:
            return rows
        return self.weight_matrix(rows.reshape(self.weight.shape[self.operator.output_axis], -1))

    def weight_matrix(self, weight: Tensor) -> Tensor:
        """The weight of a linear operator as [out_features, in_features], or such a matrix as a weight."""
        return weight.t() if self.operator.output_axis == 1 else weight

    def beside_weight(self, values: Tensor) -> Tensor:
        """Values of the output channels, shaped to broadcast against `weight`; a 0-d tensor stays one."""
        if values.dim() == 0:
            return values
        if self.group_size is not None:
            outputs = self.weight.shape[self.operator.output_axis]
            return self.weight_matrix(beside_columns(values, outputs, self.group_size))
        shape = [1] * self.weight.dim()
        shape[self.weight_output_axis] = -1
        return values.reshape(shape)

    def fake_input(self, x: Tensor) -> Tensor:
        x = smoothed_input(x, self.smoothing, self.input_shift)
        if self.range_training is not None and self.input_scale is not None:
            kind = integer_type(self.config.activation.dtype)
            return self.range_training.activation(self, "input", x, (kind.minimum, kind.maximum))
        return fake_quantized_input(x, self.config, self.input_scale, self.input_zero_point)

    def fake_output(self, y: Tensor) -> Tensor:
        if self.output_scale is None:
            return y
        if self.range_training is not None:
            return self.range_training.activation(self, "output", y, UINT8)
        return fake_quantize(y, self.output_scale, self.output_zero_point, *UINT8)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {describe(self.config)}, smoothed={self.smoothing is not None}".lstrip(", ")

    def weight_parameters(self, channels: slice | None = None) -> QuantizationParameters:
        """The grid of the weight, or of some of its output channels."""
        scale, zero_point = self.weight_scale, self.weight_zero_point
        if channels is not None:
            scale, zero_point = scale[channels], zero_point[channels]
        return QuantizationParameters(scale, zero_point, self.weight_minimum, self.weight_maximum)
