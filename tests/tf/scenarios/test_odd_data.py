"""Data that is no plain batch of finite numbers: rows of NaN that the model masks, and sequences with time first."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from inc_autotune import tf_ext

GENERATOR = np.random.default_rng(0)


def weight(*shape: int) -> tf.Variable:
    return tf.Variable((GENERATOR.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32))


class Masking(tf.Module):
    """Rows of `x` are divided by `n`, go through a product, are zeros where `n` is, and go through another product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = weight(64, 64), weight(64, 64)

    @tf.function(input_signature=[tf.TensorSpec([None, 64], name="x"), tf.TensorSpec([None, 1], name="n")])
    def __call__(self, x, n):
        hidden = tf.nn.relu(tf.matmul(x / n, self.first))
        return {"y": tf.matmul(tf.where(n > 0, hidden, 0.0), self.second)}


class TimeFirst(tf.Module):
    """Means over all steps so far of a sequence [steps, features], and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.first = weight(64, 64)

    @tf.function(input_signature=[tf.TensorSpec([None, 64], name="x")])
    def __call__(self, x):
        return {"y": tf.matmul(tf.cumsum(x, axis=0), self.first)}


def saved(model: tf.Module, path) -> str:
    tf.saved_model.save(model, str(path), signatures=model.__call__)
    return str(path)


def test_who_reads_rows_of_nan_stays_in_fp32_and_says_so(tmp_path) -> None:
    x, n = GENERATOR.normal(size=(8, 64)).astype(np.float32), np.full((8, 1), 2, np.float32)
    x[3], n[3] = 0, 0
    tuned = tf_ext.autotune(saved(Masking(), tmp_path), [{"x": x, "n": n}] * 4, progress=False, objective="modelsize")
    quantized = [name for name, each in tuned.recipe.operators.items() if each.config.is_quantized]
    (reason,) = tuned.tuning_result.fallbacks.values()
    assert len(quantized) == 1
    assert "NaN or infinity" in reason


def test_a_sequence_with_time_first_is_one_sample(tmp_path) -> None:
    data = [{"x": GENERATOR.normal(size=(20, 64)).astype(np.float32)} for _ in range(6)]
    tuned = tf_ext.autotune(saved(TimeFirst(), tmp_path), data, progress=False, objective="modelsize")
    assert tuned.tuning_result.sampling_size == 6
    assert any("counts as one sample" in note for note in tuned.tuning_result.notes)
