"""The phases of a transposed convolution read what it reads."""

from __future__ import annotations

from itertools import product

import pytest

from inc_autotune.torch_ext.modules.phases import dimension_phases

GEOMETRIES = [
    (kernel, stride, padding, dilation, output_padding)
    for kernel, stride, padding, dilation, output_padding in product(
        (1, 2, 3, 5), (1, 2, 3, 4), (0, 1, 4), (1, 2, 3), (0, 1)
    )
    if output_padding < max(stride, dilation)
]


def read(kernel, stride, padding, dilation, output_padding, length):
    """By output, pairs of an input and a tap."""
    size = (length - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    reads = [set() for _ in range(size)]
    for i, tap in product(range(length), range(kernel)):
        output = i * stride - padding + tap * dilation
        if 0 <= output < size:
            reads[output].add((i, tap))
    return reads


def read_by_phases(geometry, length, padding, extra):
    phases = dimension_phases(*geometry)
    count = length + 2 * padding + extra - phases.dilation * (phases.width - 1)
    reads = {}
    for rest, (taps, (before, behind)) in enumerate(zip(phases.taps, phases.crops(padding, extra), strict=True)):
        assert before >= 0
        assert behind >= 0
        for block, position in enumerate(range(before, count - behind)):
            inputs = [position - padding + phases.dilation * each for each in range(phases.width)]
            reads[block * geometry[1] + rest] = {
                (i, tap) for i, tap in zip(inputs, taps, strict=True) if tap is not None and 0 <= i < length
            }
    return [reads[output] for output in range(len(reads) - phases.surplus)]


@pytest.mark.parametrize("packed", ["for this output", "for the smallest output"])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_every_output_reads_the_inputs_and_taps_of_the_transposed_convolution(length, packed):
    for geometry in GEOMETRIES:
        expected = read(*geometry, length)
        padding = own = dimension_phases(*geometry).padding
        if packed == "for the smallest output":
            own = dimension_phases(*geometry[:4], 0).padding
        if expected:
            assert read_by_phases(geometry, length, own, max(padding - own, 0)) == expected, geometry


def test_no_phase_multiplies_by_more_zeros_than_it_must():
    assert dimension_phases(2, 2, 0, 1, 0).width == 1
    assert dimension_phases(4, 2, 1, 1, 0).width == 2
    assert dimension_phases(3, 2, 1, 1, 1).taps == ((1, None), (2, 0))
    assert dimension_phases(3, 1, 1, 1, 0).taps == ((2, 1, 0),)
