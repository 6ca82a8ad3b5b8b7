"""What quantization-aware training gives back to a Keras CNN on digits: after tuning alone, after training, converted.

    python benchmarks/tf/training.py [--task W3A3] [--seeds 2] [--compare]

int8 runs in integer kernels; W4A4, W3A3 and W2A4 are simulated types of so many bits for weights and activations. The
net has four convolutions with BatchNorm, a residual sum and two Dense layers; it is scored on 500 digits that it never
saw. "ranked alike" says how many of these the student and its converted form put into the same class. With `--compare`
every way of treating ranges and BatchNorm is tried, else the default.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.tf import common, models
from inc_autotune import tf_ext
from inc_autotune.core.vocabulary import TRAINED_RANGES

COLUMNS = (
    "task",
    "ranges",
    "BatchNorm",
    "seed",
    "fp32",
    "tuned",
    "trained",
    "converted",
    "ranked alike",
    "saved",
    "CPU s",
)
TASKS = {"int8": None, "W4A4": (4, 4), "W3A3": (3, 3), "W2A4": (2, 4)}
EPOCHS = 10


def small_cnn(digits: models.Digits, seed: int) -> Any:
    """So narrow that few bits hurt."""
    keras.utils.set_random_seed(seed)

    def convolved(x: Any, channels: int, stride: int = 1, relu: bool = True) -> Any:
        x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        return layers.ReLU()(x) if relu else x

    inputs = keras.Input(digits.train[0].shape[1:], name="image")
    x = convolved(inputs, 8)
    x = layers.ReLU()(layers.add([x, convolved(convolved(x, 8), 8, relu=False)]))
    x = layers.Dense(16, activation="relu")(layers.Flatten()(convolved(x, 16, stride=2)))
    model = keras.Model(inputs, layers.Dense(models.CLASSES)(x))
    fit(model, digits, 3e-3, 20)
    return model


def fit(model: Any, digits: models.Digits, rate: float, epochs: int) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, 21 * epochs)), loss)
    model.fit(*digits.train, batch_size=64, epochs=epochs, verbose=0)


def settings(task: str) -> dict[str, Any]:
    """The arguments that make a task."""
    rest: dict[str, Any] = {"objective": "modelsize", "progress": False}  # the machine has no say in what is quantized
    bits = TASKS[task]
    if bits is None:
        return rest
    weight = {"dtype": [f"int{bits[0]}"], "scheme": ["sym"], "granularity": ["per_channel"], "algorithm": ["minmax"]}
    values = {"dtype": [f"uint{bits[1]}"], "scheme": ["asym"], "granularity": ["per_tensor"], "algorithm": ["minmax"]}
    types = ("Conv2D", "MatMul")
    return {
        **rest,
        "capability": {f"int{bits[0]}": {"static": {kind: {"weight": weight, "activation": values} for kind in types}}},
        "op_type_dict": {kind: {"weight": {"dtype": [f"int{bits[0]}"]}} for kind in types},
    }


def classes(model: Any, images: models.Array) -> models.Array:
    return np.concatenate([np.asarray(model(batch)).argmax(-1) for batch in common.batches(images, 100)])


def row(task: str, seed: int, ranges: str, frozen: bool, model: Any, digits: models.Digits, folder: Path) -> list[Any]:
    images, labels = digits.test

    def percent(found: models.Array) -> str:
        return f"{(found == labels).mean():.1%}"

    data = digits.train[0][:100]
    tuned = tf_ext.convert(tf_ext.autotune(model, data, **settings(task)))
    student = tf_ext.prepare(model, data, training_args={"ranges": ranges}, freeze_batch_norm=frozen, **settings(task))
    started = time.process_time()
    fit(student, digits, 2e-3, EPOCHS)
    seconds = time.process_time() - started
    converted = tf_ext.convert(student)
    tf_ext.save(student, folder / f"{task}_{ranges}_{frozen}_{seed}")
    loaded = tf_ext.load(folder / f"{task}_{ranges}_{frozen}_{seed}")
    trained, integers = classes(student, images), classes(converted, images)
    return [
        task,
        ranges,
        "running" if frozen else "of batches",
        seed,
        percent(classes(model, images)),
        percent(classes(tuned, images)),
        percent(trained),
        percent(integers),
        f"{(trained == integers).mean():.1%}",
        percent(classes(loaded.serve, images)),
        f"{seconds:.0f}",
    ]


def main() -> None:
    arguments = common.parser(__doc__)
    arguments.add_argument("--task", choices=TASKS, help="default: all")
    arguments.add_argument("--seeds", type=int, default=1, help="how many nets")
    arguments.add_argument("--compare", action="store_true", help="try every way of treating ranges and BatchNorm")
    options = common.parse(arguments)
    digits = models.Digits()
    tasks = [options.task] if options.task else list(TASKS)
    ways = list(itertools.product(TRAINED_RANGES, (True, False))) if options.compare else [("learned", False)]
    rows = []
    for seed in range(options.seeds):
        model = small_cnn(digits, seed)
        for task, (ranges, frozen) in itertools.product(tasks, ways):
            rows.append(row(task, seed, ranges, frozen, model, digits, options.exports))
            print(rows[-1], file=sys.stderr, flush=True)
    measuring.print_table("Training of a Keras CNN", COLUMNS, rows)


if __name__ == "__main__":
    main()
