"""Error at the output, on digits that calibration has not seen: corrections off, one by one, together, and "auto".

    python benchmarks/tf/corrections.py

A CNN and a transformer are trained on scikit-learn's digits. The error is the squared one of the logits over the
squared fp32 ones. Everything that can be is quantized statically, without smoothing; nothing is evaluated.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.tf.output_errors import Task, error, print_errors
from inc_autotune import tf_ext
from inc_autotune.core.vocabulary import CORRECTIONS

COLUMNS = ("model", "off", "bias", "weight", "both", '"auto" takes')
CHOICES = ((False, False), (True, False), (False, True), (True, True), ("auto", "auto"))


def measure(name: str, task: Task) -> list[list[Any]]:
    errors, taken = [], ""
    for choices in CHOICES:
        tuned = tf_ext.autotune(
            task.source,
            task.data,
            recipes={
                **dict(zip(CORRECTIONS, choices, strict=True)),
                "smooth_quant": False,
                "weight_rounding": "nearest",
            },
            # By speed, the machine would have a say in what is quantized.
            objective="modelsize",
            progress=False,
        )
        errors.append(f"{error(task, tuned):.2e}")
        if choices == CHOICES[-1]:
            taken = tuned.tuning_result.corrections[0][0]
    return [[name, *errors[:4], taken]]


if __name__ == "__main__":
    print_errors(__doc__, COLUMNS, measure)
