"""Brings a graph into one form: no functions, no Constant nodes, no weights as inputs, every node with its own name."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import MutableMapping

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, inliner, numpy_helper

from inc_autotune.core.arrays import Array
from inc_autotune.graphs import reserved
from inc_autotune.ort_ext.graph import bodies, initializer, is_plain

logger = logging.getLogger(__name__)

OLDEST_IR_WITH_INITIALIZERS_ONLY = 4
"""Before this version of the file format every initializer had to be an input too."""


def normalize(proto: ModelProto, weights: MutableMapping[str, Array]) -> ModelProto:
    """The same model in one form.

    Args:
        proto: a model without weights, of one opset; may be changed.
        weights: gets the values of the new initializers.
    """
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    graph = proto.graph
    if proto.ir_version < OLDEST_IR_WITH_INITIALIZERS_ONLY or _lists_all_weights(graph):
        _drop_optional_inputs(graph)
    _move_constants(graph, weights)
    proto.ir_version = max(proto.ir_version, OLDEST_IR_WITH_INITIALIZERS_ONLY)
    _name_nodes(graph)
    return proto


def _move_constants(graph: GraphProto, weights: MutableMapping[str, Array]) -> None:
    outputs = {output.name for output in graph.output}
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        value = _constant_value(node)
        if value is None or node.output[0] in outputs:
            continue
        weights[node.output[0]] = value
        graph.initializer.append(initializer(node.output[0], value))
        del graph.node[index]


def _constant_value(node: NodeProto) -> Array | None:
    """Value of a Constant node of numbers; None for other nodes, strings, sparse values and dtypes NumPy lacks."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(attribute.t) if is_plain(attribute.t.data_type) else None
    if attribute.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
        return np.asarray(helper.get_attribute_value(attribute), np.float32)
    if attribute.type in (AttributeProto.INT, AttributeProto.INTS):
        return np.asarray(helper.get_attribute_value(attribute), np.int64)
    return None


def _lists_all_weights(graph: GraphProto) -> bool:
    """Whether all initializers are inputs too.

    Some exporters write them so by habit, without a thought of callers who would replace them. Where only some are
    inputs, these are meant to be replaced, and so are no constants.
    """
    inputs = {each.name for each in graph.input}
    weights = [each for each in graph.initializer if len(each.dims) > 1]
    if not weights or not all(each.name in inputs for each in graph.initializer):
        return False
    logger.warning(
        "all %d initializers of the model are inputs too: they are taken for constants, which callers of the quantized "
        "model cannot replace",
        len(graph.initializer),
    )
    return True


def _drop_optional_inputs(graph: GraphProto) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    for index in reversed(range(len(graph.input))):
        if graph.input[index].name in constants:
            del graph.input[index]


def _name_nodes(graph: GraphProto) -> None:
    """Give `MatMul_3` to the fourth MatMul where it has no name, or the name of a node before it."""
    used = {node.name for node in graph.node}
    seen: set[str] = set()
    counts: Counter[str] = Counter()
    for node in graph.node:
        if not node.name or node.name in seen:
            node.name = reserved(f"{node.name or node.op_type}_{counts[node.op_type]}", used)
        seen.add(node.name)
        counts[node.op_type] += 1
        for _, body in bodies(node):
            _name_nodes(body)
