"""Scores of int8 models on real tasks: fp32, converted, and traced + frozen; what tuning them cost.

    python benchmarks/accuracy.py --workloads DIR

The goal is a relative drop of at most 0.5 %. Each task is tuned twice: with `smoothquant_args={"alpha": "auto"}`, and
with defaults. CPU seconds are those of `autotune` without the time inside `eval_func`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import common

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
        alpha_summary(result.alphas),
    ]


def alpha_summary(alphas: dict[str, float]) -> str:
    """`0.7 x 12, 0.8 x 24`: how many operators have which alpha."""
    counts = sorted(Counter(round(alpha, 3) for alpha in alphas.values()).items())
    return ", ".join(f"{alpha:g} x {count}" for alpha, count in counts) or "not smoothed"


def main() -> None:
    parser = common.parser(__doc__, workloads="required")
    parser.add_argument("--task", choices=TASKS, action="append", help="repeatable; default: all")
    options = common.parse(parser)
    common.count_cpu_seconds_in_phases()
    workloads = common.import_workloads(options.workloads)
    rows = []
    for name in options.task or TASKS:
        workload = TASKS[name](workloads)
        rows += [measure(name, workload, smoothquant_args) for smoothquant_args in (common.AUTO_ALPHA, None)]
    common.print_table("Accuracy", COLUMNS, rows)


if __name__ == "__main__":
    main()
