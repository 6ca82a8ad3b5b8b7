"""`compare` on ONNX models, in memory and from files."""

from __future__ import annotations

import numpy as np
import pytest

from inc_autotune import ort_ext
from inc_autotune.core.errors import ArgumentError, RecipeError
from inc_autotune.core.quantization import signal_to_noise_db
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from tests.ort.small_models import conv_net, linear_chain, transformer_block, vectors

IMAGES = vectors(5, 4, 3, 8, 8)
ROWS = vectors(5, 4, 10, 32)


@pytest.mark.parametrize("form", ["qdq", "cpu"])
def test_convolutions_between_integers_are_compared_behind_their_activation(tmp_path, form):
    model = conv_net()
    tuned = ort_ext.autotune(model, IMAGES, recipes={"smooth_quant": False}, progress=False)
    ort_ext.save(tuned, tmp_path / "int8.onnx", form)
    comparison = ort_ext.compare(model, tmp_path / "int8.onnx", IMAGES)
    assert comparison.samples == 20
    assert not comparison.notes
    assert {"stem", "conv1", "conv2", "head", "output"} <= {each.name for each in comparison.operators}
    assert all(20 < each.sqnr < 80 and each.cosine > 0.99 for each in comparison.operators)
    assert all(each.saturated is not None for each in comparison.operators if each.is_quantized)
    # The first operator has the same input in both models; what others add themselves is less than all.
    assert comparison.operators[0].alone == pytest.approx(comparison.operators[0].sqnr, abs=0.1)
    assert all(each.alone > each.sqnr - 3 for each in comparison.operators if each.is_quantized)
    source, session = load_source(model), ort_ext.session(tuned)
    x = np.concatenate(IMAGES)
    name = source.inputs[0].name
    expected, actual = (each.run(None, {name: x})[0] for each in (make_session(source), session))
    assert comparison.output.sqnr == pytest.approx(signal_to_noise_db(expected, actual), abs=0.5)


@pytest.mark.parametrize("folding", [True, False])
def test_scales_of_smoothing_are_taken_out_again(folding):
    model = transformer_block(outliers=20.0)
    arguments = {"smoothquant_args": {"alpha": 0.5, "folding": folding}, "progress": False}
    tuned = ort_ext.autotune(model, ROWS, **arguments)
    assert tuned.tuning_result.alphas
    comparison = ort_ext.compare(model, tuned, ROWS)
    assert all(each.sqnr > 20 for each in comparison.operators), comparison
    assert all(each.saturated < 0.01 for each in comparison.operators if each.saturated is not None)
    assert all(each.alone > each.sqnr - 3 for each in comparison.operators if each.is_quantized), comparison


def test_what_cannot_be_compared_is_refused():
    tuned = ort_ext.autotune(linear_chain(), vectors(), recipes={"smooth_quant": False}, progress=False)
    with pytest.raises(ArgumentError, match="quantized: a ModelProto"):
        ort_ext.compare(linear_chain(), linear_chain(), vectors())
    with pytest.raises(RecipeError):
        ort_ext.compare(conv_net(), tuned, IMAGES)
