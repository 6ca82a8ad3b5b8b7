"""Which kernels of this machine add products of uint8 and int8 exactly, found out by trying them.

Without VNNI, x86 kernels add two such products in int16 (`vpmaddubsw`), which saturates once weights use their eighth
bit: in silence, by up to half of the result. The instruction set alone does not tell where. On one processor some
kernels saturate and others do not (oneDNN's depthwise convolutions have no pairs to add, `torch._int_mm` is a scalar
loop), and each library detects the processor for itself: `ONEDNN_MAX_CPU_ISA` binds oneDNN only. So every kernel is
given the largest integers of both signs.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.target import kernels

logger = logging.getLogger(__name__)

SAFE_WEIGHT_MAGNITUDE = 64
"""|weight| up to which two products with a uint8 fit into int16, so that no kernel can saturate."""

_EXTREMES = (127, -128)
_ROWS = (1, 16)
"""Of an activation: kernels for vectors and for matrices differ."""

_CHANNELS = 16
_TOLERANCE = 0.01
"""Saturation takes off a third of a sum, or half; rounding to uint8 a 500th."""


def needs_reduced_range(operator_name: str, module: nn.Module) -> bool:
    """Whether the weight of an operator must be kept within 7 bits: a kernel that may run it saturates with 8.

    Args:
        operator_name: as from `operator_type`.
        module: the operator, in any form, for its channels and groups.
    """
    if operator_name in ("Linear", "Conv1D", "LSTM", "GRU", "RNN"):  # recurrent layers multiply by Linears
        return fused_linear_saturates() or integer_product_saturates() or compiled_linear_saturates()
    if operator_name.startswith("Conv"):
        return convolution_saturates(int(operator_name[-2]), is_depthwise(module))
    return False


def is_too_wide(weight: Tensor, saturates: bool) -> bool:
    """Whether an int8 weight does not fit a kernel that may saturate."""
    return saturates and not is_within_7_bits(weight)


def is_within_7_bits(weight: Tensor) -> bool:
    """Whether no kernel can saturate with an int8 weight."""
    return bool((weight <= SAFE_WEIGHT_MAGNITUDE).all() and (weight >= -SAFE_WEIGHT_MAGNITUDE).all())


def is_depthwise(module: Any) -> bool:
    """Whether a convolution has one input and one output channel in each group: oneDNN has kernels for it alone.

    A transposed one runs as an ordinary one with an output channel for each phase.
    """
    phases = math.prod(module.stride) if getattr(module, "transposed", False) else 1
    return bool(module.groups > 1 and module.groups == module.in_channels == module.out_channels * phases)


def warn_of_wide_weights() -> None:
    """Tell that 8-bit weights have met kernels that saturate with them."""
    warnings.warn(
        "the 8-bit weights of this model come from a processor with AVX512-VNNI. Here integer kernels would saturate "
        "with them, so its operators compute in float32 with the same integers: the results are right, but not faster "
        "than fp32. For integer kernels, tune on this processor, or use apply_recipe(model, recipe) on it, which makes "
        "7-bit weights.",
        stacklevel=2,
    )


@cache
def fused_linear_saturates() -> bool:
    """FBGEMM's fused Linear, static and dynamic; False where it is not used."""
    return kernels.has_fused_linear() and not all(map(_is_right, _fused_products()))


@cache
def integer_product_saturates() -> bool:
    """`torch._int_mm` with activations of both signs."""
    return not all(map(_is_right, _integer_products()))


@cache
def compiled_linear_saturates() -> bool:
    """What inductor makes of a Linear; False where this torch has no such operator."""
    return _is_wrong_where_it_exists(_compiled_products())


@cache
def convolution_saturates(dimensions: int, depthwise: bool) -> bool:
    """oneDNN's convolutions, eager and as inductor calls them; False where this torch was built without oneDNN.

    Only two kinds are told apart. Of others (a single input channel, a group of two), the kernel depends on sizes that
    are not known beforehand, and some saturate.
    """
    return kernels.has_engine("onednn") and _is_wrong_where_it_exists(_convolutions(dimensions, depthwise))


def has_fast_integer_product() -> bool:
    """Whether `torch._int_mm` is more than a scalar loop, which takes 25 times as long as a product in float32.

    Torch hands it to oneDNN only on processors with AVX512-VNNI, as seen by this very probe.

    Source: https://github.com/pytorch/pytorch/pull/136942
    """
    probe: Callable[[], bool] | None = getattr(torch.cpu, "_is_vnni_supported", None)
    return probe is not None and bool(probe())


def can_use_fused_linear(weight: Tensor) -> bool:
    """Whether FBGEMM's fused Linear gives the right result for an int8 weight on this machine.

    It wins or ties against `torch._int_mm` at every shape tried (1 to 1024 rows, 384 to 1536 features, smoothed or
    not, eager and jit), so it is taken wherever it is exact.
    """
    return kernels.has_fused_linear() and not is_too_wide(weight, fused_linear_saturates())


def can_use_integer_product(weight: Tensor) -> bool:
    """Whether `torch._int_mm` gives the right result for an int8 weight on this machine, and is worth its while."""
    return has_fast_integer_product() and not is_too_wide(weight, integer_product_saturates())


def _is_right(trial: tuple[Tensor, float]) -> bool:
    result, expected = trial
    return bool(((result - expected).abs() <= _TOLERANCE * abs(expected)).all())


def _is_wrong_where_it_exists(trials: Iterator[tuple[Tensor, float]]) -> bool:
    try:
        return not all(map(_is_right, trials))
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        logger.info("an int8 kernel is taken for missing, since trying it failed: %s", error)
        return False


def _weight(value: int, *shape: int) -> Tensor:
    return torch.full(shape, value, dtype=torch.int8)


def _fused_products() -> Iterator[tuple[Tensor, float]]:
    for value, rows in product(_EXTREMES, _ROWS):
        packed = kernels.pack_linear(_weight(value, _CHANNELS, _CHANNELS), torch.ones(_CHANNELS), None)
        x, expected = torch.full((rows, _CHANNELS), 255.0), 255.0 * value * _CHANNELS
        yield kernels.fused_linear(x, 1.0, 0, packed), expected
        yield kernels.fused_dynamic_linear(x, packed), expected


def _integer_products() -> Iterator[tuple[Tensor, float]]:
    for value, activation, rows in product(_EXTREMES, _EXTREMES, _ROWS):
        x = torch.full((rows, _CHANNELS), activation, dtype=torch.int8)
        yield torch._int_mm(x, _weight(value, _CHANNELS, _CHANNELS).t()), float(activation * value * _CHANNELS)


def _compiled_products() -> Iterator[tuple[Tensor, float]]:
    operators, ones, zeros = torch.ops.onednn, torch.ones(_CHANNELS), torch.zeros(_CHANNELS, dtype=torch.int64)
    for value, rows in product(_EXTREMES, _ROWS):
        packed = operators.qlinear_prepack(_weight(value, _CHANNELS, _CHANNELS), None)
        x = torch.full((rows, _CHANNELS), 255, dtype=torch.uint8)
        output: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")
        yield operators.qlinear_pointwise(x, 1.0, 0, packed, ones, zeros, *output), 255.0 * value * _CHANNELS


def _convolutions(dimensions: int, depthwise: bool) -> Iterator[tuple[Tensor, float]]:
    once, none, kernel = (1,) * dimensions, (0,) * dimensions, (3,) * dimensions
    groups = _CHANNELS if depthwise else 1
    inputs, operators, ones = _CHANNELS // groups, torch.ops.onednn, torch.ones(_CHANNELS)
    for value in _EXTREMES:
        weight, expected = _weight(value, _CHANNELS, inputs, *kernel), 255.0 * value * inputs * 3**dimensions
        x = torch.full((1, _CHANNELS, *(5,) * dimensions), 255.0)
        eager = kernels.pack_convolution(weight, ones, None, once, none, once, groups)
        output = abs(expected) / 255, 0 if value > 0 else 255
        integers = torch.quantize_per_tensor(x, 1.0, 0, torch.quint8)
        yield kernels.integer_convolution(integers, eager, dimensions, *output).dequantize(), expected
        geometry = (once, none, once, groups)
        packed = operators.qconv_prepack(weight, ones, 1.0, 0, *geometry, None)
        arguments = (ones, torch.zeros(_CHANNELS, dtype=torch.int64), None, *geometry)
        y = operators.qconv_pointwise(
            x.to(torch.uint8), 1.0, 0, packed, *arguments, 1.0, 0, torch.float32, "none", [], ""
        )
        yield y, expected
