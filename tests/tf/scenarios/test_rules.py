"""Rules by operator type."""

from __future__ import annotations

import pytest

from inc_autotune import tf_ext
from inc_autotune.core.errors import ArgumentError
from tests.tf.small_models import chain_data, dense_chain

FP32 = {"weight": {"dtype": ["fp32"]}}


def tune(types):
    return tf_ext.autotune(dense_chain(), chain_data(32), op_type_dict=types, sampling_sizes=[32], progress=False)


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_types_of_tensorflow_that_the_model_lacks_are_no_mistake():
    assert not any("op_type_dict" in reason for reason in tune({"Conv3D": FP32}).tuning_result.fallbacks.values())


@pytest.mark.parametrize("pattern", ["matmul", "Mat"])
def test_a_type_that_tensorflow_lacks_is_named(pattern):
    with pytest.raises(ArgumentError, match=rf"op_type_dict\['{pattern}'\]: matches no operator type.*'MatMul'"):
        tune({pattern: FP32})
