"""Rules by operator type."""

from __future__ import annotations

import pytest

from inc_autotune import ort_ext
from inc_autotune.core.errors import ArgumentError
from tests.ort.small_models import WIDTH, linear_chain, vectors

FP32 = {"weight": {"dtype": ["fp32"]}}


def tune(types):
    return ort_ext.autotune(
        linear_chain(), vectors(8, 4, WIDTH), op_type_dict=types, sampling_sizes=[8], progress=False
    )


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_types_of_onnx_that_the_model_lacks_are_no_mistake():
    assert not any("op_type_dict" in reason for reason in tune({"Conv|LSTM": FP32}).tuning_result.fallbacks.values())


@pytest.mark.parametrize("pattern", ["matmul", "Mat"])
def test_a_type_that_onnx_lacks_is_named(pattern):
    with pytest.raises(ArgumentError, match=rf"op_type_dict\['{pattern}'\]: matches no operator type.*'MatMul'"):
        tune({pattern: FP32})
