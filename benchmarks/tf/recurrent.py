"""Speed, accuracy and size of recurrent layers in int8, beside LiteRT.

    python benchmarks/tf/recurrent.py [--hidden 256] [--batch 8]

Taggers with random weights: an LSTM or a GRU of 256 or 1024 units over 64 steps, and a Dense layer at each step; batch
1 and 8. Tuned without evaluation, with static and with dynamic ranges, saved, loaded and timed in turn with the
SavedModel that Keras exports and with what LiteRT's converter makes of it, with dynamic ranges. `SQNR` is that of the
tags of samples that calibration did not see to those of TensorFlow in fp32; `size` is bytes of the SavedModel, or file,
by bytes of the fp32 parameters; `int8` is the share of the weights. Goals: at least as fast and as exact as LiteRT, and
4 times smaller where the weights are integers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.tf import common
from benchmarks.tf.common import Array
from inc_autotune import tf_ext
from inc_autotune.core.quantization.affine import signal_to_noise_db

STEPS, TAGS, SAMPLES = 64, 16, 16
APPROACHES = ("static", "dynamic")
LAYERS = {"LSTM": layers.LSTM, "GRU": layers.GRU}
COLUMNS = ("layer", "units", "batch", "form", "ms", "times faster", "SQNR dB", "size", "int8 %")

Form = tuple[str, Path, Callable[[Array], Array], Callable[[], Any]]
"""Name, file, function from a batch to its tags, and one that runs the first batch again."""


def tagger(kind: str, units: int, batch: int | None = None) -> Any:
    """A recurrent layer, and tags of each step."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((STEPS, units), batch_size=batch, name="x")
    return keras.Model(inputs, layers.Dense(TAGS)(LAYERS[kind](units, return_sequences=True)(inputs)))


def saved_model(name: str, path: Path, first: Array) -> Form:
    """A SavedModel; its default signature."""
    loaded = tf.saved_model.load(str(path))

    def run(batch: Any) -> Any:
        # A function of TensorFlow does not keep the model alive.
        return next(iter(loaded.signatures["serving_default"](x=batch).values())).numpy()

    return name, path, lambda batch: run(tf.constant(batch)), partial(run, tf.constant(first))


def litert(kind: str, units: int, folder: Path, first: Array) -> Form:
    """LiteRT's file; it takes loops of a fixed batch only."""
    model = tagger(kind, units, len(first))
    function = tf.function(model, input_signature=[tf.TensorSpec(first.shape, name="x")], autograph=False)
    frozen = convert_variables_to_constants_v2(function.get_concrete_function(), lower_control_flow=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    path = folder / "dynamic.tflite"
    path.write_bytes(converter.convert())
    interpreter = tf.lite.Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(batch: Array) -> Array:
        interpreter.set_tensor(given, batch)
        interpreter.invoke()
        return interpreter.get_tensor(made)

    return "LiteRT dynamic int8", path, run, partial(run, first)


def rows(kind: str, units: int, batch: int, options: Any) -> list[list[Any]]:
    """All forms of one tagger."""
    folder = options.exports / f"{kind}_{units}_{batch}"
    folder.mkdir(exist_ok=True)
    model = tagger(kind, units)
    calibration, unseen = (common.normal_inputs(model, SAMPLES, seed) for seed in (1, 2))
    source = common.export(model, folder / "fp32")
    first = unseen[:batch]
    tuned = {
        approach: tf_ext.autotune(source, calibration, approach=approach, example_inputs=first, progress=False)
        for approach in APPROACHES
    }
    for approach, each in tuned.items():
        tf_ext.save(each, folder / approach)
    named = [
        saved_model("TensorFlow fp32", source, first),
        *(saved_model(f"{approach} int8", folder / approach, first) for approach in APPROACHES),
        litert(kind, units, folder, first),
    ]
    outputs = [np.concatenate([run(each) for each in common.batches(unseen, batch)]) for _, _, run, _ in named]
    clock = common.clock(options.threads)
    calls = [call for *_, call in named]
    seconds = measuring.interleaved(calls, options.repeat, patience=options.patience, clock=clock)
    floats = sum(int(np.prod(weight.shape)) * 4 for weight in model.weights)
    shares = [_integer_share(each) for each in tuned.values()]
    return [
        [
            kind,
            units,
            batch,
            name,
            1e3 * taken,
            seconds[0] / taken,
            None if index == 0 else signal_to_noise_db(outputs[0], outputs[index]),
            common.size(path) / floats,
            share,
        ]
        for index, ((name, path, _, _), taken, share) in enumerate(
            zip(named, seconds, [None, *shares, None], strict=True)
        )
    ]


def _integer_share(tuned: Any) -> float:
    """Per cent of the weights."""
    operators = tuned.tuning_result.operators
    return 100 * sum(each.weight_share or 0 for each in operators if each.approach is not None)


def main() -> None:
    parser = common.parser(__doc__, repeat=9)
    parser.add_argument("--hidden", type=int, action="append", help="units; repeatable; default: 256 and 1024")
    parser.add_argument("--batch", type=int, action="append", help="repeatable; default: 1 and 8")
    options = common.parse(parser)
    found = [
        row
        for kind in LAYERS
        for units in options.hidden or (256, 1024)
        for batch in options.batch or (1, 8)
        for row in rows(kind, units, batch, options)
    ]
    measuring.print_table("Recurrent taggers", COLUMNS, found)


if __name__ == "__main__":
    main()
