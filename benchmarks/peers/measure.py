"""What both peer scripts share: the workloads, the clock and the output."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

MODELS = ("minilm", "byte_gpt")
SHAPES = {"minilm": ((8, 128), (1, 32)), "byte_gpt": ((8, 128),)}
CALIBRATION_SAMPLES = 100
MINILM_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def parse_arguments(description: str | None) -> argparse.Namespace:
    """Command line of a peer script."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", type=Path, required=True, help="folder with the packages `workloads` and `data`")
    parser.add_argument("--model", choices=(*MODELS, "all"), default="all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=15, help="interleaved timings; their median is reported")
    parser.add_argument("--profile", action="store_true", help="also print where the int8 forward spends its time")
    return parser.parse_args()


def limit_threads(threads: int) -> None:
    """Set the variables the thread pools read; call it before the frameworks are imported."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)


def run_each_model_in_its_own_process(arguments: argparse.Namespace) -> bool:
    """With `--model all`, run the script once a model (peak memory is counted by process) and return True."""
    if arguments.model != "all":
        return False
    for model in MODELS:
        subprocess.run([sys.executable, *sys.argv, "--model", model], check=True)
    return True


def load_workload(folder: Path, model: str) -> Any:
    """The `Workload` of the reference workloads; the pooler of MiniLM, which nobody reads, is removed."""
    sys.path.insert(0, str(folder))
    import workloads

    if model == "byte_gpt":
        return workloads.byte_gpt(n_windows=128)
    workload = workloads.minilm_sts(seq_len=32)
    workload.model.pooler = None
    return workload


def calibration_batches(workload: Any) -> Iterator[tuple[Any, ...]]:
    """The first 100 samples of the calibration data as positional model inputs."""
    left = CALIBRATION_SAMPLES
    for batch in workload.calib_dataloader:
        inputs = [batch[name] for name in MINILM_INPUTS] if isinstance(batch, dict) else list(batch)
        if left <= 0:
            return
        yield tuple(value[:left] for value in inputs)
        left -= len(inputs[0])


def random_inputs(model: str, shape: tuple[int, int]) -> tuple[Any, ...]:
    """Positional inputs of a latency measurement: random ids, nothing padded."""
    import torch

    generator = torch.Generator().manual_seed(0)
    if model == "byte_gpt":
        return (torch.randint(0, 256, shape, generator=generator),)
    ids = torch.randint(1000, 30000, shape, generator=generator)
    return ids, torch.ones_like(ids), torch.zeros_like(ids)


def score(workload: Any, function: Callable[..., Any]) -> float:
    """Task metric of `function(*positional inputs) -> first output`."""

    def called_like_the_model(*inputs: Any, **named: Any) -> Any:
        if named:
            return (function(*(named[name] for name in MINILM_INPUTS)),)
        return function(*inputs)

    return float(workload.eval_func(called_like_the_model))


def cpu_seconds() -> float:
    """CPU seconds of this process and of the compilers it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_rss_mb() -> float:
    """Largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def interleaved_ms(functions: Sequence[Callable[[], Any]], repeat: int, least_ms: float = 40.0) -> list[list[float]]:
    """CPU milliseconds per call of each function: `repeat` timings each, taken in turn."""
    loops = []
    for function in functions:
        for _ in range(3):
            function()
        start = time.process_time()
        function()
        loops.append(max(1, round(least_ms / 1e3 / max(time.process_time() - start, 1e-4))))
    timings: list[list[float]] = [[] for _ in functions]
    for _ in range(repeat):
        for function, count, taken in zip(functions, loops, timings, strict=True):
            start = time.process_time()
            for _ in range(count):
                function()
            taken.append((time.process_time() - start) / count * 1e3)
    return timings


def report(rows: Sequence[dict[str, Any]]) -> None:
    """One JSON line a row on stdout, then the same as a table."""
    for row in rows:
        print(json.dumps(row))
    columns = ["peer", "model", "shape", "fp32_ms", "int8_ms", "quantize_cpu_s", "peak_rss_mb"]
    columns += ["fp32_score", "int8_score"]
    widths = [max(len(name), *(len(str(row[name])) for row in rows)) for name in columns]
    print("  ".join(name.rjust(width) for name, width in zip(columns, widths, strict=True)))
    for row in rows:
        print("  ".join(str(row[name]).rjust(width) for name, width in zip(columns, widths, strict=True)))


def make_row(
    peer: str, version: str, model: str, shape: tuple[int, int], timings: Sequence[Sequence[float]], **more: Any
) -> dict[str, Any]:
    """One result: the medians of fp32 and int8 timings, their minima, and what else was measured."""
    fp32, int8 = timings[:2]
    row: dict[str, Any] = {
        "peer": peer,
        "version": version,
        "model": model,
        "shape": "x".join(map(str, shape)),
        "fp32_ms": round(statistics.median(fp32), 2),
        "int8_ms": round(statistics.median(int8), 2),
        "fp32_min_ms": round(min(fp32), 2),
        "int8_min_ms": round(min(int8), 2),
    }
    return row | {name: round(value, 5) if isinstance(value, float) else value for name, value in more.items()}
