"""A function of TensorFlow as a graph without variables, simplified by TensorFlow's own passes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.training import saver

from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ModelError
from inc_autotune.graphs import reserved
from inc_autotune.tf_ext.graph import (
    SignatureGraph,
    Table,
    TensorDescription,
    body_nodes,
    is_weight_size,
    name_by_content,
)
from inc_autotune.tf_ext.model.check import check_function, check_graph, check_inputs, check_placeholders
from inc_autotune.tf_ext.model.control_inputs import with_waiting_copies
from inc_autotune.tf_ext.model.folding import with_folded_weights
from inc_autotune.tf_ext.model.half_precision import half_type, in_float32
from inc_autotune.tf_ext.model.inlining import inlined
from inc_autotune.tf_ext.model.loops import with_lean_loops
from inc_autotune.tf_ext.model.matrix_products import with_matrix_products
from inc_autotune.tf_ext.model.tables import tables_of

PASSES = ("pruning", "constfold", "dependency", "constfold", "dependency", "pruning")
"""Folds BatchNorm into convolutions among others. Passes that fuse (remapper) or change layouts stay off."""

LARGEST_GRAPH = 2**31 - 2**20
"""Bytes of variables that a graph can hold, which is a protocol buffer."""


def frozen(name: str, function: Any, *, ordered: bool, owner: Any = None) -> SignatureGraph:
    """A signature without variables, simplified.

    Args:
        name: of the signature.
        function: a ConcreteFunction; the variables it reads must be alive.
        ordered: whether the order of its inputs means something.
        owner: the user's model, which holds the tables that the function reads.

    Raises:
        ModelError: it is in training mode, is quantized already, holds too much, reads resources that `owner` does not
            hold, or has inputs that are no dense tensors of numbers or text.
    """
    names = _input_names(function)
    check_inputs(name, [described(key, tensor) for key, tensor in zip(names, function.inputs, strict=False)])
    check_function(name, function)
    held = sum(variable.shape.num_elements() * variable.dtype.size for variable in function.graph.variables)
    if held > LARGEST_GRAPH:
        raise ModelError(
            f"model: the variables of signature {name!r} take {held / 2**30:.1f} GiB, but a graph of TensorFlow holds "
            "2. Split the model, or keep large embedding tables outside."
        )
    constant = with_constants(function)
    unfrozen = {tensor.name.split(":")[0]: tensor for tensor in constant.inputs[len(names) :]}
    tables = tables_of(name, function, unfrozen, owner)
    inputs = [described(key, tensor) for key, tensor in zip(names, constant.inputs, strict=False)]
    output_names = _output_names(function.structured_outputs)
    outputs = [described(key, tensor) for key, tensor in zip(output_names, constant.outputs, strict=True)]
    outputs = [_with_shape_of(each, known) for each, known in zip(outputs, function.outputs, strict=True)]
    graph_def = constant.graph.as_graph_def()
    del constant, unfrozen  # they hold copies of all weights
    return signature_graph(name, graph_def, inputs, outputs, ordered=ordered, tables=tables)


def with_constants(function: Any) -> Any:
    """A ConcreteFunction whose variables have become constants, and whose calls are inlined."""
    with _quiet():
        return convert_variables_to_constants_v2(function, lower_control_flow=False)


def signature_graph(
    name: str,
    graph_def: GraphDef,
    inputs: Sequence[TensorDescription],
    outputs: Sequence[TensorDescription],
    *,
    ordered: bool,
    tables: Mapping[str, Table] | None = None,
) -> SignatureGraph:
    """A graph without variables as a signature: checked, simplified, with its weights apart.

    Args:
        name: of the signature.
        graph_def: with weights as constants.
        inputs: of the signature.
        outputs: of the signature.
        ordered: whether the order of the inputs means something.
        tables: by name of the placeholders that stand for them.

    Raises:
        ModelError: see `frozen`.
    """
    check_graph(name, graph_def, inputs)
    graph_def = inlined(graph_def)
    half = half_type(graph_def)
    if half is not None:
        graph_def, outputs = in_float32(graph_def, inputs, outputs)
    tables = tables or {}
    ends = [*(each.tensor.split(":")[0] for each in (*inputs, *outputs)), *tables]
    simple = _simplified(_prepared(graph_def, ends), ends)
    check_placeholders(name, simple, inputs, tables)
    simple = with_waiting_copies(simple)
    name_by_content(simple)
    for node in simple.node:
        _strip(node)
    bodies = {path: node.op for path, node in body_nodes(simple)}
    without, weights = _split(simple)
    signature = SignatureGraph(
        *(name, without, weights, tuple(inputs), tuple(outputs), ordered, bodies, tables), half_type=half
    )
    return with_matrix_products(with_folded_weights(with_lean_loops(signature)))


def _input_names(function: Any) -> list[str]:
    """What a caller calls the inputs; a function that was made from a graph only knows its placeholders."""
    if function._arg_keywords is not None:  # other sources spell names that are no Python words differently
        return list(function._arg_keywords)
    given = function.inputs[: len(function.inputs) - len(function.captured_inputs)]
    return [tensor.name.split(":")[0] for tensor in given]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without TensorFlow's warning that it cannot write down collections of the graph, which nobody reads."""
    logger = logging.getLogger("tensorflow")
    logger.addFilter(_is_no_collection_warning)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_collection_warning)


def _is_no_collection_warning(record: logging.LogRecord) -> bool:
    return "CollectionDef" not in record.getMessage()


def described(name: str, tensor: Any) -> TensorDescription:
    """A symbolic tensor as an input or output of this name."""
    shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    return TensorDescription(name, tensor.dtype, shape, tensor.name)


def _with_shape_of(output: TensorDescription, tensor: Any) -> TensorDescription:
    """The output with what is known of a tensor's shape too: freezing loses some of what the function declares."""
    shape = tf.TensorShape(output.shape)
    if shape.is_compatible_with(tensor.shape):
        shape = shape.merge_with(tensor.shape)
    return replace(output, shape=None if shape.rank is None else tuple(shape.as_list()))


def _output_names(structure: Any) -> list[str]:
    """Names of outputs as a SavedModel gives them: keys of a dict, which TensorFlow sorts, else `output_0` and on."""
    if isinstance(structure, Mapping):
        return sorted(structure)
    return [f"output_{index}" for index, _ in enumerate(tf.nest.flatten(structure, expand_composites=True))]


def _prepared(graph_def: GraphDef, ends: Sequence[str]) -> GraphDef:
    """A copy with values for placeholders that have a default, such as a training switch, and names for constants."""
    result = GraphDef()
    result.CopyFrom(graph_def)
    for node in result.node:
        if node.op == "PlaceholderWithDefault" and node.name not in ends:
            node.op = "Identity"
            node.attr["T"].CopyFrom(node.attr["dtype"])
            del node.attr["dtype"], node.attr["shape"]
    _name_by_reader(result, ends)
    return result


def _name_by_reader(graph_def: GraphDef, ends: Sequence[str]) -> None:
    """Rename nodes that are called by a number, as TensorFlow counts captured constants through the process."""
    numbered = {node.name for node in graph_def.node if node.name.split("/")[-1].isdigit()}.difference(ends)
    taken = {node.name for node in graph_def.node}
    renamed: dict[str, str] = {}
    for node in graph_def.node:
        for position, source in enumerate(node.input):
            control, name, rest = _parts(source)
            if name in numbered:
                if name not in renamed:
                    renamed[name] = reserved(f"{node.name}/input_{position}", taken)
                node.input[position] = control + renamed[name] + rest
    for node in graph_def.node:
        node.name = renamed.get(node.name, node.name)


def _parts(source: str) -> tuple[str, str, str]:
    """The `^` of a control input, the name of the node, and the `:1` of an output that is not the first."""
    control = "^" if source.startswith("^") else ""
    name, colon, index = source.removeprefix("^").partition(":")
    return control, name, colon + index


def _simplified(graph_def: GraphDef, ends: Sequence[str]) -> GraphDef:
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(graph_def, name="")
    meta_graph = saver.export_meta_graph(graph_def=graph.as_graph_def(add_shapes=True), graph=graph)
    meta_graph.collection_def["train_op"].node_list.value.extend(ends)
    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.optimizers.extend(PASSES)
    options.min_graph_nodes = -1
    options.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.TWO
    result: GraphDef = tf_optimizer.OptimizeGraph(config, meta_graph)
    return result


def _strip(node: NodeDef) -> None:
    """Drop what says nothing about the operator, such as names that TensorFlow numbers through the process."""
    node.ClearField("experimental_debug_info")
    for key in ("_output_shapes", "_user_specified_name"):
        if key in node.attr:
            del node.attr[key]


def _split(graph_def: GraphDef) -> tuple[GraphDef, dict[str, Array]]:
    """The graph with constants of more than 1 KiB as placeholders, and their values by name."""
    weights: dict[str, Array] = {}
    result = GraphDef(versions=graph_def.versions, library=graph_def.library)
    for node in graph_def.node:
        value = _constant(node)
        if value is None or not is_weight_size(value):
            result.node.add().CopyFrom(node)
            continue
        weights[node.name] = value
        placeholder = result.node.add(op="Placeholder", name=node.name)
        placeholder.attr["dtype"].CopyFrom(node.attr["dtype"])
        placeholder.attr["shape"].shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
    return result, weights


def _constant(node: NodeDef) -> Array | None:
    if node.op != "Const" or node.attr["dtype"].type == tf.string.as_datatype_enum:
        return None
    value: Array = tf.make_ndarray(node.attr["value"].tensor)
    value.flags.writeable = False
    return value
