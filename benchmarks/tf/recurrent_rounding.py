"""Error at the output of recurrent nets, on unseen text: weights rounded to nearest and by second moments.

    python benchmarks/tf/recurrent_rounding.py --workloads DIR [--seconds 25]

Keras models that predict the next byte of a text, of 128 units, are trained for so many CPU seconds first. The error
is the squared one over the squared fp32 output, of a model that `autotune` quantized without an evaluation; the head
stays in fp32. "error" and "seconds" are those of rounding to nearest, "ratio" and "more" those of second moments over
them, "on held-out" is the same ratio on the samples that decide. Seconds are CPU seconds of `autotune`, less those of
measuring speed.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.tf import common
from benchmarks.tf.common import Array
from inc_autotune import tf_ext
from inc_autotune.core.analysis import relative_error
from inc_autotune.core.progress import Phases
from inc_autotune.core.tuner import tuning

COLUMNS = ("net", "approach", "error", "ratio", "on held-out", "chosen by auto", "seconds", "more")
NETS = {"LSTM, 2 layers": (layers.LSTM, 2), "GRU": (layers.GRU, 1)}
LENGTH, BATCH, UNITS = 64, 8, 128


def trained(kind: Any, count: int, text: Array, seconds: float) -> Any:
    """A net from [batch, LENGTH] bytes to [batch, LENGTH, 256] that has learned for so many CPU seconds."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((LENGTH,), dtype="int32", name="ids")
    x = layers.Embedding(256, 64)(inputs)
    for _ in range(count):
        x = kind(UNITS, return_sequences=True)(x)
    model = keras.Model(inputs, layers.Dense(256, name="head")(x))
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    generator, started = np.random.default_rng(0), time.process_time()
    while time.process_time() - started < seconds:
        windows = text[generator.integers(0, len(text), 4 * BATCH), : LENGTH + 1]
        model.train_on_batch(windows[:, :-1], windows[:, 1:])
    return model


def tuned(source: Path, calibration: Array, unseen: Array, approach: str, rounding: str) -> tuple[float, Any, float]:
    """The error on unseen text, the result, and seconds."""
    started = time.process_time()
    model = tf_ext.autotune(
        source,
        tf.data.Dataset.from_tensor_slices(calibration).batch(BATCH),
        approach=approach,
        recipes={
            "weight_rounding": rounding,
            "smooth_quant": False,
            "fast_bias_correction": False,
            "weight_correction": False,
        },
        op_name_dict={".*head.*": {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}},
        # By speed, the machine would have a say in what is quantized.
        objective="modelsize",
        progress=False,
    )
    result = model.tuning_result
    spent = time.process_time() - started - result.phases.get("measurement", 0.0)
    loaded, int8 = tf.saved_model.load(str(source)), tf_ext.convert(model)  # a loaded one's functions do not keep it
    return relative_error([loaded.serve(unseen).numpy()], [int8(unseen).numpy()]), result, spent


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--workloads", type=Path, required=True, help="folder with the text")
    parser.add_argument("--seconds", type=float, default=25.0, help="CPU seconds of training for each net")
    options = common.parse(parser)
    texts = np.load(options.workloads / "data" / "byte_gpt_text.npz")
    calibration, text = (np.asarray(texts[key], np.int32) for key in ("calib", "eval"))
    learned, unseen = text[len(text) // 2 :], text[:64, :LENGTH]
    rows = []
    for name, (kind, count) in NETS.items():
        model = trained(kind, count, learned, options.seconds)
        source = common.export(model, options.exports / name.replace(", ", "_"))
        for approach in ("static", "dynamic"):
            measured = partial(tuned, source, calibration[:64, :LENGTH], unseen, approach)
            rows.append([name, approach, *measuring.rounding_cells(measured)])
    measuring.print_table("Rounding of recurrent layers", COLUMNS, rows)


if __name__ == "__main__":
    tuning.Phases = partial(Phases, clock=time.process_time)
    main()
