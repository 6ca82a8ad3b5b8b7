"""Convolutional nets of other kinds in int8, beside LiteRT: transposed, separable, with groups, in three dimensions.

    python benchmarks/tf/convolutions.py [--model unet] [--symmetric]

- unet: an encoder and a decoder with Conv2DTranspose on 64 x 64 images, random weights.
- silu: the backbone of a small detector, convolutions and SiLU, on 96 x 96 images, random weights.
- separable: a small net for faces (convolutions, four separable blocks with pooling and a residual), trained here on
  scikit-learn's digits, enlarged to 24 x 24, with noise; `score` is its accuracy on 500 others.
- resnext: bottlenecks whose 3 x 3 convolutions have 32 groups, on 56 x 56 images, random weights.
- volume: four Conv3D on 16 x 24 x 24, random weights; vnet: an encoder and a decoder of such, with Conv3DTranspose;
  unet3d: the same with max pooling and a residual sum, on 16 x 32 x 32. Also as if each convolution returned float32,
  `floats between`, as for unet.

All operators are integers, without evaluation, batch 8. SavedModels, and LiteRT's files with all in integers, are timed
in turn. `SQNR` is that of the outputs of samples that calibration did not see to those of TensorFlow in fp32. Goals: an
SQNR within 1 dB of LiteRT's, and a score that drops no more.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from keras import layers

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks import measuring
from benchmarks.tf import common, litert, models
from benchmarks.tf.common import BATCH, Array
from benchmarks.tf.recurrent import saved_model
from inc_autotune import tf_ext
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.tf_ext.model import SignatureModel
from inc_autotune.tf_ext.model.source import load_source
from inc_autotune.tf_ext.operators import DEPTHWISE, Operator

SAMPLES, EPOCHS = 64, 30
COMPARED = ("unet", "volume", "vnet", "unet3d")
"""Nets that are also measured with floats between their convolutions."""

COLUMNS = ("model", "form", "ms", "times faster", "SQNR dB", "score", "int8 %")


def unet() -> Any:
    """Three levels of 16, 32 and 64 channels."""
    keras.utils.set_random_seed(0)
    inputs = tensor = keras.Input((64, 64, 3), name="x")
    skipped = []
    for width in (16, 32):
        tensor = _convolved(tensor, width)
        skipped.append(tensor)
        tensor = layers.MaxPooling2D()(tensor)
    tensor = _convolved(tensor, 64)
    for width in (32, 16):
        tensor = layers.Conv2DTranspose(width, 3, 2, "same", activation="relu")(tensor)
        tensor = _convolved(layers.Concatenate()([tensor, skipped.pop()]), width)
    return keras.Model(inputs, layers.Conv2D(2, 1)(tensor))


def _convolved(tensor: Any, width: int) -> Any:
    for _ in range(2):
        tensor = layers.Conv2D(width, 3, padding="same", activation="relu")(tensor)
    return tensor


def resnext() -> Any:
    """Four bottlenecks of 128 and 256 channels in 32 groups."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((56, 56, 3), name="x")
    tensor = layers.Conv2D(64, 3, 2, "same", activation="relu")(inputs)
    for width, first_step in ((128, 1), (256, 2)):
        around = layers.Conv2D(2 * width, 1, first_step)(tensor)
        for step in (first_step, 1):
            inner = layers.Conv2D(width, 1, activation="relu")(tensor)
            inner = layers.Conv2D(width, 3, step, "same", groups=32, activation="relu")(inner)
            tensor = around = layers.ReLU()(layers.Add()([layers.Conv2D(2 * width, 1)(inner), around]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(tensor)))


def volume() -> Any:
    """Convolutions in three dimensions."""
    keras.utils.set_random_seed(0)
    inputs = tensor = keras.Input((16, 24, 24, 4), name="x")
    for width, step in ((16, 1), (32, 2), (32, 1)):
        tensor = layers.Conv3D(width, 3, step, "same", activation="relu")(tensor)
    return keras.Model(inputs, layers.Conv3D(4, 1)(tensor))


def silu() -> Any:
    """The backbone of a small detector: convolutions, BatchNorm and SiLU, residual blocks of two parts."""
    keras.utils.set_random_seed(0)

    def convolved(tensor: Any, width: int, size: int, step: int = 1) -> Any:
        tensor = layers.Conv2D(width, size, step, "same", use_bias=False)(tensor)
        return layers.Activation("silu")(layers.BatchNormalization()(tensor))

    inputs = tensor = keras.Input((96, 96, 3), name="x")
    for width in (16, 32, 64, 128):
        tensor = convolved(tensor, width, 3, 2)
        if width > 16:
            first, second = (convolved(tensor, width // 2, 1) for _ in range(2))
            inner = convolved(convolved(second, width // 2, 3), width // 2, 3)
            tensor = convolved(layers.Concatenate()([first, layers.Add()([second, inner])]), width, 1)
    return keras.Model(inputs, layers.Conv2D(24, 1)(tensor))


def separable() -> Any:
    """Convolutions, and separable ones in blocks with a residual."""
    keras.utils.set_random_seed(0)
    inputs = tensor = keras.Input((24, 24, 1), name="x")
    for _ in range(2):
        tensor = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, use_bias=False)(tensor)))
    for width in (16, 32, 64):
        around = layers.Conv2D(width, 1, 2, "same", use_bias=False)(tensor)
        around = layers.BatchNormalization()(around)
        for last in (False, True):
            tensor = layers.SeparableConv2D(width, 3, padding="same", use_bias=False)(tensor)
            tensor = layers.BatchNormalization()(tensor)
            tensor = tensor if last else layers.ReLU()(tensor)
        tensor = layers.Add()([layers.MaxPooling2D(3, 2, "same")(tensor), around])
    tensor = layers.GlobalAveragePooling2D()(layers.Conv2D(models.CLASSES, 3, padding="same")(tensor))
    return keras.Model(inputs, layers.Softmax()(tensor))


def vnet() -> Any:
    """An encoder and a decoder in three dimensions."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 24, 24, 4), name="x")
    skipped = layers.Conv3D(16, 3, 1, "same", activation="relu")(inputs)
    tensor = layers.Conv3D(32, 3, 2, "same", activation="relu")(skipped)
    tensor = layers.Conv3D(32, 3, 1, "same", activation="relu")(tensor)
    tensor = layers.Conv3DTranspose(16, 3, 2, "same", activation="relu")(tensor)
    tensor = layers.Conv3D(16, 3, 1, "same", activation="relu")(layers.Concatenate()([tensor, skipped]))
    return keras.Model(inputs, layers.Conv3D(4, 1)(tensor))


def unet3d() -> Any:
    """An encoder and a decoder in three dimensions, with max pooling and a residual sum."""
    keras.utils.set_random_seed(0)
    inputs = tensor = keras.Input((16, 32, 32, 2), name="x")
    skipped = []
    for width in (16, 32):
        tensor = layers.Conv3D(width, 3, padding="same", activation="relu")(tensor)
        skipped.append(tensor)
        tensor = layers.MaxPooling3D()(tensor)
    tensor = around = layers.Conv3D(32, 3, padding="same", activation="relu")(tensor)
    tensor = layers.Conv3D(32, 3, padding="same", activation="relu")(tensor)
    tensor = layers.ReLU()(layers.Add()([layers.Conv3D(32, 3, padding="same")(tensor), around]))
    for width in (32, 16):
        tensor = layers.Conv3DTranspose(width, 2, 2, activation="relu")(tensor)
        tensor = layers.Concatenate()([tensor, skipped.pop()])
        tensor = layers.Conv3D(width, 3, padding="same", activation="relu")(tensor)
    return keras.Model(inputs, layers.Conv3D(4, 1)(tensor))


def returning_floats() -> Any:
    """Lets each convolution return float32, but depthwise ones, which cannot."""
    return mock.patch.object(Operator, "may_return_integers", property(lambda each: each.type == DEPTHWISE))


def read(source: Path, first: Array) -> tuple[str, Any, Any]:
    """The fp32 model as the library reads it: convolutions with groups are not compiled by XLA any more."""
    model = SignatureModel(load_source(source)).default

    def run(batch: Any) -> Any:
        return next(iter(model(tf.constant(batch)).values())).numpy()

    return "fp32, not compiled", run, partial(run, first)


def enlarged(images: Array) -> Array:
    """Digits of 24 x 24, with noise."""
    noise = np.random.default_rng(3).normal(scale=0.1, size=(len(images), 24, 24, 1))
    return np.asarray(tf.image.resize(images, (24, 24)).numpy() + noise, np.float32)


def rows(name: str, options: Any) -> list[list[Any]]:
    """All forms of one net."""
    folder = options.exports / name
    folder.mkdir(exist_ok=True)
    model, labels = globals()[name](), None
    if name == "separable":
        digits = models.Digits()
        calibration, unseen, labels = enlarged(digits.train[0]), enlarged(digits.test[0]), digits.test[1]
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(calibration, digits.train[1], epochs=EPOCHS, verbose=0)
    else:
        calibration, unseen = (common.normal_inputs(model, SAMPLES, seed) for seed in (1, 2))
    calibration, unseen = calibration[:100], unseen[: len(unseen) // BATCH * BATCH]
    source = common.export(model, folder / "fp32")
    first = unseen[:BATCH]
    # For the size, so that nothing is left in fp32 for its speed.
    rules = {"Conv2D": {"activation": {"scheme": ["sym"]}}} if options.symmetric else None
    tune = partial(tf_ext.autotune, op_type_dict=rules, objective="modelsize", example_inputs=first, progress=False)
    tuned = tune(source, calibration)
    tf_ext.save(tuned, folder / "int8")
    if name in COMPARED:
        with returning_floats():
            tf_ext.save(tune(source, calibration), folder / "apart")
    named = [
        ("TensorFlow fp32", *saved_model("fp32", source, first)[2:]),
        ("int8, this library", *saved_model("int8", folder / "int8", first)[2:]),
    ]
    if name != "unet3d":  # LiteRT has no MaxPool3D
        content = litert.convert(source, calibration)
        named.append(("LiteRT full int8", *litert.runner(content, first.shape[1:], options.threads)))
    if name in COMPARED:
        named.append(("int8, floats between", *saved_model("apart", folder / "apart", first)[2:]))
    if name == "resnext":
        named.append(read(source, first))
    outputs = [np.concatenate([np.array(run(batch)) for batch in common.batches(unseen)]) for _, run, _ in named]
    for _, run, _ in named:
        run(first)
    clock = common.clock(options.threads)
    seconds = measuring.interleaved(
        [call for *_, call in named], options.repeat, patience=options.patience, clock=clock
    )
    operators = tuned.tuning_result.operators
    share = 100 * sum(each.weight_share or 0 for each in operators if each.approach is not None)
    return [
        [
            name,
            form,
            1e3 * taken,
            seconds[0] / taken,
            None if index == 0 else signal_to_noise_db(outputs[0], outputs[index]),
            None if labels is None else float((outputs[index].argmax(-1) == labels[: len(unseen)]).mean()),
            share if index == 1 else None,
        ]
        for index, ((form, _, _), taken) in enumerate(zip(named, seconds, strict=True))
    ]


def main() -> None:
    parser = common.parser(__doc__, repeat=9)
    names = ("unet", "silu", "separable", "resnext", "volume", "vnet", "unet3d")
    parser.add_argument("--model", choices=names, action="append", help="repeatable; default: all")
    parser.add_argument("--symmetric", action="store_true", help="without zero points of what Conv2D reads")
    options = common.parse(parser)
    found = [row for name in options.model or names for row in rows(name, options)]
    measuring.print_table("Convolutional nets", COLUMNS, found)


if __name__ == "__main__":
    main()
