"""Matrix products whose ranges are found while the model runs, as a user asks for them or tuning chooses them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.core.quantization import signal_to_noise_db
from tests.tf.quantizing import check_files, random
from tests.tf.small_models import WIDTH, block_data, randomized, transformer_block

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

QUIET = {"progress": False, "sampling_sizes": [32]}


def tagger():
    inputs = keras.Input((9, 12), name="x")
    return randomized(keras.Model(inputs, layers.Dense(5)(layers.LSTM(16, return_sequences=True)(inputs))))


def test_a_recurrent_layer_is_dynamic_in_its_loop_and_more_exact(tmp_path):
    model, data, unseen = tagger(), random(24, 9, 12), random(24, 9, 12, seed=1)
    want = model(unseen).numpy()
    exact = {}
    for approach in ("static", "dynamic"):
        tuned = tf_ext.autotune(model, data, approach=approach, **QUIET)
        assert {each.approach for each in tuned.tuning_result.operators} == {approach}
        assert any("/while/body/" in each.name for each in tuned.tuning_result.operators)
        assert not any(each.simulated for each in tuned.tuning_result.operators)
        exact[approach] = signal_to_noise_db(want, tf_ext.convert(tuned)(unseen).numpy())
    assert exact["dynamic"] > exact["static"] + 0.5
    check_files(tuned, model, unseen, tmp_path / "int8")


def test_a_rule_makes_some_products_dynamic_and_others_static():
    model = transformer_block()
    rule = {"activation": {"quant_mode": ["dynamic"], "scheme": ["sym"]}}
    tuned = tf_ext.autotune(model, block_data(8), op_type_dict={"BatchMatMulV2": rule}, **QUIET)
    kinds = {(each.type, each.approach) for each in tuned.tuning_result.operators if each.approach}
    assert kinds == {("BatchMatMulV2", "dynamic"), ("MatMul", "static")}
    unseen = block_data(8, seed=5)
    (got,) = tf_ext.convert(tuned).signatures["serving_default"](**unseen).values()
    assert signal_to_noise_db(model([unseen["ids"], unseen["attention_mask"]]).numpy(), got.numpy()) > 25


def test_a_product_that_one_range_harms_falls_back_to_ranges_of_rows():
    weight, last = random(WIDTH, WIDTH) / 6, random(WIDTH, 4, seed=1) / 6

    @tf.function(input_signature=[tf.TensorSpec([None, 4, WIDTH], name="x")], autograph=False)
    def tokens(x):
        # The first token is a thousand times larger than the others, of which the answer consists.
        return tf.tanh((x @ weight)[:, 1:]) @ last

    data = random(32, 4, WIDTH) * np.float32([1000, 1, 1, 1])[:, None]
    want = tokens(data).numpy()

    def evaluate(model):
        return 1 - float(np.abs(model(data).numpy() - want).mean() / np.abs(want).mean())

    concrete = tokens.get_concrete_function()
    tuned = tf_ext.autotune(concrete, data, evaluate, accuracy_criterion={"relative": 0.05}, **QUIET)
    result = tuned.tuning_result
    assert result.met
    assert [each.approach for each in result.operators] == ["dynamic", "static"]


def test_inspection_names_both_approaches():
    report = tf_ext.inspect(tagger())
    assert {each.options[:2] for each in report.operators} == {("int8 static", "int8 dynamic")}
