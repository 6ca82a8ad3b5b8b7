"""Models that cannot be tuned are refused with a message that says what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.model.model_file import read_proto
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.operators.discovery import find_operators
from tests.ort.small_models import WIDTH, GraphWriter, linear_chain


@pytest.fixture
def external(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(linear_chain(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def refused(model: object, *words: str, error: type[Exception] = ModelError) -> None:
    with pytest.raises(error) as caught:
        load_source(model)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("model", [None, 3, ["model.onnx"], object()])
def test_something_else_than_a_model(model: object) -> None:
    refused(model, "not an ONNX model", "a path", "ModelProto", error=ArgumentError)


def test_a_session_is_no_model() -> None:
    session = ort.InferenceSession(linear_chain().SerializeToString())
    refused(session, "pass the file it was made from", error=ArgumentError)


def test_a_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "no.onnx", "no.onnx", "no such file", error=ArgumentError)


def test_a_directory(external: Path) -> None:
    refused(external.parent, "is a directory", "model.onnx", error=ArgumentError)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "holds no graph"),
        (b"this is not a model", "cannot be read as an ONNX model"),
        (b"PK\x03\x04 zip", "zip archive"),
        (b"\x10\x00\x00\x00ORTM", "ORT format"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_not_onnx(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    refused(tmp_path / "model.onnx", str(tmp_path / "model.onnx"), word)
    refused(content, word)


@pytest.mark.parametrize("share", [0.002, 0.1, 0.5, 0.99])
def test_truncated(tmp_path: Path, share: float) -> None:
    content = linear_chain().SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content[: int(len(content) * share)])
    refused(tmp_path / "model.onnx", "truncated", "model.onnx")


def test_missing_external_data(external: Path) -> None:
    (external.parent / "weights.bin").unlink()
    refused(external, "weights.bin", "is missing", "fc1.weight")


def test_external_data_that_is_too_short(external: Path) -> None:
    data = external.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:-100])
    refused(external, "weights.bin", "fc2.weight", "truncated or belongs to another model")


def test_empty_external_data(external: Path) -> None:
    (external.parent / "weights.bin").write_bytes(b"")
    refused(external, "has 0 bytes")


def test_external_data_of_another_length_than_the_shape(external: Path) -> None:
    proto = onnx.load(external, load_external_data=False)
    proto.graph.initializer[0].dims[0] += 1
    onnx.save(proto, external)
    refused(external, "fc1.weight", "needs 8448")


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hosts", "..\\weights.bin", "C:\\weights.bin", ""])
def test_external_data_outside_the_folder(external: Path, location: str) -> None:
    proto = onnx.load(external, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = location
    external.write_bytes(proto.SerializeToString())
    refused(external, "outside the folder")


def test_external_data_at_an_impossible_place(external: Path) -> None:
    proto = onnx.load(external, load_external_data=False)
    next(entry for entry in proto.graph.initializer[0].external_data if entry.key == "offset").value = "-8"
    external.write_bytes(proto.SerializeToString())
    refused(external, "fc1.weight", "impossible place")


def test_external_data_of_a_model_in_memory(external: Path) -> None:
    refused(onnx.load(external, load_external_data=False), "weights.bin", "Give the path")
    refused(external.read_bytes(), "weights.bin", "Give the path")


def test_a_damaged_initializer() -> None:
    proto = linear_chain()
    proto.graph.initializer[0].raw_data = b"123"
    refused(proto, "fc1.weight", "damaged")


def test_too_large_for_memory() -> None:
    proto = linear_chain()
    for model in (proto, proto.SerializeToString()):
        with pytest.raises(ModelError, match=r"save_as_external_data=True.*give the path"):
            read_proto(model, largest=5000)
        assert read_proto(model, largest=20_000).proto == proto


def test_an_opset_that_is_too_old_and_the_way_out() -> None:
    old = helper.make_model(linear_chain().graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=7)
    refused(old, "opset 6", "Export it again with opset_version=18")


def test_an_opset_that_onnx_cannot_convert() -> None:
    old = helper.make_model(linear_chain().graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=7)
    old.graph.node.append(helper.make_node("Upsample", ["y"], ["z"]))  # without scales
    refused(old, "opset 9", "cannot convert it to 13", "Export it again with opset_version=18")


@pytest.mark.parametrize("opset", [13, 18, 20])
def test_opsets_that_are_supported(opset: int) -> None:
    assert make_session(load_source(linear_chain(opset=opset)))


def test_an_opset_that_onnxruntime_does_not_know() -> None:
    future = helper.make_model(linear_chain().graph, opset_imports=[helper.make_opsetid("", 99)], ir_version=10)
    with pytest.raises(ModelError, match=r"cannot load it: .*99"):
        make_session(load_source(future))


@pytest.mark.parametrize(
    ("op_type", "domain"),
    [
        *[(name, "") for name in ("QuantizeLinear", "DequantizeLinear", "QLinearMatMul", "MatMulInteger")],
        *[(name, "com.microsoft") for name in ("MatMulNBits", "QLinearAdd", "MatMulIntegerToFloat")],
    ],
)
def test_quantized_already(op_type: str, domain: str) -> None:
    proto = linear_chain()
    proto.graph.node[0].op_type, proto.graph.node[0].domain = op_type, domain
    refused(proto, "quantized already", f"fc1 is a {op_type}", "fp32")


def test_quantized_already_inside_a_body() -> None:
    proto = linear_chain()
    output = [helper.make_tensor_value_info("q", TensorProto.UINT8, None)]
    body = helper.make_graph([helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])], "body", [], output)
    proto.graph.node.append(helper.make_node("If", ["flag"], ["q"], then_branch=body, else_branch=body))
    refused(proto, "quantized already", "DynamicQuantizeLinear")


# Graphs whose nodes do not fit together


def broken(change: str) -> ModelProto:
    model = linear_chain()
    graph = model.graph
    if change == "no outputs":
        del graph.output[:]
    elif change == "one initializer twice":
        graph.initializer.append(graph.initializer[0])
    elif change == "one tensor twice":
        graph.node[-1].output[0] = graph.node[0].output[0]
    elif change == "a dangling input":
        graph.node[2].input[0] = "nowhere"
    elif change == "a dangling output":
        graph.output[0].name = "nowhere"
    elif change == "too few inputs":
        del graph.node[0].input[:]
    elif change == "no output of a node":
        del graph.node[2].output[:]
    return model


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("no outputs", ["its graph has no outputs"]),
        ("one initializer twice", ["initializers have the same name: 'fc1.weight'"]),
        ("one tensor twice", ["tensors have the same name: 'fc1.out'"]),
        ("a dangling input", ["'relu', a Relu, reads 'nowhere', which nothing makes"]),
        ("a dangling output", ["nothing makes the output 'nowhere'"]),
        ("too few inputs", ["'fc1', a MatMul, has 0 inputs", "at least 2"]),
        ("no output of a node", ["'relu', a Relu, has no output"]),
    ],
)
def test_graphs_whose_nodes_do_not_fit_together(change: str, words: list[str]) -> None:
    refused(broken(change), *words, "onnx.checker.check_model")


def test_an_empty_weight_stays_as_it_is() -> None:
    graph = GraphWriter()
    nothing = graph.add("MatMul", "x", graph.constant("w", np.zeros((WIDTH, 0))), name="empty")
    graph.add("Concat", nothing, graph.linear("x", "fc", WIDTH, 4), name="concat", axis=1)
    model = graph.model({"x": (TensorProto.FLOAT, ["n", WIDTH])}, 2)
    operators = find_operators(Graph(load_source(model)))
    assert list(operators.found) == ["fc"]
    assert operators.skipped["empty"] == ("MatMul", "its weight has no elements")


def test_only_an_old_onnxruntime_gets_the_advice_to_convert() -> None:
    """`fc1` has a weight of another width than its input: this is not about versions."""
    model = linear_chain()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((7, 64), np.float32), "fc1.weight"))
    with pytest.raises(ModelError, match="cannot load it") as caught:
        make_session(load_source(model))
    assert "version_converter" not in str(caught.value)
