"""Where the time of a SavedModel goes, by operator.

    python benchmarks/tf/speed.py --exports DIR
    python benchmarks/tf/profiling.py DIR/transformer/int8 DIR/transformer/unseen.npy

Milliseconds in the kernels of each type of operator, of the run of median length, one thread.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.tf.common import BATCH

v1 = tf.compat.v1


def traced_runs(saved_model: Path, inputs: np.ndarray, repeat: int) -> list[tuple[Counter[str], Counter[str]]]:
    """Nanoseconds and calls by type of operator, of each run, the shortest run first."""
    settings = v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    with v1.Session(graph=tf.Graph(), config=settings) as session:
        graph = v1.saved_model.loader.load(session, ["serve"], str(saved_model))
        signature = graph.signature_def["serving_default"]
        (given,), (wanted,) = signature.inputs.values(), signature.outputs.values()
        feed = {given.name: inputs}
        for _ in range(3):
            session.run(wanted.name, feed)
        runs = []
        for _ in range(repeat):
            trace = v1.RunMetadata()
            options = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)
            session.run(wanted.name, feed, options=options, run_metadata=trace)
            runs.append(_by_operator(trace))
    return sorted(runs, key=lambda run: run[0].total())


def _by_operator(trace: Any) -> tuple[Counter[str], Counter[str]]:
    taken: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for device in trace.step_stats.dev_stats:
        for node in device.node_stats:
            kind = node.timeline_label.rpartition("= ")[2].partition("(")[0] or node.node_name  # "name = Type(inputs)"
            taken[kind] += node.op_end_rel_nanos - node.op_start_rel_nanos
            calls[kind] += 1
    return taken, calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved_model", type=Path)
    parser.add_argument("inputs", type=Path, help=f"a .npy file, of which {BATCH} samples are taken")
    parser.add_argument("--repeat", type=int, default=15)
    options = parser.parse_args()
    runs = traced_runs(options.saved_model, np.load(options.inputs)[:BATCH], options.repeat)
    taken, calls = runs[len(runs) // 2]
    rows = [[kind, calls[kind], nanoseconds / 1e6] for kind, nanoseconds in taken.most_common(12)]
    columns = ("operator", "calls", "ms")
    measuring.print_table(f"{options.saved_model}: {taken.total() / 1e6:.1f} ms in kernels", columns, rows)


if __name__ == "__main__":
    main()
