"""Quantization-aware training from the outside: `prepare`, `fit`, `convert`, `save`, and what they refuse."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.core.errors import ArgumentError, ModelError, TrainingError
from tests.tf.small_models import WIDTH, dense_chain

DATA = np.random.default_rng(0).normal(size=(64, WIDTH)).astype(np.float32)


def test_prepare_fit_convert_and_save(tmp_path):
    model = dense_chain()
    student = tf_ext.prepare(model, DATA, progress=False, training_args={"ranges": "moving"})
    assert student.ranges == "moving"
    before = [each.limits for each in student.activations]
    student.compile("adam", "mse")
    student.fit(DATA, model.predict(DATA, verbose=0) * 2, verbose=0)
    assert [each.limits for each in student.activations] != before
    expected = student.predict(DATA, verbose=0)
    int8 = tf_ext.convert(student)
    signal = float((expected**2).sum())
    assert float(((int8(DATA).numpy() - expected) ** 2).sum()) < 1e-3 * signal
    assert {each.config.dtype for each in int8.recipe.operators.values()} == {"int8"}
    assert int8.recipe.metadata["approach"] == "qat"
    tf_ext.save(student, tmp_path / "int8")
    loaded = tf_ext.load(tmp_path / "int8")
    np.testing.assert_array_equal(loaded.serve(DATA), int8(DATA))


def test_rules_keep_operators_out_of_training():
    student = tf_ext.prepare(
        dense_chain(), DATA, op_name_dict={".*second.*": {"weight": {"dtype": ["fp32"]}}}, progress=False
    )
    assert len(student.operators) == 2
    ((name, (kind, _)),) = student.untrained.items()
    assert "second" in name
    assert kind == "MatMul"


class Unusual(layers.Layer):
    """Multiplies by a weight that no layer of Keras holds."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 64), name="matrix")

    def call(self, x):
        return keras.ops.matmul(x, self.matrix)


def test_what_no_layer_can_round_is_named_and_stays():
    inputs = keras.Input((WIDTH,))
    model = keras.Model(inputs, layers.Dense(4)(Unusual()(inputs)))
    student = tf_ext.prepare(model, DATA, progress=False)
    (reason,) = (reason for _, reason in student.untrained.values())
    assert "no layer of Keras" in reason
    int8 = tf_ext.convert(student)
    assert sorted(each.config.dtype for each in int8.recipe.operators.values()) == ["fp32", "int8"]


@pytest.mark.parametrize("what", ["directory", "module", "unbuilt", "student", "no operators"])
def test_models_that_cannot_be_trained(what, tmp_path):
    model = dense_chain()
    if what == "directory":
        model.export(tmp_path / "saved", verbose=False)
        given, message = tmp_path / "saved", "needs the Keras 3 model"
    elif what == "module":
        given, message = tf.Module(), "needs the Keras 3 model"
    elif what == "unbuilt":
        given, message = keras.Sequential([layers.Dense(3)]), "no weights yet"
    elif what == "student":
        given, message = tf_ext.prepare(model, DATA, progress=False), "is a student already"
        given.save(tmp_path / "student.keras")
        for tuned in (given, tmp_path / "student.keras"):
            with pytest.raises(ModelError, match=r"is a student, which prepare\(\) returned. Train it, then convert"):
                tf_ext.autotune(tuned, DATA, progress=False)
    else:
        inputs = keras.Input((WIDTH,))
        given, message = keras.Model(inputs, layers.ReLU()(inputs)), "nothing"
    with pytest.raises(ModelError, match=message):
        tf_ext.prepare(given, DATA, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training_args": {"ranges": "free"}}, "training_args"),
        ({"training_args": {"folder": "weights"}}, "a loop of one's own keeps what it has learned"),
        ({"freeze_batch_norm": 1}, "freeze_batch_norm=1"),
        ({"recipes": {"smooth": True}}, "recipes"),
        ({"calib_dataset": None}, "calib_dataset is None"),
    ],
    ids=["ranges", "folder", "freeze", "recipes", "data"],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ArgumentError, match=message):
        tf_ext.prepare(dense_chain(), **{"calib_dataset": DATA, "progress": False, **options})


def test_weights_that_are_no_numbers_are_named(tmp_path):
    student = tf_ext.prepare(dense_chain(), DATA, progress=False)
    layer = student.model.get_layer("second")
    layer.kernel.assign(np.full(layer.kernel.shape, np.nan, np.float32))
    with pytest.raises(ModelError, match="second/kernel holds NaN"):
        tf_ext.save(student, tmp_path / "int8")
    assert not (tmp_path / "int8").exists()


NARROW = {
    "weight": {"dtype": ["int2"], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]},
    "activation": {"dtype": ["uint8"], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]},
}
CODED = {
    "capability": {"int2": {"static": {"MatMul": NARROW}}},
    "op_type_dict": {"MatMul": {"weight": {"dtype": ["int2", "fp32"]}}},
}
"""Weights of two bits, which nothing but training helps."""

TARGETS = np.asarray(dense_chain()(DATA)).argmax(1)


def accuracy(model):
    return float((np.asarray(model(DATA)).argmax(1) == TARGETS).mean())


def fit(student, epochs=40):
    student.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return student.fit(DATA, TARGETS, batch_size=32, epochs=epochs, verbose=0)


def tuned_by(train_func, model=None, **options):
    model = dense_chain() if model is None else model
    options = {
        "accuracy_criterion": {"relative": 0.05},
        "objective": "modelsize",
        "progress": False,
        **CODED,
        **options,
    }
    return tf_ext.autotune(model, DATA, accuracy, train_func=train_func, **options)


def test_autotune_trains_where_the_goal_is_missed(tmp_path):
    model = dense_chain()
    before = [each.copy() for each in model.get_weights()]
    tuned = tuned_by(fit, model)
    result = tuned.tuning_result
    assert result.met
    assert result.trained
    assert result.trials[0].score < result.score
    assert all(each.trained for each in result.operators)
    assert any("History, which is ignored" in note for note in result.notes)
    assert accuracy(tf_ext.convert(tuned)) == result.score
    tf_ext.save(tuned, tmp_path / "saved")
    loaded = tf_ext.load(tmp_path / "saved")
    assert accuracy(loaded.serve) == result.score
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_qat_trains_at_once_and_a_resumed_run_does_not_train_again(tmp_path, monkeypatch):
    storage = f"sqlite:///{tmp_path}/run.db"
    first = tuned_by(fit, approach="qat", storage=storage)
    assert first.tuning_result.trained
    assert len(first.tuning_result.trials) == 1
    monkeypatch.setattr(keras.Model, "fit", None)
    again = tuned_by(fit, approach="qat", storage=storage)
    assert again.tuning_result.score == first.tuning_result.score
    assert accuracy(tf_ext.convert(again)) == first.tuning_result.score


def nothing(student):
    pass


def not_a_number(student):
    student.model.get_layer("second").kernel.assign(np.full((64, 64), np.nan, np.float32))


@pytest.mark.parametrize(
    ("train_func", "note"), [(nothing, "changed nothing"), (not_a_number, "NaN or infinity")], ids=["nothing", "nan"]
)
def test_a_training_of_no_use_is_noted_and_the_search_goes_on(train_func, note):
    result = tuned_by(train_func).tuning_result
    assert not result.trained
    assert any(note in each for each in result.notes)
    assert len(result.trials) > 3


def another_class(student):
    return dense_chain()


def raises_later(student):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("out of disk")

    student.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    student.fit(DATA, TARGETS, epochs=4, verbose=0, callbacks=[Stop()])


@pytest.mark.parametrize(
    ("train_func", "message"),
    [(another_class, "returned a Functional"), (raises_later, "raised RuntimeError: out of disk")],
    ids=["another class", "raises"],
)
def test_a_training_that_fails_is_an_error_that_keeps_what_there_is(train_func, message):
    with pytest.raises(TrainingError, match=message) as caught:
        tuned_by(train_func)
    assert caught.value.student is not None
    partial = caught.value.partial_result
    assert accuracy(tf_ext.convert(partial.model)) == partial.score


def test_only_keras_models_are_trained(tmp_path):
    dense_chain().export(tmp_path / "saved", verbose=False)
    with pytest.raises(ArgumentError, match="Give the Keras 3 model"):
        tuned_by(fit, tmp_path / "saved")
