"""Whether a model computes the same where its convolutions write channels last, as integer kernels do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.data import Batch
from inc_autotune.torch_ext.operators.outputs import untouched_outputs

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By number of dimensions."""


def bears_channels_last(
    model: nn.Module, convolutions: Iterable[str], batch: Batch, expected: Sequence[Tensor]
) -> bool:
    """Whether no operation and no output of a model shows the strides in which its convolutions write.

    Putting the strides of the fp32 convolution back takes a quarter of the time of a small ResNet, and only a program
    with `view`, or with strides of its own, needs it. So the model runs once more with outputs that lie otherwise.

    Args:
        model: fp32; stays as it is.
        convolutions: names of the modules.
        batch: inputs.
        expected: what the model returns for them.

    Returns:
        False where the model fails so, or where some output has other values or other strides, and without
        convolutions.
    """
    names = list(convolutions)
    if not names:
        return False
    with ExitStack() as hooks:
        for name in names:
            hooks.callback(model.get_submodule(name).register_forward_hook(_channels_last).remove)
        try:
            actual = untouched_outputs(model, batch, fast_path=True)
        except Exception:  # whatever the user's model raises on other strides
            return False
    return len(expected) == len(actual) and all(map(_is_same, expected, actual))


def _channels_last(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    memory_format = FORMATS.get(output.dim())
    return output if memory_format is None else output.contiguous(memory_format=memory_format)


def _is_same(expected: Tensor, actual: Tensor) -> bool:
    """Whether two outputs lie alike and have the same values, but for sums in another order."""
    if expected.shape != actual.shape or expected.stride() != actual.stride():
        return False
    return torch.allclose(expected, actual, rtol=1e-3, atol=1e-5 * float(expected.abs().max()), equal_nan=True)
