"""How many samples have to be held out: error at the output, on samples that calibration has not seen.

    python benchmarks/torch/held_out.py --workloads DIR [--task mobilenet ...] [--held-out 16 32 64] [--advantage 1 1.1]

Every draw puts the same calibration samples into another order, so that others of them are held out and decide; ranges
in the end are of all. Everything is quantized statically with all that tuning finds best, without an evaluation.
`advantage` is how many times smaller an error smoothing needs than none. The mean and the largest error of the draws,
the mean ratio to the first row (geometric, draw by draw), and CPU seconds of `autotune`, less those of measuring speed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from benchmarks.torch.output_errors import CALIBRATED, Task, outputs, parser, tasks
from inc_autotune import torch_ext
from inc_autotune.core.analysis import relative_error

COLUMNS = ("task", "held out", "advantage", "mean error", "largest", "of the first row", "seconds")
HELD_OUT = [f"inc_autotune.core.data.{module}.HELD_OUT_SAMPLES" for module in ("held_out", "batch_axis", "calibration")]
ADVANTAGE = "inc_autotune.core.analysis.smoothing_plan.SMOOTHING_ADVANTAGE"


def drawn(batches: Sequence[Any], draw: int) -> list[Any]:
    """The same samples in another order, in batches of the same size; the first draw is the order they have."""
    named = [batch if isinstance(batch, dict) else {"": batch} for batch in batches]
    rows = {key: torch.cat([batch[key] for batch in named]) for key in named[0]}
    count, size = (len(next(iter(each.values()))) for each in (rows, named[0]))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(draw)) if draw else torch.arange(count)
    parts = [{key: value[part] for key, value in rows.items()} for part in order.split(size)]
    return [part.get("", part) for part in parts]


def measured(task: Task, draw: int, held_out: int, advantage: float) -> tuple[float, float]:
    """The error, and seconds."""
    started = common.seconds()
    with ExitStack() as patches:
        for name in HELD_OUT:
            patches.enter_context(patch(name, held_out))
        patches.enter_context(patch(ADVANTAGE, advantage))
        tuned = torch_ext.autotune(
            task.model,
            drawn(task.calibration, draw),
            approach="static",
            op_type_dict={"Linear|Conv2d": {"weight": {"dtype": ["int8"]}, "activation": {"dtype": ["uint8"]}}},
            sampling_sizes=CALIBRATED,
            # By speed, the machine would have a say in what is quantized.
            objective="modelsize",
            progress=False,
        )
    spent = common.seconds() - started - tuned.tuning_result.phases.get("measurement", 0.0)
    return relative_error(outputs(task.model, task.unseen), outputs(torch_ext.convert(tuned), task.unseen)), spent


def rows(name: str, task: Task, options: Any) -> list[list[Any]]:
    found, first = [], []
    for advantage in options.advantage:
        for held_out in options.held_out:
            draws = [measured(task, draw, held_out, advantage) for draw in range(options.draws)]
            errors = [error for error, _ in draws]
            first = first or errors
            ratio = math.exp(sum(math.log(one / other) for one, other in zip(errors, first, strict=True)) / len(errors))
            mean, seconds = sum(errors) / len(errors), sum(each for _, each in draws) / len(draws)
            found.append(
                [name, held_out, advantage, f"{mean:.3g}", f"{max(errors):.3g}", f"{ratio:.3f}", f"{seconds:.1f}"]
            )
            print(found[-1], file=sys.stderr, flush=True)
    return found


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--draws", type=int, default=8)
    arguments.add_argument("--held-out", type=int, nargs="+", default=[16, 32, 64])
    arguments.add_argument("--advantage", type=float, nargs="+", default=[1.0, 1.1])
    options = common.parse(arguments)
    table = [row for name, task in tasks(options) for row in rows(name, task, options)]
    measuring.print_table("Relative squared error at the output", COLUMNS, table)


if __name__ == "__main__":
    common.count_cpu_seconds_in_phases()
    main()
