"""What an operator multiplies with its weight, as rows of a matrix, for the second moment."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from inc_autotune.core.arrays import Array
from inc_autotune.core.quantization import InputMoments, SecondMoment

Pads: TypeAlias = tuple[tuple[int, int], ...] | Literal["same_upper", "same_lower"]
"""Zeros before and after each dimension; or as many as give an output for every stride, the odd one at this end."""


@dataclass(frozen=True)
class Rows:
    """A tensor whose vectors along an axis are multiplied.

    Args:
        axis: of the vectors.
    """

    axis: int = -1

    @property
    def groups(self) -> int:
        """Of the columns: all of them are read by every row of a weight."""
        return 1

    def update(self, moments: InputMoments, name: str, value: Array, real: Array | None = None) -> None:
        """Take in one tensor.

        Args:
            moments: of all inputs.
            name: of this input.
            value: float.
            real: bool, of the shape of the tensor's first axes: false at padding, which does not count. None: nothing
                is padding.
        """
        if not value.size:
            return  # such as in a branch that is not taken
        rows = np.moveaxis(value, self.axis, -1)
        if real is not None:
            rows = rows[real]
        moments.update(name, rows.reshape(-1, rows.shape[-1]))


@dataclass(frozen=True)
class Patches:
    """A tensor of which a convolution multiplies patches.

    Args:
        kernel: size of a patch.
        strides: from patch to patch.
        dilations: from element to element within one.
        pads: what stands around the tensor.
        groups: of the channels.
        channels_first: whether channels are axis 1 of the tensor, and the first axis of a patch; else the last ones.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads
    groups: int = 1
    channels_first: bool = True

    def update(self, moments: InputMoments, name: str, value: Array, real: Array | None = None) -> None:
        """Take in one tensor; see `Rows.update`. A convolution has no padding that its data could tell of."""
        if not value.size:
            return
        rank = len(self.kernel)
        space = value.shape[2:] if self.channels_first else value.shape[1:-1]
        around = [(0, 0), *self._around(space)]
        around.insert(1 if self.channels_first else rank + 1, (0, 0))
        padded = np.pad(value, around)
        first = 2 if self.channels_first else 1
        reaches = self._reaches
        if any(size < reach for size, reach in zip(padded.shape[first:], reaches, strict=False)):
            return  # there is no patch
        axes = tuple(range(first, first + rank))
        windows = np.lib.stride_tricks.sliding_window_view(padded, reaches, axis=axes)
        picked = [slice(None)] * padded.ndim + [slice(None, None, step) for step in self.dilations]
        for axis, step in zip(axes, self.strides, strict=True):
            picked[axis] = slice(None, None, step)
        windows = windows[tuple(picked)]
        windows = np.moveaxis(windows, 1 if self.channels_first else rank + 1, rank + 1 if self.channels_first else -1)
        # [batch, *positions, *patch], a view: only the positions that are drawn are copied.
        batch_and_positions, patch = windows.shape[: rank + 1], windows.shape[rank + 1 :]
        count, columns = int(np.prod(batch_and_positions)), int(np.prod(patch))
        chosen = moments.choose(count, columns // self.groups)
        flat = np.arange(count) if chosen is None else chosen
        rows = windows[np.unravel_index(flat, batch_and_positions)]
        moments.update(name, self._by_group(rows).reshape(len(flat), columns), self.groups)

    @property
    def _reaches(self) -> tuple[int, ...]:
        return tuple(step * (size - 1) + 1 for size, step in zip(self.kernel, self.dilations, strict=True))

    def _around(self, space: tuple[int, ...]) -> list[tuple[int, int]]:
        if not isinstance(self.pads, str):
            return list(self.pads)
        around = []
        for size, stride, reach in zip(space, self.strides, self._reaches, strict=True):
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            small, large = total // 2, total - total // 2
            around.append((small, large) if self.pads == "same_upper" else (large, small))
        return around

    def _by_group(self, rows: Array) -> Array:
        """Patches whose groups lie one after another: those of channels that come first do."""
        if self.channels_first or self.groups == 1:
            return rows
        parts = rows.reshape(*rows.shape[:-1], self.groups, -1)
        return np.moveaxis(parts, -2, 1)


MomentRows: TypeAlias = Rows | Patches
"""How a tensor becomes rows."""


def moment_name(tensor: str, rows: MomentRows) -> str:
    """The name of a second moment: of the tensor, and of how it becomes rows where that is not the usual way."""
    return tensor if rows == Rows() else f"{tensor} as {rows}"


def moment_names(products: Mapping[str, Sequence[tuple[Hashable, str]]]) -> dict[str, Sequence[Sequence[str]]]:
    """By operator, for each weight that it multiplies, the names of the second moments of all that it meets anywhere.

    Operators with one weight and several inputs go on sharing it, rounded once, by the moment of all of these.

    Args:
        products: by name of the operator each weight that it multiplies, the same for operators that have one weight,
            and the name of the second moment of what it multiplies with it.
    """
    read: dict[Hashable, dict[str, None]] = {}
    for each in products.values():
        for weight, moment in each:
            read.setdefault(weight, {})[moment] = None
    return {name: [list(read[weight]) for weight, _ in each] for name, each in products.items()}


def has_moments(names: Sequence[Sequence[str]], moments: Mapping[str, SecondMoment]) -> bool:
    """Whether something was seen of what each weight of an operator meets.

    Args:
        names: as `moment_names` has them; none of an operator whose weights are rounded to nearest.
        moments: by name.
    """
    return bool(names) and all(any(each in moments for each in part) for part in names)


def summed_moment(names: Sequence[str], moments: Mapping[str, SecondMoment]) -> SecondMoment:
    """The moment of the rows of all these inputs, as far as they were seen; of one at least."""
    found = [moments[name] for name in names if name in moments]
    if len(found) == 1:
        return found[0]
    total = SecondMoment(found[0].columns, found[0].groups)
    for each in found:
        total.merge(each)
    return total
