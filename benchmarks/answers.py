"""What the scripts that tune a model again and again on a busy machine share."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from inc_autotune.core.result import TuningResult

BURN = "import numpy as np\na = np.ones((700, 700), np.float32)\nwhile True: a @ a"


def parser(description: str | None) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--runs", type=int, default=20)
    result.add_argument("--load", type=int, default=2, help="processes that compute meanwhile")
    result.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    return result


@contextmanager
def busy(load: int) -> Iterator[None]:
    """A machine on which so many other processes compute."""
    burning = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(load)]
    try:
        yield
    finally:
        for each in burning:
            each.kill()


def print_answers(threads: int, runs: int, tune: Callable[[], TuningResult]) -> None:
    """A row for every set of operators that a run kept in fp32, with the number of runs that gave it."""
    found: Counter[tuple[str, ...]] = Counter()
    for _ in range(runs):
        result = tune()
        print(result.speedup, result.fallbacks, file=sys.stderr)
        found[tuple(result.fallbacks)] += 1
    for slow, count in found.most_common():
        print(f"| {threads} | {count} of {runs} | {', '.join(slow) or 'none'} |", flush=True)


def print_header() -> None:
    print("| threads | runs | kept in fp32 |\n|---|---|---|")
