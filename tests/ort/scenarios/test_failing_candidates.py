"""Quantized models that onnxruntime fails on although it runs the fp32 model."""

from __future__ import annotations

import pytest
from onnx import ModelProto

from inc_autotune import ort_ext
from inc_autotune.core.errors import DataError, QuantizationError
from inc_autotune.ort_ext.operators.rewriting import passes as rewriting
from tests.ort.scenarios.test_convolutions import IMAGES, NetWriter
from tests.ort.small_models import linear_chain, vectors

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModelProto:
    """A Pad with axes between convolutions, which onnxruntime 1.31 loads as integers, to read past its tensors."""
    monkeypatch.setattr(rewriting, "with_full_pads", lambda graph: graph)
    net = NetWriter()
    pads, axes = net.integers("pads", 1, 1, 1, 1), net.integers("axes", 2, 3)
    net.conv(net.add("Pad", net.conv("x", "conv1"), pads, "", axes, name="pad"), "conv2")
    return net.image_model()


def test_without_an_evaluation_the_error_says_what_fails(model: ModelProto) -> None:
    with pytest.raises(QuantizationError, match=r"the quantized model cannot run on .*float32(.|\n)*op_name_dict"):
        ort_ext.autotune(model, IMAGES, progress=False)


def test_with_an_evaluation_it_is_a_failed_trial(model: ModelProto) -> None:
    def score(session: object) -> float:
        return 1.0

    tuned = ort_ext.autotune(model, IMAGES, score, progress=False)
    states = [trial.state for trial in tuned.tuning_result.trials]
    assert states[0] == "failed"
    assert states[-1] == "complete"
    assert "cannot run" in str(tuned.tuning_result.trials[0].error)


def test_example_inputs_that_the_fp32_model_fails_on_are_named() -> None:
    model = linear_chain()
    del model.graph.input[0].type.tensor_type.shape.dim[1]
    model.graph.input[0].type.tensor_type.shape.dim.add()
    with pytest.raises(DataError, match="example_inputs: the model fails on the batch x float32"):
        ort_ext.autotune(model, vectors(), example_inputs=vectors(1, 4, 7)[0], progress=False)
