"""A transposed convolution as an ordinary one whose features are the positions between the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.arrays import FloatArray

UNKNOWN_SIZE = "the size of its images is not fixed, which its form in integers needs"


@dataclass(frozen=True)
class TransposedGeometry:
    """What an ordinary convolution and moved data need, to compute a transposed convolution.

    Its output at position `step * q + r` is a sum over inputs at q, q - 1 and so on: an ordinary convolution, one for
    each r from 0 to step - 1, whose results are interleaved, and cut at both ends.

    All of these are along height and width, of volumes along depth, height and width.

    Args:
        steps: of the transposed convolution.
        taps: sizes of the ordinary kernel.
        padding: of its images: before and behind.
        made: sizes of the interleaved results.
        cut: how much of them is cut before.
        size: of the output.
    """

    steps: tuple[int, ...]
    taps: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    made: tuple[int, ...]
    cut: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def is_matrix_product(self) -> bool:
        """Whether the ordinary convolution is a matrix product of each position's channels."""
        return all(taps == 1 and padding == (0, 0) for taps, padding in zip(self.taps, self.padding, strict=True))

    def kernel(self, weight: FloatArray) -> FloatArray:
        """The kernel [height, width, inputs, positions x features] of one [height, width, features, inputs].

        Those of volumes have a depth before the height. Of the positions that in depth is the last one.
        """
        count = len(self.taps)
        whole = np.zeros((*np.multiply(self.taps, self.steps), *weight.shape[count:]), np.float32)
        whole[tuple(map(slice, weight.shape[:count]))] = weight
        parts = whole.reshape(*np.ravel(list(zip(self.taps, self.steps, strict=True))), *weight.shape[count:])
        # The first tap meets the input that is last.
        turned = parts[(slice(None, None, -1), slice(None)) * count]
        taps, steps = range(0, 2 * count, 2), [*range(2 * count - 3, 2 * count, 2), *range(1, 2 * count - 3, 2)]
        ordered = turned.transpose(*taps, 2 * count + 1, *steps, 2 * count)
        return np.ascontiguousarray(ordered.reshape(*self.taps, weight.shape[-1], -1))


def transposed_geometry(
    node: NodeDef, weight: Sequence[int], source: Sequence[int | None] | None, output: Sequence[int | None] | None
) -> TransposedGeometry | str:
    """The geometry of a transposed convolution, or why it has none.

    Args:
        node: Conv2DBackpropInput or Conv3DBackpropInputV2, channels last.
        weight: shape of its filter, [height, width, features, inputs]; of volumes with a depth before the height.
        source: shape of its input.
        output: shape of its result.
    """
    if any(each != 1 for each in node.attr["dilations"].list.i):
        return "it is dilated"
    count = len(weight) - 2
    if source is None or output is None or None in (*source[1:-1], *output[1:-1]):
        return UNKNOWN_SIZE
    steps = [int(each) for each in node.attr["strides"].list.i[1:-1]]
    padding = node.attr["padding"].s
    given = [int(each) for each in node.attr["explicit_paddings"].list.i] if padding == b"EXPLICIT" else []
    found = []
    for axis in range(count):
        read, size, step, length = source[axis + 1], output[axis + 1], steps[axis], weight[axis]
        assert read is not None
        assert size is not None
        cut = 0
        if padding == b"SAME":
            cut = max((read - 1) * step + length - size, 0) // 2
        elif padding == b"EXPLICIT":
            cut = given[2 * (axis + 1)]
        taps = -(-length // step)
        places = -(-(cut + size) // step)
        if places < read:
            return "it drops inputs"
        found.append((step, taps, (taps - 1, places - read), places * step, cut, size))
    return TransposedGeometry(*zip(*found, strict=True))
