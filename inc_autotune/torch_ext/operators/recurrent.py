"""The layers of `nn.RNNBase`: names of their weights, what they are called with, and torch's own computation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

RECURRENT_TYPES = ("LSTM", "GRU", "RNN")

RECURRENT_ATTRIBUTES = (
    "mode",
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "batch_first",
    "dropout",
    "bidirectional",
    "proj_size",
    "_flat_weights_names",
    "_all_weights",
)

RECURRENT_CACHES = ("_flat_weights", "_flat_weight_refs")
"""Attributes in which torch keeps the parameters a second time."""


def directions(module: Any) -> list[str]:
    """Suffixes of a recurrent layer's parameters in the order in which torch runs: `l0`, `l0_reverse`, `l1` ..."""
    ways = ("", "_reverse") if module.bidirectional else ("",)
    return [f"l{layer}{way}" for layer in range(module.num_layers) for way in ways]


def recurrent_weights(module: Any) -> tuple[str, ...]:
    """Names of the matrices: of the input, of the hidden state, and of an LSTM's projection where it has one."""
    kinds = ("ih", "hh", "hr") if module.proj_size else ("ih", "hh")
    return tuple(f"weight_{kind}_{direction}" for direction in directions(module) for kind in kinds)


def recurrent_biases(module: Any) -> tuple[str, ...]:
    """Names of the vectors, none where the layer has no bias."""
    kinds = ("ih", "hh") if module.bias else ()
    return tuple(f"bias_{kind}_{direction}" for direction in directions(module) for kind in kinds)


@dataclass(frozen=True)
class RecurrentCall:
    """What a recurrent layer is called with, in one form, and how its results go back into the caller's.

    Args:
        data: float32 [time, batch, features], or [rows, features] of a `PackedSequence`.
        state: the initial state, [layers * directions, batch, features]: the hidden state and, of an LSTM, the cell's.
        packed: the `PackedSequence` that was given.
        batch_first: whether the caller's tensors begin with the batch.
        is_single: whether the caller's tensors have no batch.
        dtype: of the caller's tensors.
    """

    data: Tensor
    state: tuple[Tensor, ...]
    packed: PackedSequence | None
    batch_first: bool
    is_single: bool
    dtype: torch.dtype

    @classmethod
    def of(
        cls, module: Any, given: Tensor | PackedSequence, hx: Any, dtype: torch.dtype | None = None
    ) -> RecurrentCall:
        """Read the arguments of a recurrent layer's `forward`.

        Args:
            module: the layer in any of its forms, for its attributes.
            given: [time, batch, features], batch first if the layer is so, [time, features], or a packed sequence.
            hx: the initial state; None: zeros.
            dtype: to compute in; None: that of `given`.

        Raises:
            ValueError: `given` has a wrong number of dimensions.
            RuntimeError: sizes of `given` or of `hx` do not fit the layer, or there is no time step.
        """
        packed = given if isinstance(given, PackedSequence) else None
        data: Tensor = packed.data if packed is not None else given  # type: ignore[assignment]
        _check_data(module, data, packed)
        is_single = packed is None and data.dim() == 2
        batch_first = packed is None and module.batch_first and not is_single
        given_dtype = data.dtype
        dtype = dtype or given_dtype
        data = data.to(dtype)
        if is_single:
            data = data.unsqueeze(1)
        elif batch_first:
            data = data.transpose(0, 1)
        rows = _rows(data, packed)
        if hx is None:
            count = len(directions(module))
            state = tuple(data.new_zeros((count, rows, features)) for features in _state_features(module))
        else:
            state = _checked_state(module, hx, rows, is_single, packed)
        return cls(data, tuple(each.to(dtype) for each in state), packed, batch_first, is_single, given_dtype)

    @property
    def batch_sizes(self) -> Tensor | None:
        """Rows at each time step of a packed sequence; None: all steps have all rows."""
        return None if self.packed is None else self.packed.batch_sizes

    def results(self, output: Tensor, state: tuple[Tensor, ...]) -> Any:
        """What `nn.LSTM`, `nn.GRU` and `nn.RNN` return.

        Args:
            output: of the last layer, in the form of `data`.
            state: the last one, in the form of `state`.
        """
        output, state = output.to(self.dtype), tuple(each.to(self.dtype) for each in state)
        if self.packed is not None:
            _, sizes, order, back = self.packed
            state = state if back is None else tuple(each.index_select(1, back) for each in state)
            return PackedSequence(output, sizes, order, back), state if len(state) > 1 else state[0]
        if self.is_single:
            output, state = output.squeeze(1), tuple(each.squeeze(1) for each in state)
        elif self.batch_first:
            output = output.transpose(0, 1)
        return output, state if len(state) > 1 else state[0]


def compute_recurrent(
    module: Any, given: Tensor | PackedSequence, tensors: Mapping[str, Tensor | None], hx: Any = None
) -> Any:
    """A recurrent layer as torch computes it, with tensors that replace the module's.

    Args:
        module: for its attributes.
        given: see `RecurrentCall.of`; computed in the dtype of the tensors.
        tensors: by the names of the module's parameters.
        hx: the initial state.
    """
    flat: list[Any] = [tensors[name] for name in module._flat_weights_names]
    call = RecurrentCall.of(module, given, hx, flat[0].dtype)
    operators: Any = torch._VF
    compute = getattr(operators, module.mode.lower())
    state = list(call.state) if module.mode == "LSTM" else call.state[0]
    options = (module.bias, module.num_layers, module.dropout, module.training, module.bidirectional)
    if call.batch_sizes is None:
        output, *last = compute(call.data, state, flat, *options, False)
    else:
        output, *last = compute(call.data, call.batch_sizes, state, flat, *options)
    return call.results(output, tuple(last))


def _check_data(module: Any, data: Tensor, packed: PackedSequence | None) -> None:
    if packed is None and data.dim() not in (2, 3):
        raise ValueError(f"{module.mode}: Expected input to be 2D or 3D, got {data.dim()}D instead")
    if not _is_tracing() and data.shape[-1] != module.input_size:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {module.input_size}, got {data.shape[-1]}"
        )
    time_axis = 1 if packed is None and module.batch_first and data.dim() == 3 else 0
    if not _is_tracing() and data.shape[time_axis] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")


def _rows(data: Tensor, packed: PackedSequence | None) -> Any:
    """Sequences at once; a tensor in a trace, which takes other numbers of them."""
    if packed is None:
        return data.shape[1]
    return packed.batch_sizes[0] if _is_tracing() else int(packed.batch_sizes[0])


def _state_features(module: Any) -> tuple[int, ...]:
    hidden = module.proj_size or module.hidden_size
    return (hidden, module.hidden_size) if module.mode == "LSTM" else (hidden,)


def _checked_state(
    module: Any, hx: Any, rows: Any, is_single: bool, packed: PackedSequence | None
) -> tuple[Tensor, ...]:
    state = tuple(hx) if module.mode == "LSTM" else (hx,)
    if is_single:
        state = tuple(each.unsqueeze(1) if each.dim() == 2 else each for each in state)
    expected = [(len(directions(module)), rows, features) for features in _state_features(module)]
    if not _is_tracing() and [tuple(each.shape) for each in state] != expected:
        raise RuntimeError(
            f"hx of sizes {[list(each.shape) for each in state]} does not fit this {module.mode}. Expected "
            f"{', '.join(str(list(each)) for each in expected)} (a batch of {rows})"
        )
    if packed is not None and packed.sorted_indices is not None:
        state = tuple(each.index_select(1, packed.sorted_indices) for each in state)
    return state


def _is_tracing() -> bool:
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
