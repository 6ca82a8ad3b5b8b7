"""Several threads may tune, and leave the process as it was."""

from __future__ import annotations

import numpy as np

from inc_autotune import ort_ext
from tests.ort.small_models import linear_chain, vectors
from tests.process_state import process_state, run_in_threads

DATA = vectors(4, 4)


def test_threads_may_tune_one_model():
    model, found = linear_chain(), []
    written = model.SerializeToString()

    def tune() -> None:
        tuned = ort_ext.autotune(
            model,
            DATA,
            lambda session: 1.0,
            strategy="tpe",
            max_trials=2,
            tuning_time=5,
            objective="modelsize",
            progress=False,
        )
        found.append(ort_ext.session(tuned).run(None, {"x": DATA[0]})[0])

    tune()
    state = process_state()
    for _ in range(2):
        assert run_in_threads(tune) == []
    after = process_state()
    assert {name for name in state if state[name] != after[name]} == set()
    assert all(np.array_equal(each, found[0]) for each in found)
    assert model.SerializeToString() == written
