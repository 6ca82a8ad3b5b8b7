"""The error at the output where weights are not rounded at all: the least that any rounding of them can reach.

    python benchmarks/torch/activation_floor.py --workloads DIR [--task resnet20 ...]

Activations are uint8, with ranges from calibration; every Linear and convolution rounds its input, and its weight stays
in float32. `floor`: the smallest error of all alphas on the unseen samples themselves, so nothing that has to choose
does better. `smoothed` and `auto` as in `rungs.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring, rungs
from benchmarks.torch import common
from benchmarks.torch.output_errors import CALIBRATED, Task, outputs, parser, static_choices, tasks
from benchmarks.torch.rungs import RULES, error
from inc_autotune.core.analysis import relative_error
from inc_autotune.torch_ext.adaptor import TorchAdaptor

ALPHAS = (None, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
COLUMNS = ("task", "smoothed", "auto", "floor", "alpha", "auto / smoothed", "floor / smoothed")


def floor(task: Task) -> tuple[float, str]:
    """The error with float weights, and the alpha it has."""
    adaptor = TorchAdaptor()
    adaptor.calibrate(task.model, task.calibration, (CALIBRATED,))
    space = static_choices(adaptor, task.model, RULES).space
    smoothed = [group.name for group in adaptor.input_groups(space.units, CALIBRATED)]
    reference, errors = outputs(task.model, task.unseen), {}
    for alpha in ALPHAS:
        tune_cfg = space.tune_cfg(space.default(CALIBRATED, alphas=dict.fromkeys(smoothed, alpha)))
        candidate = adaptor.half_quantized(tune_cfg, task.model, "activation")
        assert candidate is not None
        errors[f"{alpha or 'off'}"] = relative_error(reference, outputs(candidate, task.unseen))
    best = min(errors, key=errors.__getitem__)
    return errors[best], best


def measure(name: str, task: Task) -> list[Any]:
    smoothed, auto = (error(task.model, task, rungs.RUNGS[rung]) for rung in ("smoothed", "auto"))
    least, alpha = floor(task)
    cells = [f"{each:.2e}" for each in (smoothed, auto, least)]
    return [name, *cells, alpha, f"{auto / smoothed:.2f}", f"{least / smoothed:.2f}"]


if __name__ == "__main__":
    given = common.parse(parser(__doc__))
    measuring.print_table(
        "Relative squared error at the output", COLUMNS, [measure(name, task) for name, task in tasks(given)]
    )
