"""Products of uint8 and int8 with what stands around them in compiled graphs: a kernel of ours, built at its first use.

oneDNN's products take and return what Inductor's own loops write and read: rounded inputs, and float32 where the next
product's input is smoothed. Here rounding is part of the product before which it stands, and so is the activation
behind it with the rounding for the next product, which then reads a quarter of the bytes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from ctypes import c_float, c_int, c_int64
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from inc_autotune.torch_ext.target.native import KernelError, address, built

logger = logging.getLogger(__name__)

_COLUMNS = 64
"""Of a panel of packed weights."""

_PIECES, _DEGREE = 16, 4
"""Of an activation, whose polynomials are right to 1e-6 then."""

_END = 5.5
"""Where a GELU is the identity to 1e-6."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
}

_library: Any = torch.library.Library
_OPERATORS: Any = _library("inc_autotune", "FRAGMENT")
_OPERATORS.define("packed_linear_weight(Tensor weight) -> Tensor")
_ARGUMENTS = (
    "Tensor x, Tensor? multiplier, Tensor? offset, int zero_point, Tensor packed, Tensor weight_sum, Tensor scale, "
    "Tensor? bias, str activation, Tensor? residual, Tensor? norm_weight, Tensor? norm_bias, float epsilon, "
    "Tensor? next_multiplier, Tensor? next_offset"
)
_OPERATORS.define(f"integer_linear({_ARGUMENTS}) -> Tensor")
_OPERATORS.define(f"integer_linear_and_integers({_ARGUMENTS}) -> (Tensor, Tensor)")


class Product(NamedTuple):
    """Arguments of `torch.ops.inc_autotune.integer_linear`, which compiled graphs call and `linear_fusion` combines.

    y = (round(x * multiplier + offset) - zero_point) @ weight.T * scale + bias, with integers from 0 to 255, whose
    products are summed exactly; then activation(y); then y + residual; then its layer normalization; then, rounded,
    round(y * next_multiplier + next_offset). All but the first is left out where it is not given.

    Args:
        x: float32 [..., depth]; or uint8, of a depth that 4 divides, if `multiplier` is None.
        multiplier: float32 [depth].
        offset: float32 [depth], with the zero point in it.
        zero_point: of the integers.
        packed: what `packed_weight` returns.
        weight_sum: int32 [columns], of the integers of each row of the weight.
        scale: float32 [columns].
        bias: float32 [columns].
        activation: "" or one of `ACTIVATIONS`, computed to 1e-6.
        residual: float32 [..., columns].
        norm_weight: float32 [columns].
        norm_bias: likewise, given with it.
        epsilon: of the normalization.
        next_multiplier: float32 [columns]. The result is uint8 then, and not normalized; of the operator
            `integer_linear_and_integers`, which normalizes, the integers are a second result.
        next_offset: likewise, given with it.
    """

    x: Tensor
    multiplier: Tensor | None
    offset: Tensor | None
    zero_point: int
    packed: Tensor
    weight_sum: Tensor
    scale: Tensor
    bias: Tensor | None
    activation: str = ""
    residual: Tensor | None = None
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None
    epsilon: float = 0.0
    next_multiplier: Tensor | None = None
    next_offset: Tensor | None = None


@cache
def can_run() -> bool:
    """Whether this processor has what the kernel is written for: AVX512-VNNI, and no AMX, which oneDNN uses."""
    amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)
    return bool(torch.cpu._is_vnni_supported()) and not amx()


@cache
def linear_problem() -> str | None:
    """Why the kernel is not used on this machine; None where it is built and computes what it should."""
    if not can_run():
        return "the processor has no AVX512-VNNI, or has AMX"
    try:
        _try_out()
    except KernelError as error:
        logger.warning("integer products of compiled models are computed by torch, which is slower: %s", error)
        return str(error)
    return None


def packed_weight(weight: Tensor) -> Tensor:
    """An int8 weight [columns, depth] as the kernel reads it: [panels, depth / 4, 64, 4], zeros where there is none.

    An operator of torch, which compilers compute once where they know the weight.
    """
    result: Tensor = torch.ops.inc_autotune.packed_linear_weight(weight)
    return result


def integer_linear(
    x: Tensor,
    multiplier: Tensor,
    offset: Tensor,
    zero_point: int,
    packed: Tensor,
    weight_sum: Tensor,
    scale: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """A `Product` with nothing behind it, float32 [..., columns]; where the kernel is missing, torch computes it."""
    result: Tensor = torch.ops.inc_autotune.integer_linear(
        x, multiplier, offset, zero_point, packed, weight_sum, scale, bias, "", None, None, None, 0.0, None, None
    )
    return result


ACTIVATIONS = frozenset(_ACTIVATIONS)


def _pack(weight: Tensor) -> Tensor:
    columns, depth = weight.shape
    panels, steps = -(-columns // _COLUMNS), -(-depth // 4)
    padded = weight.new_zeros(panels * _COLUMNS, 4 * steps)
    padded[:columns, :depth] = weight
    return padded.view(panels, _COLUMNS, steps, 4).permute(0, 2, 1, 3).contiguous()


def _shape_of_packed(weight: Tensor) -> Tensor:
    columns, depth = weight.shape
    return weight.new_empty(-(-columns // _COLUMNS), -(-depth // 4), _COLUMNS, 4)


def _shape_in_graph(*arguments: Any) -> Tensor:
    from inc_autotune.torch_ext.target.linear_fusion import register_fusions

    register_fusions()  # now, since the graph is looked through for them when it is whole
    return _shaped(Product(*arguments))


def _shapes_in_graph(*arguments: Any) -> tuple[Tensor, Tensor]:
    product = Product(*arguments)
    return _empty(product, torch.float32), _empty(product, torch.uint8)


def _shaped(product: Product) -> Tensor:
    return _empty(product, torch.float32 if product.next_multiplier is None else torch.uint8)


def _empty(product: Product, dtype: torch.dtype) -> Tensor:
    return product.x.new_empty((*product.x.shape[:-1], product.scale.shape[0]), dtype=dtype)


def _linear(*arguments: Any) -> Tensor:
    product = Product(*arguments)
    if linear_problem() is not None:
        return by_torch(product)
    output = _shaped(product)
    _call(_kernel(), product, output)
    return output


def _linear_and_integers(*arguments: Any) -> tuple[Tensor, Tensor]:
    product = Product(*arguments)
    if linear_problem() is not None:
        return both_by_torch(product)
    output, integers = _empty(product, torch.float32), _empty(product, torch.uint8)
    _call(_kernel(), product, output, integers)
    return output, integers


for _name, _function, _shape in (
    ("packed_linear_weight", _pack, _shape_of_packed),
    ("integer_linear", _linear, _shape_in_graph),
    ("integer_linear_and_integers", _linear_and_integers, _shapes_in_graph),
):
    torch.library.register_fake(f"inc_autotune::{_name}", _shape, lib=_OPERATORS)
    _OPERATORS.impl(_name, _function, "CPU")


def _call(kernel: Callable[..., None], product: Product, *outputs: Tensor) -> None:
    """Compute what the outputs are for: one of float32, one of uint8, or both."""
    by_type = {each.dtype: each for each in outputs}
    x, residual = product.x.contiguous(), product.residual
    depth, columns = x.shape[-1], product.scale.shape[0]
    if residual is not None:
        residual = residual.expand(*x.shape[:-1], columns).contiguous()
    if x.numel() == 0:
        return
    kernel(
        address(x),
        address(product.multiplier),
        address(product.offset),
        address(product.packed),
        address(product.weight_sum),
        address(product.scale),
        address(product.bias),
        address(_pieces(product.activation)) if product.activation else None,
        address(residual),
        address(product.norm_weight),
        address(product.norm_bias),
        address(product.next_multiplier),
        address(product.next_offset),
        address(by_type.get(torch.float32)),
        address(by_type.get(torch.uint8)),
        (c_int64 * 4)(x.numel() // depth, depth, columns, depth),
        c_int(product.zero_point),
        c_float(_END),
        c_float(product.epsilon),
        c_int(torch.get_num_threads()),
    )


@cache
def _kernel() -> Callable[..., None]:
    """The compiled function; raises what `built` does."""
    return built("linear.cpp", "integer_linear")


@cache
def _pieces(activation: str) -> Tensor:
    """Polynomials of max(y, 0) - activation(y), an even function, over pieces of |y| of equal width.

    Returns:
        float32 [degree + 1, pieces], in how far |y| lies in its piece, from 0 to 1.
    """
    angles = (torch.arange(4 * _DEGREE, dtype=torch.float64) + 0.5) * (math.pi / (4 * _DEGREE))
    places = (1 - angles.cos()) / 2
    points = (torch.arange(_PIECES, dtype=torch.float64).unsqueeze(1) + places) * (_END / _PIECES)
    values = points - _ACTIVATIONS[activation](points)
    powers = places.unsqueeze(1) ** torch.arange(_DEGREE + 1)
    solution: Tensor = torch.linalg.lstsq(powers, values.T).solution
    return solution.float().contiguous()


def by_torch(product: Product) -> Tensor:
    """The same with operators of torch; products are exact up to 131,072 features."""
    p, columns = product, product.scale.shape[0]
    weight = p.packed.permute(0, 2, 1, 3).reshape(-1, 4 * p.packed.shape[1])[:columns, : p.x.shape[-1]]
    integers = p.x if p.multiplier is None or p.offset is None else _rounded(p.x, p.multiplier, p.offset)
    sums = integers.double() @ weight.double().t() - p.zero_point * p.weight_sum.double()
    y = (sums * p.scale.double() + (0 if p.bias is None else p.bias.double())).float()
    if p.activation:
        y = _ACTIVATIONS[p.activation](y)
    if p.residual is not None:
        y = y + p.residual
    if p.norm_weight is not None:
        y = F.layer_norm(y, (columns,), p.norm_weight, p.norm_bias, p.epsilon)
    return y if p.next_multiplier is None or p.next_offset is None else _rounded(y, p.next_multiplier, p.next_offset)


def both_by_torch(product: Product) -> tuple[Tensor, Tensor]:
    """What `integer_linear_and_integers` returns."""
    y = by_torch(product._replace(next_multiplier=None, next_offset=None))
    assert product.next_multiplier is not None
    assert product.next_offset is not None
    return y, _rounded(y, product.next_multiplier, product.next_offset)


def _rounded(x: Tensor, multiplier: Tensor, offset: Tensor) -> Tensor:
    return (x * multiplier + offset).round().clamp(0, 255).to(torch.uint8)


def _try_out() -> None:
    """Compare the kernel with torch's operators on a small problem that has every feature.

    Raises:
        KernelError: it cannot be built, or differs.
    """
    rows, depth, columns = 13, 36, 70
    x = torch.arange(rows * depth, dtype=torch.float32).mul(0.7).sin().view(rows, depth)
    weight = (torch.arange(columns * depth) * 37 % 255 - 127).to(torch.int8).view(columns, depth)
    weight[0], x[0] = 127, 300.0
    sums = weight.sum(1, dtype=torch.int32)
    scale, bias = torch.linspace(0.0005, 0.001, columns), torch.linspace(-1, 1, columns)
    rounding = torch.full((depth,), 100.0), torch.full((depth,), 120.0)
    following, behind = torch.full((columns,), 20.0), torch.full((columns,), 30.0)
    first = Product(x, *rounding, 120, _pack(weight), sums, scale, bias)
    residual = torch.linspace(-3, 3, rows * columns).view(rows, columns)
    normalized = first._replace(residual=residual, norm_weight=scale + 1, norm_bias=bias, epsilon=1e-5)
    for product in (
        first._replace(bias=None),
        first._replace(activation="gelu", next_multiplier=following, next_offset=behind),
        first._replace(x=_rounded(x, *rounding), multiplier=None, offset=None, activation="gelu_tanh"),
    ):
        output = _shaped(product)
        _call(_kernel(), product, output)
        _compare(output, by_torch(product))
    product = normalized._replace(next_multiplier=following, next_offset=behind)
    both = _empty(product, torch.float32), _empty(product, torch.uint8)
    _call(_kernel(), product, *both)
    for output, expected in zip(both, both_by_torch(product), strict=True):
        _compare(output, expected)


def _compare(output: Tensor, expected: Tensor) -> None:
    most = 1.0 if output.dtype == torch.uint8 else 1e-3
    if not torch.allclose(output.float(), expected.float(), rtol=1e-5, atol=most):
        raise KernelError("what it computes is wrong here")
