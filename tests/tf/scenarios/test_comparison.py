"""`compare` on TensorFlow models."""

from __future__ import annotations

import numpy as np
import pytest

from inc_autotune import tf_ext
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.quantization import signal_to_noise_db
from tests.tf import small_models as small


def test_convolutions_and_products_are_compared_where_both_graphs_have_a_tensor():
    model, data = small.convolutions(), small.image_data(16)
    tuned = tf_ext.autotune(model, data, recipes={"smooth_quant": False}, progress=False)
    comparison = tf_ext.compare(model, tuned, data)
    assert comparison.samples == 16
    assert [each.type for each in comparison.operators][-2:] == ["MatMul", "output"]
    assert all(20 < each.sqnr < 90 for each in comparison.operators)
    assert any(each.saturated is not None for each in comparison.operators)
    named = {each.name for each in comparison.operators} | {note.split(": ")[-1] for note in comparison.notes}
    quantized = {name for name, each in tuned.recipe.operators.items() if each.config.is_quantized}
    assert quantized <= named  # whatever is not compared is told
    expected, actual = model(data).numpy(), tf_ext.convert(tuned)(data).numpy()
    assert comparison.output.sqnr == pytest.approx(signal_to_noise_db(expected, actual), abs=0.5)


def test_what_an_operator_adds_alone_is_the_error_of_it_alone():
    """The first one reads what it reads in fp32, and the others have the errors of those before in their input too."""
    model, data = small.dense_chain(), small.chain_data(16)
    smoothed = tf_ext.autotune(model, data, smoothquant_args={"alpha": 0.5}, progress=False)
    found = [each for each in tf_ext.compare(model, smoothed, data).operators if each.type == "MatMul"]
    assert found[0].alone == pytest.approx(found[0].sqnr, abs=0.1)
    assert all(each.alone > each.sqnr for each in found[1:])


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ArgumentError, match="quantized: a Functional"):
        tf_ext.compare(small.dense_chain(), small.dense_chain(), np.zeros((4, 32), np.float32))
