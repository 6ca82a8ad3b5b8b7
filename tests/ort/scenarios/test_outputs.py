"""Models that return sequences, maps, labels or text."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from inc_autotune import ort_ext
from inc_autotune.graphs.outputs import BLIND, ONLY_INTEGERS

RANDOM = np.random.default_rng(0)
WEIGHTS = {"w1": RANDOM.normal(size=(16, 32)), "w2": RANDOM.normal(size=(32, 4))}
DATA = [{"x": RANDOM.normal(size=(8, 16)).astype(np.float32)} for _ in range(6)]
LABEL = helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0)
ENDINGS = {
    "label": [LABEL, helper.make_node("Identity", ["label"], ["y"])],
    "text": [
        LABEL,
        helper.make_node(
            "LabelEncoder", ["label"], ["y"], domain="ai.onnx.ml", keys_int64s=[0, 1, 2, 3], values_strings=list("abcd")
        ),
    ],
    "sequence": [helper.make_node("SequenceConstruct", ["scores", "hidden"], ["y"])],
    "map": [helper.make_node("ZipMap", ["scores"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])],
}
FLOAT = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
TYPES = {
    "label": helper.make_tensor_type_proto(TensorProto.INT64, ["n"]),
    "text": helper.make_tensor_type_proto(TensorProto.STRING, ["n"]),
    "sequence": helper.make_sequence_type_proto(FLOAT),
    "map": helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, FLOAT)),
}


def model(ending):
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["scores"], name="second"),
        *ENDINGS[ending],
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])]
    weights = [numpy_helper.from_array(each.astype(np.float32), name) for name, each in WEIGHTS.items()]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_value_info("y", TYPES[ending])], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
@pytest.mark.parametrize(
    ("ending", "note"), [("sequence", None), ("map", None), ("label", ONLY_INTEGERS), ("text", BLIND)]
)
def test_scores_are_compared_wherever_they_are_and_what_shows_no_error_is_said(ending, note):
    result = ort_ext.autotune(model(ending), DATA, smoothquant_args={"alpha": "auto"}, progress=False).tuning_result
    error = result.smoothing[0][1]
    assert (error is None) == (note == BLIND)
    if note is None:
        assert 0 < error < 0.01
        assert result.sampling_size == 48
    assert {each for each in result.notes if each in (BLIND, ONLY_INTEGERS)} == ({note} if note else set())
