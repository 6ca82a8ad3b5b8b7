"""Transposed convolutions, on the integer kernels of ordinary ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from inc_autotune.core.op_config import OpConfig
from inc_autotune.ort_ext.emission.context import Emission
from inc_autotune.ort_ext.emission.convolution import Convolution, emit_kernel
from inc_autotune.ort_ext.graph import Graph, attributes
from inc_autotune.ort_ext.operators import Operator, Phases, find_phases


def transposed_convolution_of(graph: Graph, operator: Operator) -> tuple[Convolution, Phases]:
    """The Conv that makes all phases of a ConvTranspose for which `find_phases` finds some, and these."""
    node = graph.by_name[operator.name]
    phases = find_phases(graph, node)
    assert isinstance(phases, Phases)
    dilations = attributes(node).get("dilations", [1] * len(phases.strides))
    convolution = Convolution(
        version=("phases", phases),
        kernel=lambda: phases.kernel(graph.constant(operator.weight), dilations),
        bias=None if operator.bias is None else np.repeat(graph.constant(operator.bias), phases.count),
        attributes={
            "pads": [*phases.before, *phases.after],
            "dilations": list(phases.dilations),
            "group": phases.group,
        },
    )
    return convolution, phases


def emit_transposed_convolution(
    emission: Emission,
    operator: Operator,
    config: OpConfig,
    limits: tuple[float, float],
    output: str,
    output_limits: tuple[float, float] | None,
) -> None:
    """Write a Conv of all phases of the stride, and what interleaves them, in integers too.

    Args:
        emission: the model under construction.
        operator: a ConvTranspose for which `find_phases` finds some.
        config: static.
        limits: smallest and largest value of the operator's input.
        output: name for the float output.
        output_limits: the range that the output is quantized with; None where it stays float.
    """
    builder, name = emission.builder, operator.name
    convolution, phases = transposed_convolution_of(emission.graph, operator)
    result = builder.new(f"{name}.phases") if phases.count > 1 or _is_cut(phases) else output
    first = ""
    emit_kernel(emission, operator, convolution, config, limits, result)
    moves = _moves(emission, operator, phases, result)
    for number, (op_type, others, given) in enumerate(moves, start=1):
        if output_limits is not None:
            integers = builder.new(f"{name}.{op_type}.input")
            if number == 1:
                emission.put_on_grid(integers, result, config.activation, output_limits)
            else:
                emission.put_on_same_grid(integers, result, first)
            first = integers if number == 1 else first
            result = integers
        made = output if number == len(moves) else builder.new(f"{name}.{op_type}.output")
        builder.produce(op_type, [result, *others], [made], builder.new_node(f"{name}.{op_type}"), **given)
        result = made


def _is_cut(phases: Phases) -> bool:
    return any(phases.start) or any(phases.rest)


def _moves(
    emission: Emission, operator: Operator, phases: Phases, source: str
) -> list[tuple[str, list[str], dict[str, Any]]]:
    """Types, further inputs and attributes of the nodes that make the output of the phases, which only move values.

    Arguments are those of `emit_transposed_convolution`, with the name of the phases.
    """
    builder, name, rank = emission.builder, operator.name, len(phases.strides)

    def integers(what: str, value: list[int]) -> str:
        return builder.constant(f"{name}.{what}", np.asarray(value, np.int64))

    moves: list[tuple[str, list[str], dict[str, Any]]] = []
    strides = [stride for stride in phases.strides if stride > 1]
    if rank == 2 and len(strides) == 2 and strides[0] == strides[1]:
        moves.append(("DepthToSpace", [], {"blocksize": strides[0], "mode": "CRD"}))
    elif strides:
        channels = (emission.graph.shape(operator.weight) or (0, 0))[1] * phases.group
        split, joined = _shapes(emission, operator, phases, source, [0, channels])
        places = iter(range(2, 2 + len(strides)))
        order = [0, 1]
        for dimension, stride in enumerate(phases.strides, start=2 + len(strides)):
            order += [dimension, next(places)] if stride > 1 else [dimension]
        moves.append(("Reshape", [split], {}))
        moves.append(("Transpose", [], {"perm": order}))
        moves.append(("Reshape", [joined], {}))
    if _is_cut(phases):
        ends = [-each or np.iinfo(np.int64).max for each in phases.rest]
        axes = list(range(2, 2 + rank))
        limits = [integers("starts", list(phases.start)), integers("ends", ends), integers("axes", axes)]
        moves.append(("Slice", limits, {}))
    return moves


def _shapes(
    emission: Emission, operator: Operator, phases: Phases, source: str, beginning: list[int]
) -> tuple[str, str]:
    """Shapes of the phases with one dimension for each stride above 1, and of the phases interleaved.

    Args:
        emission, operator, phases: as above.
        source: name of the phases, [batch, channels * phases, *space].
        beginning: of both shapes: 0, as in the phases, for the batch, and the channels.
    """
    builder, name, rank = emission.builder, operator.name, len(phases.strides)
    strides = [stride for stride in phases.strides if stride > 1]

    def integers(what: str, value: list[int]) -> str:
        return builder.constant(f"{name}.{what}", np.asarray(value, np.int64))

    node = emission.graph.by_name[operator.name]
    given = (emission.graph.sizes(node.input[0]) or (None,) * (2 + rank))[2:]
    spans = [(taps - 1) * dilation for taps, dilation in zip(phases.taps, phases.dilations, strict=True)]
    around = [before + after - span for before, after, span in zip(phases.before, phases.after, spans, strict=True)]
    sizes = [-1 if size is None else size + more for size, more in zip(given, around, strict=True)]
    if sizes.count(-1) <= 1:
        whole = [-1 if size < 0 else size * stride for size, stride in zip(sizes, phases.strides, strict=True)]
        return integers("split", [*beginning, *strides, *sizes]), integers("joined", [*beginning, *whole])
    # Of the sizes that are known at run time only, a Reshape finds out no more than one.
    shape = builder.compute("Shape", [source], f"{name}.shape")
    limits = integers("space", [2]), integers("end", [2 + rank])
    space = builder.compute("Slice", [shape, *limits], f"{name}.space")
    whole_space = builder.compute("Mul", [space, integers("strides", list(phases.strides))], f"{name}.whole")
    split = builder.compute("Concat", [integers("split", [*beginning, *strides]), space], f"{name}.split", axis=0)
    joined = builder.compute("Concat", [integers("joined", beginning), whole_space], f"{name}.joined", axis=0)
    return split, joined
