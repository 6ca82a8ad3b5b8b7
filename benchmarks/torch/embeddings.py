"""Tables of embeddings in 8 and 4 bits against fp32: microseconds of one call, and bytes.

python -m benchmarks.torch.embeddings
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.torch.common import interleaved, parse, traced
from inc_autotune.core.op_config import FP32_TENSOR, OpConfig, TensorConfig
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.modules import convert_module, prepare_module

ROWS = 100_000
SHAPES = ((64, 256, 20), (128, 64, 50))
"""Columns, bags, indices of a bag."""


def quantized(table: nn.Module, dtype: str) -> nn.Module:
    config = OpConfig(TensorConfig(dtype, "asym", "per_channel", "minmax"), FP32_TENSOR, "weight_only")
    return convert_module(prepare_module(table, config, OperatorCalibration()))


def measure(name: str, table: nn.Module, ids: Tensor, repeat: int) -> None:
    integers = [quantized(table, dtype) for dtype in ("uint8", "uint4")]
    forms = [table, *(form for each in integers for form in (each, traced(each, ids)))]
    times = " | ".join(f"{each * 1e6:.0f}" for each in interleaved([partial(form, ids) for form in forms], repeat))
    sizes = " | ".join(f"{sum(each.nbytes for each in form.state_dict().values()) / 1e6:.1f}" for form in integers)
    print(f"| {name} | {times} | {table.weight.nbytes / 1e6:.1f} | {sizes} |")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--repeat", type=int, default=9)
    options = parse(arguments)
    print("| table | fp32, us | uint8 eager | uint8 traced | uint4 eager | uint4 traced | fp32, MB | uint8 | uint4 |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    with torch.no_grad():
        for columns, bags, length in SHAPES:
            torch.manual_seed(0)
            ids = torch.randint(0, ROWS, (bags, length))
            for table in (nn.EmbeddingBag(ROWS, columns, mode="sum"), nn.Embedding(ROWS, columns)):
                name = f"{type(table).__name__}, {columns} columns, {bags} x {length} indices"
                measure(name, table.eval(), ids, options.repeat)


if __name__ == "__main__":
    main()
