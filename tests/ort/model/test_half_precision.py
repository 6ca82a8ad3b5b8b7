"""Models that compute in half precision: as onnxruntime's own tool writes them, and with parts it does not write."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from inc_autotune import ort_ext
from inc_autotune.core.errors import ModelError
from inc_autotune.ort_ext.graph import embedded_bytes
from inc_autotune.ort_ext.model.half_precision import half_type
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from tests.ort.small_models import conv_net, embedding_classifier, linear_chain, sentences, transformer_block, vectors

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

FLOAT, FLOAT16, BFLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16

MODELS = {
    "linear": (linear_chain, lambda: vectors(8, 4, 32)),
    "transformer": (transformer_block, lambda: vectors(8, 4, 6, 32)),
    "convolutions": (conv_net, lambda: vectors(8, 4, 3, 8, 8)),
    "embedding": (embedding_classifier, sentences),
}


def as_half(feed):
    if isinstance(feed, dict):
        return {name: as_half(value) for name, value in feed.items()}
    return feed.astype(np.float16) if feed.dtype.kind == "f" else feed


def run(session, feed):
    if isinstance(session, ModelProto):
        session = onnxruntime.InferenceSession(session.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed if isinstance(feed, dict) else {session.get_inputs()[0].name: feed})


def distance(expected, actual):
    """The largest relative one of all outputs, which have the same types."""
    assert [each.dtype for each in expected] == [each.dtype for each in actual]
    pairs = [(one.astype(np.float64), other.astype(np.float64)) for one, other in zip(expected, actual, strict=True)]
    return max(float(np.linalg.norm(one - other) / np.linalg.norm(one)) for one, other in pairs)


def tune(model, data, **arguments):
    return ort_ext.autotune(model, data, None, sampling_sizes=[32], progress=False, **arguments)


@pytest.mark.parametrize("keep_io_types", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_tuned_and_keeps_the_types_of_its_inputs_and_outputs(name, keep_io_types):
    build, data = MODELS[name]
    model = convert_float_to_float16(build(), keep_io_types=keep_io_types)
    feeds = data() if keep_io_types else [as_half(feed) for feed in data()]
    tuned, single = tune(model, feeds), tune(build(), data())
    result = tuned.tuning_result
    assert [each.dtype for each in result.operators] == [each.dtype for each in single.tuning_result.operators]
    (note,) = (note for note in result.notes if "float16" in note)
    assert "computes in float32 now" in note
    assert "outputs differ by" in note
    assert distance(run(model, feeds[0]), run(ort_ext.session(tuned), feeds[0])) < 0.08


def test_what_stays_is_stored_as_it_was_and_files_and_recipes_hold(tmp_path):
    model = convert_float_to_float16(transformer_block(), keep_io_types=True)
    feeds = vectors(8, 4, 6, 32)
    stays = {"layer0.up": {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}}
    tuned = tune(model, feeds, op_name_dict=stays)
    written = tuned.model("cpu")
    stored = {each.name: each.data_type for each in written.proto.graph.initializer}
    assert stored["layer0.up.weight"] == FLOAT16
    assert embedded_bytes(written) < embedded_bytes(tune(transformer_block(), feeds, op_name_dict=stays).model("cpu"))
    expected = run(ort_ext.session(tuned), feeds[0])
    ort_ext.save(tuned, tmp_path / "model.onnx")
    tuned.tuning_result.recipe.save(tmp_path / "recipe.yaml")
    file = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    again = ort_ext.apply_recipe(model, tmp_path / "recipe.yaml")
    for session in (file, ort_ext.session(again)):
        np.testing.assert_array_equal(run(session, feeds[0])[0], expected[0])


def test_weights_in_a_file_of_their_own(tmp_path):
    model = convert_float_to_float16(linear_chain(), keep_io_types=True)
    feeds = vectors(8, 4, 32)
    expected = run(model, feeds[0])
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, size_threshold=64)
    tuned = tune(tmp_path / "model.onnx", feeds)
    assert distance(expected, run(ort_ext.session(tuned), feeds[0])) < 0.08


def test_weights_that_are_only_stored_in_half_precision_change_nothing():
    model = linear_chain()
    weight = next(each for each in model.graph.initializer if each.name == "fc1.weight")
    model.graph.initializer.append(
        numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), "fc1.stored")
    )
    model.graph.initializer.remove(weight)
    model.graph.node.insert(0, helper.make_node("Cast", ["fc1.stored"], ["fc1.weight"], "cast", to=FLOAT))
    source = load_source(model)
    assert source.half_type is None
    assert source.original is None


def odd_graph(kind):
    """A body that reads what is outside, an input with a default, casts, a constant of a shape, and odd outputs."""
    weight = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    stored = [
        helper.make_tensor("weight", kind, weight.shape, weight.reshape(-1)),
        helper.make_tensor("offset", kind, [1], [0.25]),
        helper.make_tensor("shown", kind, [2], [1.5, 2.5]),
        helper.make_tensor("zero", FLOAT, [], [0]),
    ]

    def body(op_type):
        nodes = [helper.make_node(op_type, ["product", "offset"], [f"{op_type}.y"])]
        return helper.make_graph(nodes, op_type, [], [helper.make_tensor_value_info(f"{op_type}.y", kind, None)])

    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=kind),
        helper.make_node("MatMul", ["half", "weight"], ["product"]),
        helper.make_node("Shape", ["half"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["twos"], value=helper.make_tensor("value", kind, [1], [2.0])),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["chosen"], then_branch=body("Add"), else_branch=body("Sub")),
        helper.make_node("Mul", ["chosen", "twos"], ["y"]),
        helper.make_node("Neg", ["y"], ["negative"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", FLOAT, ["batch", 32]),
        helper.make_tensor_value_info("offset", kind, [1]),
    ]
    outputs = [helper.make_tensor_value_info(name, kind, None) for name in ("y", "negative", "shown")]
    declared = [
        helper.make_tensor_value_info(name, kind, shape) for name, shape in (("weight", [32, 32]), ("half", None))
    ]
    graph = helper.make_graph(nodes, "odd", inputs, outputs, stored, value_info=declared)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_casts_that_cast_nothing_any_more_are_gone(tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    model = convert_float_to_float16(transformer_block(), keep_io_types=True)
    assert run(make_session(load_source(model), None, options), vectors(1, 4, 6, 32)[0])
    assert "Cast" not in [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]


def test_bodies_defaults_casts_and_outputs_that_are_read():
    model = odd_graph(FLOAT16)
    source = load_source(model)
    onnx.shape_inference.infer_shapes(source.proto, strict_mode=True)
    session = make_session(source)
    for feed in ({"x": vectors(1, 4, 32)[0]}, {"x": -vectors(1, 4, 32)[0], "offset": np.array([2], np.float16)}):
        assert distance(run(model, feed), run(session, feed)) < 0.005


def test_bfloat16_computes_as_the_same_model_in_float32():
    model = odd_graph(BFLOAT16)
    source = load_source(model)
    assert source.half_type == "bfloat16"
    assert half_type(source.proto) == "bfloat16", "its outputs stay so"
    kinds = {each.name: each.data_type for each in source.proto.graph.initializer}
    assert (kinds["weight"], kinds["shown"]) == (FLOAT, BFLOAT16)
    x = vectors(1, 4, 32)[0]
    del model.graph.output[2:]
    model.graph.node.append(helper.make_node("Cast", ["y"], ["result"], to=FLOAT))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("result", FLOAT, None))
    weight = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float32)
    expected = 2 * (x @ weight + (0.25 if x.sum() > 0 else -0.25))
    np.testing.assert_allclose(run(make_session(load_source(model)), {"x": x})[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [FLOAT16, BFLOAT16])
def test_sequences_of_half_precision_are_refused(kind):
    model = odd_graph(kind)
    model.graph.node.append(helper.make_node("SequenceConstruct", ["y"], ["list"]))
    model.graph.output.append(helper.make_tensor_sequence_value_info("list", kind, None))
    with pytest.raises(ModelError, match="'list' is a sequence of half precision"):
        load_source(model)
