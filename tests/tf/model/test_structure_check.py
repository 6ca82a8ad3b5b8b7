"""Graphs that end the process when TensorFlow reads them are refused before."""

from __future__ import annotations

import pytest
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from inc_autotune import tf_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.tf_ext.model.structure_check import check_structure
from tests.tf.small_models import chain_data, frozen_graph, two_signatures


def node(graph, op):
    return next(each for each in graph.node if each.op == op)


def large_input(graph):
    node(graph, "Placeholder").attr["shape"].shape.dim[0].size = 2**31 - 1


def unknown_type_of_a_constant(graph):
    node(graph, "Const").attr["value"].tensor.dtype = 99


def another_type_of_a_constant(graph):
    node(graph, "Const").attr["dtype"].type = 3


def too_few_bytes(graph):
    tensor = node(graph, "Const").attr["value"].tensor
    tensor.tensor_content = tensor.tensor_content[:-1]


def large_constant(graph):
    tensor = node(graph, "Const").attr["value"].tensor
    tensor.ClearField("tensor_content")
    tensor.tensor_shape.dim[0].size = 2**40


def constant_without_a_shape(graph):
    node(graph, "Const").attr["value"].tensor.tensor_shape.dim[0].size = -1


def unknown_type_of_an_attribute(graph):
    node(graph, "MatMul").attr["T"].type = 99


def nameless_function(graph):
    graph.library.function.add()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (large_input, "'shape' of 'x' declares 68719476704 elements"),
        (unknown_type_of_a_constant, "'value' of 'weight' is of type 99"),
        (another_type_of_a_constant, "constant 'weight' has values of another type"),
        (too_few_bytes, "has 639 bytes for 160 values"),
        (large_constant, "more than 2147483648"),
        (constant_without_a_shape, "without a shape"),
        (unknown_type_of_an_attribute, "'T' of 'product' is of type 99"),
        (nameless_function, "function of the graph has no name"),
    ],
)
def test_what_would_end_the_process_is_refused(damage, words):
    graph = frozen_graph()
    damage(graph)
    with pytest.raises(ModelError, match=words):
        tf_ext.autotune(graph, chain_data(2), progress=False)


def test_graphs_inside_a_saved_model_are_looked_at_too(tmp_path):
    path = two_signatures(tmp_path / "model") / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    saved.meta_graphs[0].graph_def.library.function[0].signature.name = ""
    path.write_bytes(saved.SerializeToString())
    for use in (lambda: tf_ext.autotune(path.parent, chain_data(2)), lambda: tf_ext.load(path.parent)):
        with pytest.raises(ModelError, match="has no name"):
            use()


def test_looking_changes_nothing():
    graph, expected = frozen_graph(), GraphDef()
    graph.node.add(op="Const", name="without attributes")
    expected.CopyFrom(graph)
    check_structure(graph)
    assert graph == expected
