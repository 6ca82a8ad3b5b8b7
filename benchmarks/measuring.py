"""What the benchmarks of every framework share: command line, clock and table."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

AUTO_ALPHA = {"alpha": "auto", "auto_alpha_args": {"alpha_min": 0.0, "alpha_max": 1.0, "alpha_step": 0.1}}


# Command line


def parser(
    description: str | None, *, repeat: int = 15, workloads: str | None = None, quiet: bool = False
) -> argparse.ArgumentParser:
    """The options every benchmark has.

    Args:
        description: the script's docstring.
        repeat: default number of timings.
        workloads: `required` or `optional`; None: the script needs no workloads.
        quiet: whether the script can wait for a quiet machine.
    """
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--threads", type=int, default=1)
    result.add_argument("--repeat", type=int, default=repeat, help="timings; their median counts")
    if quiet:
        text = "seconds to wait, for each model and shape, for moments without other processes"
        result.add_argument("--patience", type=float, default=0.0, help=text)
    if workloads is not None:
        text = "folder that holds the packages `workloads` and `data`"
        result.add_argument("--workloads", type=Path, required=workloads == "required", help=text)
    return result


def import_workloads(folder: Path) -> Any:
    """The package `workloads` of a folder."""
    sys.path.insert(0, str(folder))
    import workloads

    return workloads


# Clock and memory


def interleaved(
    functions: Sequence[Callable[[], Any]],
    repeat: int,
    least: float = 0.02,
    patience: float = 0.0,
    *,
    clock: Callable[[], float],
) -> list[float]:
    """Median seconds of a call of each function, timed in turn so that a drifting machine hits all alike.

    Args:
        functions: each is warmed up by three calls.
        repeat: timings of each function.
        least: seconds that a timing lasts at least, by repeated calls.
        patience: other processes slow a thread down by sharing caches and cores, which CPU time does not correct. A
            timing during which they ran is repeated for as many seconds in all; 0 takes the machine as it is.
        clock: gives the seconds.
    """
    loops = []
    for function in functions:
        for _ in range(3):
            taken = _timed(function, 1, clock)[0]
        loops.append(max(1, round(least / max(taken, 1e-6))))
    times: list[list[float]] = [[] for _ in functions]
    deadline = time.monotonic() + patience
    for _ in range(repeat):
        for function, count, taken_by in zip(functions, loops, times, strict=True):
            taken, disturbed = _timed(function, count, clock)
            while disturbed and time.monotonic() < deadline:
                _wait_until_idle(deadline)
                function()  # warms the caches again
                taken, disturbed = _timed(function, count, clock)
            taken_by.append(taken)
    return [statistics.median(taken_by) for taken_by in times]


def _timed(function: Callable[[], Any], count: int, clock: Callable[[], float]) -> tuple[float, bool]:
    """Seconds of a call, and whether other processes took more than a tenth of a core meanwhile."""
    others, wall, started = _others_seconds(), time.monotonic(), clock()
    for _ in range(count):
        function()
    taken, wall = clock() - started, time.monotonic() - wall
    tick = 0.01  # in which the system counts
    return taken / count, _others_seconds() - others > max(0.1 * wall, 1.5 * tick)


def _others_seconds() -> float:
    """CPU seconds that all other processes have used; 0 where the system does not tell."""
    try:
        user, nice, system, _, _, interrupt, soft, steal = Path("/proc/stat").read_text().split()[1:9]
    except (OSError, ValueError):
        return 0.0
    ticks = sum(map(int, (user, nice, system, interrupt, soft, steal)))
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def _wait_until_idle(deadline: float) -> None:
    """Sleep until nobody else has computed for a quarter of a second."""
    while time.monotonic() < deadline:
        before = _others_seconds()
        time.sleep(0.25)
        if _others_seconds() - before < 0.03:
            return


def peak_rss() -> float:
    """Largest resident set of this process so far, in MiB."""
    import resource  # which not every platform has

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024


# Output


def rounding_cells(measured: Callable[[str], tuple[float, Any, float]]) -> list[str]:
    """What rounding by second moments brings and costs, as cells of a row of the `rounding.py` scripts.

    Args:
        measured: error on unseen samples, result and seconds of tuning, by the name of the rounding.
    """
    (nearest, _, seconds), (rounded, after, longer) = map(measured, ("nearest", "second_moment"))
    # The best plan comes first, and the one it was compared with last.
    held_out = after.smoothing[0][1] / after.smoothing[-1][1]
    chosen = "second moments" if held_out < 1 else "nearest"
    ratios = (f"{rounded / nearest:.2f}", f"{held_out:.2f}")
    return [f"{nearest:.2e}", *ratios, chosen, f"{seconds:.1f}", f"{longer / seconds:.2f}x"]


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A Markdown table: text to the left, numbers to the right."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    numeric = [all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        aligned = (t.rjust(w) if n else t.ljust(w) for t, w, n in zip(row, widths, numeric, strict=True))
        return "| " + " | ".join(aligned) + " |"

    print(f"\n{title}\n\n{line(columns)}")
    print("|" + "|".join("-" * (w + 1) + (":" if n else "-") for w, n in zip(widths, numeric, strict=True)) + "|")
    print("\n".join(line(row) for row in cells), flush=True)


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"
    return str(cell)


def alpha_summary(alphas: dict[str, float]) -> str:
    """`0.7 x 12, 0.8 x 24`: how many operators have which alpha."""
    counts = sorted(Counter(round(alpha, 3) for alpha in alphas.values()).items())
    return ", ".join(f"{alpha:g} x {count}" for alpha, count in counts) or "not smoothed"
