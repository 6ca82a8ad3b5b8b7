"""Speed and size of models."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import nn

from inc_autotune.torch_ext.data import Batch, run

REPEATS = 9
BUDGET_SECONDS = 3.0


@torch.no_grad()
def interleaved_seconds(models: Sequence[nn.Module], batch: Batch) -> list[float]:
    """Seconds of one forward pass of each model, taken in turn so that a drifting machine hits all alike.

    Each model runs twice to warm up, then up to `REPEATS` times; fewer (at least 2) where that would take long. The
    fastest pass counts: other jobs on the machine can only make a pass slower.
    """
    for model in models:
        _seconds(model, batch)
    warm_up = [_seconds(model, batch) for model in models]
    repeats = max(2, min(REPEATS, int(BUDGET_SECONDS / max(sum(warm_up), 1e-9))))
    times: list[list[float]] = [[] for _ in models]
    for _ in range(repeats):
        for model, taken in zip(models, times, strict=True):
            taken.append(_seconds(model, batch))
    return [min(taken) for taken in times]


def _seconds(model: nn.Module, batch: Batch) -> float:
    started = time.perf_counter()
    run(model, batch)
    return time.perf_counter() - started


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and persistent buffers, shared ones counted once."""
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values() if torch.is_tensor(tensor)}
    return sum(tensor.element_size() * tensor.numel() for tensor in tensors.values())
