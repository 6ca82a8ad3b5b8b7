"""How the library takes thousands of files that nobody would write: refused, right, wrong, raw, crashed, hung.

    python -m benchmarks.fuzz --count 1000 --seed 1
    python -m benchmarks.fuzz --kind onnx_structure --seed 1 --first 417 --count 1   # one input again

Inputs run in a child process, so that one which ends the interpreter is counted. An input hangs that takes more than 5
seconds of processor time, or 60 seconds of any time. Kinds and mutators are those of `tests/fuzz/`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import selectors
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from tests.fuzz.outcome import KINDS, attempt_of, outcome

MOST_SECONDS = 5.0
"""Of the processor, for one input."""

MOST_WAITING = 60.0
"""Seconds of any kind for one input; what waits for ever takes no time of the processor."""

PREPARATION = 300.0
"""Seconds for importing a framework and making the models that are changed."""

MOST_MEMORY = 12 * 2**30
"""Bytes of addresses of the child."""

COLUMNS = ("tried", "refused", "right", "wrong", "raw", "crashed", "hung")


def work(kind: str, seed: int, first: int, count: int) -> None:
    """In the child: try inputs, and say on standard output how each was taken."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may write what they like
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with TemporaryDirectory() as folder:
        attempt = attempt_of(kind, Path(folder))
        print(json.dumps(["ready", ""]), file=answers, flush=True)
        for index in range(first, first + count):
            print(json.dumps(outcome(attempt, kind, seed, index)), file=answers, flush=True)


class Child:
    """A child that tries inputs from `first` on."""

    def __init__(self, kind: str, seed: int, first: int, count: int, show: bool) -> None:
        command = [sys.executable, "-m", "benchmarks.fuzz", "--work", "--kind", kind]
        command += ["--seed", str(seed), "--first", str(first), "--count", str(count)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=None if show else subprocess.DEVNULL, env=environment
        )
        self._usage = psutil.Process(self.process.pid)
        assert self.process.stdout is not None
        self._lines = self.process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._lines, selectors.EVENT_READ)

    def answer(self, most_seconds: float, most_waiting: float) -> tuple[str, str]:
        """The next answer, or ("hung", "") or ("crashed", how)."""
        started, used = time.monotonic(), self._seconds()
        while not self._selector.select(0.1):
            waited = time.monotonic() - started
            if self._seconds() - used > most_seconds or waited > most_waiting:
                self.end()
                return "hung", f"after {waited:.0f} s"
        line = self._lines.readline()
        if not line:
            return "crashed", f"status {self.process.wait()}"
        answer, detail = json.loads(line)
        return answer, detail

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._lines.close()

    def _seconds(self) -> float:
        try:
            times = self._usage.cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(times.user + times.system)


def run_kind(kind: str, seed: int, first: int, count: int, show: bool) -> tuple[Counter[str], Counter[str]]:
    """Numbers of answers, and of details, of one kind."""
    found: Counter[str] = Counter()
    details: Counter[str] = Counter()
    index, last = first, first + count
    child: Child | None = None
    while index < last:
        if child is None:
            child = Child(kind, seed, index, last - index, show)
            answer, detail = child.answer(PREPARATION, PREPARATION)
            if answer != "ready":
                raise RuntimeError(f"{kind} cannot be prepared: {answer} {detail}; --show says more")
        answer, detail = child.answer(MOST_SECONDS, MOST_WAITING)
        found["tried"] += 1
        found[answer] += 1
        if answer not in ("refused", "right"):
            details[f"{answer}: {detail}"] += 1
            print(f"  {kind} --seed {seed} --first {index}: {answer}: {detail}", flush=True)
        if answer in ("crashed", "hung"):
            child = None
        index += 1
    if child is not None:
        child.end()
    return found, details


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=[*KINDS, "all"], default="all")
    parser.add_argument("--count", type=int, default=100, help="inputs of each kind (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input (default 0)")
    parser.add_argument("--show", action="store_true", help="show what children write to standard error")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        work(chosen.kind, chosen.seed, chosen.first, chosen.count)
        return
    total: Counter[str] = Counter()
    rows = []
    for kind in KINDS if chosen.kind == "all" else [chosen.kind]:
        found, details = run_kind(kind, chosen.seed, chosen.first, chosen.count, chosen.show)
        for detail, number in details.most_common(10):
            print(f"  {number:4d} {detail}")
        total.update(found)
        rows.append((kind, found))
    print("| kind | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for name, found in [*rows, ("all", total)]:
        print(f"| {name} | " + " | ".join(str(found[column]) for column in COLUMNS) + " |")


if __name__ == "__main__":
    main()
