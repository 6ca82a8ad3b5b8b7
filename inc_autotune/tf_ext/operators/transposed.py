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

    Args:
        steps: along height and width.
        taps: height and width of the ordinary kernel.
        padding: of its images: before and behind, along height and width.
        made: height and width of the interleaved results.
        cut: how much of them is cut before.
        size: height and width of the output.
    """

    steps: tuple[int, int]
    taps: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    made: tuple[int, int]
    cut: tuple[int, int]
    size: tuple[int, int]

    @property
    def is_matrix_product(self) -> bool:
        """Whether the ordinary convolution is a matrix product of each position's channels."""
        return self.taps == (1, 1) and self.padding == ((0, 0), (0, 0))

    def kernel(self, weight: FloatArray) -> FloatArray:
        """The kernel [height, width, inputs, positions x features] of one [height, width, features, inputs]."""
        height, width = (taps * step for taps, step in zip(self.taps, self.steps, strict=True))
        whole = np.zeros((height, width, *weight.shape[2:]), np.float32)
        whole[: weight.shape[0], : weight.shape[1]] = weight
        parts = whole.reshape(self.taps[0], self.steps[0], self.taps[1], self.steps[1], *weight.shape[2:])
        # The first tap meets the input that is last: [taps, taps, inputs, steps, steps, features].
        ordered = parts[::-1, :, ::-1].transpose(0, 2, 5, 1, 3, 4)
        return np.ascontiguousarray(ordered.reshape(*self.taps, weight.shape[3], -1))


def transposed_geometry(
    node: NodeDef, weight: Sequence[int], source: Sequence[int | None] | None, output: Sequence[int | None] | None
) -> TransposedGeometry | str:
    """The geometry of a Conv2DBackpropInput, or why it has none.

    Args:
        node: in the format NHWC.
        weight: shape of its filter, [height, width, features, inputs].
        source: shape of its input.
        output: shape of its result.
    """
    if any(each != 1 for each in node.attr["dilations"].list.i):
        return "it is dilated"
    if source is None or output is None or None in (*source[1:3], *output[1:3]):
        return UNKNOWN_SIZE
    steps = [int(each) for each in node.attr["strides"].list.i[1:3]]
    given = [int(each) for each in node.attr["explicit_paddings"].list.i]
    found = []
    for axis in (0, 1):
        read, size, step, length = source[axis + 1], output[axis + 1], steps[axis], weight[axis]
        assert read is not None
        assert size is not None
        padding = node.attr["padding"].s
        cut = 0
        if padding == b"SAME":
            cut = max((read - 1) * step + length - size, 0) // 2
        elif padding == b"EXPLICIT":
            cut = given[2 * (axis + 1)]
        taps = -(-length // step)
        count = -(-(cut + size) // step)
        if count < read:
            return "it drops inputs"
        found.append((step, taps, (taps - 1, count - read), count * step, cut, size))
    first, second = found
    return TransposedGeometry(*((a, b) for a, b in zip(first, second, strict=True)))  # type: ignore[arg-type]
