"""What an operator multiplies with its weights, as rows of matrices, for their second moments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inc_autotune.core.analysis import NO_MOMENT, NO_SUM, OTHERS_READ_IT
from inc_autotune.core.quantization import InputMoments, SecondMoment
from inc_autotune.torch_ext.operators import (
    CONVOLUTION_TYPES,
    LINEAR_TYPES,
    RECURRENT_TYPES,
    ModelTrace,
    RecurrentCall,
    eager_steps,
    recurrent_weights,
    run_layers,
)

MOMENT_TYPES = (*LINEAR_TYPES, *CONVOLUTION_TYPES, *RECURRENT_TYPES)
"""Types whose weights can be rounded by the second moments of what they are multiplied with."""


def input_of(operator: str) -> str:
    """The name that statistics have for the tensor an operator reads; the first of an input group stands for all."""
    return f"{operator}.input"


def moment_names(trace: ModelTrace) -> dict[str, str]:
    """Names of second moments by operator: that of the input group for linear ones, of its own for others.

    A recurrent layer has several, whose names begin so, see `weight_moments`.
    """
    leaders = {name: members[0] for members in trace.groups for name in members}
    return {
        name: input_of(leaders.get(name, name) if operator.type in LINEAR_TYPES else name)
        for name, operator in trace.operators.items()
        if operator.type in MOMENT_TYPES
    }


def weight_moments(moments: Mapping[str, SecondMoment], name: str, module: nn.Module) -> dict[str, SecondMoment] | None:
    """Second moments of what an operator's weights are multiplied with, by the weights' names; None if one is missing.

    Args:
        moments: by name.
        name: that the operator has in `moment_names`.
        module: the operator.
    """
    names = _moment_names_by_weight(name, module)
    return {weight: moments[each] for weight, each in names.items()} if moments.keys() >= set(names.values()) else None


def nearest_reason(
    moments: Mapping[str, SecondMoment], name: str | None, module: nn.Module, shared: Collection[int]
) -> str | None:
    """Why weights of an operator are rounded to nearest; None where they need not be.

    Args:
        moments, name, module: as for `weight_moments`; None of a table.
        shared: identities of the parameters that several modules have.
    """
    if name is None:
        return NO_SUM
    if any(id(module.get_parameter(weight)) in shared for weight in _moment_names_by_weight(name, module)):
        return OTHERS_READ_IT
    return NO_MOMENT if weight_moments(moments, name, module) is None else None


def _moment_names_by_weight(name: str, module: nn.Module) -> dict[str, str]:
    if not isinstance(module, nn.RNNBase):
        return {"weight": name}
    return {weight: f"{name}.{weight}" for weight in recurrent_weights(module)}


def real_rows(x: Tensor, real: Tensor | None) -> Tensor | None:
    """Which rows of an input count; None: all.

    Args:
        x: what a linear operator reads.
        real: bool [batch, sequence], false at padding, whose outputs are never read, so its rows do not count where an
            input has such dimensions; None: nothing is padding.
    """
    return real if real is not None and x.dim() > 2 and x.shape[:2] == real.shape else None


@torch.no_grad()
def update_moment(
    moments: InputMoments, name: str, module: nn.Module, x: Any, real: Tensor | None, state: Any = None
) -> None:
    """Take in what one call of an operator reads.

    Args:
        moments: of all inputs.
        name: of this input.
        module: the operator, of one of `MOMENT_TYPES`.
        x: its input.
        real: see `real_rows`.
        state: the first one, of a recurrent layer; None: zeros.
    """
    if isinstance(module, nn.RNNBase):
        update_with_states(moments, name, module, x, state)
    elif not hasattr(module, "kernel_size"):
        x, real = x.detach(), real_rows(x, real)
        if real is not None:
            x = x[real]
        moments.update(name, x.reshape(-1, x.shape[-1]))
    else:
        update_with_patches(moments, name, module, x.detach())


def update_with_states(moments: InputMoments, name: str, layer: Any, x: Any, state: Any) -> None:
    """Take in what a recurrent layer multiplies with its weights: the inputs of its layers, and hidden states.

    Torch's own kernels show none of them but the first, so the steps are taken once more.
    """
    names = _moment_names_by_weight(name, layer)
    if moments.refused.issuperset(names.values()):
        return
    rows: dict[str, list[Tensor]] = {weight: [] for weight in names}

    def product(key: str, factor: Tensor) -> Tensor:
        rows[f"weight_{key}"].append(factor.reshape(-1, factor.shape[-1]))
        bias: Tensor | None = layer._parameters.get(f"bias_{key}")
        return F.linear(factor, layer.get_parameter(f"weight_{key}").float(), None if bias is None else bias.float())

    call = RecurrentCall.of(layer, x, state, torch.float32)
    run_layers(layer, call, product, eager_steps(layer, call, product))
    for weight, parts in rows.items():
        moments.update(names[weight], torch.cat(parts))


def update_with_patches(moments: InputMoments, name: str, convolution: Any, x: Tensor) -> None:
    """Take in the patches that a convolution multiplies with its weight, groups one after another."""
    kernel, dimensions = convolution.kernel_size, len(convolution.kernel_size)
    if x.dim() == dimensions + 1:
        x = x.unsqueeze(0)
    windows, strides = _padded(convolution, x.float())
    for axis in range(dimensions):
        reach = convolution.dilation[axis] * (kernel[axis] - 1) + 1
        windows = windows.unfold(axis + 2, reach, strides[axis])[..., :: convolution.dilation[axis]]
    # [batch, channels, *positions, *kernel], a view: only the positions that are drawn are copied.
    batch, channels, *positions = windows.shape[: dimensions + 2]
    count = batch * torch.Size(positions).numel()
    columns = channels // convolution.groups * torch.Size(kernel).numel()
    chosen = moments.choose(count, columns)
    flat = torch.arange(count) if chosen is None else torch.from_numpy(chosen)
    index = torch.unravel_index(flat.to(x.device), (batch, *positions))
    rows = windows.movedim(1, dimensions + 1)[index]  # [rows, channels, *kernel]
    if convolution.transposed:  # its first tap meets the input that is last
        rows = rows.flip(tuple(range(2, dimensions + 2)))
    moments.update(name, rows.flatten(1), convolution.groups)


def _padded(convolution: Any, x: Tensor) -> tuple[Tensor, Any]:
    """What the windows of a convolution lie on, and from window to window how far.

    Those of a transposed one lie on its input with zeros between the values, one window for each output.
    """
    if not convolution.transposed:
        mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
        return F.pad(x, convolution._reversed_padding_repeated_twice, mode=mode), convolution.stride
    strides, space = convolution.stride, x.shape[2:]
    spread = x.new_zeros((*x.shape[:2], *((size - 1) * step + 1 for size, step in zip(space, strides, strict=True))))
    places: Any = (..., *(slice(None, None, step) for step in strides))
    spread[places] = x
    around: list[int] = []
    for axis in reversed(range(len(space))):
        reach = convolution.dilation[axis] * (convolution.kernel_size[axis] - 1)
        before = reach - convolution.padding[axis]
        around += [before, before + convolution.output_padding[axis]]
    return F.pad(spread, around), (1,) * len(space)
