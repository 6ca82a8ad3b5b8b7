"""Reading a model: every form of the argument, weights taken out, one form of graph."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from inc_autotune import ort_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.ort_ext.graph.graph_model import embedded, headers
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from tests.ort.small_models import WIDTH, GraphWriter, embedding_classifier, linear_chain, transformer_block, vectors


def initializers(proto: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def saved_with_external_data(proto: ModelProto, path: Path) -> Path:
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_every_form_of_a_model_gives_the_same_weights(tmp_path: Path) -> None:
    proto = linear_chain()
    onnx.save(linear_chain(), tmp_path / "plain.onnx")
    external = saved_with_external_data(linear_chain(), tmp_path / "external.onnx")
    forms = [
        *(proto, proto.SerializeToString(), tmp_path / "plain.onnx", str(external)),
        SimpleNamespace(model_proto=proto),
    ]
    for form in forms:
        source = load_source(form)
        for name, value in initializers(proto).items():
            assert np.array_equal(source.weights[name], value)
        assert [node.name for node in source.proto.graph.node] == [node.name for node in proto.graph.node]


def test_the_path_is_known_only_for_a_file(tmp_path: Path) -> None:
    onnx.save(linear_chain(), tmp_path / "a.onnx")
    assert load_source(tmp_path / "a.onnx").path == tmp_path / "a.onnx"
    assert load_source(linear_chain()).path is None


def test_a_given_proto_is_not_changed() -> None:
    proto = with_unnamed_nodes(linear_chain())
    before = proto.SerializeToString(deterministic=True)
    load_source(proto)
    assert proto.SerializeToString(deterministic=True) == before


def test_only_small_initializers_keep_their_data_in_the_proto() -> None:
    source = load_source(linear_chain())
    assert [tensor.name for tensor in headers(source.proto)] == ["fc1.weight", "fc2.weight"]
    assert source.proto.ByteSize() < 1500 < source.weights["fc1.weight"].nbytes


def test_external_data_is_mapped_and_not_copied(tmp_path: Path) -> None:
    path = saved_with_external_data(linear_chain(), tmp_path / "model.onnx")
    weight = load_source(path).weights["fc1.weight"]
    assert not weight.flags.owndata
    assert not weight.flags.writeable


def test_an_unaligned_tensor_in_a_file_is_read_right(tmp_path: Path) -> None:
    path = saved_with_external_data(linear_chain(), tmp_path / "model.onnx")
    proto = onnx.load(path, load_external_data=False)
    (tmp_path / "weights.bin").write_bytes(b"x" + (tmp_path / "weights.bin").read_bytes())
    for tensor in proto.graph.initializer:
        entries = {entry.key: entry for entry in tensor.external_data}
        entries["offset"].value = str(int(entries["offset"].value) + 1)
    onnx.save(proto, path)
    source = load_source(path)
    for name, value in initializers(linear_chain()).items():
        assert np.array_equal(source.weights[name], value)
    assert source.weights["fc1.weight"].flags.aligned


def test_embedding_the_weights_gives_the_model_back() -> None:
    proto = transformer_block()
    assert embedded(load_source(proto)).SerializeToString(deterministic=True) == proto.SerializeToString(
        deterministic=True
    )


def test_inputs_are_described() -> None:
    inputs = load_source(embedding_classifier()).inputs
    assert [str(each) for each in inputs] == [
        "input_ids: int64 [batch, sequence]",
        "attention_mask: int64 [batch, sequence]",
    ]
    assert inputs[0].shape == ("batch", "sequence")


def test_fixed_and_unnamed_dimensions_and_unknown_rank_are_described() -> None:
    graph = GraphWriter()
    graph.add("Sum", "a", "b", "c")
    kinds = {"a": (TensorProto.FLOAT, [2, None]), "b": (TensorProto.FLOAT, [1]), "c": (TensorProto.FLOAT, [])}
    proto = graph.model(kinds, 2)
    proto.graph.input[1].type.tensor_type.ClearField("shape")
    a, b, c = load_source(proto).inputs
    assert (a.shape, b.shape, c.shape) == ((2, None), None, ())
    assert (str(a), str(b)) == ("a: float32 [2, ?]", "b: float32")


@pytest.mark.parametrize("unknown", [-1, -2, "-1", "?", "None", ""])
def test_sizes_that_exporters_do_not_know_are_unknown(unknown: int | str) -> None:
    graph = GraphWriter()
    graph.add("Sum", "a", "b")
    kinds = {name: (TensorProto.FLOAT, [unknown, 3, unknown]) for name in "ab"}
    proto = graph.model(kinds, 3)
    assert [each.shape for each in load_source(proto).inputs] == [(None, 3, None)] * 2
    declared = list(proto.graph.input[0].type.tensor_type.shape.dim)
    assert list(load_source(proto).proto.graph.input[0].type.tensor_type.shape.dim) == declared


def test_a_model_with_sizes_of_minus_one_is_tuned() -> None:
    proto = linear_chain()
    for each in (*proto.graph.input, *proto.graph.output):
        each.type.tensor_type.shape.dim[0].dim_value = -1
    tuned = ort_ext.autotune(proto, vectors(), progress=False)
    assert all(each.config.is_quantized for each in tuned.recipe.operators.values())
    assert ort_ext.session(tuned).run(None, {"x": vectors()[0]})[0].shape == (4, 5)


def test_what_has_an_initializer_is_no_input() -> None:
    proto = linear_chain()
    proto.ir_version = 3
    proto.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in proto.graph.initializer
    )
    source = load_source(proto)
    assert [each.name for each in source.inputs] == ["x"]
    assert [each.name for each in make_session(source).get_inputs()] == ["x"]


def with_unnamed_nodes(proto: ModelProto) -> ModelProto:
    for node in proto.graph.node:
        node.name = ""
    return proto


def test_unnamed_nodes_get_names_and_repeated_ones_are_told_apart() -> None:
    names = [node.name for node in load_source(with_unnamed_nodes(linear_chain())).proto.graph.node]
    assert names == ["MatMul_0", "Add_0", "Relu_0", "MatMul_1", "Add_1"]

    proto = linear_chain()
    for node, name in zip(proto.graph.node, ["MatMul_1", "add", "", "", "add"], strict=True):
        node.name = name
    names = [node.name for node in load_source(proto).proto.graph.node]
    assert names == ["MatMul_1", "add", "Relu_0", "MatMul_1_", "add_1"]


def test_constant_nodes_become_initializers() -> None:
    graph = GraphWriter()
    weight = np.arange(WIDTH * 10, dtype=np.float32).reshape(WIDTH, 10)
    tensor = graph.add("Constant", value=numpy_helper.from_array(weight))
    scalar = graph.add("Constant", value_float=0.5)
    shape = graph.add("Constant", value_ints=[-1, 5])
    x = graph.add("Mul", graph.add("MatMul", "x", tensor), scalar)
    graph.add("Reshape", x, shape)
    proto = graph.model({"x": (TensorProto.FLOAT, ["batch", WIDTH])}, 2)
    source = load_source(proto)
    assert [node.op_type for node in source.proto.graph.node] == ["MatMul", "Mul", "Reshape"]
    assert np.array_equal(source.weights[tensor], weight)
    assert source.weights[scalar].tolist() == 0.5
    assert source.weights[shape].dtype == np.int64
    assert source.weights[shape].tolist() == [-1, 5]
    x = vectors(1)[0]
    assert np.allclose(make_session(source).run(None, {"x": x})[0], (x @ weight / 2).reshape(-1, 5), rtol=1e-5)


def test_a_constant_that_is_an_output_stays_a_node() -> None:
    graph = GraphWriter()
    graph.add("Constant", value_float=2.0)
    source = load_source(graph.model({}, 1))
    assert [node.op_type for node in source.proto.graph.node] == ["Constant"]
    assert make_session(source).run(None, {})[0] == 2


def test_functions_are_inlined() -> None:
    proto = linear_chain()
    double = helper.make_function(
        "local", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    proto.functions.append(double)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    relu = next(node for node in proto.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain = "Double", "local"
    source = load_source(proto)
    assert "Double" not in {node.op_type for node in source.proto.graph.node}
    x = vectors(1)[0]
    value = initializers(proto)
    expected = 2 * (x @ value["fc1.weight"] + value["fc1.bias"]) @ value["fc2.weight"] + value["fc2.bias"]
    assert np.allclose(make_session(source).run(None, {"x": x})[0], expected, atol=1e-5)


def conditional() -> ModelProto:
    """`x` through MatMul, and through a second one in a branch of an If that reads an outer weight."""
    graph = GraphWriter()
    weight = graph.random("weight", WIDTH, WIDTH)
    x = graph.add("MatMul", "x", weight, name="first")
    branches = {}
    for name, op_type in (("then_branch", "MatMul"), ("else_branch", "Add")):
        output = [helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, None)]
        nodes = [helper.make_node(op_type, [x, "weight" if op_type == "MatMul" else x], [f"{name}.y"])]
        branches[name] = helper.make_graph(nodes, name, [], output)
    graph.add("If", "flag", name="choice", **branches)
    return graph.model({"x": (TensorProto.FLOAT, ["batch", WIDTH]), "flag": (TensorProto.BOOL, [])}, 2)


def test_operators_in_bodies_are_listed() -> None:
    source = load_source(conditional())
    assert source.body_operators == {"choice/then_branch/MatMul_0": "MatMul", "choice/else_branch/Add_0": "Add"}
    assert source.proto.graph.node[1].attribute[0].type == onnx.AttributeProto.GRAPH


def test_a_body_reads_the_shared_weights() -> None:
    source = load_source(conditional())
    x = vectors(1)[0]
    weight = source.weights["weight"]
    assert np.allclose(
        make_session(source).run(None, {"x": x, "flag": np.asarray(True)})[0], x @ weight @ weight, atol=1e-5
    )


@pytest.mark.parametrize("data_type", [TensorProto.BFLOAT16, TensorProto.INT4, TensorProto.STRING])
def test_dtypes_that_numpy_lacks_stay_in_the_proto(data_type: int) -> None:
    proto = linear_chain(opset=21)
    values = [b"a", b"b"] if data_type == TensorProto.STRING else [1, 2]
    proto.graph.initializer.append(helper.make_tensor("other", data_type, [2], values))
    source = load_source(proto)
    assert "other" not in source.weights
    assert next(each for each in source.proto.graph.initializer if each.name == "other") == proto.graph.initializer[-1]


def test_inputs_other_than_tensors_are_refused() -> None:
    proto = linear_chain()
    proto.graph.input.append(helper.make_tensor_sequence_value_info("many", TensorProto.FLOAT, None))
    with pytest.raises(ModelError, match=r"input 'many' is a sequence.*Allowed: typed tensors"):
        load_source(proto)


def with_optional_inputs(proto: ModelProto, *names: str) -> ModelProto:
    proto.graph.input.extend(
        helper.make_tensor_value_info(each.name, each.data_type, each.dims)
        for each in proto.graph.initializer
        if each.name in names
    )
    return proto


def scaled() -> ModelProto:
    """`x` through two MatMuls, times `factor`, plus `offset`, of more than 1 KiB; nobody reads `unread`."""
    graph = GraphWriter()
    x = graph.add("MatMul", "x", graph.random("w1", WIDTH, 20), name="first")
    x = graph.add("MatMul", graph.add("Relu", x, name="relu"), graph.random("w2", 20, 300), name="second")
    x = graph.add("Mul", x, graph.constant("factor", 2.0), name="times")
    graph.add("Add", x, graph.constant("offset", np.full(300, 0.5)), name="plus")
    graph.constant("unread", np.zeros(300))
    return graph.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 2)


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_inputs_with_a_default_stay_inputs_that_callers_may_give() -> None:
    proto = with_optional_inputs(scaled(), "factor", "offset", "unread")
    source = load_source(proto)
    assert [each.name for each in source.inputs] == ["x"]
    tuned = ort_ext.autotune(proto, vectors(), progress=False)
    assert all(each.config.is_quantized for each in tuned.recipe.operators.values())
    x = vectors()[0]
    for form in ("qdq", "cpu"):
        session = ort_ext.session(tuned, form=form)
        assert [each.name for each in session.get_inputs()] == ["x"]
        assert [each.name for each in session.get_overridable_initializers()] == ["factor", "offset", "unread"]
        plain = session.run(None, {"x": x})[0]
        given = session.run(
            None, {"x": x, "factor": np.asarray(4, np.float32), "offset": np.full(300, -0.5, np.float32)}
        )[0]
        np.testing.assert_allclose(given, 2 * (plain - 0.5) - 0.5, rtol=1e-4, atol=1e-4)
        assert [each.name for each in ort_ext.convert(tuned, form).graph.input] == ["x", "factor", "offset", "unread"]


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_a_weight_that_callers_may_replace_stays_in_fp32() -> None:
    tuned = ort_ext.autotune(with_optional_inputs(scaled(), "w1"), vectors(), progress=False)
    assert "callers may replace" in tuned.recipe.operators["first"].reason
    assert tuned.recipe.operators["second"].config.is_quantized


def test_initializers_that_are_all_inputs_are_constants(caplog: pytest.LogCaptureFixture) -> None:
    proto = linear_chain()
    source = load_source(with_optional_inputs(proto, *(each.name for each in proto.graph.initializer)))
    assert [each.name for each in source.proto.graph.input] == ["x"]
    assert "all 4 initializers of the model are inputs too" in caplog.text


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_a_sparse_weight_and_what_describes_the_model_stay() -> None:
    proto = linear_chain()
    proto.graph.node[0].input[1] = "sparse"
    indices = np.asarray([3, 700, 2000])
    values = numpy_helper.from_array(np.asarray([1.0, -2.0, 3.0], np.float32), "sparse")
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "sparse.indices"), [WIDTH, 64])
    )
    proto.model_version, proto.domain, proto.doc_string = 7, "org.example", "what it is for"
    proto.graph.doc_string = "how it works"
    tuned = ort_ext.autotune(proto, vectors(), progress=False)
    assert "sparse" in tuned.recipe.operators["fc1"].reason
    written = ort_ext.convert(tuned)
    onnx.checker.check_model(written)
    assert (written.model_version, written.domain, written.doc_string) == (7, "org.example", "what it is for")
    assert written.graph.doc_string == "how it works"
    x = vectors()[0]
    expected = make_session(load_source(proto)).run(None, {"x": x})[0]
    got = ort_ext.session(tuned).run(None, {"x": x})[0]
    assert np.linalg.norm(got - expected) < 0.05 * np.linalg.norm(expected)
