"""Error at the output, on digits that calibration has not seen: weights rounded to nearest and by second moments.

    python benchmarks/tf/rounding.py [--task transformer ...]

A CNN and a transformer are trained on scikit-learn's digits. The error is the squared one of the logits over the
squared fp32 ones, of a model that `autotune` quantized statically without an evaluation, so that nothing falls back.
Each rounding has the alpha that tuning finds with it. "error" and "seconds" are of rounding to nearest, "ratio" and
"more" those of second moments over them. Seconds are CPU seconds of `autotune`, less those of measuring speed.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.tf.output_errors import Task, error, print_errors
from inc_autotune import tf_ext
from inc_autotune.core.progress import Phases
from inc_autotune.core.tuner import tuning

COLUMNS = ("task", "error", "ratio", "on held-out", "chosen by auto", "seconds", "more")


def tuned(task: Task, rounding: str) -> tuple[float, Any, float]:
    """The error on unseen images, the result, and seconds."""
    started = time.process_time()
    model = tf_ext.autotune(
        task.source,
        task.data,
        approach="static",
        recipes={"weight_rounding": rounding, "fast_bias_correction": False, "weight_correction": False},
        # By speed, the machine would have a say in what is quantized.
        objective="modelsize",
        progress=False,
    )
    result = model.tuning_result
    spent = time.process_time() - started - result.phases.get("measurement", 0.0)
    return error(task, model), result, spent


def measure(name: str, task: Task) -> list[list[Any]]:
    return [[name, *measuring.rounding_cells(partial(tuned, task))]]


if __name__ == "__main__":
    tuning.Phases = partial(Phases, clock=time.process_time)
    print_errors(__doc__, COLUMNS, measure)
