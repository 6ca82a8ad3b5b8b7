"""Weights that a model computes from constants, computed once."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, helper

from inc_autotune.core.arrays import Array
from inc_autotune.ort_ext.graph import Graph, GraphModel, initializer, is_plain, names_read
from inc_autotune.ort_ext.model.versions import STANDARD

_WEIGHT_PLACES = {"MatMul": (0, 1), "Gemm": (0, 1, 2), "Conv": (1, 2), "ConvTranspose": (1, 2), "Gather": (0,)}
_WEIGHT_PLACES |= dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2, 3))
_WEIGHT_PLACES |= dict.fromkeys(("Einsum", "FusedMatMul"), (0, 1))
"""Where these operators read a weight or a bias."""

_RANDOM = ("Random", "Bernoulli", "Multinomial")


def fold_weights(proto: ModelProto, weights: MutableMapping[str, Array]) -> None:
    """Compute, in place, the weights of products, convolutions and tables that nodes make from constants alone.

    That is what onnxruntime does when it loads a model: slices of a weight for all projections, a product of low-rank
    factors, a normalized weight. What `graph.constants` knows, such as a transposition, stays a node, since several
    readers then share what is stored. A matrix [1, in_features, out_features] becomes [in_features, out_features].

    Args:
        proto: a normalized model, whose weights may be only headers.
        weights: the values of its initializers; gets those of the new ones.
    """
    graph = Graph(GraphModel(proto, weights))
    folded = dict(_folded(graph))
    flat = dict(_flat_matrices(graph, folded))
    if not folded and not flat:
        return
    kept = [node for node in proto.graph.node if folded.keys().isdisjoint(node.output)]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    taken = names_read(proto.graph) | {each.name for each in proto.graph.initializer}
    for node in proto.graph.node:
        if node.name in flat:
            name = f"{node.input[1]}.matrix"
            while name in taken and not np.array_equal(weights.get(name, ()), flat[node.name]):
                name += "_"
            node.input[1] = name
            folded[name] = flat[node.name]
    read = names_read(proto.graph) | {each.name for each in proto.graph.input}
    stored = [each for each in proto.graph.initializer if each.name in read]
    stored += [initializer(name, value) for name, value in folded.items() if name in read]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(stored)
    weights.update(folded)


def _folded(graph: Graph) -> Iterator[tuple[str, Array]]:
    """Name and value of what is to become an initializer."""
    found: dict[str, Array] = {}
    needed = _needed(graph)
    for node in graph.nodes:
        if needed.isdisjoint(node.output) or not graph.outputs.isdisjoint(node.output):
            continue
        inputs = {name: _value(graph, found, name) for name in node.input if name}
        values = {name: value for name, value in inputs.items() if value is not None}
        if len(values) < len(inputs) or node.domain not in STANDARD or node.op_type.startswith(_RANDOM):
            continue
        outputs = _run(graph, node, values)
        found.update(outputs)
        yield from outputs.items()


def _needed(graph: Graph) -> set[str]:
    """The tensors that weights are computed from, in ways that `graph.constants` does not know."""
    needed: set[str] = set()
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
        else:
            needed.update(
                node.input[place] for place in _WEIGHT_PLACES.get(node.op_type, ()) if place < len(node.input)
            )
    return {name for name in needed if graph.computed_by(name) is not None}


def _value(graph: Graph, found: dict[str, Array], name: str) -> Array | None:
    if name in found:
        return found[name]
    return None if graph.shape(name) is None else graph.constant(name)


def _run(graph: Graph, node: NodeProto, values: dict[str, Array]) -> dict[str, Array]:
    """What onnxruntime makes of constants; nothing where it cannot, or not in dtypes that NumPy has."""
    names = [name for name in node.output if name]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in values.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    old = graph.model.proto
    model = helper.make_model(
        helper.make_graph([node], "constants", inputs, outputs),
        opset_imports=old.opset_import,
        ir_version=old.ir_version,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results = session.run(names, values)
    except Exception:  # whatever onnxruntime raises: it will say the same of the whole model
        return {}
    plain = all(
        isinstance(each, np.ndarray) and is_plain(helper.np_dtype_to_tensor_dtype(each.dtype)) for each in results
    )
    return dict(zip(names, results, strict=True)) if plain else {}


def _flat_matrices(graph: Graph, folded: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    """By name of the MatMul, weights of more than two dimensions that are one matrix, where that changes no shape."""
    for node in graph.nodes:
        if node.op_type != "MatMul" or node.domain not in STANDARD:
            continue
        name = node.input[1]
        shape = folded[name].shape if name in folded else graph.shape(name)
        rank = graph.rank(node.input[0])
        if shape is None or rank is None or not 2 < len(shape) <= rank or any(size != 1 for size in shape[:-2]):
            continue
        yield node.name, (folded[name] if name in folded else graph.constant(name)).reshape(shape[-2:])
