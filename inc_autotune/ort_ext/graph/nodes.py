"""What single nodes are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import helper

LINEAR_TYPES = ("MatMul", "Gemm")
"""Operator types that multiply by a matrix."""


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def is_depthwise(convolution: onnx.NodeProto, kernel: Sequence[int]) -> bool:
    """Whether each input channel of a Conv makes one output channel by itself.

    Args:
        convolution: the node.
        kernel: shape of its weight.
    """
    return tuple(kernel[:2]) == (attributes(convolution).get("group", 1), 1)
