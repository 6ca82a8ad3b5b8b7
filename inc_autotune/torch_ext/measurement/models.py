"""Speed and size of models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from inc_autotune.core.analysis import timing
from inc_autotune.torch_ext.data import Batch, run


@torch.no_grad()
def interleaved_seconds(models: Sequence[nn.Module], batch: Batch) -> list[float]:
    """Seconds of one forward pass of every model, taken in turn; see `core.analysis.timing.interleaved_seconds`."""
    return timing.interleaved_seconds([partial(run, model, batch) for model in models], clock())


def clock() -> timing.Clock:
    """The clock for what torch computes: the CPU time of this thread if torch has one thread, else wall time."""
    return timing.clock_of(torch.get_num_threads())


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and persistent buffers, shared ones counted once."""
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values() if torch.is_tensor(tensor)}
    return sum(tensor.element_size() * tensor.numel() for tensor in tensors.values())
