"""From the channels in which one convolution has computed the phases of a transposed one, to that one's output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Interleaving:
    """Where the outputs of the phases go.

    Args:
        channels: of the output.
        groups: the channels of a phase lie together in each group.
        stride: phases by dimension.
        crops: by dimension and phase, outputs to leave out in front and behind, after which all phases have as many.
        surplus: by dimension, outputs to leave out behind once the phases are interleaved.
    """

    channels: int
    groups: int
    stride: tuple[int, ...]
    crops: tuple[tuple[tuple[int, int], ...], ...]
    surplus: tuple[int, ...]

    def joined(self, y: Tensor) -> Tensor:
        """Float32 [batch, channels * phases, *space] as [batch, channels, *output], as inductor fuses it."""
        turns = [_turn(crops) for crops in self.crops]
        offsets = [each for each in turns if each is not None]
        return self._viewed(y, offsets) if len(offsets) == len(turns) else self._stacked(y)

    def _viewed(self, y: Tensor, turns: Sequence[tuple[int, int]]) -> Tensor:
        """As one view of all phases, cut at its ends: loops over it read channels side by side, and know no phase."""
        by_phase, dimensions = self._by_phase(y), len(self.stride)
        batch, groups, _, channels, *blocks = by_phase.shape
        phases = by_phase.reshape(batch, groups, *self.stride, channels, *blocks)
        turned = {2 + axis: count for axis, (_, count) in enumerate(turns) if count}
        if turned:
            phases = phases.roll([*turned.values()], [*turned])
        pairs = [axis for each in range(dimensions) for axis in (3 + dimensions + each, 2 + each)]
        size = (count * stride for count, stride in zip(blocks, self.stride, strict=True))
        whole = phases.permute(0, 1, 2 + dimensions, *pairs).reshape(batch, self.channels, *size)
        every, sizes = slice(None), self._size(y)
        return whole[
            (every, every, *(slice(start, start + size) for (start, _), size in zip(turns, sizes, strict=True)))
        ]

    def _stacked(self, y: Tensor) -> Tensor:
        """By a stack of the phases, each cut on its own."""
        dimensions, every = len(self.stride), slice(None)
        parts = [
            part[(every, every, every, *self._blocks(phase, cut=False))]
            for part, phase in zip(self._by_phase(y).unbind(2), product(*map(range, self.stride)), strict=True)
        ]
        batch, groups, channels, *blocks = parts[0].shape
        stacked = torch.stack(parts, dim=-1).reshape(batch, groups, channels, *blocks, *self.stride)
        pairs = [axis for each in range(dimensions) for axis in (3 + each, 3 + dimensions + each)]
        size = (count * stride for count, stride in zip(blocks, self.stride, strict=True))
        whole = stacked.permute(0, 1, 2, *pairs).reshape(batch, self.channels, *size)
        return whole[(every, every, *(slice(-surplus or None) for surplus in self.surplus))]

    def written(self, y: Tensor, scale: float, zero_point: int, memory_format: torch.memory_format) -> Tensor:
        """As `joined`, of quint8: one pass over the bytes, of which `torch.stack` would need two."""
        size = self._size(y)
        result = torch._empty_affine_quantized(
            [y.shape[0], self.channels, *size],
            scale=scale,
            zero_point=zero_point,
            dtype=torch.quint8,
            memory_format=memory_format,
        )
        target, source = result, y
        if self.groups > 1:
            width = self.channels // self.groups
            target, source = result.view(y.shape[0], self.groups, width, *size), self._by_phase(y)
        for written, read in self._copies:
            target[written] = source[read]
        return result

    def _size(self, y: Tensor) -> list[int]:
        """Of the output, without batch and channels."""
        return [
            (length - sum(crops[0])) * stride - surplus
            for length, crops, stride, surplus in zip(y.shape[2:], self.crops, self.stride, self.surplus, strict=True)
        ]

    def _by_phase(self, y: Tensor) -> Tensor:
        """[batch, groups, phases, channels / groups, *space]"""
        return y.view(y.shape[0], self.groups, math.prod(self.stride), self.channels // self.groups, *y.shape[2:])

    @cached_property
    def _copies(self) -> tuple[tuple[Any, Any], ...]:
        """Of each phase, the index of its outputs in the whole and in what the convolution wrote."""
        return tuple(self._each_copy())

    def _each_copy(self) -> Iterator[tuple[Any, Any]]:
        every = slice(None)
        for index, phase in enumerate(product(*map(range, self.stride))):
            places = [slice(rest, None, stride) for rest, stride in zip(phase, self.stride, strict=True)]
            blocks = self._blocks(phase, cut=True)
            if self.groups > 1:
                yield (every, every, every, *places), (every, every, index, every, *blocks)
            else:
                channels = slice(index * self.channels, (index + 1) * self.channels)
                yield (every, every, *places), (every, channels, *blocks)

    def _blocks(self, phase: tuple[int, ...], *, cut: bool) -> tuple[slice, ...]:
        """Where the outputs of a phase are, without the surplus if `cut`."""
        slices = []
        for rest, stride, crops, surplus in zip(phase, self.stride, self.crops, self.surplus, strict=True):
            before, behind = crops[rest]
            behind += cut and rest >= stride - surplus
            slices.append(slice(before, -behind or None))
        return tuple(slices)


def _turn(crops: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """How outputs lie in all phases, interleaved before any is cut.

    Phases that begin one output later than the first ones do, at the end of their order, are turned to its beginning:
    then every output lies as far behind the first one as in the whole.

    Args:
        crops: of each phase of a dimension.

    Returns:
        Where the first output lies, and by how many places the phases are turned; None where they begin otherwise.
    """
    starts = [before for before, _ in crops]
    first = starts[0]
    later = len([start for start in starts if start == first + 1])  # torch.compile of torch 2.8 knows no list.count
    if starts != [first] * (len(starts) - later) + [first + 1] * later:
        return None
    return first * len(starts) + later, later


def channel_order(values: Tensor, groups: int, phases: int) -> Tensor:
    """What all phases have alike, such as the bias, for the channels of the convolution that computes them all.

    Args:
        values: [channels].
    """
    return values.reshape(groups, 1, -1).expand(-1, phases, -1).flatten()
