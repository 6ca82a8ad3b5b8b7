"""What a deferred tensor stands for: float32 or bytes, whichever is asked for, computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """The float32 values that uint8 stands for: `(integer - zero_point) * scale`."""

    scale: float
    zero_point: int


@dataclass(eq=False)
class Value:
    """What a deferred tensor stands for, computed once for each form that is asked for.

    Args:
        compute: makes the float32 form, in any layout.
        round_into: makes the quint8 form on a grid; None: by rounding the float32 form.
        like: a tensor of the same shape, if there is one already.
        rank: number of dimensions, where that is known without computing anything.
        integers: quint8 on the grid `grid`, of what a kernel wrote or of bytes that were only moved.
        grid: see `integers`.
        summands: quint8 tensors of which it is the sum.
        is_sum: whether `round_into` adds up integers.
    """

    compute: Callable[[], Tensor]
    round_into: Callable[[Grid], Tensor] | None = None
    like: Tensor | None = None
    rank: int | None = None
    integers: Tensor | None = None
    grid: Grid | None = None
    summands: tuple[Tensor, Tensor] | None = None
    is_sum: bool = False
    _floats: Tensor | None = None
    _rounded: dict[Grid, Tensor] = field(default_factory=dict)

    def floats(self) -> Tensor:
        if self._floats is None:
            self._floats = self.compute()
        return self._floats

    @property
    def has_floats(self) -> bool:
        return self._floats is not None

    def rounded(self, grid: Grid, for_all: bool = False) -> Tensor:
        """Quint8 on a grid, channels last where convolutions wrote it.

        Args:
            grid: of the reader.
            for_all: whether a sum of integers stands for these integers from now on, for whoever reads it later.
        """
        if self.integers is not None and self.grid == grid:
            return self.integers
        if grid not in self._rounded:
            make = self._from_floats if self.round_into is None or self._floats is not None else self.round_into
            self._rounded[grid] = make(grid)
        result = self._rounded[grid]
        if for_all and self.is_sum and self.integers is None and self._floats is None:
            self.compute, self.like, self.integers, self.grid = result.dequantize, result, result, grid
        return result

    def _from_floats(self, grid: Grid) -> Tensor:
        return torch.quantize_per_tensor(self.floats(), *grid, torch.quint8)

    def dimensions(self) -> int:
        """How many dimensions it has: each convolution asks, and must not make what waits be computed by that."""
        return self.shaped().dim() if self.like is not None or self.rank is None else self.rank

    def known_rank(self) -> int | None:
        return self.rank if self.like is None else self.like.dim()

    def shaped(self) -> Tensor:
        """A plain tensor of its shape."""
        return self.floats() if self.like is None else self.like


def written(integers: Tensor, grid: Grid) -> Value:
    """What a kernel wrote."""
    return Value(integers.dequantize, like=integers, integers=integers, grid=grid)


def broadcast_rank(one: Value, other: Value) -> int | None:
    """How many dimensions a function of two tensors has, where that is known."""
    ranks = one.known_rank(), other.known_rank()
    return None if ranks[0] is None or ranks[1] is None else max(ranks[0], ranks[1])
