"""Linear with int8 weight and uint8 activation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
import torch.nn.functional as F
from torch import Tensor

from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.modules.rounding import SMALLEST_DYNAMIC_SCALE, dynamic_parameters, round_to_integers
from inc_autotune.torch_ext.modules.state import QuantizedOperator, packs
from inc_autotune.torch_ext.target import kernels, saturation
from inc_autotune.torch_ext.target.linear import can_run, integer_linear, packed_weight

_decomposed = torch.ops.quantized_decomposed

_RANGES_LEFT_TO_RUNTIME: ContextVar[bool] = ContextVar("_RANGES_LEFT_TO_RUNTIME", default=False)


@contextmanager
def ranges_left_to_runtime() -> Iterator[None]:
    """Let Linears of dynamic ranges that are exported inside multiply float inputs by their integer weights.

    For runtimes that round such inputs in a way of their own. Strict export does not follow.
    """
    token = _RANGES_LEFT_TO_RUNTIME.set(True)
    try:
        yield
    finally:
        _RANGES_LEFT_TO_RUNTIME.reset(token)


class QuantizedLinear(QuantizedOperator):
    """y = dequantize(quantize((x - input_shift) / smoothing) @ weight.T) + bias.

    Also for the transformers library's `Conv1D`.

    Forms of the same arithmetic, chosen by a fixed rule:

    1. under `torch.compile` with static ranges, where `linear.can_run` says so: our own kernel, of which inductor makes
       what stands behind it a part;
    2. else under `torch.compile`, under `torch.export` and away from the CPU: quantize and dequantize operators around
       `F.linear`, which inductor lowers to oneDNN's int8 kernels when it freezes;
    3. where `saturation.can_use_fused_linear` says so: FBGEMM's kernel that quantizes while packing its input;
    4. where `saturation.can_use_integer_product` says so: plain aten with `torch._int_mm`;
    5. else the product of the same integers in float32, right on every CPU and with every weight.

    Eager and `torch.jit.trace` take 3, 4 or 5; compiled, 5 takes the place of 2 where oneDNN's kernel would saturate
    with this weight. With a range for each token (`per_token`) they multiply an input that is in steps of each token
    already, as one of scale 1. Inputs of any leading shape, float32, bfloat16 or float16; the output has the dtype of
    the input.

    Args:
        config: static or dynamic.
        weight: int8 [out_features, in_features].
        weight_scale: float32 [out_features] or 0-d.
        bias: float32 [out_features] or None.
        smoothing: float32 [in_features], the input is divided by it; None: not smoothed.
        input_scale: float32 0-d; None: the range is found at run time (dynamic).
        input_zero_point: int32 0-d, in the integers of `config.activation.dtype`.
        input_shift: float32 [in_features], taken from the input before it is divided; the bias has its product with the
            weight. Only with smoothing, in whose pass it is taken. None: nothing is.
    """

    integer_weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    smoothing: Tensor | None
    input_scale: Tensor | None
    input_zero_point: Tensor | None
    input_shift: Tensor | None
    _inverse_smoothing: Tensor | None
    _smoothed_shift: Tensor | None
    _weight_sum: Tensor
    _weight_zero_point: Tensor
    _multiplier: Tensor
    _offset: Tensor
    _input_offset: Tensor
    _output_scale: Tensor
    _output_bias: Tensor

    def __init__(
        self,
        config: OpConfig,
        weight: Tensor,
        weight_scale: Tensor,
        bias: Tensor | None,
        smoothing: Tensor | None = None,
        input_scale: Tensor | None = None,
        input_zero_point: Tensor | None = None,
        input_shift: Tensor | None = None,
    ) -> None:
        super().__init__(config)
        self.out_features, self.in_features = weight.shape
        self.keep("integer_weight", weight)
        self.keep("weight_scale", weight_scale.expand(self.out_features).clone())
        self.keep("bias", bias)
        self.keep("smoothing", smoothing)
        self.keep("input_scale", input_scale)
        self.keep("input_zero_point", input_zero_point)
        self.keep("input_shift", input_shift)
        self.rebuild()

    @torch.no_grad()
    def rebuild(self) -> None:
        self.keep_packed(None)
        activation = self.config.activation
        self._is_symmetric, self._per_token = activation.scheme == "sym", activation.is_per_token
        self._lowers_exactly, self._multiplies_int8, self._has_kernel = True, False, False
        if not self.has_values:
            return
        inverse = None if self.smoothing is None else self.smoothing.reciprocal()
        moved = None if inverse is None or self.input_shift is None else -self.input_shift * inverse
        self.keep("_inverse_smoothing", inverse, derived=True)
        self.keep("_smoothed_shift", moved, derived=True)
        self.keep("_weight_zero_point", torch.zeros_like(self.weight_scale, dtype=torch.int64), derived=True)
        # At most 128 * in_features: exact in float32 up to 131,072 features.
        self.keep("_weight_sum", kernels.row_sums(self.integer_weight).float(), derived=True)
        if self.input_scale is not None and self.input_zero_point is not None:
            # Signed activations are the same integers shifted by 128.
            shift = 128 if self.config.activation.dtype == "int8" else 0
            self._scale, self._zero_point = float(self.input_scale), int(self.input_zero_point) + shift
            step = self.input_scale if self.smoothing is None else self.input_scale * self.smoothing
            self.keep("_multiplier", self._for_each_feature(step.reciprocal()), derived=True)
            self.keep("_offset", torch.full_like(self.input_scale, self._zero_point - 128), derived=True)
            steps = 0 if moved is None else moved / self.input_scale
            self.keep("_input_offset", self._offset + steps, derived=True)
            output_scale, output_bias = self._output_parameters(self.input_scale, self._offset)
            self.keep("_output_scale", output_scale, derived=True)
            self.keep("_output_bias", output_bias, derived=True)
        self._choose_kernels()

    def _choose_kernels(self) -> None:
        weight = self.integer_weight
        if weight.device.type != "cpu":
            return
        self._lowers_exactly = not saturation.is_too_wide(weight, saturation.compiled_linear_saturates())
        self._has_kernel = self.input_scale is not None and can_run()
        self._multiplies_int8 = saturation.can_use_integer_product(weight)
        if saturation.is_too_wide(weight, saturation.needs_reduced_range("Linear", self)):
            saturation.warn_of_wide_weights()
        is_symmetric_dynamic = self.input_scale is None and self._is_symmetric and not self._per_token
        is_needed = packs() or not self._multiplies_int8
        if is_needed and not is_symmetric_dynamic and saturation.can_use_fused_linear(weight):
            bias = None if self._per_token else self.bias
            self.keep_packed(kernels.pack_linear(weight, self.weight_scale, bias))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            return self.forward(x.float()).to(x.dtype)
        if torch.compiler.is_compiling() or not x.is_cpu:
            if self._is_compiled_to_kernel(x):
                return self._by_kernel(x)
            if self._per_token and not _leaves_ranges_to_runtime():
                return self._by_token(x)
            return self._dequantized(x) if self._lowers_exactly else self._integer(x)
        if self._per_token:
            return self._by_token(x)
        packed = self.packed
        return self._integer(x) if packed is None else self._fused(x, packed)

    def _smoothed(self, x: Tensor) -> Tensor:
        if self._inverse_smoothing is None:
            return x
        if self._smoothed_shift is None:
            return x * self._inverse_smoothing
        return torch.addcmul(self._smoothed_shift, x, self._inverse_smoothing)

    def _dequantized(self, x: Tensor) -> Tensor:
        x = self._smoothed(x)
        if self.input_scale is None:
            if not _leaves_ranges_to_runtime():
                x = _dequantized_dynamic(x, self._is_symmetric)
        else:
            x = _through_uint8(x, self._scale, self._zero_point)
        return F.linear(x, self._dequantized_weight(), self.bias)

    def _dequantized_weight(self) -> Tensor:
        arguments = (self.weight_scale, self._weight_zero_point, 0, -128, 127, torch.int8)
        weight: Tensor = _decomposed.dequantize_per_channel(self.integer_weight, *arguments)
        return weight

    def _is_compiled_to_kernel(self, x: Tensor) -> bool:
        """Whether the program that is made from this call may have our own operators: it runs in this process."""
        needs_gradient = torch.is_grad_enabled() and x.requires_grad
        return self._has_kernel and x.is_cpu and not torch.compiler.is_exporting() and not needs_gradient

    def _by_kernel(self, x: Tensor) -> Tensor:
        # Compilers that know the weight compute everything but the product once. Integers are unsigned here.
        return integer_linear(
            x,
            self._multiplier,
            self._for_each_feature(self._input_offset + 128),
            self._zero_point,
            packed_weight(self.integer_weight),
            self._weight_sum.to(torch.int32),
            self._output_scale,
            self.bias,
        )

    def _fused(self, x: Tensor, packed: kernels.PackedWeight) -> Tensor:
        x = self._smoothed(x)
        rows = x.unsqueeze(0) if x.dim() == 1 else x
        if self.input_scale is None:
            y = kernels.fused_dynamic_linear(rows, packed)
        else:
            y = kernels.fused_linear(rows, self._scale, self._zero_point, packed)
        return y.squeeze(0) if x.dim() == 1 else y

    def _by_token(self, x: Tensor) -> Tensor:
        is_lowered = torch.compiler.is_compiling() or not x.is_cpu
        packed = None if is_lowered else self.packed
        # A trace has one form for inputs of any size.
        is_tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if packed is not None and not is_tracing and x.numel() == self.in_features and not self._is_symmetric:
            y = self._fused(x, packed)
            return y if self.bias is None else y + self.bias
        x = self._smoothed(x)
        scale, zero_point = dynamic_parameters(x, 0, 255, self._is_symmetric, per_token=True)
        # Less 128, so that sums are small; the kernels' own zero point takes it off again.
        offset = zero_point - 128
        steps = torch.addcmul(offset, x, scale.reciprocal()).reshape(-1, self.in_features)
        if packed is not None:
            sums = kernels.fused_linear(steps, 1.0, 128, packed)
        elif is_lowered and self._lowers_exactly:
            sums = F.linear(_through_uint8(steps, 1.0, 128), self._dequantized_weight())
        else:
            sums = self._product(steps.round().clamp(-128, 127)) * self.weight_scale
        sums = torch.addr(sums, offset.reshape(-1), self._weight_sum * self.weight_scale, alpha=-1)
        scale = scale.reshape(-1, 1)
        y = sums * scale if self.bias is None else torch.addcmul(self.bias, sums, scale)
        return y.reshape(*x.shape[:-1], self.out_features)

    def _integer(self, x: Tensor) -> Tensor:
        if self.input_scale is None:
            x = self._smoothed(x)
            scale, zero_point = dynamic_parameters(x, 0, 255, self._is_symmetric)
            multiplier, offset = self._for_each_feature(scale.reciprocal()), zero_point - 128
            output_scale, output_bias = self._output_parameters(scale, offset)
        else:
            # Smoothing is part of the multiplier here and a shift of the offset, so they cost nothing.
            multiplier, offset = self._multiplier, self._input_offset
            output_scale, output_bias = self._output_scale, self._output_bias
        integers = round_to_integers(x, multiplier, offset, -128, 127)
        sums = self._product(integers.reshape(-1, self.in_features))
        return torch.addcmul(output_bias, sums, output_scale).reshape(*x.shape[:-1], self.out_features)

    def _product(self, integers: Tensor) -> Tensor:
        """Of integer-valued float32 rows from -128 to 127 and the weight; exact in float32 up to 1,024 features."""
        if self._multiplies_int8 and not torch.compiler.is_compiling():
            return torch._int_mm(integers.to(torch.int8), self.integer_weight.t())
        return integers @ self.integer_weight.float().t()

    def _output_parameters(self, input_scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Scale of the integer sums, and the bias with what the zero point adds to them taken off; [out_features]."""
        scale = self.weight_scale * input_scale
        correction = scale * offset * self._weight_sum
        return scale, -correction if self.bias is None else self.bias - correction

    def _for_each_feature(self, multiplier: Tensor) -> Tensor:
        # One multiplier a feature is four times as fast as a 0-d tensor, which aten does not vectorize.
        return multiplier.expand(self.in_features).contiguous()

    def float_weight(self) -> Tensor:
        """The weight of the layer, dequantized to float32."""
        weight = self.integer_weight * self.weight_scale.unsqueeze(1)
        return weight if self.smoothing is None else weight / self.smoothing

    @property
    def weight(self) -> Tensor:
        return self.float_weight().to(self.layer_dtype)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"smoothed={self.smoothing is not None}, {super().extra_repr()}"
        )


def _leaves_ranges_to_runtime() -> bool:
    # In this order, since dynamo does not follow context variables.
    return not torch.compiler.is_dynamo_compiling() and _RANGES_LEFT_TO_RUNTIME.get()


def _dequantized_dynamic(x: Tensor, symmetric: bool) -> Tensor:
    if symmetric:
        scale, zero_point = dynamic_parameters(x, 0, 255, True)
        return (round_to_integers(x, scale.reciprocal(), zero_point, 0, 255) - zero_point) * scale
    scale, zero_point = _decomposed.choose_qparams(x, 0, 255, SMALLEST_DYNAMIC_SCALE, torch.uint8)
    return _through_uint8(x, scale, zero_point)


def _through_uint8(x: Tensor, scale: float | Tensor, zero_point: int | Tensor) -> Tensor:
    """Rounded to uint8 and back, by operators that inductor takes into the product behind them."""
    arguments = (scale, zero_point, 0, 255, torch.uint8)
    result: Tensor = _decomposed.dequantize_per_tensor(_decomposed.quantize_per_tensor(x, *arguments), *arguments)
    return result
