"""Speed and size of models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import nn

from inc_autotune.core.analysis import timing
from inc_autotune.core.shared_switch import SharedSwitch
from inc_autotune.torch_ext.data import Batch, run
from inc_autotune.torch_ext.model import shared_copy
from inc_autotune.torch_ext.modules import is_quantized


def measured_copy(model: nn.Module) -> nn.Module:
    """A copy of the user's model, on which a forward pass may leave something; a candidate is ours."""
    return model if any(map(is_quantized, model.modules())) else shared_copy(model, own_buffers=True)


@torch.no_grad()
def interleaved_seconds(models: Sequence[nn.Module], batches: Sequence[Batch]) -> list[float]:
    """CPU seconds of every model for all batches in one thread, taken in turn.

    See `core.analysis.timing.interleaved_seconds`.
    """
    with one_thread():
        return timing.interleaved_seconds(_runs(models, batches), timing.thread_clock())


@torch.no_grad()
def interleaved_seconds_in_threads(models: Sequence[nn.Module], batches: Sequence[Batch]) -> list[float]:
    """The same on the wall, in as many threads as torch has."""
    return timing.interleaved_seconds(_runs(models, batches), timing.wall_clock())


def _runs(models: Sequence[nn.Module], batches: Sequence[Batch]) -> list[Callable[[], None]]:
    return [partial(_run_all, model, batches) for model in models]


def _run_all(model: nn.Module, batches: Sequence[Batch]) -> None:
    for batch in batches:
        run(model, batch)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_ONE_THREAD = SharedSwitch(_one_thread)


def one_thread() -> AbstractContextManager[None]:
    """Let torch compute in the calling thread alone, and then in as many threads as before."""
    return nullcontext() if torch.get_num_threads() == 1 else _ONE_THREAD


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and persistent buffers, shared ones counted once."""
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values() if torch.is_tensor(tensor)}
    return sum(tensor.element_size() * tensor.numel() for tensor in tensors.values())
