"""What an operator multiplies with its weight, as rows of a matrix, for the second moment."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inc_autotune.core.quantization import InputMoments
from inc_autotune.torch_ext.operators import CONVOLUTION_TYPES, LINEAR_TYPES, ModelTrace

MOMENT_TYPES = (*LINEAR_TYPES, *CONVOLUTION_TYPES)
"""Types whose weights can be rounded by the second moment of their input."""


def input_of(operator: str) -> str:
    """The name that statistics have for the tensor an operator reads; the first of an input group stands for all."""
    return f"{operator}.input"


def moment_names(trace: ModelTrace) -> dict[str, str]:
    """Names of second moments by operator: that of the input group for linear ones, of its own for a convolution."""
    leaders = {name: members[0] for members in trace.groups for name in members}
    return {
        name: input_of(leaders.get(name, name) if operator.type in LINEAR_TYPES else name)
        for name, operator in trace.operators.items()
        if operator.type in MOMENT_TYPES
    }


def real_rows(x: Tensor, real: Tensor | None) -> Tensor | None:
    """Which rows of an input count; None: all.

    Args:
        x: what a linear operator reads.
        real: bool [batch, sequence], false at padding, whose outputs are never read, so its rows do not count where an
            input has such dimensions; None: nothing is padding.
    """
    return real if real is not None and x.dim() > 2 and x.shape[:2] == real.shape else None


@torch.no_grad()
def update_moment(moments: InputMoments, name: str, module: nn.Module, x: Tensor, real: Tensor | None) -> None:
    """Take in what one call of an operator reads.

    Args:
        moments: of all inputs.
        name: of this input.
        module: the operator, of one of `MOMENT_TYPES`.
        x: its input.
        real: see `real_rows`.
    """
    if not hasattr(module, "kernel_size"):
        x, real = x.detach(), real_rows(x, real)
        if real is not None:
            x = x[real]
        moments.update(name, x.reshape(-1, x.shape[-1]))
    else:
        update_with_patches(moments, name, module, x.detach())


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
