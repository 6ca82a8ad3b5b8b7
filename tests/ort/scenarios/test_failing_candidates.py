"""Quantized models that onnxruntime fails on although it runs the fp32 model."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto

from inc_autotune import ort_ext
from inc_autotune.core.errors import DataError, QuantizationError
from inc_autotune.ort_ext.model.sessions import run_session
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


@pytest.mark.parametrize("evaluated", [True, False])
def test_the_convolution_that_fails_stays_in_fp32(model: ModelProto, evaluated: bool) -> None:
    def score(session: object) -> float:
        return 1.0

    tuned = ort_ext.autotune(model, IMAGES, score if evaluated else None, progress=False)
    result = tuned.tuning_result
    assert list(result.fallbacks) == ["conv2"]
    assert "the model fails with it in int8: InvalidArgument" in result.fallbacks["conv2"]
    assert [operator.dtype for operator in result.operators if operator.name == "conv1"] == ["int8"]
    assert [trial.state for trial in result.trials] == ["complete"] * evaluated
    assert result.evaluations == (2 if evaluated else 0)
    session = onnxruntime.InferenceSession(
        ort_ext.convert(tuned).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (output,) = session.run(None, {"x": IMAGES[0]})
    assert np.isfinite(output).all()


def test_the_error_of_a_quantized_model_says_what_fails_and_what_to_do() -> None:
    session = onnxruntime.InferenceSession(linear_chain().SerializeToString(), providers=["CPUExecutionProvider"])
    words = r"the quantized model cannot run on .*float32(.|\n)*op_name_dict"
    with pytest.raises(QuantizationError, match=words):
        run_session(session, {"x": np.zeros((1, 2, 3), np.float32)}, "the quantized model")


def test_example_inputs_that_the_fp32_model_fails_on_are_named() -> None:
    model = linear_chain()
    del model.graph.input[0].type.tensor_type.shape.dim[1]
    model.graph.input[0].type.tensor_type.shape.dim.add()
    with pytest.raises(DataError, match="example_inputs: the model fails on the batch x float32"):
        ort_ext.autotune(model, vectors(), example_inputs=vectors(1, 4, 7)[0], progress=False)
