"""Where the time of a model goes, by operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks import measuring


def print_profile(title: str, function: Callable[[], Any], repeat: int = 10) -> None:
    """Self milliseconds of each operator in the quickest of some calls (wall time: the profiler knows no other)."""
    function()
    calls = []
    for _ in range(repeat):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            function()
        events = {event.key: (event.count, event.self_cpu_time_total / 1e3) for event in profiler.key_averages()}
        calls.append((sum(taken for _, taken in events.values()), events))
    total, events = min(calls, key=lambda call: call[0])
    largest = sorted(events.items(), key=lambda item: -item[1][1])[:10]
    rows = [[name[:60], count, taken, taken / total] for name, (count, taken) in largest]
    measuring.print_table(title, ("operator", "calls", "ms", "share"), [*rows, ["everything", None, total, 1.0]])
