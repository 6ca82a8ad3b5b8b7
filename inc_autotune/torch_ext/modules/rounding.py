"""Rounding of activations, the same in every form of an operator.

Integers are `clamp(round(x * (1 / scale) + zero_point))`, the product and the sum fused into one rounding. That is what
torch's quantize kernels compute on x86, so the fake-quantized form and the fused kernels agree in every integer;
`x / scale` rounded by itself would differ in about one element in 100,000.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import integer_type

SMALLEST_DYNAMIC_SCALE = 6.1e-5
"""Scales found at run time are not smaller than this, as in torch's dynamic kernels."""


def round_to_integers(x: Tensor, multiplier: Tensor, zero_point: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """Integer-valued float32 tensor of the shape of `x`.

    Args:
        x: float32.
        multiplier: 1 / scale, 0-d or broadcastable; not 0-d where speed matters.
        zero_point: float32, 0-d or broadcastable.
        quant_min: smallest integer.
        quant_max: largest integer.
    """
    return torch.addcmul(zero_point, x, multiplier).round_().clamp_(quant_min, quant_max)


def smoothed_input(x: Tensor, smoothing: Tensor | None, shift: Tensor | None) -> Tensor:
    """An input less its shift, divided by its smoothing scale: in one pass, as the integer forms do."""
    if smoothing is None:
        return x
    inverse = smoothing.reciprocal()
    return x * inverse if shift is None else torch.addcmul(-shift * inverse, x, inverse)


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """The values an integer kernel sees, with the gradient of a clamp to the representable range.

    Args:
        x: float32.
        scale: float32, 0-d or broadcastable.
        zero_point: any dtype, 0-d or broadcastable.
        quant_min: smallest integer.
        quant_max: largest integer.
    """
    zero_point = zero_point.to(torch.float32)
    with torch.no_grad():
        integers = round_to_integers(x, scale.reciprocal(), zero_point, quant_min, quant_max)
        quantized = integers.sub_(zero_point).mul_(scale)
    if not (torch.is_grad_enabled() and x.requires_grad):
        return quantized
    clipped = torch.clamp(x, (quant_min - zero_point) * scale, (quant_max - zero_point) * scale)
    return straight_through(clipped, quantized)


def straight_through(value: Tensor, quantized: Tensor) -> Tensor:
    """`quantized`, with the gradient of `value`."""
    if not (torch.is_grad_enabled() and value.requires_grad):
        return quantized
    return value + (quantized - value).detach()


def dynamic_parameters(
    x: Tensor, quant_min: int, quant_max: int, symmetric: bool, per_token: bool = False
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a tensor, or of each of its tokens, from its own range, widened to hold zero.

    Args:
        x: float32, any shape.
        quant_min: smallest integer.
        quant_max: largest integer.
        symmetric: zero point in the middle of the integers.
        per_token: a scale and a zero point for each row along the last axis.

    Returns:
        (scale float32 0-d, zero point float32 0-d), for tokens both [..., 1]; scales of at least
        `SMALLEST_DYNAMIC_SCALE`.

    Source: ChooseQuantizationParams in ATen/native/quantized/cpu/QuantUtils.h.
    """
    if not torch.jit.is_tracing() and x.numel() == 0:  # type: ignore[attr-defined, no-untyped-call]
        shape = (*x.shape[:-1], 1) if per_token else ()
        return x.new_ones(shape), x.new_zeros(shape)
    minimum, maximum = torch.aminmax(x.detach(), dim=-1, keepdim=True) if per_token else torch.aminmax(x.detach())
    minimum, maximum = minimum.double().clamp(max=0.0), maximum.double().clamp(min=0.0)
    levels = quant_max - quant_min
    if symmetric:
        scale = torch.maximum(-minimum, maximum) / max(levels / 2, 1.0)
        zero_point = torch.full_like(scale, round((quant_min + quant_max) / 2))
    else:
        scale = (maximum - minimum) / levels
        # An all-zero tensor has no scale; its zero point is the smallest integer.
        zero_point = quant_min - (minimum / scale.clamp(min=1e-300)).round()
    return scale.clamp(min=SMALLEST_DYNAMIC_SCALE).float(), zero_point.clamp(quant_min, quant_max).float()


def fake_quantized_input(
    x: Tensor, config: OpConfig, input_scale: Tensor | None, input_zero_point: Tensor | None
) -> Tensor:
    """The smoothed input as an integer kernel sees it: range given, found at run time (dynamic), or left as it is."""
    activation = config.activation
    if activation.is_float:
        return x
    kind = integer_type(activation.dtype)
    if config.approach == "dynamic":
        is_symmetric, per_token = activation.scheme == "sym", activation.is_per_token
        input_scale, input_zero_point = dynamic_parameters(x, kind.minimum, kind.maximum, is_symmetric, per_token)
    if input_scale is None or input_zero_point is None:
        return x
    return fake_quantize(x, input_scale, input_zero_point, kind.minimum, kind.maximum)
