"""Which integer kernels there are, and what happens without them."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from inc_autotune.core.analysis.output_error import relative_error
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.quantization.affine import (
    fake_quantize,
    quantization_parameters,
    signal_to_noise_db,
)
from inc_autotune.core.quantization.weight_grid import weight_parameters
from inc_autotune.core.search.options import offered_options
from inc_autotune.core.space.units import build_space
from inc_autotune.graphs.weights import quantize_weight
from inc_autotune.tf_ext.adaptor import TensorFlowAdaptor
from inc_autotune.tf_ext.emission.routes import ROUTES, Primitive, Route
from inc_autotune.tf_ext.graph import builder
from inc_autotune.tf_ext.graph.graph_model import GraphModel
from inc_autotune.tf_ext.measurement import kernel_trial as kernels
from inc_autotune.tf_ext.measurement.kernel_trial import KERNELS, KernelSupport, has_kernel, kernel_support
from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.model.source import load_source
from tests.tf.quantizing import EVEN, FULL, REDUCED, WITHOUT_VNNI, expected_form, forms_in
from tests.tf.small_models import chain_data, convolutions, dense_chain, image_data, randomized


def with_depthwise():
    """A convolution of signed integers, a depthwise one of unsigned integers, and a matrix product."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(16, 3, activation="relu")(inputs)
    x = keras.layers.DepthwiseConv2D(3, activation="relu")(x)
    return randomized(keras.Model(inputs, keras.layers.Conv2D(16, 1)(x)))


@pytest.fixture
def support(monkeypatch):
    """Pretends that this machine has other kernels."""

    def pretend(**values):
        found = KernelSupport(**values)
        for module in ("measurement.kernel_trial", "adaptor"):
            monkeypatch.setattr(f"inc_autotune.tf_ext.{module}.kernel_support", lambda: found)

    return pretend


def config(weight="int8", activation="uint8", scheme="asym", approach="static", weight_scheme="sym"):
    return OpConfig(
        TensorConfig(weight, weight_scheme, "per_channel", "minmax"),
        TensorConfig(activation, scheme, "per_tensor", "minmax"),
        approach,
    )


def candidate_of(model, data, option):
    adaptor, source = TensorFlowAdaptor(), Candidate(load_source(model))
    adaptor.calibrate(source, data, (100,))
    operators = adaptor.query_fw_capability(source)["opwise"]
    tune_cfg = {"op": {name: option(each) for name, each in operators.items()}, "calib_iteration": 100}
    quantized = adaptor.quantize(tune_cfg, source, None)
    return adaptor, signal_to_noise_db(source.callable(data).numpy(), quantized.callable(data).numpy()), quantized


def types_in(candidate):
    return {node.op for node in next(iter(candidate.model.signatures.values())).graph_def.node}


def test_stock_tensorflow_has_every_kernel_on_this_machine():
    assert kernel_support().missing == ()


def test_a_wrong_kernel_counts_as_missing(monkeypatch):
    right = kernels._output

    def wrong(signature, x):
        return right(signature, x) * (1.5 if any(node.op in KERNELS for node in signature.graph_def.node) else 1)

    monkeypatch.setattr(kernels, "_output", wrong)
    assert kernel_support.__wrapped__().missing == tuple(KERNELS)


def test_a_kernel_that_is_not_registered_counts_as_missing(monkeypatch):
    monkeypatch.setattr(kernels, "has_cpu_kernel", lambda op: op != "_FusedQuantizedConv2D")
    assert kernel_support.__wrapped__().missing == ("_FusedQuantizedConv2D",)


def test_saturating_sums_ask_for_seven_bits(monkeypatch):
    """On the routes where they do, which are not those where the kernel halves weights."""

    def is_right(route, make, *, reduce_range):
        if make is kernels._large_values:
            return reduce_range or route not in WITHOUT_VNNI.saturating
        return reduce_range or route not in WITHOUT_VNNI.halving

    monkeypatch.setattr(kernels, "_is_right", is_right)
    assert kernel_support.__wrapped__() == WITHOUT_VNNI


@pytest.mark.parametrize(
    ("route", "make"),
    [*((each, kernels._large_values) for each in ROUTES), *((each, kernels._odd_weights) for each in kernels._HALVED)],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_every_route_is_tried_out_by_itself(route, make):
    (x, weight), nodes = make(route), kernels._NODES.get(route, kernels._ONE)
    signature = kernels._small_model(route, nodes if make is kernels._large_values else kernels._ONE, x, weight)
    found = forms_in(GraphModel({"one": kernels._in_integers(signature, x, route, reduce_range=False)}))
    assert {each for each, _ in found} == {route}


@pytest.mark.parametrize("route", sorted(WITHOUT_VNNI.halving, key=str), ids=str)
def test_halved_weights_are_told_from_others_by_odd_ones(route, monkeypatch):
    right = kernels._output

    def halved(signature, x):
        """What a kernel returns that halves its weights and rounds them to even."""
        weights = {
            name: np.round(value / 2).astype(np.int8) * 2 if value.dtype == np.int8 else value
            for name, value in signature.weights.items()
        }
        return right(replace(signature, weights=weights), x)

    assert kernels._is_right(route, kernels._odd_weights, reduce_range=False) == (route not in kernel_support().halving)
    monkeypatch.setattr(kernels, "_output", halved)
    monkeypatch.setattr(builder, "is_weight_size", lambda value: value.dtype == np.int8)
    assert not kernels._is_right(route, kernels._odd_weights, reduce_range=False)


@pytest.mark.parametrize(
    ("op_type", "given", "expected"),
    [
        ("MatMul", config(), True),
        ("MatMul", config(activation="int8", scheme="sym"), True),
        ("MatMul", config(activation="int8", scheme="asym"), False),
        ("Conv2D", config(activation="int8", scheme="sym"), True),
        ("Conv2D", config(), True),
        ("Conv2D", config(activation="int8", scheme="asym"), True),
        ("Conv2D", config(activation="int4", scheme="asym"), False),
        ("MatMul", config(weight="int4"), False),
        ("MatMul", config(weight_scheme="asym"), False),
        ("MatMul", config(approach="dynamic"), True),
        ("BatchMatMulV2", config(approach="dynamic", scheme="sym"), True),
        ("MatMul", config(approach="dynamic", activation="int8", scheme="sym"), False),
        ("Conv2D", config(approach="dynamic"), False),
        ("MatMul", config(approach="weight_only"), False),
    ],
)
def test_kernels_take_only_some_types(op_type, given, expected):
    assert has_kernel(op_type, given) is expected


def test_dynamic_ranges_have_no_kernel_in_the_graph_for_intels_extension():
    assert not has_kernel("MatMul", config(approach="dynamic"), "qdq")


@pytest.mark.parametrize(
    ("model", "data", "forms"),
    [
        (dense_chain, chain_data, {REDUCED}),
        (convolutions, image_data, {REDUCED, EVEN}),
        (with_depthwise, image_data, {REDUCED, EVEN, FULL}),
    ],
)
def test_without_vnni_weights_have_seven_bits_where_that_matters(support, model, data, forms):
    support(**vars(WITHOUT_VNNI))
    adaptor, snr, candidate = candidate_of(model(), data(64), lambda options: options[0])
    found = forms_in(candidate.model)
    assert {form for _, form in found} == forms
    assert all(form == expected_form(route, WITHOUT_VNNI) for route, form in found)
    assert snr > 30
    notes = [note for note in adaptor.notes() if "7 bits" in note]
    assert "saturate in matrix products of unsigned integers and matrix products of signed integers" in notes[0]
    assert "halves those of 8 in convolutions of signed integers" in notes[1]


@pytest.mark.parametrize("signed", [False, True])
def test_alphas_are_scored_with_the_bits_that_weights_will_have(signed):
    """The inputs of matrix products are unsigned by default."""
    adaptor, source = TensorFlowAdaptor(), Candidate(load_source(dense_chain()))
    adaptor.calibrate(source, chain_data(32), (32,))
    units = build_space(offered_options(adaptor, source), adaptor.groups(source)).units
    adaptor.support = KernelSupport(saturating=frozenset([Route(Primitive.MATMUL, signed)]))
    assert {each.reduce_range for each in adaptor.input_groups(units, 32)} == {not signed}


def test_trials_of_a_processor_with_other_bits_are_not_taken_for_the_same():
    adaptor, source = TensorFlowAdaptor(), Candidate(load_source(dense_chain()))
    prints = []
    for support in (KernelSupport(), WITHOUT_VNNI):
        adaptor.support = support
        prints.append(adaptor.fingerprint(source))
    assert prints[0] != prints[1]


def test_seven_bits_are_the_same_numbers_doubled_or_not():
    """So that a model is the same wherever its recipe is applied."""
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 16)).astype(np.float32)
    weight = np.random.default_rng(1).normal(size=(3, 3, 16, 16)).astype(np.float32)
    made = quantize_weight(weight, config().weight, axis=3, framework="tensorflow", reduce_range=True)
    assert made.doubled().values.dtype == np.int8
    assert np.abs(made.doubled().values).max() == 126
    np.testing.assert_array_equal(made.doubled().values * made.doubled().scale, made.values * made.scale)
    route = Route(Primitive.CONVOLUTION, signed=True)
    signature = kernels._small_model(route, kernels._ONE, x, weight)
    reduced = kernels._in_integers(signature, x, route, reduce_range=True)
    assert forms_in(GraphModel({"one": reduced})) == [(route, EVEN)]
    expected = kernels._output(kernels._small_model(route, kernels._ONE, x, made.values * made.scale), x)
    assert signal_to_noise_db(expected, kernels._output(reduced, x)) > 38  # of the activation's 8 bits alone


@pytest.mark.parametrize(("model", "data"), [(dense_chain, chain_data), (convolutions, image_data)])
def test_without_kernels_operators_are_simulated_and_said_to_be(support, model, data, caplog):
    support(missing=tuple(KERNELS))
    adaptor, snr, candidate = candidate_of(model(), data(32), lambda options: options[0])
    assert snr > 27
    assert not types_in(candidate) & set(KERNELS)
    assert all(
        adaptor.is_simulated(name, OpConfig.from_dict(options[0]))
        for (name, _), options in adaptor.query_fw_capability(Candidate(load_source(model())))["opwise"].items()
    )
    assert len(adaptor.notes()) == len(KERNELS)
    assert all(note in caplog.text for note in adaptor.notes())


@pytest.mark.parametrize(("model", "data"), [(dense_chain, chain_data), (convolutions, image_data)])
def test_each_simulated_bit_makes_the_model_more_exact(model, data):
    signal_to_noise = []
    for bits in (2, 4, 6, 8):
        narrow = config(f"int{bits}", f"int{bits}", "sym", weight_scheme="asym").to_dict()
        signal_to_noise.append(candidate_of(model(), data(32), lambda options, narrow=narrow: narrow)[1])
    assert (np.diff(signal_to_noise) > 6).all()
    assert signal_to_noise[-1] > 27


def test_simulated_int4_meets_the_core_formulas():
    """The product alone, against NumPy."""
    data = chain_data(64)
    narrow = config("int4", "uint4")
    adaptor, source = TensorFlowAdaptor(), Candidate(load_source(dense_chain(activation="linear")))
    adaptor.calibrate(source, data, (64,))
    (name, op_type), _ = next(iter(adaptor.query_fw_capability(source)["opwise"].items()))
    candidate = adaptor.quantize({"op": {(name, op_type): narrow.to_dict()}, "calib_iteration": 64}, source, None)
    first, bias, second, second_bias, last, last_bias = dense_chain(activation="linear").get_weights()
    limits = quantization_parameters(data.min(), data.max(), dtype="uint4", scheme="asym", framework="tensorflow")
    weights = fake_quantize(first, weight_parameters(first, narrow.weight, axis=1, framework="tensorflow"), 1)
    expected = ((fake_quantize(data, limits) @ weights + bias) @ second + second_bias) @ last + last_bias
    # TensorFlow rounds halves up, the core to even: single inputs may fall on the other side.
    assert signal_to_noise_db(expected, candidate.callable(data).numpy()) > 60


def test_bfloat16_is_a_cheap_fallback():
    _, snr, candidate = candidate_of(dense_chain(), chain_data(32), lambda options: options[-2])
    assert snr > 40
    weights = next(iter(candidate.model.signatures.values())).weights.values()
    assert {each.dtype.name for each in weights} == {"bfloat16"}


@pytest.mark.parametrize(("model", "data"), [(dense_chain, chain_data), (convolutions, image_data)])
def test_halves_do_harm_of_their_own(model, data):
    """Rounding errors of weights and activations are not related, so that together they do the harm of both."""
    adaptor, source = TensorFlowAdaptor(), Candidate(load_source(model()))
    adaptor.calibrate(source, data(100), (100,))
    operators = {name: options[0] for name, options in adaptor.query_fw_capability(source)["opwise"].items()}
    tune_cfg = {"op": operators, "calib_iteration": 100}
    reference = adaptor.reference_outputs()
    weight, activation = (
        relative_error(reference, adaptor.run(adaptor.half_quantized(tune_cfg, source, half)))
        for half in ("weight", "activation")
    )
    both = relative_error(reference, adaptor.run(adaptor.quantize(tune_cfg, source, None)))
    assert 0 < weight < both
    assert 0 < activation < both
    assert weight + activation == pytest.approx(both, rel=0.5)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("activation", ["relu", "swish"])
def test_symmetric_activations_keep_their_negative_values(dtype, activation):
    """Whatever the sign of the type in the configuration."""
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(8, 3, activation=activation)(inputs)
    model = randomized(keras.Model(inputs, keras.layers.Conv2D(8, 3)(x)))
    data = np.random.default_rng(0).normal(size=(16, 8, 8, 4)).astype(np.float32)
    symmetric = config(activation=dtype, scheme="sym").to_dict()
    _, snr, candidate = candidate_of(model, data, lambda options: symmetric)
    assert "_FusedQuantizedConv2D" in types_in(candidate)
    assert snr > 30


def test_candidates_share_the_variables_of_equal_weights():
    adaptor, source = TensorFlowAdaptor(), Candidate(load_source(dense_chain()))
    adaptor.calibrate(source, chain_data(32), (100,))
    options = adaptor.query_fw_capability(source)["opwise"]

    def quantized(operator):
        tune_cfg = {"op": {operator: options[operator][0]}, "calib_iteration": 100}
        return adaptor.quantize(tune_cfg, source, None).callable

    def variables(model):
        return {id(each) for each in model.weights}

    first, second, _ = options
    one, other, again = quantized(first), quantized(second), quantized(first)
    in_float = variables(source.callable)
    for model in (one, other):
        assert len(variables(model) - in_float) == 1
        assert len(in_float - variables(model)) == 1
    assert variables(one) != variables(other)
    assert variables(again) == variables(one)
    np.testing.assert_array_equal(again(chain_data(4)), one(chain_data(4)))
    assert not np.array_equal(one(chain_data(4)), other(chain_data(4)))
