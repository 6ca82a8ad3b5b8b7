"""Calibration that travels in a file, whole and in shards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inc_autotune import tf_ext
from inc_autotune.core.run_context import CalibrationDone, RunContext, running_in
from tests.tf.small_models import chain_data, dense_chain

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")


def tuned(context):
    data = [chain_data(4, seed) for seed in range(6)]
    with running_in(context):
        given = {"progress": False, "sampling_sizes": [24], "smoothquant_args": {"alpha": 0.5}}
        return tf_ext.autotune(dense_chain(), data, recipes={"weight_rounding": "nearest"}, **given).tuning_result


def test_what_one_process_or_several_found_serves_the_others(tmp_path):
    part, readings = tmp_path / "part", []

    def calibrating(contexts):
        with running_in(contexts[0]), pytest.raises(CalibrationDone):
            tuned(contexts[0])
        readings.append(part.exists())
        return lambda: None

    alone = tuned(RunContext())
    context = RunContext(calibration=tmp_path / "all")
    together = tuned(replace(context, parts=(part,), calibrating=calibrating))
    joined = tuned(context)
    assert readings == [True]
    for each in (together, joined):
        assert each.notes == alone.notes
        assert each.recipe.operators.keys() == alone.recipe.operators.keys()
        for name, operator in each.recipe.operators.items():
            assert operator.calibration.keys() == alone.recipe.operators[name].calibration.keys()
            for key, value in operator.calibration.items():
                np.testing.assert_equal(value, alone.recipe.operators[name].calibration[key])
