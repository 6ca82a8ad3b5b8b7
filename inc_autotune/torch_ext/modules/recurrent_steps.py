"""A recurrent layer step by step, around products that each form makes in its own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from inc_autotune.torch_ext.operators import RecurrentCall, directions

Product: TypeAlias = Callable[[str, Tensor], Tensor]
"""`product("ih_l0", x)`: the product of rows with the weight of that name, its bias added."""

State: TypeAlias = tuple[Tensor, ...]
"""The hidden state and, of an LSTM, the cell's; each [rows, features]."""

Step: TypeAlias = Callable[[Tensor, State], State]
"""From the products of one time step's input, [rows, gates], and the state to the next state."""


def run_steps(module: Any, call: RecurrentCall, product: Product) -> tuple[Tensor, State]:
    """Output and last state of all layers.

    The input of each layer is multiplied as a whole, the hidden state at every step: a form that rounds to the range of
    what it multiplies does so in these portions, as torch's own kernels do.

    Args:
        module: a recurrent layer in any of its forms, for its attributes.
        call: what it is called with.
        product: multiplies by the layer's weights.
    """
    sizes = None if call.batch_sizes is None else call.batch_sizes.tolist()
    names, ways = directions(module), 2 if module.bidirectional else 1
    x, last = call.data, []
    for layer in range(module.num_layers):
        outputs = []
        for way in range(ways):
            index = layer * ways + way
            projected = product(f"ih_{names[index]}", x)
            rows = projected.unbind(0) if sizes is None else torch.split(projected, sizes)
            step = _step(module.mode, names[index], product, bool(module.proj_size))
            steps, state = _scan(step, rows, tuple(each[index] for each in call.state), backwards=way == 1)
            outputs.append(torch.stack(steps) if sizes is None else torch.cat(steps))
            last.append(state)
        x = outputs[0] if ways == 1 else torch.cat(outputs, -1)
        if module.training and module.dropout and layer < module.num_layers - 1:
            x = F.dropout(x, module.dropout)
    return x, tuple(torch.stack(states) for states in zip(*last, strict=True))


def _step(mode: str, direction: str, product: Product, has_projection: bool) -> Step:
    def hidden_product(hidden: Tensor) -> Tensor:
        return product(f"hh_{direction}", hidden)

    def lstm(projected: Tensor, state: State) -> State:
        hidden, cell = lstm_cell(projected + hidden_product(state[0]), state[1])
        return (product(f"hr_{direction}", hidden) if has_projection else hidden), cell

    def gru(projected: Tensor, state: State) -> State:
        return (gru_cell(projected, hidden_product(state[0]), state[0]),)

    def plain(projected: Tensor, state: State) -> State:
        total = projected + hidden_product(state[0])
        return (torch.relu(total) if mode == "RNN_RELU" else torch.tanh(total),)

    return {"LSTM": lstm, "GRU": gru}.get(mode, plain)


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden and cell state, [rows, hidden], from the summed products of the gates, [rows, 4 * hidden]."""
    enter, forget, new, leave = gates.chunk(4, -1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
    return torch.sigmoid(leave) * torch.tanh(cell), cell


def gru_cell(projected: Tensor, recurrent: Tensor, hidden: Tensor) -> Tensor:
    """The hidden state, [rows, hidden], from the products of input and hidden state, each [rows, 3 * hidden]."""
    reset, update, new = projected.chunk(3, -1)
    reset_hidden, update_hidden, new_hidden = recurrent.chunk(3, -1)
    reset, update = torch.sigmoid(reset + reset_hidden), torch.sigmoid(update + update_hidden)
    new = torch.tanh(new + reset * new_hidden)
    return (hidden - new) * update + new


def _scan(step: Step, rows: Sequence[Tensor], state: State, *, backwards: bool) -> tuple[list[Tensor], State]:
    """Hidden states at every time step, in the order of time, and the state at the end of each sequence.

    Args:
        step: one time step.
        rows: of each time step; sequences that are over are left out, longer ones stand first.
        state: the initial one, of all sequences.
        backwards: whether time runs from the end to the beginning.
    """
    outputs: list[Tensor] = []
    if backwards:
        initial, state = state, tuple(each[: len(rows[-1])] for each in state)
        for each_rows in reversed(rows):
            begun = len(state[0])
            if len(each_rows) > begun:
                pairs = zip(state, initial, strict=True)
                state = tuple(torch.cat([each, first[begun : len(each_rows)]]) for each, first in pairs)
            state = step(each_rows, state)
            outputs.append(state[0])
        return outputs[::-1], state
    over: list[State] = []
    for each_rows in rows:
        if len(each_rows) < len(state[0]):
            over.append(tuple(each[len(each_rows) :] for each in state))
            state = tuple(each[: len(each_rows)] for each in state)
        state = step(each_rows, state)
        outputs.append(state[0])
    if over:
        state = tuple(torch.cat(parts) for parts in zip(state, *reversed(over), strict=True))
    return outputs, state
