"""`autotune` as a user calls it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from inc_autotune import tf_ext
from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.errors import ArgumentError, CapabilityError
from inc_autotune.core.quantization.affine import signal_to_noise_db
from tests.tf.small_models import (
    CLASSES,
    WIDTH,
    WithControlFlow,
    block_data,
    chain_data,
    convolutions,
    dense_chain,
    image_data,
    transformer_block,
    two_signatures,
)

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

QUIET = {"progress": False, "sampling_sizes": [32]}


def agreement(reference, data):
    """An evaluation: how near to the fp32 outputs a model is, 1 where they are equal."""
    expected = np.asarray(reference(data, training=False) if isinstance(reference, keras.Model) else reference(data))

    def evaluate(model):
        return 1 - float(np.abs(model(data).numpy() - expected).mean() / np.abs(expected).mean())

    return evaluate


@pytest.fixture(scope="module")
def chain():
    return dense_chain()


def test_a_keras_model_meets_its_goal(chain):
    data = chain_data(64)
    tuned = tf_ext.autotune(chain, data, agreement(chain, data), accuracy_criterion={"relative": 0.1}, **QUIET)
    result = tuned.tuning_result
    assert result.met
    assert result.evaluations == 2
    assert {each.dtype for each in result.operators} == {"int8"}
    assert result.size_ratio > 1.5
    assert signal_to_noise_db(chain(data).numpy(), tf_ext.convert(tuned)(data).numpy()) > 25


def test_a_saved_model_is_tuned_converted_and_saved(tmp_path):
    path, data = two_signatures(tmp_path / "fp32"), {"value": chain_data(64), "scale": np.ones((64, 1), np.float32)}
    tuned = tf_ext.autotune(str(path), data, **QUIET)
    tf_ext.save(tuned, tmp_path / "int8")
    before, after = tf.saved_model.load(str(path)), tf_ext.load(tmp_path / "int8")
    assert set(after.signatures) == set(before.signatures)
    for name, arguments in (("serving_default", data), ("embed", {"value": data["value"]})):
        given = {key: tf.constant(value) for key, value in arguments.items()}
        expected, actual = before.signatures[name](**given), after.signatures[name](**given)
        assert expected.keys() == actual.keys()
        for key in expected:
            assert signal_to_noise_db(expected[key].numpy(), actual[key].numpy()) > 25
    # The signature without data is as exact as it was.
    np.testing.assert_allclose(actual["output_0"], expected["output_0"], rtol=1e-5)


def test_what_convert_returned_is_saved_with_its_recipe(chain, tmp_path):
    tuned = tf_ext.autotune(chain, chain_data(64), **QUIET)
    tf_ext.save(tf_ext.convert(tuned), tmp_path / "int8")
    again = tf_ext.apply_recipe(chain, tmp_path / "int8" / "assets.extra" / "recipe.yaml")
    np.testing.assert_array_equal(tf_ext.convert(again)(chain_data(4)), tf_ext.convert(tuned)(chain_data(4)))
    for each in (tuned, again):
        assert len(repr(each)) < 300
        assert "int8" in repr(each)
    assert len(repr(tuned.source)) < 1000


def test_units_that_hurt_fall_back_until_the_goal_is_met():
    model, data = dense_chain(), chain_data(64)
    weights = model.get_weights()
    weights[2][:, 0] *= 200  # one feature dwarfs the others in the last layer's input
    weights[4][0] /= 200
    model.set_weights(weights)
    tuned = tf_ext.autotune(
        model,
        data,
        agreement(model, data),
        accuracy_criterion={"relative": 0.02},
        recipes={"smooth_quant": False},
        excluded_precisions=["bf16"],
        **QUIET,
    )
    dtypes = [each.dtype for each in tuned.tuning_result.operators]
    assert tuned.tuning_result.met
    assert "fp32" in dtypes
    assert "int8" in dtypes


def test_labels_and_a_keras_metric_evaluate():
    model, images = convolutions(), image_data(64)
    labels = np.asarray(model(images)).argmax(-1)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
    metric = keras.metrics.SparseCategoricalAccuracy()
    tuned = tf_ext.autotune(model, dataset, eval_dataset=dataset, eval_metric=metric, **QUIET)
    assert tuned.tuning_result.baseline == 1.0
    assert tuned.tuning_result.met


def test_several_inputs_and_padding():
    model, data = transformer_block(), block_data(32)
    tuned = tf_ext.autotune(model, data, **QUIET)
    real = data["attention_mask"].astype(bool)
    expected, actual = (np.asarray(each)[real] for each in (model(data), tf_ext.convert(tuned)(data)))
    assert actual.shape == (real.sum(), CLASSES)
    assert signal_to_noise_db(expected, actual) > 25


class OneBatchSize(tf.Module):
    """Declares any batch size, and works with 8."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = [tf.Variable(dense_chain().weights[index]) for index in (0, 2)]

    @tf.function(input_signature=[tf.TensorSpec([None, WIDTH], name="x")])
    def __call__(self, x):
        return tf.reshape(tf.nn.relu(x @ self.dense[0]), [8, self.dense[0].shape[1]]) @ self.dense[1]


@pytest.mark.parametrize("batches", [1, 4])
def test_a_model_that_works_at_one_batch_size_only(batches):
    model, data = OneBatchSize(), [chain_data(8, seed=seed) for seed in range(batches)]
    tuned = tf_ext.autotune(model, data, **{**QUIET, "sampling_sizes": [20]})
    assert signal_to_noise_db(model(data[0]).numpy(), tf_ext.convert(tuned)(data[0]).numpy()) > 20


def test_operators_in_control_flow_are_called_by_the_path_to_them():
    tuned = tf_ext.autotune(WithControlFlow(), chain_data(32), **QUIET)
    names = [each.name for each in tuned.tuning_result.operators if each.dtype == "int8"]
    assert [name.split("/")[:2] for name in names] == [["matmul"], ["while", "body"], ["cond", "then_branch"]]


@pytest.mark.parametrize(("switch", "index"), [("first", 0), ("last", -1)])
def test_recipes_keep_the_first_or_last_operator(chain, switch, index):
    recipe = f"{switch}_conv_or_matmul_quantization"
    tuned = tf_ext.autotune(chain, chain_data(32), recipes={recipe: False}, **QUIET)
    kept = [each for each in tuned.tuning_result.operators if each.dtype == "fp32"]
    names = ["first", "second", "last"]
    assert [names[index] in each.name for each in kept] == [True]
    assert recipe in kept[0].reason


def test_an_operator_that_is_slower_in_integers_stays(chain, monkeypatch):
    def measured(units, *arguments):
        return {unit.name: UnitSpeed(0.5 if "first" in unit.name else 2.0, "measured") for unit in units}

    monkeypatch.setattr("inc_autotune.tf_ext.adaptor.measure_units", measured)
    tuned = tf_ext.autotune(chain, chain_data(32), **QUIET)
    slow = [each for each in tuned.tuning_result.operators if each.dtype == "fp32"]
    assert ["first" in each.name for each in slow] == [True]
    assert "0.50x" in slow[0].reason


def test_rules_by_type_and_by_name(chain):
    rule = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
    tuned = tf_ext.autotune(chain, chain_data(32), op_name_dict={".*second.*": rule}, **QUIET)
    assert [each.dtype for each in tuned.tuning_result.operators].count("fp32") == 1


def test_a_data_type_that_was_added_is_simulated_and_said_to_be(chain):
    narrow = {
        "weight": {"dtype": ["int4"], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]},
        "activation": {"dtype": ["uint8"], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]},
    }
    tuned = tf_ext.autotune(
        chain,
        chain_data(32),
        capability={"int4": {"static": {"MatMul": narrow}}},
        excluded_precisions=["int8", "bf16"],
        **QUIET,
    )
    result = tuned.tuning_result
    assert {(each.dtype, each.simulated) for each in result.operators} == {("int4", True)}
    assert result.speedup is None
    assert any("simulated" in note for note in result.notes)


WEIGHT = {"scheme": ["sym", "asym"], "granularity": ["per_channel"], "algorithm": ["minmax"]}
INT4 = {"weight": {"dtype": ["int4"], **WEIGHT}, "activation": {"dtype": ["fp32"]}}
UINT8 = {"dtype": ["uint8"], "scheme": ["asym", "sym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}


def test_an_approach_without_kernel_is_refused_with_what_there_is(chain):
    with pytest.raises(CapabilityError, match=r"approach='weight_only'(.|\n)*offers: static \(weight int8"):
        tf_ext.autotune(chain, chain_data(32), approach="weight_only", **QUIET)
    rule = {"activation": {"quant_mode": ["dynamic"]}}
    with pytest.raises(CapabilityError, match=r"quant_mode 'dynamic'(.|\n)*offers: static \(weight int8"):
        tf_ext.autotune(convolutions(), image_data(8), op_type_dict={"Conv2D": rule}, **QUIET)


@pytest.mark.parametrize(
    ("approach", "capability", "least"),
    [
        ("weight_only", {"int4": {"weight_only": {"MatMul": INT4}}}, 15),
        (
            "dynamic",
            {"int4": {"dynamic": {"MatMul": {**INT4, "activation": UINT8}}}},
            15,
        ),
    ],
)
def test_an_approach_that_was_added_is_simulated_and_said_to_be(chain, approach, capability, least):
    data = chain_data(32)
    rules = {"MatMul": {"weight": {"dtype": ["int4"]}}}
    tuned = tf_ext.autotune(chain, data, approach=approach, capability=capability, op_type_dict=rules, **QUIET)
    result = tuned.tuning_result
    assert {(each.approach, each.simulated) for each in result.operators} == {(approach, True)}
    assert result.speedup is None
    assert any("simulated" in note for note in result.notes)
    assert least < signal_to_noise_db(chain(data).numpy(), tf_ext.convert(tuned)(data).numpy()) < 60


@pytest.mark.parametrize("algorithm", ["kl", "percentile", "mse"])
def test_calibration_algorithms_clip_little_where_there_are_no_outliers(chain, algorithm):
    data = chain_data(64)
    rule = {"activation": {"algorithm": [algorithm]}}
    tuned = tf_ext.autotune(chain, data, op_type_dict={"MatMul": rule}, **{**QUIET, "sampling_sizes": [64]})
    assert signal_to_noise_db(chain(data).numpy(), tf_ext.convert(tuned)(data).numpy()) > 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"calib_dataset": None}, "calib_dataset is None"),
        ({"recipes": {"scale_propagation_concat": "no"}}, "Allowed: True or False"),
        ({"recipes": {"first_conv": False}}, "first_conv"),
        ({"backend": "gpu"}, "backend"),
        ({"objective": "footprint"}, "objective='footprint'"),
        ({"eval_func": 3}, "eval_func"),
        ({"eval_func": len, "eval_metric": "accuracy"}, "eval_metric"),
        ({"eval_metric": "accuracy"}, "without eval_dataset"),
    ],
)
def test_wrong_arguments_are_refused(chain, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        tf_ext.autotune(chain, **{"calib_dataset": chain_data(8), "progress": False, **arguments})


@pytest.mark.parametrize("verb", [tf_ext.convert, lambda model: tf_ext.save(model, "nowhere")])
def test_what_is_not_tuned_is_refused(chain, verb):
    with pytest.raises(ArgumentError, match="Allowed: what"):
        verb(chain)


@pytest.mark.parametrize(("build", "data"), [(dense_chain, chain_data), (convolutions, image_data)])
def test_the_graph_for_intels_extension_quantizes_around_float_operators(build, data):
    model, samples = build(), data(32)
    tuned = tf_ext.autotune(model, samples, backend="itex", **QUIET)
    (signature,) = tuned.model.signatures.values()
    by_name = {node.name: node for node in signature.graph_def.node}
    products = [node for node in by_name.values() if node.op in ("MatMul", "Conv2D", "DepthwiseConv2dNative")]
    quantized = [each for each in tuned.tuning_result.operators if each.dtype == "int8"]
    fed = [node for node in products if {by_name[each].op for each in node.input} <= {"Dequantize", "Reshape"}]
    assert len(fed) == len(quantized) > 0
    assert not any(node.op.startswith(("_Quantized", "_FusedQuantized")) for node in by_name.values())
    assert tuned.tuning_result.speedup is None
    assert any("ITEX_TF_CONSTANT_FOLDING=0" in note for note in tuned.tuning_result.notes)
    assert signal_to_noise_db(np.asarray(model(samples)), tf_ext.convert(tuned)(samples).numpy()) > 25
    again = tf_ext.apply_recipe(model, tuned.recipe)
    assert again.model.signatures.keys() == tuned.model.signatures.keys()
    np.testing.assert_array_equal(tf_ext.convert(again)(samples), tf_ext.convert(tuned)(samples))
