"""Recurrent cells with the products of their input and of their state as Linear children."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.model.expanded_form import ExpandedForm, Parts, is_recorded, linear

_CHILDREN = ("linear_ih", "linear_hh")


class ExpandedCell(ExpandedForm):
    """What the cells have in common: `linear_ih` reads the input, `linear_hh` the hidden state.

    Inputs and outputs are those of torch's cell: [features] or [batch, features]; a state that is left out is zero.
    """

    hidden_parameters = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    new_children = _CHILDREN
    children_names = _CHILDREN

    linear_ih: nn.Linear
    linear_hh: nn.Linear

    @staticmethod
    def linears(module: Any, parts: Parts) -> Mapping[str, nn.Linear]:
        return {
            "linear_ih": linear(module.weight_ih, module.bias_ih, module),
            "linear_hh": linear(module.weight_hh, module.bias_hh, module),
        }

    @property
    def weight_ih(self) -> Tensor:
        return self.linear_ih.weight

    @property
    def weight_hh(self) -> Tensor:
        return self.linear_hh.weight

    @property
    def bias_ih(self) -> Tensor | None:
        return self.linear_ih.bias

    @property
    def bias_hh(self) -> Tensor | None:
        return self.linear_hh.bias

    def _state(self, x: Tensor, state: Tensor | None) -> Tensor:
        """The hidden state, of zeros where there is none yet; refuses inputs of other sizes, as torch does."""
        size = self.linear_hh.in_features
        if state is None:
            state = x.new_zeros((*x.shape[:-1], size))
        if is_recorded():
            return state
        for name, tensor, features in (("input", x, self.linear_ih.in_features), ("hidden state", state, size)):
            if tensor.dim() not in (1, 2) or tensor.shape[-1] != features:
                raise RuntimeError(
                    f"{name}: has the shape {tuple(tensor.shape)}. Allowed: [batch, {features}] or [{features}]."
                )
        if x.dim() != state.dim():
            raise RuntimeError(f"input and hidden state: {x.dim()}-D and {state.dim()}-D. Allowed: the same.")
        return state


class ExpandedRNNCell(ExpandedCell):
    """h' = tanh(linear_ih(x) + linear_hh(h)), or with ReLU."""

    nonlinearity: str

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        function: Callable[[Tensor], Tensor] = getattr(torch, self.nonlinearity)
        hidden = self._state(input, hx)
        return function(self.linear_ih(input) + self.linear_hh(hidden))


class ExpandedLSTMCell(ExpandedCell):
    """The gates of `nn.LSTMCell` are the sums of both Linears, in the order input, forget, cell, output."""

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        hidden, cell = (self._state(input, state) for state in (hx or (None, None)))
        gates = self.linear_ih(input) + self.linear_hh(hidden)
        entry, forget, value, exit_ = gates.chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + entry.sigmoid() * value.tanh()
        return exit_.sigmoid() * cell.tanh(), cell


class ExpandedGRUCell(ExpandedCell):
    """The gates of `nn.GRUCell` in the order reset, update, new; reset multiplies what the state adds to new."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        hidden = self._state(input, hx)
        resets, updates, news = zip(
            self.linear_ih(input).chunk(3, dim=-1), self.linear_hh(hidden).chunk(3, dim=-1), strict=True
        )
        update = (updates[0] + updates[1]).sigmoid()
        new = (news[0] + (resets[0] + resets[1]).sigmoid() * news[1]).tanh()
        result: Tensor = new + update * (hidden - new)
        return result
