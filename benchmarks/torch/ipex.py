"""Speed and accuracy through Intel Extension for PyTorch 2.8 and through stock PyTorch, both tuned by this library.

    python benchmarks/torch/ipex.py --ipex-python IPEX/bin/python [--stock-python STOCK/bin/python] [--workloads DIR]

The two need environments of their own: the extension runs on torch 2.8 only. Each is measured in a process of its own,
so keep the machine quiet. Models: MiniLM-L6 (8 x 128 and 1 x 32 tokens) and a ResNet-18 (2 images of 224 x 224), tuned
without an evaluation. For the extension, MiniLM runs a second time with the attention written out as matrix products,
which it quantizes. With workloads, MiniLM is also tuned on sentence similarity with a goal, and its score is that of
the traced model. `--profile` lists the operators of the int8 models.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common, speed
from inc_autotune import torch_ext

GOAL = {"relative": 0.005}


def minilm(attention: str) -> Callable[[], speed.Case]:
    def make() -> speed.Case:
        case = speed.minilm(None)
        case.model.set_attn_implementation(attention)
        for inputs in case.inputs.values():
            # Without padding no mask is added, and the extension knows one sequence of operators only.
            inputs["attention_mask"][:, -1] = 0
        return case

    return make


CASES: dict[str, dict[str, Callable[[], speed.Case]]] = {
    "ipex": {
        "minilm": minilm("sdpa"),
        "minilm, attention as products": minilm("eager"),
        "resnet18": lambda: speed.resnet(None),
    },
    "stock": {"minilm": minilm("sdpa"), "resnet18": lambda: speed.resnet(None)},
}
FORMS = {"ipex": ("fp32 jit", "int8 jit"), "stock": ("fp32 jit", "fp32 compile", "int8 jit", "int8 compile")}


def tuned_model(backend: str, case: speed.Case) -> nn.Module:
    tuned = torch_ext.autotune(
        case.model,
        case.calibration,
        backend="ipex" if backend == "ipex" else "default",
        smoothquant_args=measuring.AUTO_ALPHA,
        sampling_sizes=[100],
        progress=False,
    )
    return torch_ext.convert(tuned)


def timings(backend: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name, make in CASES[backend].items():
        if options.model and name.split(",")[0] not in options.model:
            continue
        case = make()
        quantized = tuned_model(backend, case)
        for shape, inputs in case.inputs.items():
            if name == "resnet18" and shape != "2x224":
                continue
            ready = {form: speed.FORMS[form](case.model, quantized, inputs) for form in FORMS[backend]}
            calls = {form: partial(common.call, model, inputs) for form, model in ready.items()}
            times = common.interleaved(list(calls.values()), options.repeat, patience=options.patience)
            for form, taken in zip(ready, times, strict=True):
                yield {"model": name, "shape": shape, "form": f"{backend} {form}", "ms": 1e3 * taken}
            if options.profile:
                for form in [form for form in calls if form.startswith("int8")]:
                    print(profiled(f"{name} {shape}, {backend} {form}", calls[form]), file=sys.stderr)


def profiled(title: str, call: Callable[[], Any], repeat: int = 5) -> str:
    """Operators by their own time, of some calls."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(repeat):
            call()
    table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=70)
    return f"\n{title}, {repeat} calls\n{table}"


def accuracy(backend: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Score of the traced model, tuned to the goal by the score of the converted one."""
    for attention in ("sdpa", "eager") if backend == "ipex" else ("sdpa",):
        workload = measuring.import_workloads(folder).minilm_sts()
        workload.model.set_attn_implementation(attention)
        tuned = torch_ext.autotune(
            workload.model,
            workload.calib_dataloader,
            workload.eval_func,
            backend="ipex" if backend == "ipex" else "default",
            accuracy_criterion=GOAL,
            sampling_sizes=[100],
            progress=False,
        )
        result = tuned.tuning_result
        quantized = torch_ext.convert(tuned)
        score = workload.eval_func(common.traced(quantized, workload.example_inputs))
        yield {
            "path": f"{backend}, attention {attention}",
            "fp32": result.baseline,
            "int8": score,
            "drop": 1 - score / result.baseline,
            "met": result.met,
            "operators in fp32": len(
                [each for each in result.operators if each.dtype == "fp32" and "harm" in each.reason]
            ),
            "evaluations": result.evaluations,
        }


def work(options: argparse.Namespace) -> None:
    """Measure in this process and print lines of JSON."""
    with torch.no_grad():
        for row in timings(options.worker, options):
            print(json.dumps(row), flush=True)
    if options.workloads and (not options.model or "minilm" in options.model):
        for row in accuracy(options.worker, options.workloads):
            print(json.dumps(row), flush=True)


def rows_of(python: str, worker: str, threads: int) -> list[dict[str, Any]]:
    command = [python, __file__, "--worker", worker, *sys.argv[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    lines = done.stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def print_tables(rows: list[dict[str, Any]]) -> None:
    timed = [row for row in rows if "ms" in row]
    bases = {
        (row["model"], row["shape"], row["form"].split()[0]): row["ms"] for row in timed if "fp32 jit" in row["form"]
    }
    table = [
        [
            *(row[key] for key in ("model", "shape", "form", "ms")),
            bases[row["model"], row["shape"], row["form"].split()[0]] / row["ms"],
        ]
        for row in sorted(timed, key=lambda row: (row["model"].split(",")[0], row["shape"]))
    ]
    measuring.print_table(
        "Speed, one thread", ("model", "shape", "form", "ms", "times faster than its fp32 jit"), table
    )
    scored = [row for row in rows if "path" in row]
    if scored:
        measuring.print_table(
            "Accuracy, MiniLM on sentence similarity", list(scored[0]), [list(row.values()) for row in scored]
        )


def main() -> None:
    parser = measuring.parser(__doc__, workloads="optional", quiet=True)
    parser.add_argument("--ipex-python", help="Python of an environment with torch 2.8 and the extension")
    parser.add_argument("--stock-python", default=sys.executable, help="Python of one with stock torch; default: this")
    parser.add_argument("--model", choices=("minilm", "resnet18"), action="append", help="repeatable; default: both")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--worker", choices=tuple(CASES), help=argparse.SUPPRESS)
    options = common.parse(parser)
    if options.worker:
        torch._inductor.config.freezing = True
        work(options)
        return
    pythons = {"ipex": options.ipex_python, "stock": options.stock_python}
    print_tables(
        [row for worker, python in pythons.items() if python for row in rows_of(python, worker, options.threads)]
    )


if __name__ == "__main__":
    main()
