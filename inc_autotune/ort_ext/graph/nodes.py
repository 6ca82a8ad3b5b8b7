"""Single nodes: their attributes, and copies with other inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import helper

LINEAR_TYPES = ("MatMul", "Gemm")
"""Operator types that multiply by a matrix."""


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def given_input(node: onnx.NodeProto, index: int) -> str:
    """The name of an input; empty where it is left out."""
    return str(node.input[index]) if len(node.input) > index else ""


def with_inputs(node: onnx.NodeProto, inputs: Mapping[int, str]) -> onnx.NodeProto:
    """A copy of a node that reads other tensors.

    Args:
        node: is not changed.
        inputs: tensor names by index of the input, which may lie beyond the last one. An empty name leaves an optional
            input out; empty names at the end are dropped.
    """
    names = list(node.input)
    names += [""] * (max(inputs, default=-1) + 1 - len(names))
    for index, name in inputs.items():
        names[index] = name
    while names and not names[-1]:
        names.pop()
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    changed.input[:] = names
    return changed


def is_depthwise(convolution: onnx.NodeProto, kernel: Sequence[int]) -> bool:
    """Whether a Conv computes one output channel from each input channel alone.

    Args:
        convolution: the node.
        kernel: shape of its weight.
    """
    return tuple(kernel[:2]) == (attributes(convolution).get("group", 1), 1)
