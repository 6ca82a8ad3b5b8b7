"""Takes out of loops what does not depend on earlier steps: constants, and products of a sequence's elements.

Keras multiplies each element of a sequence by the input weights of a recurrent layer when its step comes. All together
they are one large product, which is faster in float and much faster in integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import op_def_registry

from inc_autotune.core.arrays import Array
from inc_autotune.tf_ext.graph import (
    CONDITION,
    COPIES,
    LOOPS,
    Body,
    Extra,
    Graph,
    GraphBuilder,
    SignatureGraph,
    bodies_of,
    calls,
    data_inputs,
    reshape,
    rewrite_call,
    shape_like,
    tensor_name,
    weight_extras,
)


@dataclass(frozen=True, eq=False)
class _Element:
    """A product of a sequence's element and a constant, in the body of a loop.

    Args:
        node: the product, a MatMul.
        item: the node that reads the element.
        sequence: tensor of the graph around, [steps, rows, inputs].
        weight: tensor of the graph around.
        features: of the product.
        total: an addition of something else before the bias; None: there is none.
        bias: an addition of a constant behind; None: there is none.
    """

    node: NodeDef
    item: NodeDef
    sequence: str
    weight: str
    features: int
    total: NodeDef | None
    bias: NodeDef | None


def with_lean_loops(signature: SignatureGraph) -> SignatureGraph:
    """The signature with loops that compute at each step only what depends on it.

    A product is taken out where a step multiplies the element of a sequence that it reads by a counter, and where
    counters alone end the loop, so that every element is read.
    """
    graph = Graph(signature)
    found: dict[str, list[Body]] = {}
    for body in bodies_of(graph):
        if graph.by_name[body.caller].op in LOOPS:
            found.setdefault(body.caller, []).append(body)
    if not found:
        return signature
    builder = GraphBuilder(graph)
    for node in graph.nodes:
        if node.name in found:
            _write(builder, node, found[node.name])
        else:
            builder.keep(node)
    return builder.build()


def _write(builder: GraphBuilder, loop: NodeDef, bodies: Sequence[Body]) -> None:
    body = next(each for each in bodies if each.key != CONDITION)
    condition = next(each for each in bodies if each.key == CONDITION)
    elements = list(_elements(builder.base, loop, body)) if _counts(condition) else []
    folded = _folded(body.graph)
    if not elements and not folded:
        builder.keep(loop)
        return
    inner = GraphBuilder(body.graph)
    constants = {
        tensor: inner.constant(f"{tensor.replace(':', '_')}/folded", value) for tensor, value in folded.items()
    }
    extras, written = [], set(map(tensor_name, folded))
    for each in elements:
        products = inner.compute("Placeholder", [], f"{body.path}/products", dtype=tf.variant, shape=tf.TensorShape([]))
        shape = inner.constant(f"{each.node.name}/element_shape", np.array([-1, each.features], np.int32))
        written.add(each.node.name)
        name = each.node.name
        if each.bias is not None:
            written.add(each.bias.name)
            if each.total is None:
                name = each.bias.name
            else:
                written.add(each.total.name)
                total = _reading(each.total, constants)
                total.name = each.bias.name
                inner.keep(total)
        inner.make("TensorListGetItem", [products, each.item.input[1], shape], name, element_dtype=tf.float32)
        given = _all_products(builder, body, each)
        extras.append(Extra(given, tf.variant, tf.TensorShape([]), {body.key: products}))
    for node in body.graph.nodes:
        if node.name not in written:
            inner.keep(_reading(node, constants))
    forms = {body.key: inner.build()}
    extras += weight_extras(builder.constant, bodies, forms)
    rewrite_call(builder, loop, bodies, forms, extras)


def _counts(condition: Body) -> bool:
    """Whether a loop ends by what counters say."""
    graph = condition.graph
    read = [graph.by_name[name] for name in condition.arguments if name in graph.consumers or name in graph.outputs]
    return all(tf.as_dtype(node.attr["dtype"].type).is_integer for node in read)


def _elements(graph: Graph, loop: NodeDef, body: Body) -> Iterator[_Element]:
    given = dict(zip(body.arguments, data_inputs(loop), strict=True))
    returned = dict(zip(body.arguments, (_origin(body.graph, tensor_name(each)) for each in body.results), strict=True))
    for node in body.graph.nodes:
        if node.op != "MatMul" or node.attr["transpose_a"].b or node.attr["T"].type != tf.float32.as_datatype_enum:
            continue
        left, right = map(tensor_name, node.input)
        item = body.graph.producer(_origin(body.graph, left))
        weight = body.graph.constant_node(right)
        if item.op != "TensorListGetItem" or weight not in given or body.graph.constant_node(left) is not None:
            continue
        sequence = _origin(body.graph, tensor_name(item.input[0]))
        if sequence not in given or returned[sequence] != sequence:
            continue
        maker = graph.producer(given[sequence])
        if maker.op != "TensorListFromTensor":
            continue
        value = body.graph.constant(right)
        assert value is not None
        features = value.shape[0 if node.attr["transpose_b"].b else 1]
        total, bias = _bias(body.graph, node)
        yield _Element(node, item, tensor_name(maker.input[0]), given[weight], features, total, bias)


def _bias(graph: Graph, node: NodeDef) -> tuple[NodeDef | None, NodeDef | None]:
    """The addition of a constant behind a product, perhaps after that of something else."""
    reader = graph.only_consumer(node.name)
    if reader is None:
        return None, None
    if _constant_bias(graph, reader, node.name):
        return None, reader
    behind = graph.only_consumer(reader.name) if reader.op in ("AddV2", "Add") else None
    same = set(data_inputs(reader)) == {node.name}
    if behind is None or same or not _constant_bias(graph, behind, reader.name):
        return None, None
    other = next(each for each in data_inputs(reader) if each != node.name)
    return (reader, behind) if graph.shape(other) == graph.shape(node.name) else (None, None)


def _constant_bias(graph: Graph, node: NodeDef, tensor: str) -> bool:
    if node.op != "BiasAdd" or node.attr["data_format"].s == b"NCHW":
        return False
    left, right = data_inputs(node)
    return left == tensor and graph.constant(right) is not None


def _origin(graph: Graph, tensor: str) -> str:
    """What a tensor is a copy of."""
    while graph.producer(tensor).op in COPIES:
        tensor = tensor_name(graph.producer(tensor).input[0])
    return tensor


def _all_products(builder: GraphBuilder, body: Body, element: _Element) -> str:
    """A list with the products of all elements, in the graph around."""
    name = element.node.name.removeprefix(f"{body.path}/")
    weight = body.graph.constant(tensor_name(element.node.input[1]))
    assert weight is not None
    inputs = weight.shape[1 if element.node.attr["transpose_b"].b else 0]
    flat = builder.constant(f"{name}/rows", np.array([-1, inputs], np.int32))
    rows = reshape(builder, element.sequence, flat, f"{name}/matrix")
    product = builder.compute(
        "MatMul",
        [rows, element.weight],
        name,
        T=tf.float32,
        transpose_a=False,
        transpose_b=element.node.attr["transpose_b"].b,
    )
    if element.bias is not None:
        value = body.graph.constant(tensor_name(element.bias.input[1]))
        assert value is not None
        bias = builder.constant(f"{name}/bias", value)
        product = builder.compute("BiasAdd", [product, bias], f"{name}/BiasAdd", T=tf.float32, data_format="NHWC")
    shape = shape_like(builder.base, builder, element.sequence, [element.features], name)
    steps = reshape(builder, product, shape, f"{name}/steps")
    each = builder.constant(f"{name}/element_shape", np.array([-1, element.features], np.int32))
    return builder.compute(
        "TensorListFromTensor", [steps, each], f"{name}/list", element_dtype=tf.float32, shape_type=tf.int32
    )


def _folded(graph: Graph) -> dict[str, Array]:
    """Values of the tensors that a body computes of constants alone, and that others of its nodes read."""
    constants: set[str] = set()
    for node in graph.nodes:
        read = list(data_inputs(node))
        definition = op_def_registry.get(node.op)
        is_constant = node.op == "Const" or node.name in graph.signature.weights
        if is_constant or (
            read
            and all(tensor.split(":")[0] in constants for tensor in read)
            and definition is not None
            and not definition.is_stateful
            and not any(True for _ in calls(node))
            and not any(each.startswith("^") for each in node.input)
        ):
            constants.add(node.name)
    wanted = dict.fromkeys(
        tensor
        for node in graph.nodes
        if node.name not in constants
        for tensor in data_inputs(node)
        if tensor.split(":")[0] in constants and graph.constant_node(tensor) is None
    )
    return {tensor: value for tensor, value in graph.values(list(wanted)).items() if _is_tensor(value)}


def _is_tensor(value: object) -> bool:
    """Whether a value is an array of numbers, not a list of tensors or a resource."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def _reading(node: NodeDef, names: Mapping[str, str]) -> NodeDef:
    copy = NodeDef()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(tensor_name(each), each) for each in node.input]
    return copy
