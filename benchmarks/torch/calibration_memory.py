"""Peak memory of calibration, which must not grow with the number of samples: 64 against 2,048.

    python benchmarks/torch/calibration_memory.py

MiniLM-L6 on sequences of 64 random tokens that a generator makes on the fly, so the data itself takes no memory. Each
row is a fresh process that runs `autotune` without evaluation. The goal is a difference of at most 10 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.torch import common, models
from inc_autotune import torch_ext

SAMPLES = (64, 2048)
ALGORITHMS = ("minmax", "kl")


def batches(samples: int) -> Iterator[models.Batch]:
    """Batches of 8, each made when it is asked for."""
    return (models.token_batch(8, 64, seed=index) for index in range(samples // 8))


def measure(options: argparse.Namespace) -> None:
    """In the child process: tune and print the peak before and after."""
    model = models.minilm()
    common.call(model, models.token_batch(8, 64))
    before = measuring.peak_rss()
    started = common.seconds()
    torch_ext.autotune(
        model,
        batches(options.samples),
        smoothquant_args={"alpha": "auto"},
        op_type_dict={"Linear": {"activation": {"algorithm": [options.algorithm]}}},
        sampling_sizes=[options.samples],
        progress=False,
    )
    print(json.dumps([before, measuring.peak_rss(), common.seconds() - started]))


def in_new_process(samples: int, algorithm: str, threads: int) -> list[float]:
    """MiB before, peak MiB, CPU seconds."""
    command = [sys.executable, __file__, "--threads", str(threads), "--samples", str(samples), "--algorithm", algorithm]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = measuring.parser(__doc__, repeat=1)
    parser.add_argument("--samples", type=int, help="measure this one in this process")
    parser.add_argument("--algorithm", choices=ALGORITHMS)
    options = common.parse(parser)
    if options.samples:
        measure(options)
        return
    rows = []
    for algorithm in ALGORITHMS:
        for _ in range(options.repeat):
            peaks = []
            for samples in SAMPLES:
                before, peak, taken = in_new_process(samples, algorithm, options.threads)
                peaks.append(peak)
                rows.append([algorithm, samples, taken, before, peak, 100 * (peak / peaks[0] - 1)])
    measuring.print_table(
        "Peak memory", ("calibration", "samples", "CPU s", "MiB before", "peak MiB", "growth %"), rows
    )


if __name__ == "__main__":
    main()
