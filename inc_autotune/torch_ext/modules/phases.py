"""A transposed convolution as one ordinary convolution of stride 1, whose outputs are interleaved.

Along one dimension, output `o` of a transposed convolution reads input `i` through tap `t` where
`o = i * stride - padding + t * dilation`. Outputs that leave the same rest when divided by the stride read through the
same taps, at inputs that move on by one from output to output: each rest, a phase, is an ordinary convolution with some
of the taps. All phases together are one convolution with as many times the channels, without the multiplications by
zero that an input with zeros between its values would cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class DimensionPhases:
    """The phases of one dimension.

    Args:
        taps: of each phase, the tap of the transposed convolution at each position of the ordinary kernel; None: zero.
        starts: of each phase, the first position of the ordinary kernel, as a distance from the block's input.
        dilation: of the ordinary convolution.
        padding: zeros that it needs on both sides.
        blocks_beyond: outputs of a phase beyond the length of the input less 1.
        surplus: outputs beyond the last one, once all phases, which have equally many, are interleaved.
    """

    taps: tuple[tuple[int | None, ...], ...]
    starts: tuple[int, ...]
    dilation: int
    padding: int
    blocks_beyond: int
    surplus: int

    @property
    def width(self) -> int:
        """Size of the ordinary kernel."""
        return len(self.taps[0])

    def crops(self, padding: int, extra: int) -> tuple[tuple[int, int], ...]:
        """Of each phase, how many outputs of the ordinary convolution come before its first and after its last.

        Args:
            padding: zeros on both sides of the input, at least `self.padding - extra`.
            extra: zeros behind the input beside those.
        """
        reach = self.dilation * (self.width - 1)
        behind = padding + extra - reach + 1 - self.blocks_beyond
        return tuple((start + padding, behind - start) for start in self.starts)


def dimension_phases(
    kernel_size: int, stride: int, padding: int, dilation: int, output_padding: int
) -> DimensionPhases:
    """How one dimension of a transposed convolution is taken apart."""
    readings = [
        sorted(
            ((rest + padding - tap * dilation) // stride, tap)
            for tap in range(kernel_size)
            if (rest + padding - tap * dilation) % stride == 0
        )
        for rest in range(stride)
    ]
    width = max(map(len, readings))
    step = dilation // math.gcd(dilation, stride) if width > 1 else 1
    common = min(reading[0][0] for reading in readings if len(reading) == width)
    taps, starts = [], []
    for reading in readings:
        first = reading[0][0] if reading else common
        # A phase of fewer taps may begin with zeros: so that it begins where the others do, if it can.
        zeros = min(range(width - len(reading) + 1), key=lambda count: abs(first - count * step - common))
        starts.append(first - zeros * step)
        behind = width - len(reading) - zeros
        taps.append((*(None,) * zeros, *(tap for _, tap in reading), *(None,) * behind))
    length = dilation * (kernel_size - 1) + output_padding + 1 - 2 * padding
    beyond = -(-length // stride)
    needed = max(beyond + start + step * (width - 1) - 1 for start in starts)
    return DimensionPhases(
        tuple(taps),
        tuple(starts),
        step,
        max(0, needed, *(-start for start in starts)),
        beyond,
        beyond * stride - length,
    )


def phases(
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
) -> tuple[DimensionPhases, ...]:
    """How every dimension of a transposed convolution is taken apart; arguments are those of `nn.ConvTranspose2d`."""
    geometry = zip(kernel_size, stride, padding, dilation, output_padding, strict=True)
    return tuple(dimension_phases(*dimension) for dimension in geometry)


def tap_table(dimensions: Sequence[DimensionPhases], kernel_size: Sequence[int]) -> list[int]:
    """Taps of the ordinary kernel as indices into the flat transposed kernel; `prod(kernel_size)` stands for zero.

    Returns:
        One phase after the other, the last dimension fastest; of each its kernel, the last dimension fastest.
    """
    none = math.prod(kernel_size)
    table = []
    for phase in product(*(each.taps for each in dimensions)):
        for position in product(*phase):
            index = 0
            for tap, size in zip(position, kernel_size, strict=True):
                index = index * size + (tap or 0)
            table.append(none if None in position else index)
    return table
