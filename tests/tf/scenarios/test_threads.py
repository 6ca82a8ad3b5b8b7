"""Several threads may tune, and leave the process as it was."""

from __future__ import annotations

import numpy as np

from inc_autotune import tf_ext
from tests.process_state import process_state, run_in_threads
from tests.tf.small_models import chain_data, dense_chain


def test_threads_may_tune_one_model():
    model, data, found = dense_chain(), np.split(chain_data(16), 4), []
    weights = [np.array(each) for each in model.weights]

    def tune() -> None:
        tuned = tf_ext.autotune(model, data, lambda candidate: 1.0, objective="modelsize", progress=False)
        found.append(np.asarray(tf_ext.convert(tuned)(data[0])))

    tune()
    state = process_state()
    assert run_in_threads(tune) == []
    after = process_state()
    assert {name for name in state if state[name] != after[name]} == set()
    assert all(np.array_equal(each, found[0]) for each in found)
    assert all(np.array_equal(before, each) for before, each in zip(weights, model.weights, strict=True))
