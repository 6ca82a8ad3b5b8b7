"""`autotune` as a user calls it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from inc_autotune import ort_ext
from inc_autotune.core.errors import ArgumentError, CapabilityError, DataError, ModelError
from inc_autotune.ort_ext.adaptor import OrtAdaptor
from inc_autotune.ort_ext.model.candidate import Candidate
from inc_autotune.ort_ext.model.source import load_source
from tests.ort.small_models import (
    WIDTH,
    GraphWriter,
    conv_net,
    embedding_classifier,
    linear_chain,
    sentences,
    transformer_block,
    vectors,
)

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

DATA = vectors(8, 4, 6, WIDTH)
TEST = np.concatenate(vectors(8, 4, 6, WIDTH, seed=5))


def tune(model, data=DATA, eval_func=None, **arguments) -> ort_ext.TunedModel:
    arguments = {"sampling_sizes": [32], "progress": False, **arguments}
    return ort_ext.autotune(model, data, eval_func, **arguments)


class Closeness:
    """Minus the relative error of a session's outputs to the fp32 model's, plus one."""

    def __init__(self, model: onnx.ModelProto, x=TEST) -> None:
        self.x = x
        self.reference = outputs(onnxruntime.InferenceSession(model.SerializeToString()), x)
        self.calls = 0

    def __call__(self, session: onnxruntime.InferenceSession) -> float:
        assert isinstance(session, onnxruntime.InferenceSession)
        self.calls += 1
        error = np.linalg.norm(outputs(session, self.x) - self.reference) / np.linalg.norm(self.reference)
        return 1.0 - float(error)


def outputs(session: onnxruntime.InferenceSession, x) -> np.ndarray:
    feed = x if isinstance(x, dict) else {session.get_inputs()[0].name: x}
    return session.run(None, feed)[0]


def test_smoothing_is_searched_by_layer_and_helps_with_outliers():
    model = transformer_block(outliers=60.0)
    closeness = Closeness(model)
    smoothed = tune(model, smoothquant_args={"alpha": "auto"}).tuning_result
    plain = tune(model, recipes={"smooth_quant": False})
    assert not smoothed.smoothing[0][0].startswith("off")
    assert set(smoothed.alphas) >= {"layer0.up", "layer0.attention.query"}
    assert not plain.tuning_result.alphas
    tuned = tune(model, smoothquant_args={"alpha": "auto"})
    assert closeness(ort_ext.session(tuned)) > closeness(ort_ext.session(plain))


def test_harmful_operators_fall_back():
    model = transformer_block(outliers=60.0)
    closeness = Closeness(model)
    tuned = tune(model, eval_func=closeness, accuracy_criterion={"absolute": 0.012}, recipes={"smooth_quant": False})
    result = tuned.tuning_result
    assert result.met
    changed = [each for each in result.operators if each.type == "MatMul" and each.approach != "static"]
    assert 0 < len([each for each in changed if "harm" in each.reason]) < 6
    assert closeness(ort_ext.session(tuned)) == pytest.approx(result.score)


@pytest.mark.parametrize("batches", [1, 4])
def test_a_model_that_works_at_one_batch_size_only(batches):
    graph = GraphWriter()
    x = graph.linear("x", "fc1", WIDTH, 64)
    graph.linear(graph.add("Reshape", x, graph.constant("shape", np.array([8, 64]), np.int64)), "fc2", 64, 4)
    model = graph.model({"x": (onnx.TensorProto.FLOAT, ["batch", WIDTH])}, 2)
    data = vectors(batches, 8, WIDTH)
    tuned = tune(model, data, sampling_sizes=[20])
    expected = outputs(onnxruntime.InferenceSession(model.SerializeToString()), data[0])
    np.testing.assert_allclose(outputs(ort_ext.session(tuned), data[0]), expected, atol=0.1)


def test_convolutions():
    model = conv_net()
    x = np.concatenate(vectors(8, 4, 3, 8, 8, seed=5))
    closeness = Closeness(model, x)
    tuned = tune(model, vectors(8, 4, 3, 8, 8), closeness, accuracy_criterion={"absolute": 0.05})
    assert tuned.tuning_result.met
    types = [node.op_type for node in ort_ext.convert(tuned).graph.node]
    assert types.count("Conv") == 3
    assert types.count("QuantizeLinear") >= 7


@pytest.mark.parametrize(
    ("approach", "op_type"), [("dynamic", "DynamicQuantizeLinear"), ("weight_only", "MatMulNBits")]
)
def test_other_approaches(approach, op_type):
    model = transformer_block()
    closeness = Closeness(model)
    tuned = tune(
        model, None, closeness, approach=approach, example_inputs=DATA[0], accuracy_criterion={"absolute": 0.1}
    )
    assert tuned.tuning_result.met
    assert {each.approach for each in tuned.tuning_result.operators if each.dtype == "int8"} == {approach}
    assert op_type in {node.op_type for node in ort_ext.convert(tuned, "cpu").graph.node}


def test_embeddings_are_quantized_for_size():
    model = embedding_classifier()
    normal = tune(model, sentences())
    small = tune(model, sentences(), objective="modelsize", recipes={"smooth_quant": False})
    assert "modelsize" in normal.tuning_result.fallbacks["words"]
    assert {each.name: each.dtype for each in small.tuning_result.operators}["words"] == "int8"
    assert small.tuning_result.size_ratio > normal.tuning_result.size_ratio
    assert Closeness(model, sentences(1, 64, seed=5)[0])(ort_ext.session(small)) > 0.95


def test_rules_choose_by_type_and_name():
    rules = {"layer0.down": {"weight": {"dtype": ["int4"]}}, "layer0.up": {"weight": {"dtype": ["fp32"]}}}
    tuned = tune(transformer_block(), op_name_dict=rules)
    found = {each.name: (each.dtype, each.approach) for each in tuned.tuning_result.operators}
    assert found["layer0.down"] == ("int4", "weight_only")
    assert found["layer0.up"] == ("fp32", None)
    with pytest.raises(CapabilityError, match="int3"):
        tune(transformer_block(), op_type_dict={"MatMul": {"weight": {"dtype": ["int3"]}}})


def test_two_sampling_sizes_are_both_candidates():
    seen = []

    def score(session):
        seen.append(session)
        return 1.0 if len(seen) == 1 else 0.5

    with pytest.warns(UserWarning, match="goal was not met"):
        result = tune(linear_chain(), vectors(), score, sampling_sizes=[6, 30], max_trials=4).tuning_result
    assert {trial.assignment.sampling_size for trial in result.trials} == {6, 30}


def test_a_model_with_a_fixed_batch_size():
    model = linear_chain()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    tuned = tune(model, vectors(), sampling_sizes=[10])
    assert ort_ext.session(tuned).run(None, {"x": vectors()[0]})[0].shape == (4, 5)


def test_outputs_at_padding_are_not_compared():
    mask = np.asarray([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
    model = transformer_block()
    model.graph.input.append(onnx.helper.make_tensor_value_info("attention_mask", onnx.TensorProto.INT64, ["b", "s"]))
    adaptor = OrtAdaptor()
    candidate = Candidate(load_source(model))
    adaptor.calibrate(candidate, [{"x": DATA[0][:2], "attention_mask": mask}], (2,))
    # Of two samples the second is held out.
    expected = outputs(candidate.session, {"x": DATA[0][1:2], "attention_mask": mask[1:]})[mask[1:].astype(bool)]
    assert expected.shape == (5, WIDTH)
    for compared in (adaptor.reference_outputs(), adaptor.run(candidate)):
        assert len(compared) == 1
        np.testing.assert_allclose(compared[0], expected, rtol=1e-4, atol=1e-5)


def test_session_options_and_the_optimization_level_reach_the_sessions():
    made = []

    def options():
        made.append(onnxruntime.SessionOptions())
        made[-1].intra_op_num_threads = 1
        return made[-1]

    seen = []
    recipes = {"graph_optimization_level": "ENABLE_BASIC"}

    def score(session):
        seen.append(session.get_session_options().graph_optimization_level.name)
        return 1.0

    tuned = tune(linear_chain(), vectors(), score, sess_options=options, recipes=recipes)  # by onnxruntime's name
    assert seen == ["ORT_ENABLE_BASIC"] * 2
    assert len(made) >= 3
    own = options()
    # Where onnxruntime has them, and by its name.
    for session in (ort_ext.session(tuned, own, ["CPUExecutionProvider"]), ort_ext.session(tuned, sess_options=own)):
        assert session.get_session_options().intra_op_num_threads == 1
    with pytest.raises(TypeError, match="provider_options"):
        ort_ext.session(tuned, provider_options=[{}])


def test_a_session_takes_options_where_onnxruntime_has_them():
    tuned = tune(linear_chain(), vectors())
    options, cpu = onnxruntime.SessionOptions(), ["CPUExecutionProvider"]
    options.intra_op_num_threads = 1
    for session in (
        ort_ext.session(tuned, options, providers=cpu),
        ort_ext.session(tuned, options, cpu),
        ort_ext.session(tuned, cpu, options),
        ort_ext.session(tuned, providers=cpu, sess_options=options),
    ):
        assert session.get_session_options().intra_op_num_threads == 1
        assert session.get_providers() == cpu
    with pytest.raises(ArgumentError, match="session_options: is given twice, also as 'sess_options'"):
        ort_ext.session(tuned, options, sess_options=options)
    with pytest.raises(ArgumentError, match="providers: is given twice"):
        ort_ext.session(tuned, options, cpu, providers=cpu)


def test_the_users_model_is_not_changed():
    model = transformer_block()
    before = model.SerializeToString(deterministic=True)
    tune(model)
    assert model.SerializeToString(deterministic=True) == before


def test_example_inputs_are_a_part_of_the_fingerprint():
    prints = []
    for length in (6, 6, 12):
        (example,) = vectors(1, 1, length, WIDTH)
        candidate, adaptor = Candidate(load_source(transformer_block())), OrtAdaptor(example_inputs=example)
        adaptor.calibrate(candidate, DATA, (32,))
        prints.append(adaptor.fingerprint(candidate))
    assert prints[0] == prints[1] != prints[2]


def test_a_metric_needs_labelled_data_and_replaces_the_function():
    model = linear_chain()
    session = onnxruntime.InferenceSession(model.SerializeToString())
    labelled = [(x, outputs(session, x).argmax(1)) for x in vectors(seed=5)]
    with pytest.raises(ArgumentError, match="without eval_metric"):
        tune(model, vectors(), eval_dataloader=labelled)
    with pytest.raises(ArgumentError, match="both given"):
        tune(model, vectors(), lambda session: 1.0, eval_metric="accuracy")


def test_a_configuration_without_a_kernel_stays_in_fp32_with_the_reason():
    entry = {"weight": {"dtype": ["int8"], "scheme": ["sym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}}
    activation = {**entry["weight"], "dtype": ["uint8"]}
    capability = [
        {
            "version": {"name": "default"},
            "int8": {
                "static": {"Gemm": {**entry, "activation": activation}},
                "dynamic": {"Conv": {**entry, "activation": activation}},
            },
        }
    ]
    tuned = tune(conv_net(), vectors(8, 4, 3, 8, 8), capability=capability)
    assert "no integer kernel for Conv with approach 'dynamic'" in tuned.tuning_result.fallbacks["stem"]
    assert {each.name: each.dtype for each in tuned.tuning_result.operators}["head"] == "int8"


def test_bad_arguments():
    with pytest.raises(ArgumentError, match="calib_dataloader is None"):
        tune(linear_chain(), None)
    with pytest.raises(ArgumentError, match="eval_func=3 cannot be called"):
        tune(linear_chain(), vectors(), 3)
    with pytest.raises(ArgumentError, match=r"backend='onnxrt_cpu'(.|\n)*onnxrt_cpu_ep"):
        tune(linear_chain(), vectors(), backend="onnxrt_cpu")
    with pytest.raises(ArgumentError, match="objective='footprint'"):
        tune(linear_chain(), vectors(), objective="footprint")
    with pytest.raises(ArgumentError, match="graph_optimization_level: unknown level 'ALL'"):
        tune(linear_chain(), vectors(), recipes={"graph_optimization_level": "ALL"})
    with pytest.raises(DataError, match="empty"):
        tune(linear_chain(), [])
    with pytest.raises(ArgumentError, match="tuned: a ModelProto"):
        ort_ext.session(linear_chain())


def test_a_model_with_nothing_to_quantize_is_an_error():
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(ModelError, match="nothing to quantize"):
        tune(model, vectors())


def test_a_model_with_nothing_to_quantize_says_what_it_has():
    writer = GraphWriter()
    for name in ("first", "second"):
        noise = writer.add("RandomNormalLike", writer.random(f"{name}.w", WIDTH, WIDTH))
        writer.add("MatMul", "x", noise, name=name)
    model = writer.model({"x": (onnx.TensorProto.FLOAT, ["n", WIDTH])}, 2)
    reason = "Left out: first and 1 more: its weight is computed from constants by a RandomNormalLike"
    with pytest.raises(ModelError, match=reason):
        tune(model, vectors())


def test_convolutions_that_are_not_timed_alone_are_judged_by_the_whole_model(monkeypatch):
    """Here the model takes half as long with each convolution in integers, but four times as long with `stem`."""

    def measure(adaptor, models):
        def seconds(model):
            integers = {
                name for name in ("stem", "conv1", "conv2") if f"{name}.weight.quantized" in model.model.weights
            }
            return 4.0 if "stem" in integers else 0.5 ** len(integers)

        return list(map(seconds, models))

    monkeypatch.setattr(OrtAdaptor, "measure", measure)
    monkeypatch.setattr(OrtAdaptor, "measure_threads", lambda *_: None)
    result = tune(conv_net(), vectors(8, 4, 3, 8, 8)).tuning_result
    assert [name for name, reason in result.fallbacks.items() if "whole model is slower" in reason] == ["stem"]
    assert result.gained
