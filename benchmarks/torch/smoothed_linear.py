"""What smoothing and the shift of channels cost a Linear in integers, in every form.

    python benchmarks/torch/smoothed_linear.py [--repeat N]

A Linear with 8-bit weights is timed plain, smoothed, and smoothed and shifted, interleaved: eager, traced and frozen,
and compiled. Needs a C++ compiler.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor_config

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.modules import convert_module, prepare_module

CONFIG = OpConfig(
    TensorConfig("int8", "sym", "per_channel", "minmax"),
    TensorConfig("uint8", "asym", "per_tensor", "minmax"),
    "static",
)
SHAPES = ((128, 384, 384), (1024, 384, 1536), (1024, 1536, 384))
"""Rows, input and output features."""
COLUMNS = ("rows", "in", "out", "form", "plain us", "smoothed", "shifted", "shifted of smoothed")


def quantized(layer: nn.Linear, smoothing: Tensor | None, shift: Tensor | None) -> nn.Module:
    calibration = OperatorCalibration(-4.0, 4.0, smoothing, shift=shift)
    return convert_module(prepare_module(layer, CONFIG, calibration)).eval()


@torch.no_grad()
def rows_of(count: int, inputs: int, outputs: int, repeat: int) -> list[list[Any]]:
    torch.manual_seed(0)
    torch._dynamo.reset()  # which else stops compiling after so many modules of one class
    layer, x = nn.Linear(inputs, outputs).eval(), torch.randn(count, inputs)
    smoothing, shift = torch.rand(inputs) + 0.5, torch.randn(inputs)
    models = [quantized(layer, *each) for each in ((None, None), (smoothing, None), (smoothing, shift))]
    forms = {
        "eager": models,
        "jit": [common.traced(model, x) for model in models],
        "compiled": [torch.compile(model) for model in models],
    }
    rows: list[list[Any]] = []
    for name, each in forms.items():
        with inductor_config.patch(freezing=True):
            plain, smoothed, shifted = common.interleaved([partial(model, x) for model in each], repeat)
        rows.append([count, inputs, outputs, name, 1e6 * plain, smoothed / plain, shifted / plain, shifted / smoothed])
    return rows


def main() -> None:
    options = common.parse(measuring.parser(__doc__))
    rows = [row for shape in SHAPES for row in rows_of(*shape, options.repeat)]
    measuring.print_table("Time of a Linear, of the plain one's", COLUMNS, rows)


if __name__ == "__main__":
    main()
