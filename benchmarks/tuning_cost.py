"""What a whole tuning costs: CPU time without `eval_func`, against one fp32 pass over the calibration samples.

    python benchmarks/tuning_cost.py [--workloads DIR] [--profile]

MiniLM-L6 is tuned on 100 sentences of 128 tokens; with workloads, byte_gpt(outliers=True) and minilm_sts on their own
data and with their own `eval_func`, to a relative drop of 0.5 %. Each model has its own process, so that peak memory
is its own. `--profile` lists the functions the time goes to.
"""

from __future__ import annotations

import cProfile
import pstats
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import common
import torch

from inc_autotune import torch_ext

SAMPLES = 100
PHASES = ("calibration", "smoothing", "quantization", "ranking", "measurement", "other")
COLUMNS = (
    "model",
    "fp32 pass s",
    "tuning s",
    "passes",
    "evals",
    *(f"{name} s" for name in PHASES),
    "MiB before",
    "peak MiB",
)


def minilm(_: Any) -> tuple[Any, Any, Callable[[Any], float] | None]:
    return common.minilm(), common.text_batches(SAMPLES, 128), None


def minilm_sts(workloads: Any) -> tuple[Any, Any, Callable[[Any], float] | None]:
    workload = workloads.minilm_sts()
    return workload.model, workload.calib_dataloader, workload.eval_func


def byte_gpt(workloads: Any) -> tuple[Any, Any, Callable[[Any], float] | None]:
    workload = workloads.byte_gpt(outliers=True)
    return workload.model, workload.calib_dataloader, workload.eval_func


MODELS = {"minilm": minilm, "minilm_sts": minilm_sts, "byte_gpt": byte_gpt}


@torch.no_grad()
def fp32_pass(model: Any, loader: Any) -> float:
    """Seconds of one pass of the fp32 model over the calibration samples."""
    batches = list(common.samples_of(loader, SAMPLES))
    return common.interleaved([lambda: [common.call(model, batch) for batch in batches]], 3)[0]


def measure(name: str, options: Any) -> list[Any]:
    workloads = common.import_workloads(options.workloads) if options.workloads else None
    model, loader, eval_func = MODELS[name](workloads)
    forward, before = fp32_pass(model, loader), common.peak_rss()
    profiler = cProfile.Profile(common.seconds)
    started = common.seconds()
    with profiler if options.profile else nullcontext():
        tuned = torch_ext.autotune(
            model,
            loader,
            eval_func,
            smoothquant_args=common.AUTO_ALPHA,
            sampling_sizes=[SAMPLES],
            accuracy_criterion={"relative": 0.005},
            progress=False,
        )
    result = tuned.tuning_result
    phases = dict(result.phases)
    spent = common.seconds() - started - phases.pop("evaluation", 0.0)
    phases["other"] = spent - sum(phases.values())
    if options.profile:
        pstats.Stats(profiler).sort_stats("cumulative").print_stats("inc_autotune|import", 60)
    by_phase = [phases.get(phase, 0.0) for phase in PHASES]
    return [name, forward, spent, spent / forward, result.evaluations, *by_phase, before, common.peak_rss()]


def main() -> None:
    parser = common.parser(__doc__, workloads="optional")
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--profile", action="store_true")
    options = common.parse(parser)
    common.count_cpu_seconds_in_phases()
    if options.model:
        common.print_table("Cost of tuning", COLUMNS, [measure(options.model, options)])
        return
    for name in MODELS if options.workloads else ["minilm"]:
        subprocess.run([sys.executable, *sys.argv, "--model", name], check=True)


if __name__ == "__main__":
    main()
