"""A transposed convolution as an ordinary one that makes every phase of its stride, with the phases interleaved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from inc_autotune.core.arrays import FloatArray
from inc_autotune.ort_ext.graph import Graph, attributes


@dataclass(frozen=True)
class Phases:
    """The ordinary convolution.

    Of an output, place `stride * m + phase`, every input `i` is multiplied by the kernel's element
    `stride * (m - i) + phase`: for each phase a convolution with every `stride`-th element of the kernel, reversed.

    Args:
        strides: of the transposed convolution, by dimension.
        taps: elements of the kernel of one phase.
        dilations: of the kernel; 1 where there is a stride, whose kernel has zeros in between instead.
        before: zeros in front of the input.
        after: zeros behind it.
        start: how many elements of the interleaved phases come before the output.
        rest: how many come after it.
        group: of the transposed convolution.
    """

    strides: tuple[int, ...]
    taps: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    start: tuple[int, ...]
    rest: tuple[int, ...]
    group: int

    @property
    def count(self) -> int:
        """How many phases there are."""
        return int(np.prod(self.strides))

    def kernel(self, weight: FloatArray, dilations: Sequence[int]) -> FloatArray:
        """The weight of the convolution.

        Args:
            weight: [in_channels, out_channels / group, *kernel].
            dilations: of the transposed convolution.

        Returns:
            float32 [out_channels * phases, in_channels / group, *taps], the phases of a channel side by side.
        """
        inputs, outputs, *_ = weight.shape
        dimensions = range(len(self.strides))
        full = np.zeros(
            (inputs, outputs, *(stride * taps for stride, taps in zip(self.strides, self.taps, strict=True))),
            np.float32,
        )
        places = [
            slice(None, (size - 1) * step + 1, step)
            for size, step in zip(weight.shape[2:], dilations if self.count > 1 else self.strides, strict=True)
        ]
        full[(slice(None), slice(None), *places)] = weight
        split = [size for pair in zip(self.taps, self.strides, strict=True) for size in pair]
        parts = full.reshape(self.group, inputs // self.group, outputs, *split)
        parts = np.flip(parts, tuple(3 + 2 * each for each in dimensions))
        order = [0, 2, *(4 + 2 * each for each in dimensions), 1, *(3 + 2 * each for each in dimensions)]
        kernel = parts.transpose(order).reshape(-1, inputs // self.group, *self.taps)
        return np.ascontiguousarray(kernel)


def find_phases(graph: Graph, node: onnx.NodeProto) -> Phases | str:
    """How a ConvTranspose is computed by an ordinary convolution; the reason where it is not."""
    given, shape = attributes(node), graph.shape(node.input[1]) or ()
    kernel = shape[2:]
    rank = len(kernel)
    strides = tuple(given.get("strides", [1] * rank))
    dilations, added = given.get("dilations", [1] * rank), given.get("output_padding", [0] * rank)
    sizes = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    if "output_shape" in given:
        inputs = (graph.sizes(node.input[0]) or ())[2:]
        if len(inputs) != rank or None in inputs:
            return "its output_shape makes its padding depend on the size of its input, which varies"
        full = [(size or 0) * stride for size, stride in zip(inputs, strides, strict=True)]
        outputs = given["output_shape"][-rank:]
    else:
        full = outputs = [0] * rank  # as many as the input has, times the stride, where the padding is automatic
    total = [
        size + more - stride + longest - wanted
        for size, more, stride, longest, wanted in zip(sizes, added, strides, full, outputs, strict=True)
    ]
    pads = _pads(given, total)
    if pads is None:
        return "its auto_pad or output_shape cuts more than its kernel adds"
    taps: list[int] = []
    before: list[int] = []
    after: list[int] = []
    start: list[int] = []
    rest: list[int] = []
    for place, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        first, last = pads[place], pads[rank + place]
        taps.append(-(-size // stride) if max(strides) > 1 else kernel[place])
        reach = -(-size // stride) - 1
        before.append(reach - first // stride)
        after.append((size + added[place] - last - 1) // stride)
        start.append(first % stride)
        rest.append(stride * (after[-1] + 1) - added[place] - size + last)
    if min(*before, *after, *rest) < 0:
        return "it cuts more of its output than its kernel adds"
    return Phases(
        strides,
        tuple(taps),
        tuple(dilations if max(strides) == 1 else [1] * rank),
        tuple(before),
        tuple(after),
        tuple(start),
        tuple(rest),
        given.get("group", 1),
    )


def _pads(given: dict[str, object], total: Sequence[int]) -> list[int] | None:
    """What is cut off before all dimensions of the output, then after them.

    Args:
        given: the attributes.
        total: what is cut off in each dimension where `pads` does not say it.
    """
    rank = len(total)
    mode = given.get("auto_pad", b"NOTSET")
    if "output_shape" not in given:
        if mode == b"VALID":
            return [0] * (2 * rank)
        if mode == b"NOTSET":
            pads = given.get("pads", [0] * (2 * rank))
            assert isinstance(pads, list)
            return pads
    if min(total) < 0:
        return None
    small, large = [each // 2 for each in total], [each - each // 2 for each in total]
    return [*small, *large] if mode == b"SAME_UPPER" else [*large, *small]
