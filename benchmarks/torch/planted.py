"""A search whose answer is known: a model of 40 Linears of which some cannot be quantized.

    python benchmarks/torch/planted.py

Evaluations and fallbacks until a relative squared error of 1 %, for 1, 3 and 10 planted units; for every strategy; and
for two processes that share one study, with an `eval_func` of known length. Smoothing is forbidden, as it would mend
the planted units. The objective is `modelsize`: measured speed would make the counts depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from benchmarks.torch.models import PLANTED_UNITS, PLANTED_WIDTH, Planted
from inc_autotune import torch_ext
from inc_autotune.core.result.tuning_result import TuningResult
from inc_autotune.core.search.strategy import STRATEGIES

EVALUATION_SECONDS = 3.0
ENOUGH_SECONDS = 1000.0
"""A time limit that no search here reaches."""


def tune(count: int, *, sleep: float = 0.0, **arguments: Any) -> TuningResult:
    """Tune a model with `count` bad units, scored on inputs that calibration did not see.

    Args:
        sleep: seconds that an evaluation takes.
        arguments: of `autotune`.
    """
    generator = torch.Generator().manual_seed(0)
    model = Planted(torch.randperm(PLANTED_UNITS, generator=generator)[:count].tolist()).eval()
    inputs = torch.randn(256, PLANTED_WIDTH, generator=generator)
    data = [torch.randn(16, PLANTED_WIDTH, generator=generator) for _ in range(8)]
    with torch.no_grad():
        expected = model(inputs)

    def fidelity(candidate: nn.Module) -> float:
        time.sleep(sleep)
        return 1 - float((candidate(inputs) - expected).square().sum() / expected.square().sum())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = torch_ext.autotune(
            model,
            data,
            fidelity,
            objective="modelsize",
            recipes={"smooth_quant": False},
            excluded_precisions=["bf16"],
            progress=False,
            **arguments,
        )
    result: TuningResult = tuned.tuning_result
    return result


def fallbacks(result: TuningResult) -> int:
    """Units of the returned model that are not in static int8."""
    chosen = next(trial for trial in result.trials if trial.number == result.chosen)
    return sum(config.approach != "static" for _, config in chosen.assignment.configs)


def print_counts() -> None:
    bound = 4 + math.ceil(math.log2(PLANTED_UNITS))
    rows = []
    for count in (1, 3, 10):
        first, refined = tune(count), tune(count, tuning_time=ENOUGH_SECONDS)
        row = [count, first.evaluations, bound, fallbacks(first), 2 * count]
        rows.append([*row, refined.evaluations, fallbacks(refined)])
    columns = ("planted", "evals", "at most", "fallbacks", "at most", "evals, time left", "fallbacks, time left")
    measuring.print_table(f"Bad units planted among {PLANTED_UNITS}", columns, rows)


def print_strategies(counts: Sequence[int] = (1, 3, 10)) -> None:
    rows = []
    for name in STRATEGIES:
        row: list[Any] = [name]
        for count in counts:
            result = tune(count, strategy=name)
            row += [result.evaluations if result.met else f"{result.evaluations}, not met", fallbacks(result)]
        rows.append(row)
    columns = ["strategy", *(f"{what}, {count} planted" for count in counts for what in ("evals", "fallbacks"))]
    measuring.print_table("Strategies, at most 100 trials", columns, rows)


def print_sharing(count: int = 10) -> None:
    rows = []
    for search, limit in (("until the first success", 0.0), ("time left", ENOUGH_SECONDS)):
        for processes in (1, 2):
            outcomes = _shared(processes, count, limit)
            evaluations = " + ".join(str(each["evaluations"]) for each in outcomes)
            seconds = max(each["seconds"] for each in outcomes)
            same = all(each["operators"] == outcomes[0]["operators"] for each in outcomes)
            answer = outcomes[0]["fallbacks"] if same else "not the same"
            rows.append([search, processes, evaluations, seconds, answer])
    columns = ("search", "processes", "evals", "wall s", "fallbacks")
    measuring.print_table(f"{count} planted units, an evaluation of {EVALUATION_SECONDS:g} s", columns, rows)


def _shared(processes: int, count: int, limit: float) -> list[dict[str, Any]]:
    """What each of some processes that share one study found."""
    with tempfile.TemporaryDirectory() as folder:
        given = ["--storage", f"sqlite:///{folder}/run.db", "--time", str(limit), "--count", str(count)]
        command = [sys.executable, __file__, *given]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
        return [json.loads(process.communicate()[0]) for process in running]


def _print_outcome(options: argparse.Namespace) -> None:
    """One of these processes; its start is not timed."""
    started = time.monotonic()
    result = tune(options.count, sleep=EVALUATION_SECONDS, storage=options.storage, tuning_time=options.time)
    seconds = time.monotonic() - started
    operators = [[each.name, each.dtype, each.approach] for each in result.operators]
    found = {
        "evaluations": result.evaluations,
        "fallbacks": fallbacks(result),
        "seconds": seconds,
        "operators": operators,
    }
    print(json.dumps(found))


def print_tables() -> None:
    print_counts()
    print_strategies()
    print_sharing()


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--storage", help=argparse.SUPPRESS)
    parser.add_argument("--time", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = common.parse(parser)
    if options.storage:
        _print_outcome(options)
    else:
        print_tables()


if __name__ == "__main__":
    main()
