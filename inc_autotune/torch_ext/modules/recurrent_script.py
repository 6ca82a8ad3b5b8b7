"""The time steps of a recurrent layer as a TorchScript program.

It takes half the time of Python's loop, and a trace of it takes sequences of any length.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from inc_autotune.core.ignored_warnings import ignored_warnings
from inc_autotune.torch_ext.operators import RecurrentCall, State, Steps
from inc_autotune.torch_ext.target import kernels

logger = logging.getLogger(__name__)

_SOURCE = """
def steps(
    projected: Tensor,
    sizes: Tensor,
    hidden: Tensor,
    cell: Tensor,
    hidden_weight: __torch__.torch.classes.quantized.LinearPackedParamsBase,
    projection: __torch__.torch.classes.quantized.LinearPackedParamsBase,
    mode: str,
    has_projection: bool,
    backwards: bool,
) -> Tuple[Tensor, Tensor, Tensor]:
    outputs: List[Tensor] = []
    end = projected.size(0) if backwards else 0
    for index in range(sizes.size(0)):
        count = int(sizes[sizes.size(0) - 1 - index if backwards else index])
        start = end - count if backwards else end
        rows, old, old_cell = projected[start : start + count], hidden[:count], cell[:count]
        end = start if backwards else start + count
        products = torch.ops.quantized.linear_dynamic(old, hidden_weight, False)
        new_cell = old_cell
        if mode == "LSTM":
            enter, forget, new, leave = (rows + products).chunk(4, -1)
            new_cell = torch.sigmoid(forget) * old_cell + torch.sigmoid(enter) * torch.tanh(new)
            next = torch.sigmoid(leave) * torch.tanh(new_cell)
            if has_projection:
                next = torch.ops.quantized.linear_dynamic(next, projection, False)
        elif mode == "RNN_RELU":
            next = torch.relu(rows + products)
        else:
            next = torch.tanh(rows + products)
        outputs.append(next)
        if count < hidden.size(0):
            hidden = torch.cat([next, hidden[count:]])
            cell = torch.cat([new_cell, cell[count:]])
        else:
            hidden, cell = next, new_cell
    if backwards:
        outputs.reverse()
    return torch.cat(outputs), hidden, cell
"""
"""The arithmetic of `recurrent_steps`, on rows as a packed sequence has them."""


def script_steps(mode: str, call: RecurrentCall, linear: Callable[[str], Any]) -> Steps | None:
    """Time steps for `run_layers`, without gradients; None where there is no program for this layer.

    Args:
        mode: `LSTM`, `RNN_TANH` or `RNN_RELU`.
        call: what the layer is called with.
        linear: a `QuantizedLinear` of the layer by its name.
    """
    program = None if mode == "GRU" else _program()
    if program is None or linear("hh_l0").packed is None:
        return None
    run, data = program, call.data
    sizes = call.batch_sizes
    if sizes is None:
        sizes = torch.full((data.shape[0],), data.shape[1])

    def steps(direction: str, projected: Tensor, state: State, backwards: bool) -> tuple[Tensor, State]:
        hidden_weight = linear(f"hh_{direction}").packed
        projecting = linear(f"hr_{direction}")
        projection = hidden_weight if projecting is None else projecting.packed
        rows = projected if call.batch_sizes is not None else projected.flatten(0, 1)
        weights = hidden_weight, projection, mode, projecting is not None
        output, *last = kernels.without_autograd(run, rows, sizes, state[0], state[-1], *weights, backwards)
        if call.batch_sizes is None:
            output = output.reshape(data.shape[0], data.shape[1], output.shape[-1])
        return output, tuple(last[: len(state)])

    return steps


@cache
def _program() -> Callable[..., Any] | None:
    """The compiled program; None where this torch, or this Python, has no TorchScript."""
    try:
        with ignored_warnings(DeprecationWarning):
            return torch.jit.CompilationUnit(_SOURCE).steps  # type: ignore[no-any-return]
    except (AttributeError, RuntimeError) as error:
        logger.info("recurrent layers run in Python, and traces of them hold for one length: %s", error)
        return None
