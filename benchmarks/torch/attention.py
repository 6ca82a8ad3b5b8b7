"""Models built on torch's own attention: int8 against fp32, and against the same model from transformers.

    python benchmarks/torch/attention.py

`encoder` is an `nn.TransformerEncoder` with the weights of MiniLM-L6, so it computes what transformers' `BertModel`
computes, which is tuned and timed in the same run. Its fp32 form runs torch's fused encoder layer. `vit` is a small
vision transformer of `nn.MultiheadAttention`, with random weights. Both are tuned with defaults, without an evaluation;
SQNR is that of inputs that were not calibrated on. All forms are timed in turn. `--compile` needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor_config

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common, models
from benchmarks.torch.profiling import print_profile
from inc_autotune import torch_ext


@dataclass
class Case:
    """Models that compute the same by name, what to calibrate them on, and inputs: of the SQNR, and to time."""

    models: dict[str, nn.Module]
    calibration: Any
    unseen: Any
    inputs: dict[str, Any]


def encoder() -> Case:
    bert = models.minilm()
    shapes = {f"{batch}x{length}": models.token_batch(batch, length) for batch, length in ((1, 32), (8, 128))}
    unseen = models.text_batches(8, 128, first=400)[0]
    shapes["8x128, padded"] = unseen
    return Case(
        {"nn.TransformerEncoder": models.torch_minilm(), "BertModel": bert},
        models.text_batches(100, 128),
        unseen,
        shapes,
    )


def vit() -> Case:
    images = torch.rand(72, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    shapes = {"1x224": images[:1], "8x224": images[:8]}
    return Case({"ViT": models.vision_transformer()}, images[8:].split(8), images[:8], shapes)


CASES: dict[str, Callable[[], Case]] = {"encoder": encoder, "vit": vit}


def forms(fp32: nn.Module, int8: nn.Module, inputs: Any, compiles: bool) -> dict[str, Any]:
    found = {
        "fp32 eager": fp32,
        "fp32 jit": common.traced(fp32, inputs),
        "int8 eager": int8,
        "int8 jit": common.traced(int8, inputs),
    }
    if compiles:
        found["int8 compile"] = torch.compile(int8, dynamic=False)
    return found


def sqnr(actual: Tensor, expected: Tensor, real: Tensor | None) -> float:
    """In dB, over the positions that are not padding."""
    if real is not None:
        actual, expected = actual[real], expected[real]
    return 10 * math.log10(float(expected.square().sum() / (actual - expected).square().sum()))


def measure(name: str, options: argparse.Namespace) -> list[list[Any]]:
    case = CASES[name]()
    real = case.unseen["attention_mask"].bool() if isinstance(case.unseen, dict) else None
    quantized, noise = {}, {}
    for kind, model in case.models.items():
        tuned = torch_ext.autotune(model, case.calibration, progress=False)
        quantized[kind] = torch_ext.convert(tuned)
        outputs = (common.first_tensor(common.call(each, case.unseen)) for each in (quantized[kind], model))
        noise[kind] = sqnr(*outputs, real)
        print(f"{kind}: {str(tuned.tuning_result).splitlines()[1]}", flush=True)
    rows = []
    for shape, inputs in case.inputs.items():
        ready = {
            (kind, form): each
            for kind, model in case.models.items()
            for form, each in forms(model, quantized[kind], inputs, options.compile).items()
        }
        calls = {key: partial(common.call, each, inputs) for key, each in ready.items()}
        times = common.interleaved(list(calls.values()), options.repeat, patience=options.patience)
        seconds = dict(zip(calls, times, strict=True))
        for (kind, form), taken in seconds.items():
            other = seconds.get(("BertModel", form))
            shown = noise[kind] if form.startswith("int8") else None
            rows.append(
                [kind, shape, form, 1e3 * taken, seconds[kind, "fp32 eager"] / taken, other and other / taken, shown]
            )
        if options.profile:
            for key in calls:
                if key[1] in ("int8 eager", "int8 jit"):
                    print_profile(f"{key} {shape}", calls[key])
    return rows


@torch.no_grad()
def main() -> None:
    parser = measuring.parser(__doc__, quiet=True)
    parser.add_argument("--model", choices=CASES, action="append", help="repeatable; default: all")
    parser.add_argument("--compile", action="store_true", help="compile the int8 models, too")
    parser.add_argument("--profile", action="store_true")
    options = common.parse(parser)
    inductor_config.freezing = True
    rows = [row for name in options.model or CASES for row in measure(name, options)]
    measuring.print_table(
        f"Attention, {options.threads} thread(s), torch {torch.__version__}",
        ("model", "shape", "form", "ms", "times faster than its fp32 eager", "than BertModel", "SQNR dB"),
        rows,
    )


if __name__ == "__main__":
    main()
