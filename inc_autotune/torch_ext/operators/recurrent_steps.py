"""A recurrent layer step by step, around products that each form makes in its own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from inc_autotune.torch_ext.operators.recurrent import RecurrentCall, directions

Product: TypeAlias = Callable[[str, Tensor], Tensor]
"""`product("ih_l0", x)`: the product of rows with the weight of that name, its bias added."""

State: TypeAlias = tuple[Tensor, ...]
"""The hidden state and, of an LSTM, the cell's; each [sequences, features]."""

Steps: TypeAlias = Callable[[str, Tensor, State, bool], tuple[Tensor, State]]
"""`steps("l0", projected, state, backwards)`: output and last state of one direction of one layer, from the products of
its input, which have the form of the input."""


def run_layers(module: Any, call: RecurrentCall, product: Product, steps: Steps) -> tuple[Tensor, State]:
    """Output and last state of all layers.

    The input of each layer is multiplied as a whole, the hidden state at every step: a form that rounds to the range of
    what it multiplies does so in these portions, as torch's own kernels do.

    Args:
        module: a recurrent layer in any of its forms, for its attributes.
        call: what it is called with.
        product: multiplies by the layer's weights.
        steps: takes the time steps.
    """
    names, ways = directions(module), 2 if module.bidirectional else 1
    x, last = call.data, []
    for layer in range(module.num_layers):
        outputs = []
        for way in range(ways):
            index = layer * ways + way
            state = tuple(each[index] for each in call.state)
            output, state = steps(names[index], product(f"ih_{names[index]}", x), state, way == 1)
            outputs.append(output)
            last.append(state)
        x = outputs[0] if ways == 1 else torch.cat(outputs, -1)
        if module.training and module.dropout and layer < module.num_layers - 1:
            x = F.dropout(x, module.dropout)
    return x, tuple(torch.stack(states) for states in zip(*last, strict=True))


def eager_steps(module: Any, call: RecurrentCall, product: Product) -> Steps:
    """Time steps one by one; a trace of them holds for the number of steps that it was made with.

    Arguments are those of `run_layers`.
    """
    sizes = None if call.batch_sizes is None else call.batch_sizes.tolist()

    def steps(direction: str, projected: Tensor, state: State, backwards: bool) -> tuple[Tensor, State]:
        rows: Sequence[Tensor] = projected.unbind(0) if sizes is None else torch.split(projected, sizes)
        step = _step(module.mode, direction, product, bool(module.proj_size))
        outputs: list[Tensor] = []
        for each in reversed(rows) if backwards else rows:
            count = each.shape[0]
            running = tuple(part[:count] for part in state)
            begun = step(each, running)
            outputs.append(begun[0])
            # Sequences that are over, or have not begun, stand behind the others.
            is_all = sizes is None or count == len(state[0])
            state = begun if is_all else tuple(map(_followed, begun, state))
        outputs = outputs[::-1] if backwards else outputs
        return torch.stack(outputs) if sizes is None else torch.cat(outputs), state

    return steps


def _followed(begun: Tensor, all_sequences: Tensor) -> Tensor:
    return torch.cat([begun, all_sequences[len(begun) :]])


def _step(mode: str, direction: str, product: Product, has_projection: bool) -> Callable[[Tensor, State], State]:
    """From the products of one time step's input, [sequences, gates], and the state to the next state."""

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
