"""What more workers bring: evaluations per hour of 1, 2 and 4, and what 64 of them pay for sharing one study.

The first table: `distributed.autotune` on the NumPy framework, whose evaluation sleeps, as one that waits for another
device does. The second: processes that only sleep and share, without models: seconds that each spends in the storage
for one trial, over all of its trials. They begin one after the other within the time of one evaluation, as evaluations
of different length do after a while. `--postgresql` starts a server of its own, where one is installed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from inc_autotune import distributed
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.search.study.history import History
from inc_autotune.core.search.study.storage import StudyKey
from inc_autotune.core.search.study.trial import Trial
from inc_autotune.core.space import Assignment
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, random_model

UNITS = 24
INT8 = TensorConfig("int8", "sym", "per_tensor", "minmax")


class Sleeper:
    """An evaluation that sleeps, and notes when it began and ended."""

    def __init__(self, log: Path, seconds: float) -> None:
        self.log, self.seconds = log, seconds

    def __call__(self, model: Any) -> float:
        began = time.time()
        time.sleep(self.seconds)
        with self.log.open("a") as file:
            file.write(f"{began} {time.time()}\n")
        quantized = [layer.name for layer in model.layers if layer.transform.__name__ != "identity"]
        return 1.0 - 0.01 * len(quantized)


def sleeping_run(log: str, seconds: float, trials: int, **given: Any) -> Any:
    """A verb for `distributed.autotune`: random candidates, none of which meets the goal."""
    arguments = validate_arguments(
        strategies=["auto", "random"], backends=["default"], strategy="random", max_trials=trials, **given
    )
    data = [np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32) for _ in range(4)]
    tuned = tune(NumpyAdaptor(), random_model(UNITS, 8), data, Sleeper(Path(log), seconds), arguments)
    return SimpleNamespace(tuning_result=tuned.result)


def per_hour(workers: int, seconds: float, trials: int) -> tuple[float, int]:
    """Evaluations per hour, from the first candidate to the last, and how many there were."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        distributed.autotune(
            sleeping_run, str(log), seconds, trials, workers=workers, progress=False, accuracy_criterion={"absolute": 0}
        )
        lines = sorted([float(each) for each in line.split()] for line in log.read_text().splitlines())[1:]
    # The first is fp32, which one worker evaluates while the others start.
    began, ended = lines[0][0], max(end for _, end in lines)
    return 3600 * len(lines) / (ended - began), len(lines)


def simulated(url: str, number: int, workers: int, trials: int, seconds: float, waits: Any, found: Any) -> None:
    """One of many workers: looks at all trials, begins one, sleeps, ends it."""
    opening = time.process_time()
    history = History(url, StudyKey("simulated", {"part": 1}), higher_is_better=True)
    opened = time.process_time()
    waits.wait()
    time.sleep(seconds * number / workers)
    spent, began = [], time.monotonic()
    for index in range(trials):
        started = time.monotonic()
        history.trials()
        bits = f"{number * trials + index:0{UNITS}b}"
        configs = tuple(
            (f"unit{i}", OpConfig(INT8, INT8, "static") if bit == "1" else FP32) for i, bit in enumerate(bits)
        )
        assignment = Assignment(configs, 100)
        reserved = history.begin(assignment, f"{number}, {index}")
        before = time.monotonic() - started
        time.sleep(seconds)
        started = time.monotonic()
        history.finish(reserved, Trial(reserved.number, assignment, "", "complete", score=0.5, seconds=seconds))
        spent.append(before + time.monotonic() - started)
    took = time.monotonic() - began
    history.close()
    found.put((spent, took, opened - opening, time.process_time() - opened))


def shared(url: str, workers: int, trials: int, seconds: float) -> tuple[list[float], float, float, float]:
    """Of all workers: seconds that sharing took, by trial; CPU seconds to open and for one trial; part of the ideal."""
    fork = multiprocessing.get_context("fork")  # before there are threads
    waits, found = fork.Barrier(workers + 1), fork.Queue()
    processes = [
        fork.Process(target=simulated, args=(url, number, workers, trials, seconds, waits, found))
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    waits.wait()
    spent, took, opening, sharing = zip(*(found.get() for _ in processes), strict=True)
    for process in processes:
        process.join()
    every = sorted(each for of_one in spent for each in of_one)
    return every, sum(opening) / workers, sum(sharing) / len(every), seconds * len(every) / sum(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="that an evaluation of a run sleeps")
    parser.add_argument("--trials", type=int, default=24, help="of a run")
    parser.add_argument("--simulated-seconds", type=float, default=20.0, help="that a simulated evaluation sleeps")
    parser.add_argument("--simulated-trials", type=int, default=3, help="of each simulated worker")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--simulated", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--postgresql", action="store_true", help="share on a server too")
    given = parser.parse_args()

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        databases = {"SQLite": lambda name: f"sqlite:///{folder / name}.db"}
        if given.postgresql:
            from tests.postgresql import running_server

            databases["PostgreSQL"] = stack.enter_context(running_server()).database
        print("| storage | workers | evaluation, s | sharing, s a trial: median | 95 % | CPU, s | to open | of ideal |")
        print("|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
        for kind, database in databases.items():
            for workers in given.simulated:
                url = database(f"simulated_{workers}")
                seconds, trials = given.simulated_seconds, given.simulated_trials
                spent, opening, cpu, of_ideal = shared(url, workers, trials, seconds)
                late = spent[min(len(spent) - 1, int(0.95 * len(spent)))]
                took = f"{statistics.median(spent):.2f} | {late:.2f} | {cpu:.2f} | {opening:.2f}"
                print(f"| {kind} | {workers} | {seconds:g} | {took} | {of_ideal:.0%} |", flush=True)

    if given.workers:
        print("\n| workers | evaluations | per hour | of ideal |\n|--:|--:|--:|--:|", flush=True)
    for workers in given.workers:
        rate, count = per_hour(workers, given.seconds, given.trials)
        print(f"| {workers} | {count} | {rate:.0f} | {rate / (3600 * workers / given.seconds):.0%} |", flush=True)


if __name__ == "__main__":
    main()
