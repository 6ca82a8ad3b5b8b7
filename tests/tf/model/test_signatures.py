"""What an evaluation may not do to the models it is given."""

from __future__ import annotations

import pytest

from inc_autotune import tf_ext
from inc_autotune.core.errors import EvaluationError
from tests.tf.small_models import chain_data, dense_chain


@pytest.mark.parametrize("yields", [False, True])
def test_weights_written_in_place_are_noticed(yields):
    def evaluate(model):
        weight = model.weights[0]
        weight.assign(weight * 1.5)
        return iter([1.0, 1.0]) if yields else 1.0

    with pytest.raises(EvaluationError, match=r"wrote into a weight of shape \("):
        tf_ext.autotune(dense_chain(), chain_data(), evaluate, objective="modelsize", progress=False)
