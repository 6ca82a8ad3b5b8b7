"""Whether verdicts about speed are the same in every run on a busy machine.

    python benchmarks/tf/speed_verdicts.py [--threads 2]

A model of products around the line where int8 stops paying is tuned again and again while other processes compute.
Every set of operators that a run keeps in fp32 is printed with the number of runs that gave it: one line is one answer.
TensorFlow's number of threads is fixed once it has run, so each gets a run of the script.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import answers
from inc_autotune import tf_ext
from inc_autotune.core.result import TuningResult

WIDTHS = {"wide": 512, "narrow": 8, "expand": 512, "tail": 2}


def shapes() -> keras.Model:
    """Products with wide and narrow weights, from three times as fast in int8 to slower."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((512,), name="x")
    for name, width in WIDTHS.items():
        x = layers.Dense(width, activation="tanh", name=name)(x)
    return keras.Model(inputs, x)


def main() -> None:
    parser = answers.parser(__doc__)
    parser.set_defaults(threads=[1])
    given = parser.parse_args()
    if len(given.threads) != 1:
        parser.error("--threads takes one number here")
    tf.config.threading.set_intra_op_parallelism_threads(given.threads[0])
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = shapes()
    data = [np.random.default_rng(seed).normal(size=(3072, 512)).astype(np.float32) for seed in range(4)]

    def tune() -> TuningResult:
        return tf_ext.autotune(model, data, example_inputs=data[0], progress=False).tuning_result

    warnings.simplefilter("ignore")
    answers.print_header()
    with answers.busy(given.load):
        answers.print_answers(given.threads[0], given.runs, tune)


if __name__ == "__main__":
    main()
