"""What this machine and this torch offer for int8: instruction sets, engines, kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from threading import RLock
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from inc_autotune.core.ignored_warnings import ignored_warnings

PackedWeight: TypeAlias = Any
"""A weight in the layout of a kernel: a TorchScript object."""

logger = logging.getLogger(__name__)

_ENGINE = RLock()


@cache
def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 by itself: AVX512-BF16 or AMX."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in probes)


@cache
def has_engine(name: str) -> bool:
    """Whether torch was built with a quantized engine: `fbgemm`, `onednn`, `x86` or `qnnpack`."""
    return name in torch.backends.quantized.supported_engines


@contextmanager
def quantized_engine(name: str) -> Iterator[None]:
    """Select the engine that packs weights; the user's choice is restored whatever happens inside.

    Other threads wait: the engine is that of the process.
    """
    with _ENGINE:
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = name
        try:
            yield
        finally:
            torch.backends.quantized.engine = before


@cache
def has_fused_linear() -> bool:
    """Whether FBGEMM's Linear with the quantize and dequantize steps inside exists and computes what it should.

    The operator belongs to a family that torch has deprecated, so it is tried out rather than assumed.
    """
    if not has_engine("fbgemm"):
        return False
    weight = torch.tensor([[1, -2, 3], [4, 5, -6]], dtype=torch.int8)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    try:
        packed = pack_linear(weight, torch.ones(2), None)
        results = fused_linear(x, 1.0, 8, packed), fused_dynamic_linear(x, packed)
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        logger.info("FBGEMM's fused Linear is not used, since trying it failed: %s", error)
        return False
    expected = torch.tensor([[6.0, -4.0]])
    return all(torch.allclose(result, expected, atol=0.2) for result in results)


@cache
def recurrent_kernels() -> frozenset[str]:
    """Recurrent layers for which torch has FBGEMM's kernels and these compute what they should: `LSTM`, `GRU`.

    As deprecated as FBGEMM's Linear, and tried out like that.
    """
    return frozenset(mode for mode in ("LSTM", "GRU") if has_fused_linear() and _is_right_recurrent(mode))


def _is_right_recurrent(mode: str) -> bool:
    """Whether a layer with one feature, two time steps and two sequences gives torch's own result, packed or not."""
    gates = 4 if mode == "LSTM" else 3
    weight = torch.linspace(-0.7, 0.8, gates).unsqueeze(1)
    integers = (weight * 100).round().to(torch.int8)
    bias, data = torch.full((gates,), 0.1), torch.tensor([[[1.0], [2.0]], [[-1.0], [0.5]]])
    state = (torch.full((1, 2, 1), 0.3),) * (2 if mode == "LSTM" else 1)
    layer: Any = getattr(torch._VF, mode.lower())
    given = list(state) if mode == "LSTM" else state[0]
    expected = layer(data, given, [weight, weight, bias, bias], True, 1, 0.0, False, False, False)
    try:
        packed = pack_linear(integers, torch.full((gates,), 0.01), bias)
        cell = pack_cell(packed, packed, bias, bias)
        sizes = torch.tensor([2, 2])
        whole = run_recurrent(mode, data, None, state, [cell], 1, False)
        rows = run_recurrent(mode, data.flatten(0, 1), sizes, state, [cell], 1, False)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        logger.info("FBGEMM's %s is not used, since trying it failed: %s", mode, error)
        return False
    close = [torch.allclose(output.reshape(2, 2, 1), expected[0], atol=0.05) for output, _ in (whole, rows)]
    return all(close) and all(torch.allclose(a, b, atol=0.05) for a, b in zip(whole[1], expected[1:], strict=True))


def pack_cell(
    input_weight: PackedWeight, hidden_weight: PackedWeight, input_bias: Tensor | None, hidden_bias: Tensor | None
) -> PackedWeight:
    """One direction of one recurrent layer, for `run_recurrent`.

    Args:
        input_weight, hidden_weight: from `pack_linear`, with their biases.
        input_bias, hidden_bias: the same biases; the kernel reads those of the weights, and keeps these.
    """
    none = torch.zeros(0)
    biases = (none if bias is None else bias for bias in (input_bias, hidden_bias))
    # False: activations use all 8 bits. With 7, as in torch's own modules, the error is twice as large.
    return torch.ops.quantized.make_quantized_cell_params_dynamic(input_weight, hidden_weight, *biases, False)


def run_recurrent(
    mode: str,
    data: Tensor,
    batch_sizes: Tensor | None,
    state: tuple[Tensor, ...],
    cells: Sequence[PackedWeight],
    layers: int,
    bidirectional: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All layers of an LSTM or GRU in FBGEMM's kernel, activations rounded in the range that they have.

    Args:
        mode: `LSTM` or `GRU`.
        data: float32 [time, batch, features], or [rows, features] of a packed sequence.
        batch_sizes: int64 [time] of a packed sequence, else None.
        state: initial hidden state, and the cell's; [layers * directions, batch, hidden].
        cells: from `pack_cell`, one for each direction of each layer.
        layers: how many.
        bidirectional: whether each has two directions.

    Returns:
        (output, in the form of `data`; last state, in the form of `state`).
    """
    # Packed weights carry the biases, and the kernel insists on being told that there are some.
    options = (True, layers, 0.0, False, bidirectional)
    first: Any = list(state) if mode == "LSTM" else state[0]
    run: Any = torch.quantized_lstm if mode == "LSTM" else torch.quantized_gru
    types = {"dtype": torch.qint8, "use_dynamic": True} if mode == "LSTM" else {}
    if batch_sizes is None:
        output, *last = without_autograd(run, data, first, list(cells), *options, False, **types)
    else:
        output, *last = without_autograd(run, data, batch_sizes, first, list(cells), *options, **types)
    return output, tuple(last)


def without_autograd(run: Callable[..., Sequence[Tensor]], *arguments: Any, **keywords: Any) -> list[Tensor]:
    """The tensors that a function returns, computed without autograd's account of views and versions.

    A kernel that calls a dozen small operators at every time step is a tenth faster so. The tensors are ordinary ones.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return list(run(*arguments, **keywords))
    with torch.inference_mode():
        results = run(*arguments, **keywords)
    return [each.clone() for each in results]


def row_sums(weight: Tensor) -> Tensor:
    """Sum of each row of an int8 matrix [rows, columns]: int32 or int64 [rows]."""
    if weight.device.type != "cpu" or weight.numel() == 0:
        return weight.sum(1, dtype=torch.int64)
    # The int8 product is a hundred times as fast as sum(), which first copies the matrix to the wider type.
    return torch._int_mm(weight, weight.new_ones(weight.shape[1], 1)).squeeze(1)


def fp32_reason(module: nn.Module, *, between_integers: bool = False) -> str | None:
    """Why an operator should not be quantized although it could be; None when int8 is worth trying.

    Args:
        module: the operator.
        between_integers: whether another one hands on integers to it, or it to another one.
    """
    if isinstance(module, nn.modules.conv._ConvNd):
        is_depthwise = module.groups > 1 and module.groups == module.in_channels
        if is_depthwise and not module.transposed and not between_integers:
            return "a depthwise convolution by itself is not faster in int8"
        if not has_engine("onednn"):
            return "this torch was built without oneDNN, which the int8 convolution needs"
    return None


def pack_linear(weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> PackedWeight:
    """Weights of a Linear in FBGEMM's layout.

    Args:
        weight: int8 [out_features, in_features], zero point 0.
        weight_scale: float32 [out_features].
        bias: float32 [out_features] or None.
    """
    with quantized_engine("fbgemm"):
        return torch.ops.quantized.linear_prepack(_quantized_tensor(weight, weight_scale), bias)


def fused_linear(x: Tensor, scale: float, zero_point: int, packed: PackedWeight) -> Tensor:
    """Quantize `x` [..., in_features] to uint8, multiply, dequantize to float32 [..., out_features]; at least 2-D."""
    result: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(x, scale, zero_point, packed)
    return result


def fused_dynamic_linear(x: Tensor, packed: PackedWeight) -> Tensor:
    """As `fused_linear`, with the range of `x` taken from `x` itself (asymmetric, per tensor)."""
    result: Tensor = torch.ops.quantized.linear_dynamic(x, packed, False)
    return result


def pack_convolution(
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> PackedWeight:
    """Weights of a Conv1d, Conv2d or Conv3d in oneDNN's layout.

    FBGEMM is not used: it saturates in depthwise convolutions even with VNNI.

    Args:
        weight: int8 [out_channels, in_channels / groups, *kernel], zero point 0.
        weight_scale: float32 [out_channels].
        bias: float32 [out_channels] or None.
        stride: one number a spatial dimension, as are `padding` and `dilation`.
    """
    prepack = getattr(torch.ops.quantized, f"conv{len(stride)}d_prepack")
    with quantized_engine("onednn"):
        return prepack(_quantized_tensor(weight, weight_scale), bias, stride, padding, dilation, groups)


def integer_convolution(x: Tensor, packed: PackedWeight, dimensions: int, scale: float, zero_point: int) -> Tensor:
    """Convolve a quint8 tensor into a quint8 tensor with the given output scale and zero point."""
    result: Tensor = _convolutions()[dimensions - 1](x, packed, scale, zero_point)
    return result


@cache
def _convolutions() -> tuple[Callable[..., Tensor], ...]:
    """Of one, two and three dimensions.

    Called without the question that torch asks in Python before each operator with packed weights, whether these are
    fake ones, which takes as long as a small convolution: only what is compiled has such, and does not come here.
    """
    operators = torch.ops.quantized
    overloads = operators.conv1d.default, operators.conv2d.new, operators.conv3d.new
    return tuple(getattr(each, "_op", each) for each in overloads)


def _deprecation_ignored() -> AbstractContextManager[None]:
    """torch warns once that quantized tensors are deprecated; they live only inside packed weights here."""
    return ignored_warnings(UserWarning, r".*quantized tensor creation functions")


@cache
def has_table_kernel() -> bool:
    """Whether FBGEMM's sum of 8-bit rows exists and computes what it should; it belongs to a deprecated family."""
    rows = torch.tensor([[1, 2, 3], [4, 250, 6]], dtype=torch.uint8)
    parameters = torch.tensor([[0.5, -1.0], [2.0, 1.0]]).view(torch.uint8)
    table, ids = torch.cat((rows, parameters), 1), torch.tensor([1, 0, 1])
    try:
        sums = summed_rows(table, ids, torch.tensor([0, 2]), None, False)
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        logger.info("FBGEMM's tables are not used, since trying them failed: %s", error)
        return False
    return torch.allclose(sums, torch.tensor([[8.5, 501.0, 13.5], [9.0, 501.0, 13.0]]))


def summed_rows(
    table: Tensor, ids: Tensor, offsets: Tensor, factors: Tensor | None, include_last_offset: bool
) -> Tensor:
    """Sums of rows of 8-bit integers, each `integer * scale + offset`; float32 [bags, columns].

    Args:
        table: uint8 [rows, columns + 8]: integers, then scale and offset of the row as the bytes of float32 numbers.
        ids: int32 or int64 [indices].
        offsets: where each bag begins, of the dtype of `ids`.
        factors: float32 [indices], what rows are multiplied by; None: 1.
        include_last_offset: whether the last of `offsets` is the end of the last bag.
    """
    result: Tensor = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
        table, ids, offsets, False, 0, False, factors, None, include_last_offset
    )
    return result


def _quantized_tensor(weight: Tensor, weight_scale: Tensor) -> Tensor:
    zero_points = torch.zeros(weight.shape[0], dtype=torch.int64)
    with _deprecation_ignored():
        return torch._make_per_channel_quantized_tensor(weight.contiguous(), weight_scale.double(), zero_points, 0)
