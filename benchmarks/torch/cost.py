"""What tuning costs and finds on trained models: evaluations, fallbacks, CPU time, memory.

    python benchmarks/torch/cost.py [--workloads DIR] [--profile]

With workloads, ResNet-20, MiniLM and two byte GPTs are tuned with their own `eval_func`, to a relative drop of 1 %;
each has its own process, so that peak memory is its own. MiniLM-L6 is tuned without evaluation too, on 100 sentences
of 128 tokens. CPU seconds are those of `autotune` without the time inside `eval_func`; a pass is one fp32 forward pass
over the calibration samples. `--profile` lists the functions the time goes to.

`planted.py` follows, which needs no workloads.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common, models, planted
from inc_autotune import torch_ext
from inc_autotune.core.result.tuning_result import TuningResult

SAMPLES = 100
PHASES = ("calibration", "measurement", "smoothing", "quantization", "ranking", "other")
COST_COLUMNS = ("model", "pass s", "tuning s", "passes", *(f"{name} s" for name in PHASES), "MiB before", "peak MiB")
FOUND_COLUMNS = ("model", "smoothing", "goal %", "fp32", "int8", "drop %", "met", "evals", "fallbacks", "int8 ops")


@dataclass(frozen=True)
class Task:
    """One model to tune.

    Args:
        load: from the package `workloads`, or None, to (model, calibration loader, evaluation or None).
        goal: tolerated relative drop.
        arguments: of `autotune`.
        needs_workloads: whether `load` does.
    """

    load: Callable[[Any], tuple[Any, Any, Callable[[Any], float] | None]]
    goal: float = 0.01
    arguments: tuple[tuple[str, Any], ...] = (("smoothquant_args", measuring.AUTO_ALPHA),)
    needs_workloads: bool = True

    @property
    def smoothing(self) -> str:
        return "auto" if "smoothquant_args" in dict(self.arguments) else "forbidden"


FORBIDDEN = (("recipes", {"smooth_quant": False}),)


def workload(name: str, *given: Any, **named: Any) -> Callable[[Any], tuple[Any, Any, Callable[[Any], float]]]:
    """Loads one of the package `workloads`."""

    def load(workloads: Any) -> tuple[Any, Any, Callable[[Any], float]]:
        loaded = getattr(workloads, name)(*given, **named)
        return loaded.model, loaded.calib_dataloader, loaded.eval_func

    return load


OUTLIERS = workload("byte_gpt", outliers=True)
TASKS = {
    "MiniLM, 128 tokens": Task(
        lambda _: (models.minilm(), models.text_batches(SAMPLES, 128), None), needs_workloads=False
    ),
    "ResNet-20": Task(workload("resnet_cifar", 20)),
    "MiniLM, STS": Task(workload("minilm_sts")),
    "byte GPT": Task(workload("byte_gpt", outliers=False)),
    "byte GPT with outliers": Task(OUTLIERS),
    "the same, no smoothing": Task(OUTLIERS, arguments=FORBIDDEN),
    "the same, stricter goal": Task(OUTLIERS, goal=0.005, arguments=FORBIDDEN),
}


@torch.no_grad()
def fp32_pass(model: Any, loader: Any) -> float:
    """Seconds of one pass of the fp32 model over the calibration samples."""
    batches = list(common.samples_of(loader, SAMPLES))
    return common.interleaved([lambda: [common.call(model, batch) for batch in batches]], 3)[0]


def measure(name: str, options: argparse.Namespace) -> dict[str, list[Any]]:
    """Tune one model; a row of both tables."""
    common.count_cpu_seconds_in_phases()
    task = TASKS[name]
    model, loader, eval_func = task.load(
        measuring.import_workloads(options.workloads) if task.needs_workloads else None
    )
    forward, before = fp32_pass(model, loader), measuring.peak_rss()
    profiler = cProfile.Profile(common.seconds)
    started = common.seconds()
    with profiler if options.profile else nullcontext():
        tuned = torch_ext.autotune(
            model,
            loader,
            eval_func,
            sampling_sizes=[SAMPLES],
            accuracy_criterion={"relative": task.goal},
            progress=False,
            **dict(task.arguments),
        )
    result = tuned.tuning_result
    phases = dict(result.phases)
    spent = common.seconds() - started - phases.pop("evaluation", 0.0)
    phases["other"] = spent - sum(phases.values())
    if options.profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumulative").print_stats("inc_autotune|import", 60)
    by_phase = [phases.get(phase, 0.0) for phase in PHASES]
    rows = {"cost": [name, forward, spent, spent / forward, *by_phase, before, measuring.peak_rss()]}
    if result.baseline is not None:
        rows["found"] = [name, task.smoothing, 100 * task.goal, *found(result)]
    return rows


def found(result: TuningResult) -> list[Any]:
    """What was reached, as cells."""
    assert result.baseline is not None
    assert result.score is not None
    drop = 100 * (result.baseline - result.score) / result.baseline
    quantized = sum(operator.approach is not None for operator in result.operators)
    return [
        f"{result.baseline:.5f}",
        f"{result.score:.5f}",
        f"{drop:.2f}",
        "yes" if result.met else "no",
        result.evaluations,
        planted.fallbacks(result),
        f"{quantized} of {len(result.operators)}",
    ]


def main() -> None:
    parser = measuring.parser(__doc__, workloads="optional")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--model", choices=TASKS, help="only this one, as JSON")
    options = common.parse(parser)
    if options.model:
        print(json.dumps(measure(options.model, options)))
        return
    rows = []
    for name, task in TASKS.items():
        if options.workloads or not task.needs_workloads:
            command = [sys.executable, *sys.argv, "--model", name]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(json.loads(output))
    measuring.print_table("What tuning found", FOUND_COLUMNS, [row["found"] for row in rows if "found" in row])
    measuring.print_table("What it cost", COST_COLUMNS, [row["cost"] for row in rows])
    planted.print_tables()


if __name__ == "__main__":
    main()
