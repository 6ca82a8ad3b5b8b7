"""Conv1d, Conv2d and Conv3d with int8 weight, uint8 input and uint8 output."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
import torch.nn.functional as F
from torch import Tensor

from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.modules.deferred import DeferredTensor, deferred, handed_on, plain, rounded
from inc_autotune.torch_ext.modules.deferred_value import Grid, written
from inc_autotune.torch_ext.modules.rounding import fake_quantize, round_to_integers
from inc_autotune.torch_ext.modules.state import QuantizedOperator
from inc_autotune.torch_ext.target import kernels, saturation

_decomposed = torch.ops.quantized_decomposed

Geometry: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
"""Stride, padding and dilation by dimension, and groups."""


class QuantizedConvolution(QuantizedOperator):
    """Convolution of 1, 2 or 3 spatial dimensions, float32 in and out.

    Eager and `torch.jit.trace`: quantize, oneDNN's int8 convolution, dequantize. The kernel writes uint8 in the
    calibrated output range; where that begins at 0 the zero point is 0, and a ReLU that follows changes nothing.
    `torch.compile`, `torch.export` and devices other than the CPU: quantize and dequantize operators around the float
    convolution, without rounding of the output, which inductor lowers to oneDNN for 1 and 2 dimensions.
    Where oneDNN's kernels would saturate with this weight: the convolution of the same integers in float32, its output
    rounded to the same grid. The output has the strides of the fp32 convolution's, channels last where the input or the
    weight is, or lies channels last, as the kernel writes it, if that is allowed.

    Args:
        config: static.
        source: the fp32 convolution, for its strides, padding and so on.
        weight: int8 [out_channels, in_channels / groups, *kernel], channels last where the fp32 weight is.
        weight_scale: float32 [out_channels] or 0-d.
        bias: float32 [out_channels] or None.
        input_scale: float32 0-d.
        input_zero_point: int32 0-d, in the integers of `config.activation.dtype`.
        output_scale: float32 0-d.
        output_zero_point: int32 0-d, 0 to 255.
        channels_last: whether the output may lie channels last whatever the fp32 convolution would do.
        hands_on_integers: whether eager and traced calls return a `DeferredTensor` instead of a plain one.
        rounds_sums: whether other readers of a sum that it reads get it in the integers that it reads.
    """

    integer_weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    input_scale: Tensor
    input_zero_point: Tensor
    output_scale: Tensor
    output_zero_point: Tensor
    _weight_zero_point: Tensor
    _multiplier: Tensor
    _offset: Tensor

    def __init__(
        self,
        config: OpConfig,
        source: Any,
        weight: Tensor,
        weight_scale: Tensor,
        bias: Tensor | None,
        input_scale: Tensor,
        input_zero_point: Tensor,
        output_scale: Tensor,
        output_zero_point: Tensor,
        channels_last: bool = False,
        hands_on_integers: bool = False,
        rounds_sums: bool = False,
    ) -> None:
        super().__init__(config)
        self._bears_channels_last, self._hands_on_integers = channels_last, hands_on_integers
        self._rounds_sums = rounds_sums
        self.in_channels, self.out_channels, self.groups = source.in_channels, source.out_channels, source.groups
        self.kernel_size, self.stride, self.dilation = source.kernel_size, source.stride, source.dilation
        self.padding, self.padding_mode = source.padding, source.padding_mode
        self._read_geometry(source)
        self.keep("integer_weight", weight)
        self.keep("weight_scale", weight_scale.expand(self.out_channels).clone())
        self.keep("bias", bias)
        self.keep("input_scale", input_scale)
        self.keep("input_zero_point", input_zero_point)
        self.keep("output_scale", output_scale)
        self.keep("output_zero_point", output_zero_point)
        self.rebuild()

    def _read_geometry(self, source: Any) -> None:
        """What the kernel computes, and what is padded before it."""
        padding, self._explicit_padding = _split_padding(source)
        self._geometry: Geometry = (source.stride, padding, source.dilation, source.groups)

    @torch.no_grad()
    def rebuild(self) -> None:
        self.keep_packed(None)
        self._computes_in_float, self._weight_is_channels_last = False, False
        if not self.has_values:
            return
        # Signed activations are the same integers shifted by 128.
        shift = 128 if self.config.activation.dtype == "int8" else 0
        self._input = Grid(float(self.input_scale), int(self.input_zero_point) + shift)
        self._output = Grid(float(self.output_scale), int(self.output_zero_point))
        weight, scale, bias = self._kernel_weight(), self._kernel_scale(), self._kernel_bias()
        self.keep("_weight_zero_point", torch.zeros_like(scale, dtype=torch.int64), derived=True)
        self.keep("_multiplier", self.input_scale.reciprocal().reshape(1), derived=True)
        self.keep("_offset", torch.full_like(self.input_scale, self._input[1]), derived=True)
        dimensions = len(self.kernel_size)
        self._weight_is_channels_last = dimensions > 1 and is_channels_last(
            self.integer_weight, self.integer_weight.shape[1]
        )
        self._computes_in_float = weight.device.type == "cpu" and saturation.is_too_wide(
            weight, saturation.convolution_saturates(dimensions, saturation.is_depthwise(self))
        )
        if self._computes_in_float:
            saturation.warn_of_wide_weights()
        elif weight.device.type == "cpu" and kernels.has_engine("onednn"):
            self.keep_packed(kernels.pack_convolution(weight, scale, bias, *self._geometry))

    def as_handed_on(self, x: Tensor) -> Tensor:
        """An input as another integer convolution would hand it on."""
        return handed_on(x, self._input)

    def forward(self, x: Tensor) -> Tensor:
        # What is deferred is float32 on the CPU, and asking it takes as long as a small convolution.
        is_deferred = type(x) is DeferredTensor
        if not is_deferred and x.dtype != torch.float32:
            return self.forward(x.float()).to(x.dtype)
        if self._explicit_padding:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._explicit_padding, mode=mode)
        if self._computes_in_float and x.is_cpu:
            return self._float(plain(x))
        packed = self.packed
        if torch.compiler.is_compiling() or packed is None or not (is_deferred or x.is_cpu):
            return self._dequantized(plain(x))
        dimensions = len(self.kernel_size)
        is_single = x.dim() == dimensions + 1
        batch = x.unsqueeze(0) if is_single else x
        integers = rounded(batch, self._input, self._rounds_sums)
        y = kernels.integer_convolution(integers, packed, dimensions, *self._output)
        y = deferred(written(y, self._output), self._writes_channels_last(batch))
        y = y.squeeze(0) if is_single else y
        return y if self._hands_on_integers else plain(y)

    def _writes_channels_last(self, batch: Tensor) -> bool:
        """Whether the fp32 convolution would write channels last, as the integer kernel always does.

        Programs see the difference: `view` refuses one of the two, and `reshape` copies where it would alias.
        """
        if len(self.kernel_size) < 2:
            return False
        if self._bears_channels_last or self._weight_is_channels_last:
            return True
        if isinstance(batch, DeferredTensor):
            return batch.any_layout
        return is_channels_last(batch, self.in_channels)

    def _dequantized(self, x: Tensor) -> Tensor:
        arguments = (*self._input, 0, 255, torch.uint8)
        x = _decomposed.dequantize_per_tensor(_decomposed.quantize_per_tensor(x, *arguments), *arguments)
        weight = _decomposed.dequantize_per_channel(
            self._kernel_weight(), self._kernel_scale(), self._weight_zero_point, 0, -128, 127, torch.int8
        )
        return self._convolved(x, weight, self._kernel_bias())

    def _float(self, x: Tensor) -> Tensor:
        """What the integer kernel computes; sums are exact in float32 below 2 ** 24."""
        integers = round_to_integers(x, self._multiplier, self._offset, 0, 255).sub_(self._offset)
        sums = self._convolved(integers, self._kernel_weight().float(), None)
        by_channel, bias = (-1, *(1,) * len(self.kernel_size)), self._kernel_bias()
        y = sums * (self._kernel_scale() * self.input_scale).reshape(by_channel)
        y = y if bias is None else y + bias.reshape(by_channel)
        return fake_quantize(y, self.output_scale, self.output_zero_point, 0, 255)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[len(self.kernel_size) - 1]
        y: Tensor = convolve(x, weight, bias, *self._geometry)
        return y

    def _kernel_weight(self) -> Tensor:
        """The weight that the kernel multiplies by; a transposed convolution has another one, as its scale and bias."""
        return self.integer_weight

    def _kernel_scale(self) -> Tensor:
        return self.weight_scale

    def _kernel_bias(self) -> Tensor | None:
        return self.bias

    @property
    def weight(self) -> Tensor:
        scale = self.weight_scale.reshape(-1, *(1,) * (self.integer_weight.dim() - 1))
        return (self.integer_weight * scale).to(self.layer_dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}, "
            f"padding_mode={self.padding_mode}, {super().extra_repr()}"
        )


def _split_padding(source: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the kernel pads (symmetric zeros), and what `F.pad` must pad before it, in the order of `F.pad`."""
    none = (0,) * len(source.kernel_size)
    around = tuple(source._reversed_padding_repeated_twice)
    if source.padding_mode != "zeros":
        return none, around
    if isinstance(source.padding, str):
        before, after = around[0::2], around[1::2]
        return (tuple(reversed(before)), ()) if before == after else (none, around)
    return tuple(source.padding), ()


def is_channels_last(x: Tensor, channels: int) -> bool:
    """What torch takes for channels last: by strides, since sizes of 1 leave two answers; they are numbers in a trace.

    Args:
        x: [batch, channels, *space] with 2 or 3 spatial dimensions.
        channels: size of dimension 1.
    """
    batch, channel, *space = x.stride()
    inner_first = [*reversed(space), batch]
    return channel * channels <= inner_first[0] and inner_first == sorted(inner_first) and batch != channel
