"""Dynamic Linears with one range for the tensor and one for each token: output errors of MiniLM, milliseconds of one.

    python benchmarks/torch/token_ranges.py

Errors are squared, over the squared output, on texts that tuning has not seen, without padding. Milliseconds are those
of a Linear, all forms in turn: fp32, then per tensor and per token, eagerly and compiled with freezing.
"""

from __future__ import annotations

import copy
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._inductor import config as inductor_config

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common, models
from inc_autotune import torch_ext

GRANULARITIES = ("per_tensor", "per_token")
SHAPES = ((1, 384, 1536), (32, 384, 1536), (1024, 384, 1536), (1024, 1536, 384), (256, 576, 1536), (256, 1536, 576))
LENGTH = 64


def quantized(model: nn.Module, batches: Any, granularity: str, **recipes: bool) -> nn.Module:
    """`model` with Linears of dynamic ranges."""
    rules = {"Linear": {"activation": {"granularity": [granularity]}}}
    arguments = {"approach": "dynamic", "op_type_dict": rules, "recipes": recipes, "progress": False}
    return torch_ext.convert(torch_ext.autotune(model, batches, **arguments))


@torch.no_grad()
def error(model: nn.Module, form: nn.Module, batches: Any) -> float:
    """Of the last hidden states."""
    lost = size = 0.0
    for batch in batches:
        real = batch["attention_mask"].bool()
        exact, found = model(**batch)[0][real], form(**batch)[0][real]
        lost += float((exact - found).square().sum())
        size += float(exact.square().sum())
    return lost / size


def print_errors() -> None:
    model = models.minilm()
    calibration = models.text_batches(64, LENGTH)
    unseen = models.text_batches(64, LENGTH, first=200)
    print("| smoothed | per tensor | per token |\n|---|--:|--:|")
    for smoothed in (False, True):
        forms = (quantized(model, calibration, each, smooth_quant=smoothed) for each in GRANULARITIES)
        figures = " | ".join(f"{error(model, form, unseen):.2e}" for form in forms)
        print(f"| {'yes' if smoothed else 'no'} | {figures} |")


@torch.no_grad()
def print_times(repeat: int) -> None:
    print("| rows, in, out | fp32, ms | per tensor | per token | compiled, fp32 | per tensor | per token |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for rows, inputs, outputs in SHAPES:
        torch.manual_seed(0)
        x = torch.randn(rows, inputs)
        layer = nn.Sequential(nn.Linear(inputs, outputs)).eval()
        forms = [layer, *(quantized(layer, [x], each) for each in GRANULARITIES)]
        torch.compiler.reset()
        forms += [torch.compile(copy.deepcopy(form)) for form in forms]
        times = common.interleaved([partial(form, x) for form in forms], repeat)
        print(f"| {rows} x {inputs} x {outputs} | " + " | ".join(f"{1e3 * each:.3g}" for each in times) + " |")


def main() -> None:
    options = common.parse(measuring.parser(__doc__, repeat=9))
    inductor_config.freezing = True
    print_errors()
    print()
    print_times(options.repeat)


if __name__ == "__main__":
    main()
