"""Models that return labels or text."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from inc_autotune import tf_ext
from inc_autotune.graphs.outputs import BLIND, ONLY_INTEGERS

RANDOM = np.random.default_rng(0)
DATA = [{"x": RANDOM.normal(size=(8, 16)).astype(np.float32)} for _ in range(6)]
FIRST, SECOND = (RANDOM.normal(size=shape).astype(np.float32) for shape in ((16, 32), (32, 4)))


class Classifier(tf.Module):
    def __init__(self, *returned):
        self.first, self.second, self.returned = tf.Variable(FIRST), tf.Variable(SECOND), returned

    @tf.function(input_signature=[tf.TensorSpec([None, 16], tf.float32)])
    def __call__(self, x):
        scores = tf.nn.relu(x @ self.first) @ self.second
        label = tf.argmax(scores, -1)
        every = {"scores": scores, "label": label, "text": tf.gather(tf.constant(list("abcd")), label)}
        return {name: every[name] for name in self.returned}


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
@pytest.mark.parametrize(
    ("returned", "note"), [(("scores", "label", "text"), None), (("label",), ONLY_INTEGERS), (("text",), BLIND)]
)
def test_what_shows_no_error_is_said(tmp_path, returned, note):
    model = Classifier(*returned)
    tf.saved_model.save(model, str(tmp_path), signatures={"serving_default": model.__call__})
    given = {"smoothquant_args": {"alpha": "auto"}, "progress": False}
    result = tf_ext.autotune(str(tmp_path), DATA, **given).tuning_result
    assert (result.smoothing[0][1] is None) == (note == BLIND)
    assert {each for each in result.notes if each in (BLIND, ONLY_INTEGERS)} == ({note} if note else set())
