"""What a recurrent layer in another form must answer, since torch and users' programs keep its weights in lists."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class RecurrentForm(nn.Module):
    """Mixin of forms of `nn.LSTM`, `nn.GRU` and `nn.RNN` without parameters, to stand before all other bases.

    `weight_ih_l0` and the others, `all_weights` and `_flat_weights` give float tensors, made anew at every access, and
    `flatten_parameters()` does nothing, as on every CPU.
    """

    mode: str
    proj_size: int
    num_layers: int
    bidirectional: bool
    _flat_weights_names: list[str]
    _all_weights: list[list[str]]

    def float_tensor(self, name: str) -> Tensor | None:
        """A weight or bias in the dtype of the layer, by the name of the parameter."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_flat_weights_names", ()):
            return self.float_tensor(name)
        return super().__getattr__(name)

    @property
    def all_weights(self) -> list[list[Tensor | None]]:
        return [[self.float_tensor(name) for name in names] for names in self._all_weights]

    @property
    def _flat_weights(self) -> list[Tensor | None]:
        return [self.float_tensor(name) for name in self._flat_weights_names]

    def flatten_parameters(self) -> None:
        """Nothing: there are no parameters."""

    def _init_flat_weights(self) -> None:
        """Nothing: `_flat_weights` is made at every access."""

    def _update_flat_weights(self) -> None:
        """Nothing: `_flat_weights` is made at every access."""
