"""Where the time of a session goes, by operator type."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks import measuring
from benchmarks.ort.models import Feed

SECONDS = 5.0


def print_profile(
    title: str,
    make_session: Callable[[Callable[[], onnxruntime.SessionOptions]], onnxruntime.InferenceSession],
    make_options: Callable[[], onnxruntime.SessionOptions],
    feed: Feed,
    folder: Path,
) -> None:
    """A table of operator types: the fastest time of each node over the runs of `SECONDS`, summed.

    Args:
        title: of the table.
        make_session: takes a function that makes session options.
        make_options: the options without profiling.
        feed: inputs.
        folder: for the profiler's file.
    """

    def profiling() -> onnxruntime.SessionOptions:
        options = make_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        return options

    session = make_session(profiling)
    ending = time.monotonic() + SECONDS
    while time.monotonic() < ending:
        session.run(None, feed)
    path = Path(session.end_profiling())
    events = json.loads(path.read_text())
    path.unlink()
    measuring.print_table(title, ("operator", "nodes", "ms", "share"), _rows(events))


def _rows(events: list[dict[str, Any]]) -> list[list[Any]]:
    fastest: dict[tuple[str, str], float] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = event["args"]["op_name"], event["name"]
            fastest[key] = min(fastest.get(key, float("inf")), event["dur"] / 1e3)
    by_type: dict[str, list[float]] = defaultdict(list)
    for (op_type, _), taken in fastest.items():
        by_type[op_type].append(taken)
    total = sum(fastest.values())
    ordered = sorted(by_type.items(), key=lambda item: -sum(item[1]))[:12]
    rows = [[op_type, len(each), sum(each), sum(each) / total] for op_type, each in ordered]
    return [*rows, ["all operators", len(fastest), total, 1.0]]
