"""Sessions share weights, obey options and leave the user's options alone."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.ort_ext.graph.graph_model import GraphModel, initializer
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from tests.ort.small_models import linear_chain, transformer_block, vectors

X = vectors(1)[0]


def options() -> ort.SessionOptions:
    result = ort.SessionOptions()
    result.intra_op_num_threads = 1
    return result


@pytest.mark.parametrize("session_options", [None, options(), options])
@pytest.mark.parametrize("largest_embedded", [2**31, 1000])
def test_every_way_gives_the_outputs_of_the_file(session_options: Any, largest_embedded: int) -> None:
    proto = linear_chain()
    expected = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": X})[0]
    source = load_source(proto)
    for _ in range(2):
        session = make_session(source, None, session_options, largest_embedded=largest_embedded)
        assert np.array_equal(session.run(None, {"x": X})[0], expected)


def test_the_users_options_serve_other_models_afterwards() -> None:
    mine = options()
    make_session(load_source(linear_chain()), session_options=mine)
    other = ort.InferenceSession(transformer_block().SerializeToString(), mine)
    assert other.get_inputs()[0].name == "x"
    assert mine.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL


def test_the_users_options_are_in_force() -> None:
    mine = options()
    mine.add_free_dimension_override_by_name("batch", 4)
    for given in (mine, lambda: mine):
        session = make_session(load_source(linear_chain()), session_options=given)
        assert session.get_inputs()[0].shape == [4, 32]
        assert session.get_session_options().intra_op_num_threads == 1


def test_a_session_outlives_the_model_it_was_made_of() -> None:
    expected = make_session(load_source(linear_chain())).run(None, {"x": X})[0]
    session = make_session(load_source(linear_chain()))
    gc.collect()
    assert np.array_equal(session.run(None, {"x": X})[0], expected)


def test_tensors_inside_the_graph_become_outputs() -> None:
    source = load_source(linear_chain())
    session = make_session(source, extra_outputs=["fc1.out", "y", "relu.out"])
    assert [each.name for each in session.get_outputs()] == ["y", "fc1.out", "relu.out"]
    _, product, positive = session.run(None, {"x": X})
    assert np.allclose(product, X @ source.weights["fc1.weight"], atol=1e-5)
    assert positive.min() == 0
    assert len(source.proto.graph.output) == 1


def test_initializers_that_nothing_reads_do_no_harm() -> None:
    source = load_source(linear_chain())
    unused = np.zeros((64, 64), np.float32)
    proto = type(source.proto)()
    proto.CopyFrom(source.proto)
    proto.graph.initializer.append(initializer("unused", unused))
    for given in (None, options()):
        assert make_session(GraphModel(proto, {**source.weights, "unused": unused}), session_options=given)


def test_weights_that_are_views_are_read_in_their_order() -> None:
    source = load_source(linear_chain())
    turned = {name: np.ascontiguousarray(value.T).T for name, value in source.weights.items()}
    assert not turned["fc1.weight"].flags.c_contiguous
    expected = make_session(source).run(None, {"x": X})[0]
    assert np.array_equal(make_session(GraphModel(source.proto, turned)).run(None, {"x": X})[0], expected)


def test_options_made_by_a_function_must_be_new() -> None:
    source, mine = load_source(linear_chain()), options()
    make_session(source, session_options=lambda: mine)
    with pytest.raises(ArgumentError, match=r"session_options: .*new ones at each call.*pass the object itself"):
        make_session(source, session_options=lambda: mine)


@pytest.mark.parametrize("given", [3, {"intra_op_num_threads": 1}, lambda: None])
def test_what_are_no_options(given: Any) -> None:
    with pytest.raises(ArgumentError, match=r"session_options=.*Allowed: onnxruntime.SessionOptions"):
        make_session(load_source(linear_chain()), session_options=given)


def test_a_provider_that_is_not_available() -> None:
    with pytest.raises(ArgumentError, match=r"'NoSuchProvider' is not available\. Available .*CPUExecutionProvider"):
        make_session(load_source(linear_chain()), ["NoSuchProvider", "CPUExecutionProvider"])


@pytest.mark.parametrize(
    "given", ["CPUExecutionProvider", [], [3], [("CPUExecutionProvider",)], [("CPUExecutionProvider", 5)], 3]
)
def test_what_are_no_providers(given: Any) -> None:
    with pytest.raises(ArgumentError, match=r"providers.*Available"):
        make_session(load_source(linear_chain()), given)


def test_a_provider_with_options() -> None:
    session = make_session(load_source(linear_chain()), [("CPUExecutionProvider", {"arena_extend_strategy": "0"})])
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("level", ["DISABLE_ALL", "enable_basic", "ORT_ENABLE_EXTENDED", "ENABLE_LAYOUT", "ENABLE_ALL"])
def test_the_level_of_graph_optimization(level: str) -> None:
    session = make_session(load_source(linear_chain()), graph_optimization_level=level)
    assert level.upper().removeprefix("ORT_") in session.get_session_options().graph_optimization_level.name


@pytest.mark.parametrize("level", ["BASIC", 1, ""])
def test_an_unknown_level(level: Any) -> None:
    with pytest.raises(ArgumentError, match=r"graph_optimization_level=.*DISABLE_ALL, ENABLE_BASIC"):
        make_session(load_source(linear_chain()), graph_optimization_level=level)


def test_a_level_that_contradicts_the_users_options() -> None:
    mine = options()
    with pytest.raises(ArgumentError, match="contradict each other"):
        make_session(load_source(linear_chain()), session_options=mine, graph_optimization_level="DISABLE_ALL")
    mine.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert make_session(load_source(linear_chain()), session_options=mine, graph_optimization_level="DISABLE_ALL")


def test_a_model_that_onnxruntime_cannot_load() -> None:
    proto = linear_chain()
    proto.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match=r"onnxruntime .* cannot load it: .*NoSuchOperator"):
        make_session(load_source(proto))


def test_sparse_initializers_are_kept() -> None:
    proto = linear_chain()
    values = helper.make_tensor("bias", 1, [1], [2.0])
    indices = helper.make_tensor("bias_indices", 7, [1], [3])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [5]))
    proto.graph.node.append(helper.make_node("Add", ["y", "bias"], ["z"], "shift"))
    proto.graph.output[0].name = "z"
    y, z = make_session(load_source(proto), extra_outputs=["y"]).run(None, {"x": X})[::-1]
    assert np.allclose(z - y, [0, 0, 0, 2, 0])


def test_weights_in_files_and_in_memory_go_together(tmp_path: Path) -> None:
    expected = make_session(load_source(linear_chain())).run(None, {"x": X})[0]
    onnx.save(linear_chain(), tmp_path / "model.onnx", save_as_external_data=True, location="data", size_threshold=0)
    source = load_source(tmp_path / "model.onnx")
    from_files = make_session(GraphModel(source.proto, {}, source.folder))
    for session in (make_session(source), from_files):
        assert np.array_equal(session.run(None, {"x": X})[0], expected)

    proto = type(source.proto)()
    proto.CopyFrom(source.proto)
    proto.graph.initializer[0].CopyFrom(initializer("fc1.weight", source.weights["fc1.weight"]))
    weights = {**source.weights, "fc1.weight": -source.weights["fc1.weight"]}
    for folder in (tmp_path, None):
        mixed = make_session(GraphModel(proto, weights, folder)).run(None, {"x": -X})[0]
        assert np.array_equal(mixed, expected)


def test_linked_external_data(tmp_path: Path) -> None:
    """As the cache of the Hugging Face hub has it."""
    for folder in ("blobs", "snapshot"):
        (tmp_path / folder).mkdir()
    path = tmp_path / "blobs" / "a"
    onnx.save(linear_chain(), path, save_as_external_data=True, location="data", size_threshold=0)
    (tmp_path / "snapshot" / "model.onnx").symlink_to(path)
    (tmp_path / "snapshot" / "data").symlink_to(tmp_path / "blobs" / "data")
    assert make_session(load_source(tmp_path / "snapshot" / "model.onnx")).run(None, {"x": X})[0].shape == (4, 5)
