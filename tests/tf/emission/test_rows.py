"""Products whose input is quantized row by row, in ranges that are found while the model runs."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.graphs.weights import WeightCache
from inc_autotune.tf_ext.adaptor import TensorFlowAdaptor
from inc_autotune.tf_ext.emission.build import build_model
from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.target.choices import GraphChoices
from tests.tf.quantizing import operators_in, random, source_of

WEIGHT, BIAS = random(24, 10) / 5, random(10, seed=1)
MATRIX = tf.TensorSpec([None, 24], name="x")
SCHEMES = ["asym", "sym"]


def dynamic(source, data, scheme="asym", alpha=None, form="kernels", **changes):
    """The candidate with every matrix product dynamic, and its adaptor."""
    adaptor = TensorFlowAdaptor(choices=GraphChoices(form=form))
    model = Candidate(source)
    adaptor.calibrate(model, data, (100,))
    options = {
        operator: next(
            {**each, "alpha": alpha, **changes}
            for each in configs
            if each["activation"].get("quant_mode") == "dynamic" and each["activation"]["scheme"] == scheme
        )
        for operator, configs in adaptor.query_fw_capability(model)["opwise"].items()
    }
    return adaptor, adaptor.quantize({"op": options, "calib_iteration": 100, "recipe_cfgs": {}}, model, None)


def rounded(x, scheme):
    """Rows rounded in NumPy."""
    if scheme == "sym":
        size = np.abs(x).max(-1, keepdims=True) / 127
        return np.round(x / size) * size
    low = x.min(-1, keepdims=True)
    size = (x.max(-1, keepdims=True) - low) / 255
    return np.round((x - low) / size) * size + low


@pytest.fixture(scope="module", params=SCHEMES)
def dense(request):
    """A product with bias and activation function, and its dynamic form."""
    source = source_of(lambda x: tf.nn.relu(x @ WEIGHT + BIAS), MATRIX)
    adaptor, candidate = dynamic(source, random(8, 24, seed=2), request.param)
    weight = build_weight(adaptor)
    return request.param, weight, candidate.callable


def build_weight(adaptor):
    """The weight that the integers of the one operator stand for."""
    (kept,) = [each for versions in adaptor.weights._kept.values() for each in versions.values()]
    return kept.floats(1)


@settings(max_examples=30, deadline=None)
@given(
    scales=st.lists(st.sampled_from([1e-6, 1e-2, 1.0, 300.0, 1e6]), min_size=1, max_size=5),
    shift=st.sampled_from([0.0, 0.7, -3.0]),
    seed=st.integers(0, 9),
)
def test_every_row_has_a_range_of_its_own(dense, scales, shift, seed):
    scheme, weight, model = dense
    x = (random(len(scales), 24, seed=seed) + np.float32(shift)) * np.float32(scales)[:, None]
    expected = np.maximum(rounded(x, scheme) @ weight + BIAS, 0)
    size = np.abs(x).max(-1, keepdims=True) * np.abs(weight).sum(0).max()
    # A value in the middle between two integers may become either.
    assert (np.abs(model(x).numpy() - expected) <= 0.01 * size + 1e-5).all()
    assert signal_to_noise_db(expected - np.maximum(BIAS, 0), model(x).numpy() - np.maximum(BIAS, 0)) > 38


def test_what_a_row_becomes_does_not_depend_on_the_others(dense):
    _, _, model = dense
    x = random(6, 24, seed=3) * np.float32([1, 1e3, 1e-3, 5, 1, 1e5])[:, None]
    alone = np.concatenate([model(x[index : index + 1]).numpy() for index in range(6)])
    np.testing.assert_allclose(model(x).numpy(), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_a_row_of_equal_values_is_exact(dense, value):
    _, weight, model = dense
    x = np.full((2, 24), value, np.float32)
    np.testing.assert_allclose(model(x).numpy(), np.maximum(x @ weight + BIAS, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_operators_that_read_one_tensor_share_its_integers(scheme):
    weights = [random(24, 6, seed=seed) / 5 for seed in range(3)]

    def projections(x):
        parts = [tf.einsum("bsd,dh->bsh", x, each) for each in weights]
        return tf.nn.gelu(parts[0] + 1.0) + parts[1] * parts[2]

    source = source_of(projections, tf.TensorSpec([None, 5, 24], name="x"))
    data = random(8, 5, 24)
    _, candidate = dynamic(source, data, scheme)
    assert operators_in(candidate).count("QuantizeV2") == 1
    assert operators_in(candidate).count("_QuantizedMatMul") == 3
    assert signal_to_noise_db(projections(data).numpy(), candidate.callable(data).numpy()) > 30


def test_smoothing_divides_outliers_before_rows_are_rounded():
    second = random(10, 7, seed=4) / 3

    def chain(x):
        return tf.nn.relu(x @ WEIGHT + BIAS) @ second

    data = random(32, 24) * np.where(np.arange(24) % 8 == 3, 20, 1).astype(np.float32)
    source = source_of(chain, MATRIX)
    results = {}
    for alpha in (None, 0.5):
        _, candidate = dynamic(source, data, alpha=alpha)
        results[alpha] = signal_to_noise_db(chain(data).numpy(), candidate.callable(data).numpy())
        names = [node.name for node in next(iter(candidate.model.signatures.values())).graph_def.node]
        assert [name.endswith("/smoothed") for name in names].count(True) == (alpha is not None)
    assert results[0.5] > results[None] + 3


def test_the_bias_takes_back_what_rounding_the_weight_shifts():
    data = np.abs(random(64, 24)) + 1
    source = source_of(lambda x: x @ WEIGHT + BIAS, MATRIX)
    expected = data @ WEIGHT + BIAS
    shifts = []
    for corrections in ([], ["fast_bias_correction"]):
        _, candidate = dynamic(source, data, corrections=corrections)
        shifts.append(np.abs((candidate.callable(data).numpy() - expected).mean(0)).max())
    assert shifts[1] < 0.3 * shifts[0]


@pytest.mark.parametrize("form", ["kernels", "qdq"])
def test_what_is_simulated_is_rounded_row_by_row_too(form):
    data = random(32, 24) * np.logspace(-3, 3, 32, dtype=np.float32)[:, None]
    source = source_of(lambda x: x @ WEIGHT, MATRIX)
    adaptor = TensorFlowAdaptor(choices=GraphChoices(form=form))
    model = Candidate(source)
    adaptor.calibrate(model, data, (100,))
    ((name, kind),) = adaptor.query_fw_capability(model)["opwise"]
    weight = {"dtype": "int8", "scheme": "sym", "granularity": "per_channel", "algorithm": "minmax"}
    activation = {"dtype": "uint8", "scheme": "asym", "granularity": "per_tensor", "algorithm": "minmax"}
    config = OpConfig.from_dict({"weight": weight, "activation": {**activation, "quant_mode": "dynamic"}})
    plan = adaptor.plan({"op": {(name, kind): config.to_dict()}, "calib_iteration": 100})
    if form == "kernels":
        plan = plan.only_half("activation")
    candidate = Candidate(build_model(adaptor.known, plan, WeightCache()))
    expected = data @ WEIGHT
    for index in range(32):
        assert signal_to_noise_db(expected[index], candidate.callable(data).numpy()[index]) > 25


def test_weights_are_as_wide_as_products_of_unsigned_integers_allow():
    adaptor, _ = dynamic(source_of(lambda x: x @ WEIGHT, MATRIX), random(8, 24))
    largest = max(np.abs(each.values).max() for kept in adaptor.weights._kept.values() for each in kept.values())
    saturates = any("unsigned" in str(route) and "matrix" in str(route) for route in adaptor.support.reduced)
    assert largest == (63 if saturates else 127)
