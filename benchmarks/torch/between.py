"""What may stand between two integer convolutions, from uint8 on one grid to uint8 on another.

    python -m benchmarks.torch.between

`float32`: dequantized, computed, rounded once. `integers`: by torch's kernels for quantized tensors; those of pooling
write onto the grid of their input alone, so that the reader rounds a second time. `table`: looked up, byte by byte. CPU
time of one thread, channels last, measured interleaved; the grid has the range of what is written.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.torch.common import interleaved, parse
from inc_autotune.core.quantization import signal_to_noise_db

READ, GATE = (0.05, 120), (1 / 256, 0)
"""Scale and zero point of what is read, and of a sigmoid's output."""

Grid = tuple[float, int]
quantized: Any = torch.ops.quantized


class Operation(NamedTuple):
    """What is computed of float32 values, and how integers compute the same onto a grid."""

    compute: Callable[[Tensor], Tensor]
    kernel: Callable[[Tensor, Grid], Tensor]
    by_element: bool = True


def pooled(function: Callable[[Tensor], Tensor]) -> Operation:
    return Operation(function, lambda x, grid: on_grid(function(x).dequantize(), grid), by_element=False)


OPERATIONS = {
    "SiLU": Operation(F.silu, lambda x, grid: quantized.mul(x, quantized.sigmoid(x, *GATE), *grid)),
    "sigmoid": Operation(torch.sigmoid, lambda x, grid: quantized.sigmoid(x, *grid)),
    "HardSwish": Operation(F.hardswish, lambda x, grid: quantized.hardswish(x, *grid)),
    "LeakyReLU": Operation(F.leaky_relu, lambda x, grid: quantized.leaky_relu(x, 0.01, False, *grid)),
    "average pooling, 2x2": pooled(lambda x: F.avg_pool2d(x, 2)),
    "average pooling, 3x3": pooled(lambda x: F.avg_pool2d(x, 3, 1, 1)),
    "average of each channel": pooled(lambda x: F.adaptive_avg_pool2d(x, 1)),
}


def on_grid(x: Tensor, grid: Grid) -> Tensor:
    return torch.quantize_per_tensor(x, *grid, torch.quint8)


def through_floats(x: Tensor, operation: Operation, grid: Grid) -> Tensor:
    return on_grid(operation.compute(x.dequantize()), grid)


def looked_up(x: Tensor, table: Tensor, grid: Grid) -> Tensor:
    integers = x.int_repr()
    found = table.index_select(0, integers.flatten().int()).view(integers.shape)
    return torch._make_per_tensor_quantized_tensor(found, *grid)


def row_of(operation: Operation, x: Tensor, repeat: int) -> list[str]:
    wanted = operation.compute(x.dequantize())
    lowest, highest = min(0.0, float(wanted.min())), float(wanted.max())
    scale = (highest - lowest) / 255
    grid = scale, round(-lowest / scale)
    forms = [partial(through_floats, x, operation, grid), partial(operation.kernel, x, grid)]
    if operation.by_element:
        table = on_grid(operation.compute((torch.arange(256) - READ[1]) * READ[0]), grid).int_repr()
        forms.append(partial(looked_up, x, table, grid))
    first, *others = interleaved(forms, repeat)
    ratios = [f"{first / each:.2f}" for each in others] + [""] * (2 - len(others))
    noise = [f"{signal_to_noise_db(wanted, form().dequantize()):.1f}" for form in forms[:2]]
    return [f"{first * 1e6:.0f}", *ratios, *noise]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--repeat", type=int, default=15)
    options = parse(arguments)
    torch.manual_seed(0)
    print("| operation | input | float32, us | integers | table | SQNR dB, float32 | SQNR dB, integers |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for shape in ((1, 128, 56, 56), (1, 512, 14, 14)):
        exact = (2 * torch.randn(shape)).contiguous(memory_format=torch.channels_last)
        x = on_grid(exact, READ)
        for name, operation in OPERATIONS.items():
            cells = [name, "x".join(map(str, shape[1:])), *row_of(operation, x, options.repeat)]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
