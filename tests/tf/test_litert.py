"""Tuned models as files for LiteRT."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tensorflow as tf

from inc_autotune import tf_ext
from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.tf_ext.calibration.analysis import Analysis
from inc_autotune.tf_ext.litert import _products
from inc_autotune.tf_ext.model.source import load_source
from tests.tf.small_models import chain_data, convolutions, dense_chain, image_data

pytestmark = [
    pytest.mark.filterwarnings("ignore:the tuned model is not faster"),
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated"),
]

FP32 = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
QUIET = {"progress": False, "sampling_sizes": [32]}


def outputs(content, name, data):
    signature = tf.lite.Interpreter(model_content=content).get_signature_runner("serving_default")
    return np.concatenate([next(iter(signature(**{name: each[None]}).values())) for each in data])


@pytest.mark.parametrize("fallback", [None, "conv2d", "MatMul"])
def test_the_tuned_types_hold(fallback, tmp_path, caplog):
    model, data = convolutions(), image_data(32)
    rules = {} if fallback is None else {f".*{fallback}.*": FP32}
    tuned = tf_ext.autotune(model, data, op_name_dict=rules, smoothquant_args={"alpha": 0.5}, **QUIET)
    with caplog.at_level(logging.WARNING):
        content = tf_ext.to_litert(tuned, data, tmp_path / "model.tflite")
    assert (tmp_path / "model.tflite").read_bytes() == content
    assert signal_to_noise_db(np.asarray(model(data)), outputs(content, "image", data)) > 27
    operators = Analysis(tuned.source).operators
    for each in tuned.tuning_result.operators:
        if each.name in operators and each.name not in caplog.text:
            found = _products(content, operators[each.name].nodes)
            assert [integer for _, integer in found] == [each.dtype == "int8"]
    # LiteRT leaves the weights of a product behind the Mul of a smoothing scale as they are.
    told = [record.args[0] for record in caplog.records if "LiteRT" in record.msg]
    assert ["dense" in name for name in told] == ([] if fallback == "MatMul" else [True])


def test_smoothing_is_taken_over():
    model, data = dense_chain(), chain_data(64)
    weights = model.get_weights()
    weights[0][3] /= 40
    model.set_weights(weights)
    data[:, 3] *= 40
    expected = np.asarray(model(data))
    plain, smoothed = (
        tf_ext.to_litert(tf_ext.autotune(model, data, **choice, **QUIET), data)
        for choice in ({"recipes": {"smooth_quant": False}}, {"smoothquant_args": {"alpha": 0.5}})
    )
    gained = signal_to_noise_db(expected, outputs(smoothed, "x", data)) - signal_to_noise_db(
        expected, outputs(plain, "x", data)
    )
    assert gained > 5


def test_a_model_that_litert_does_not_know_is_refused():
    weight = np.eye(32, 8, dtype=np.float32)
    function = tf.function(
        lambda x: tf.math.special.bessel_j0(x @ weight),
        input_signature=[tf.TensorSpec([None, 32], name="x")],
        autograph=False,
    )
    tuned = tf_ext.autotune(function.get_concrete_function(), chain_data(32), **QUIET)
    with pytest.raises(ModelError, match="BesselJ0"):
        tf_ext.to_litert(tuned, chain_data(8))


def test_types_that_litert_does_not_take_are_refused():
    narrow = {
        "weight": {"dtype": ["int4"], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]},
        "activation": {"dtype": ["uint8"], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]},
    }
    tuned = tf_ext.autotune(
        dense_chain(),
        chain_data(32),
        capability={"int4": {"static": {"MatMul": narrow}}},
        excluded_precisions=["int8", "bf16"],
        **QUIET,
    )
    with pytest.raises(ArgumentError, match="int4"):
        tf_ext.to_litert(tuned, chain_data(8))


def test_what_is_not_tuned_is_refused():
    with pytest.raises(ArgumentError, match="Allowed: what autotune"):
        tf_ext.to_litert(load_source(dense_chain()), chain_data(8))


def test_a_place_where_nothing_can_be_written_is_found_before_anything_is_converted(tmp_path, monkeypatch):
    tuned = tf_ext.autotune(dense_chain(), chain_data(32), **QUIET)
    monkeypatch.setattr("inc_autotune.tf_ext.litert._converted", None)
    for place in (5, tmp_path / "no" / "model.tflite", tmp_path):
        with pytest.raises(ArgumentError, match="path="):
            tf_ext.to_litert(tuned, chain_data(8), place)
