"""Models in bf16 and fp16."""

from __future__ import annotations

import torch
from torch import nn

HALF_DTYPES = (torch.bfloat16, torch.float16)


def is_half(module: nn.Module) -> bool:
    """Whether any parameter of a module's own is in bf16 or fp16."""
    return any(parameter.dtype in HALF_DTYPES for parameter in module.parameters(recurse=False))


def half_precision_notes(model: nn.Module) -> list[str]:
    """What a result should say of a model that is given in bf16 or fp16; nothing of one in float32."""
    counts: dict[torch.dtype, int] = {}
    for parameter in model.parameters():
        counts[parameter.dtype] = counts.get(parameter.dtype, 0) + parameter.numel()
    halves = {dtype: count for dtype, count in counts.items() if dtype in HALF_DTYPES}
    if not halves:
        return []
    shares = ", ".join(
        f"{str(dtype).removeprefix('torch.')} ({100 * count // sum(counts.values())} % of its numbers)"
        for dtype, count in halves.items()
    )
    return [
        f"the model was given in {shares}: 'fp32' in this result names what stays as given, and statistics, scales and "
        "integer forms are float32"
    ]
