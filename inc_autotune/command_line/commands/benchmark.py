"""`benchmark`: models timed in turn on the same inputs, and how far their outputs are apart."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer

from inc_autotune.command_line.boundary import command
from inc_autotune.command_line.commands import options as option
from inc_autotune.command_line.configuration import read_configuration
from inc_autotune.command_line.datasets import Batches, DataOptions, check_options_used, inputs_of, open_data
from inc_autotune.command_line.datasets.opening import ALLOWED as DATA
from inc_autotune.command_line.errors import MET, UsageError
from inc_autotune.command_line.frameworks import Item, LoadedModel, Run, load_model
from inc_autotune.command_line.output import note, show, show_json
from inc_autotune.core.arrays import Array
from inc_autotune.core.quantization import signal_to_noise_db
from inc_autotune.core.text_table import text_table

BATCHES = 8
"""That are read; they are run again and again."""

WARM_UPS = 2
LEAST_RUNS = 5
THREAD_VARIABLES = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


@dataclass(frozen=True)
class Timing:
    """How long the calls of one model took.

    Args:
        model: as it was named.
        milliseconds: of each call, wall time.
        sqnr: decibels of the first model's outputs over the difference from them; None for the first model, and where
            outputs cannot be compared.
    """

    model: str
    milliseconds: tuple[float, ...]
    sqnr: float | None

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.milliseconds, share))


@command
@option.reads_data(labelled=False)
def benchmark(
    models: Annotated[
        list[str], typer.Argument(help=f"Models, fp32 and int8. Each is {option.MODELS}.", show_default=False)
    ],
    data: Annotated[str, typer.Option("--data", help=f"Inputs: {DATA}. The first {BATCHES} batches are used.")],
    seconds: Annotated[float, typer.Option(help="For each model.", min=0.01)] = 3.0,
    threads: Annotated[int | None, typer.Option(help="Of each model; what the framework chooses else.", min=1)] = None,
    *,
    reading: dict[str, Any],
    as_json: option.Json = False,
) -> int:
    """Time models in turn on the same inputs, and compare their outputs with those of the first.

    PyTorch runs in eager mode. Load of other programs falls on all models alike, since a call of one follows a call of
    the other.
    """
    options = read_configuration(None, reading)
    check_options_used(options, data)
    if threads is not None:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))  # before a framework is imported
    loaded: list[LoadedModel] = []
    for text in models:
        loaded.append(load_model(text, loaded))
    items = _items(data, loaded[0], options)
    runs = [each.framework.runner(each.value, threads) for each in loaded]
    timings = _timed(models, runs, items, seconds)
    if as_json:
        show_json([_as_json(each, timings[0]) for each in timings])
    else:
        show("\n".join(text_table([("model", "median", "p90", "p99", "runs", "speed-up", "output"), *_rows(timings)])))
        note(f"milliseconds of one batch of {_samples(items[0])}, wall time; {threads or 'default'} threads")
    return MET


def _items(data: str, model: LoadedModel, options: DataOptions) -> list[Item]:
    """The first batches; labels of a user's own data are left out, as calibration does."""
    opened: Any = open_data(data, "--data", model, options)
    items = list(itertools.islice(iter(inputs_of(opened)), BATCHES))
    if not isinstance(opened, Batches):
        items = [each[0] if isinstance(each, tuple) and len(each) == 2 else each for each in items]
    if not items:
        raise UsageError(f"--data {data!r}: yields nothing.")
    return [_as_arrays(each) for each in items]


def _as_arrays(item: Any) -> Item:
    if hasattr(item, "items"):
        return {name: np.asarray(value) for name, value in item.items()}
    array: Array = np.asarray(item)
    return array


def _timed(models: Sequence[str], runs: Sequence[Run], items: Sequence[Item], seconds: float) -> list[Timing]:
    reference = [run(items[0]) for run in runs]
    for run in runs:
        for _ in range(WARM_UPS):
            run(items[0])
    taken: list[list[float]] = [[] for _ in runs]
    for number, item in enumerate(itertools.cycle(items)):
        order = range(len(runs)) if number % 2 == 0 else reversed(range(len(runs)))
        for index in order:
            start = time.perf_counter()
            runs[index](item)
            taken[index].append(1e3 * (time.perf_counter() - start))
        if number + 1 >= LEAST_RUNS and min(map(sum, taken)) >= 1e3 * seconds:
            break
    return [
        Timing(model, tuple(own), _sqnr(reference[0], outputs) if index else None)
        for index, (model, own, outputs) in enumerate(zip(models, taken, reference, strict=True))
    ]


def _sqnr(expected: Sequence[Array], actual: Sequence[Array]) -> float | None:
    """Decibels of the outputs over their difference; None where shapes differ or nothing is a real number."""
    pairs = [pair for pair in zip(expected, actual, strict=False) if pair[0].dtype.kind == "f"]
    if not pairs or any(first.shape != second.shape for first, second in pairs):
        return None
    first, second = (np.concatenate([each.ravel() for each in arrays]) for arrays in zip(*pairs, strict=True))
    decibels = signal_to_noise_db(first, second)
    return None if decibels == -math.inf else decibels


def _rows(timings: Sequence[Timing]) -> list[tuple[str, ...]]:
    first = timings[0].percentile(50)
    return [
        (
            each.model,
            *(f"{each.percentile(share):.3g}" for share in (50, 90, 99)),
            str(len(each.milliseconds)),
            f"{first / each.percentile(50):.2f}x",
            "" if each.sqnr is None else f"{each.sqnr:.1f} dB",
        )
        for each in timings
    ]


def _as_json(timing: Timing, first: Timing) -> dict[str, Any]:
    return {
        "model": timing.model,
        **{f"p{share}_ms": timing.percentile(share) for share in (50, 90, 99)},
        "runs": len(timing.milliseconds),
        "speedup": first.percentile(50) / timing.percentile(50),
        "sqnr_db": timing.sqnr,
    }


def _samples(item: Item) -> int:
    array = item if isinstance(item, np.ndarray) else next(iter(item.values()))
    return len(array) if array.ndim else 1
