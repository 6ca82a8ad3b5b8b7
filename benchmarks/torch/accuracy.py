"""Scores of int8 models on real tasks: fp32, converted, and traced + frozen; what tuning them cost.

    python benchmarks/torch/accuracy.py --workloads DIR

The goal is a relative drop of at most 0.5 %. Each task is tuned twice: with `smoothquant_args={"alpha": "auto"}`, and
with defaults. CPU seconds are those of `autotune` without the time inside `eval_func`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from inc_autotune import torch_ext

TASKS = {
    "resnet20": lambda workloads: workloads.resnet_cifar(20),
    "resnet32": lambda workloads: workloads.resnet_cifar(32),
    "minilm_sts": lambda workloads: workloads.minilm_sts(),
    "byte_gpt": lambda workloads: workloads.byte_gpt(outliers=True),
}
COLUMNS = (
    "task",
    "smoothing",
    "fp32",
    "int8",
    "drop %",
    "jit",
    "drop %",
    "met",
    "evals",
    "CPU s",
    "int8 ops",
    "alphas",
)


def measure(name: str, workload: Any, smoothquant_args: Any) -> list[Any]:
    started = common.seconds()
    tuned = torch_ext.autotune(
        workload.model,
        workload.calib_dataloader,
        workload.eval_func,
        smoothquant_args=smoothquant_args,
        accuracy_criterion={"relative": 0.005},
        progress=False,
    )
    result = tuned.tuning_result
    spent = common.seconds() - started - result.phases["evaluation"]
    quantized = torch_ext.convert(tuned)
    int8 = workload.eval_func(quantized)
    jit = workload.eval_func(common.traced(quantized, workload.example_inputs))
    fp32 = result.baseline
    quantized_operators = sum(operator.approach is not None for operator in result.operators)
    return [
        name,
        "default" if smoothquant_args is None else "auto",
        f"{fp32:.5f}",
        f"{int8:.5f}",
        f"{100 * (fp32 - int8) / fp32:.2f}",
        f"{jit:.5f}",
        f"{100 * (fp32 - jit) / fp32:.2f}",
        result.met,
        result.evaluations,
        spent,
        f"{quantized_operators} of {len(result.operators)}",
        measuring.alpha_summary(result.alphas),
    ]


def main() -> None:
    parser = measuring.parser(__doc__, workloads="required")
    parser.add_argument("--task", choices=TASKS, action="append", help="repeatable; default: all")
    options = common.parse(parser)
    common.count_cpu_seconds_in_phases()
    workloads = measuring.import_workloads(options.workloads)
    rows = []
    for name in options.task or TASKS:
        workload = TASKS[name](workloads)
        rows += [measure(name, workload, smoothquant_args) for smoothquant_args in (measuring.AUTO_ALPHA, None)]
    measuring.print_table("Accuracy", COLUMNS, rows)


if __name__ == "__main__":
    main()
