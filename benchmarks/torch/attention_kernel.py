"""Attention with products of bfloat16 against torch's own in float32, kernel beside kernel.

    python benchmarks/torch/attention_kernel.py [--threads N]

For each shape, with and without a mask of keys: milliseconds, timed in turn, and the squared error of bfloat16 over the
squared output, which float64 gives. Needs a processor with AVX512-BF16 and a C++ compiler.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common
from inc_autotune.torch_ext.target.attention import attention_problem, bf16_attention, is_worth_it

SHAPES = {
    "MiniLM 1x32": (1, 12, 32, 32),
    "MiniLM 1x64": (1, 12, 64, 32),
    "MiniLM 8x128": (8, 12, 128, 32),
    "BERT-Base 1x128": (1, 12, 128, 64),
    "BERT-Base 8x512": (8, 12, 512, 64),
    "ViT-Tiny 8 images": (8, 3, 197, 64),
    "Swin windows": (64, 3, 49, 32),
    "head of 80": (8, 12, 128, 80),
    "one sequence of 2048": (1, 8, 2048, 64),
    "the same, head of 128": (1, 8, 2048, 128),
}


def measure(shape: tuple[int, ...], masked: bool, repeat: int) -> list[Any]:
    batch, heads, length, depth = shape
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(batch, length, heads, depth, generator=generator).transpose(1, 2) for _ in range(3)]
    mask = torch.rand(batch, 1, 1, length, generator=generator) > 0.2 if masked else None
    calls = {
        "fp32": partial(F.scaled_dot_product_attention, *tensors, mask),
        "bf16": partial(bf16_attention, *tensors, mask, False, depth**-0.5),
    }
    fp32, bf16 = common.interleaved(list(calls.values()), repeat)
    exact = F.scaled_dot_product_attention(*(each.double() for each in tensors), mask)
    return [1e3 * fp32, 1e3 * bf16, fp32 / bf16, f"{_error(calls['bf16'](), exact):.1e}"]


def _error(actual: Tensor, exact: Tensor) -> float:
    return float((actual - exact).square().sum() / exact.square().sum())


@torch.no_grad()
def main() -> None:
    options = common.parse(measuring.parser(__doc__, quiet=True))
    problem = attention_problem()
    if problem is not None:
        raise SystemExit(f"no kernel here: {problem}")
    rows = [
        [name, "x".join(map(str, shape)), "keys" if masked else "none", *measure(shape, masked, options.repeat)]
        for name, shape in SHAPES.items()
        for masked in ((False, True) if is_worth_it(*[torch.empty(shape)] * 2) else (False,))
    ]
    measuring.print_table(
        f"Attention, {options.threads} thread(s), torch {torch.__version__}",
        ("what", "batch x heads x length x depth", "mask", "fp32 ms", "bf16 ms", "times faster", "error"),
        rows,
    )


if __name__ == "__main__":
    main()
