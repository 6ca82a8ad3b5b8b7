"""What the PyTorch benchmarks share: threads, the clock of torch, and how models are called and converted."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import measuring
from inc_autotune.core.progress import Phases
from inc_autotune.core.tuner import tuning


def parse(arguments: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and set the number of threads."""
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    return options


# Clock


def seconds() -> float:
    """CPU seconds of this thread; wall seconds where torch computes with several threads."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def interleaved(
    functions: Sequence[Callable[[], Any]], repeat: int, least: float = 0.02, patience: float = 0.0
) -> list[float]:
    """`measuring.interleaved` by the clock of `seconds`."""
    return measuring.interleaved(functions, repeat, least, patience, clock=seconds)


def count_cpu_seconds_in_phases() -> None:
    """Let `TuningResult.phases` hold seconds of this module's clock instead of wall seconds."""
    tuning.Phases = partial(Phases, clock=seconds)


# Calls and conversions


def call(model: Any, inputs: Any) -> Any:
    """Call a model with a dict of keyword inputs, or with one input."""
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


def traced(model: nn.Module, inputs: Any) -> Any:
    """`torch.jit.trace`d and frozen."""
    named = isinstance(inputs, dict)
    how = {"example_kwarg_inputs": inputs} if named else {"example_inputs": (inputs,)}
    with torch.no_grad():
        return torch.jit.freeze(torch.jit.trace(model, **how, strict=False))


def first_tensor(output: Any) -> Tensor:
    """The first tensor of what a model returned."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output


def samples_of(loader: Any, count: int) -> Iterator[Any]:
    """The first `count` samples of a loader, as model inputs."""
    for batch in loader:
        if count <= 0:
            return
        inputs = batch if isinstance(batch, dict | Tensor) else batch[0]
        size = len(first_tensor(inputs))
        yield {k: v[:count] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[:count]
        count -= size
