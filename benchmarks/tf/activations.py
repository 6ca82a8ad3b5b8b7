"""SiLU between two integer convolutions: in floats, as the library writes it, or by a table of 256 integers.

    python benchmarks/tf/activations.py [--size 28] [--channels 128]

In floats: Cast, Mul by the scale, SiLU, QuantizeV2. By a table: the integers are cast to int32, which GatherV2 wants,
and look up the integer of their SiLU; no more than that can be saved, and the rounding of the table's input is added.
Batch 8, in turn, CPU time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.tf import common
from benchmarks.tf.common import BATCH

LARGEST, COPIES = 6.0, 8
"""Values from minus to plus this; how many activations one graph holds, so that calls hardly count."""

LEAST = -0.2785
"""Of SiLU."""

COLUMNS = ("images", "form", "us", "times the floats")


def in_floats(sums: Any) -> Any:
    """From the 32-bit sums of a convolution to the integers of the next one."""
    values = tf.nn.silu(tf.cast(sums, tf.float32) * np.float32(LARGEST / 127))
    made = tf.raw_ops.QuantizeV2(
        input=values - np.float32((LARGEST + LEAST) / 2),
        min_range=-(LARGEST - LEAST) / 2,
        max_range=(LARGEST - LEAST) / 2,
        T=tf.qint8,
        mode="SCALED",
        round_mode="HALF_TO_EVEN",
        narrow_range=True,
    )
    return tf.bitcast(made.output, tf.int8)


def by_table(integers: Any) -> Any:
    """From the 8-bit integers that a convolution returns to those of the next one."""
    values = (np.arange(256) - 128) * (LARGEST / 127)
    silu = values / (1 + np.exp(-values))
    table = np.round((silu - LEAST) / (LARGEST - LEAST) * 254 - 127).astype(np.int8)
    return tf.gather(tf.constant(table), tf.cast(integers, tf.int32))


def repeated(form: Callable[[Any], Any], given: Any) -> Callable[[], Any]:
    """A call of a graph with several of one form, each on data of its own."""
    several = [tf.Variable(np.roll(given, step), trainable=False) for step in range(COPIES)]
    function = tf.function(lambda: [form(each)[0, 0, 0, 0] for each in several], autograph=False)
    return function.get_concrete_function()


def rows(size: int, channels: int, options: Any) -> list[list[Any]]:
    """Both forms on images of one size."""
    shape = (BATCH, size, size, channels)
    integers = np.random.default_rng(0).integers(0, 256, shape)
    forms = {
        "in floats": repeated(in_floats, (integers - 128).astype(np.int32)),
        "by a table": repeated(by_table, integers.astype(np.uint8)),
    }
    for call in forms.values():
        call()
    seconds = measuring.interleaved(
        list(forms.values()), options.repeat, patience=options.patience, clock=common.clock(options.threads)
    )
    return [
        ["x".join(map(str, shape)), form, 1e6 * taken / COPIES, taken / seconds[0]]
        for form, taken in zip(forms, seconds, strict=True)
    ]


def main() -> None:
    parser = common.parser(__doc__, repeat=15)
    parser.add_argument("--size", type=int, help="height and width; default: several")
    parser.add_argument("--channels", type=int, default=128, help="with --size; default: 128")
    options = common.parse(parser)
    sizes = [(options.size, options.channels)] if options.size else [(56, 64), (28, 128), (14, 256)]
    found = [row for size, channels in sizes for row in rows(size, channels, options)]
    measuring.print_table("SiLU between integer convolutions", COLUMNS, found)


if __name__ == "__main__":
    main()
