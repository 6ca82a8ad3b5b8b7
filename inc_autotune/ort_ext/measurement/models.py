"""Speed and size of models."""

from __future__ import annotations

from inc_autotune.core.analysis import Clock, thread_clock, wall_clock
from inc_autotune.ort_ext.graph import GraphModel, embedded_bytes
from inc_autotune.ort_ext.target import CPU_PROVIDER


def session_clock(provider: str) -> Clock:
    """The clock for sessions of one thread: its CPU time, or wall time for a provider that computes elsewhere."""
    return thread_clock() if provider == CPU_PROVIDER else wall_clock()


def weight_bytes(model: GraphModel) -> int:
    """Bytes of the model as a file: the weights and a small rest."""
    return embedded_bytes(model)
