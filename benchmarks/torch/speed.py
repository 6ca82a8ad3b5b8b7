"""Speed of int8 models in PyTorch against fp32 eager: eager, traced + frozen, and compiled with freezing.

    python benchmarks/torch/speed.py [--workloads DIR] [--peers FILE] [--peer-python PYTHON]

Models: MiniLM-L6 (8 x 128 and 1 x 32 tokens), a ResNet-18 (2 and 1 images of 224 x 224) and, with workloads, byte_gpt
(8 x 128 bytes). Each is quantized with `autotune` (smoothing tuned, no evaluation) and `convert`. All forms of a model
are timed in turn in one run. For MiniLM the error is the squared one over the squared fp32 output, on texts that
nothing was calibrated on. Forms in OpenVINO need the package openvino; `--peer-python` names an environment with NNCF,
see `peers/nncf_outputs.py`, whose model is timed in OpenVINO too. `--peers` adds the JSON lines that the scripts in
`benchmarks/peers` print; compare their milliseconds, since each framework has an fp32 of its own. `--profile` lists the
operators of our compiled and traced models. Needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._inductor import config as inductor_config

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common, models
from benchmarks.torch.output_errors import outputs
from benchmarks.torch.profiling import print_profile
from inc_autotune import torch_ext
from inc_autotune.core.analysis import relative_error
from inc_autotune.torch_ext.modules import without_bf16_attention

Form = Callable[[nn.Module, nn.Module, Any], Any]


@dataclass
class Case:
    """A model, what to calibrate it on, and by the name of their shape inputs to time, and unseen samples."""

    model: nn.Module
    calibration: Any
    inputs: dict[str, Any]
    unseen: dict[str, list[Any]] = field(default_factory=dict)


def minilm(_: Any) -> Case:
    shapes = {"8x128": models.token_batch(8, 128), "1x32": models.token_batch(1, 32)}
    sentences = {"8x128": models.text_batches(64, 128, first=100), "1x32": models.text_batches(64, 32, 1, first=100)}
    return Case(models.minilm(), models.text_batches(100, 128), shapes, sentences)


def resnet(_: Any) -> Case:
    images = torch.rand(20, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return Case(models.resnet18(), images.split(4), {"2x224": images[:2], "1x224": images[:1]})


def byte_gpt(workloads: Any) -> Case:
    workload = workloads.byte_gpt(outliers=True)
    return Case(workload.model, workload.calib_dataloader, {"8x128": workload.example_inputs})


def compiled(model: nn.Module, inputs: Any) -> Any:
    """`torch.compile` for exactly these inputs."""
    torch._dynamo.reset()
    result = torch.compile(model, dynamic=False)
    common.call(result, inputs)
    return result


def with_fp32_attention(model: nn.Module) -> nn.Module:
    """A copy whose attention is torch's own."""
    return without_bf16_attention(copy.deepcopy(model))


def with_onednn(model: nn.Module) -> nn.Module:
    """A copy whose Linears inductor makes into oneDNN's, as on processors that our own kernel is not for."""
    with patch("inc_autotune.torch_ext.modules.linear.can_run", bool):
        return copy.deepcopy(model)


def packaged(model: nn.Module, inputs: Any, dynamic_shapes: str | None) -> Any:
    """A package of AOTInductor, loaded."""
    with tempfile.TemporaryDirectory() as folder:
        package = torch_ext.compile_to_package(model, inputs, Path(folder, "m.pt2"), dynamic_shapes=dynamic_shapes)
        print(package, file=sys.stderr)
        return torch._inductor.aoti_load_package(str(package.path))


def in_openvino(model: nn.Module, inputs: Any, form: str) -> Any:
    """By OpenVINO, in as many threads as torch has."""
    from benchmarks.torch import openvino_forms

    threads = torch.get_num_threads()
    if form in ("f32", "default"):
        return openvino_forms.fp32(model, inputs, threads, "f32" if form == "f32" else None)
    return openvino_forms.converted(model, inputs, threads, fixed=form == "int8")


def in_bfloat16(model: nn.Module, inputs: Any) -> Any:
    half = copy.deepcopy(model).bfloat16()
    if isinstance(inputs, torch.Tensor) and inputs.is_floating_point():
        return lambda x: half(x.bfloat16())
    return half


CASES: dict[str, Callable[[Any], Case]] = {"minilm": minilm, "resnet18": resnet, "byte_gpt": byte_gpt}
FORMS: dict[str, Form] = {
    "fp32 eager": lambda fp32, int8, inputs: fp32,
    "fp32 jit": lambda fp32, int8, inputs: common.traced(fp32, inputs),
    "fp32 compile": lambda fp32, int8, inputs: compiled(fp32, inputs),
    "bf16 eager": lambda fp32, int8, inputs: in_bfloat16(fp32, inputs),
    "int8 eager": lambda fp32, int8, inputs: int8,
    "int8 jit": lambda fp32, int8, inputs: common.traced(int8, inputs),
    "int8 compile": lambda fp32, int8, inputs: compiled(int8, inputs),
    "int8 compile, fp32 attention": lambda fp32, int8, inputs: compiled(with_fp32_attention(int8), inputs),
    "int8 compile, oneDNN": lambda fp32, int8, inputs: compiled(with_onednn(int8), inputs),
    "int8 package": lambda fp32, int8, inputs: packaged(int8, inputs, None),
    "int8 package, any size": lambda fp32, int8, inputs: packaged(int8, inputs, "auto"),
    "fp32 openvino": lambda fp32, int8, inputs: in_openvino(fp32, inputs, "f32"),
    "bf16 openvino": lambda fp32, int8, inputs: in_openvino(fp32, inputs, "default"),
    "int8 openvino": lambda fp32, int8, inputs: in_openvino(int8, inputs, "int8"),
    "int8 openvino, any size": lambda fp32, int8, inputs: in_openvino(int8, inputs, "any size"),
}
PEER = "NNCF openvino"


def measure(name: str, options: argparse.Namespace, workloads: Any) -> list[list[Any]]:
    case = CASES[name](workloads)
    tuned = torch_ext.autotune(
        case.model, case.calibration, smoothquant_args=measuring.AUTO_ALPHA, sampling_sizes=[100], progress=False
    )
    quantized = torch_ext.convert(tuned)
    rows = []
    for shape, inputs in case.inputs.items():
        ready = {form: FORMS[form](case.model, quantized, inputs) for form in options.form or FORMS}
        if options.peer_python:
            from benchmarks.torch import openvino_forms

            given = (case.model, case.calibration, inputs, options.peer_python, options.threads)
            ready[PEER] = openvino_forms.nncf(*given)
        calls = {form: partial(common.call, model, inputs) for form, model in ready.items()}
        times = common.interleaved(list(calls.values()), options.repeat, patience=options.patience)
        unseen = [{name: batch[name] for name in inputs} for batch in case.unseen.get(shape, ())]
        errors = [_error(case.model, model, unseen) for model in ready.values()]
        rows += [
            [name, shape, form, 1e3 * taken, times[0] / taken, error]
            for form, taken, error in zip(ready, times, errors, strict=True)
        ]
        if options.profile:
            for form in ("int8 jit", "int8 compile"):
                print_profile(f"{name} {shape}, {form}", calls[form])
    return rows


def _error(fp32: nn.Module, model: Any, unseen: list[Any]) -> str | None:
    return f"{relative_error(outputs(fp32, unseen), outputs(model, unseen)):.2e}" if unseen else None


def with_peers(rows: list[list[Any]], path: Path) -> list[list[Any]]:
    """The table with what the peers printed below the rows of the same model and shape; the last line counts."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    peers = {(line["model"], line["shape"], line["peer"]): line for line in lines}
    result = []
    for model, shape in dict.fromkeys((row[0], row[1]) for row in rows):
        result += [row for row in rows if row[:2] == [model, shape]]
        for (*where, peer), line in peers.items():
            if where == [model, shape]:
                times = {precision: line[f"{precision}_ms"] for precision in ("fp32", "int8")}
                result += [
                    [model, shape, f"{peer} {p}", taken, times["fp32"] / taken, None] for p, taken in times.items()
                ]
    return result


@torch.no_grad()
def main() -> None:
    parser = measuring.parser(__doc__, workloads="optional", quiet=True)
    parser.add_argument("--model", choices=CASES, action="append", help="repeatable; default: all")
    parser.add_argument(
        "--form", choices=FORMS, action="append", help="repeatable, the first is the base; default: all"
    )
    parser.add_argument("--peers", type=Path, help="JSON lines of the scripts in benchmarks/peers")
    parser.add_argument("--peer-python", help="of an environment with NNCF")
    parser.add_argument("--profile", action="store_true")
    options = common.parse(parser)
    inductor_config.freezing = True
    workloads = measuring.import_workloads(options.workloads) if options.workloads else None
    names = options.model or [name for name in CASES if name != "byte_gpt" or workloads]
    rows = [row for name in names for row in measure(name, options, workloads)]
    if options.peers:
        rows = with_peers(rows, options.peers)
    measuring.print_table(
        f"Speed, {options.threads} thread(s), torch {torch.__version__}",
        ("model", "shape", "form", "ms", "times faster than its fp32", "error"),
        rows,
    )


if __name__ == "__main__":
    main()
