"""SavedModels and Keras models, in TensorFlow."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from inc_autotune import tf_ext
from inc_autotune.command_line.errors import UsageError
from inc_autotune.command_line.frameworks.framework import (
    Framework,
    Item,
    ModelInputs,
    Run,
    image_input_of,
    outputs_in_order,
)
from inc_autotune.core.analysis import Inspection
from inc_autotune.core.arguments import check_file, check_path
from inc_autotune.core.result import Comparison
from inc_autotune.tf_ext.model import check_replaceable, load_source

LITERT = ".tflite"
FILES = (".h5", ".keras", ".onnx", ".pb", ".zip")
"""Ends of names that no folder should have."""


class TensorFlow(Framework):
    """Models are folders of SavedModels, `.keras` files, objects of Keras and TensorFlow, and tuned models."""

    name = "TensorFlow"
    data_argument = "dataset"
    output = "a folder, for a SavedModel, or a .tflite file"

    def inspect(self, model: Any) -> Inspection:
        return tf_ext.inspect(model)

    def autotune(self, model: Any, *, calib_data: Any = None, eval_data: Any = None, **arguments: Any) -> Any:
        return tf_ext.autotune(model, calib_data, eval_dataset=eval_data, **arguments)

    def apply_recipe(self, model: Any, recipe: Path) -> Any:
        return tf_ext.apply_recipe(model, recipe)

    def compare(self, model: Any, quantized: Any, data: Any, samples: int) -> Comparison:
        if isinstance(quantized, str | Path):
            recipe = Path(quantized) / "assets.extra" / "recipe.yaml"
            if not recipe.is_file():
                raise UsageError(f"INT8 {str(quantized)!r}: holds no {recipe.name}, so `tune` did not write it.")
            quantized = tf_ext.apply_recipe(model, recipe)
        return tf_ext.compare(model, quantized, data, samples=samples)

    def check_output(self, path: Path) -> None:
        if path.suffix == LITERT:
            check_file(path, "--output")
        elif check_path(path, "--output").is_file() or path.suffix in FILES:
            raise UsageError(
                f"--output {str(path)!r}: an int8 model is written as a SavedModel, which is a folder, or as a LiteRT "
                "file. Name a folder, or a file that ends with .tflite."
            )
        else:
            check_replaceable(path, "--output")

    def save(self, tuned: Any, path: Path, calib_data: Any = None) -> None:
        if path.suffix != LITERT:
            tf_ext.save(tuned, path)
        elif calib_data is None:
            raise UsageError(
                f"--output {str(path)!r}: a LiteRT file needs calibration data, which only `tune` and "
                "`quantize` read. Name a folder."
            )
        else:
            tf_ext.to_litert(tuned, calib_data, path)

    def runner(self, model: Any, threads: int | None = None) -> Run:
        if isinstance(model, Path) and model.suffix == LITERT:
            return _litert_runner(model, threads)
        # TensorFlow fixes the number when it first computes; TF_NUM_INTRAOP_THREADS has to be set before.
        call, names = _callable(model)

        def run(item: Item) -> list[Any]:
            given = item if isinstance(item, Mapping) else {names[0]: item}
            feed = {name: tf.convert_to_tensor(value) for name, value in given.items() if name in names}
            return outputs_in_order(call(feed))

        return run

    def inputs(self, model: Any) -> ModelInputs:
        inputs = _signature(model).inputs
        images = [image_input_of(each.shape or (), each.dtype.is_floating) for each in inputs[:1]]
        return ModelInputs([each.name for each in inputs], *images)


def _signature(model: Any) -> Any:
    return next(iter(load_source(model).signatures.values()))


def _litert_runner(path: Path, threads: int | None) -> Run:
    """What runs a LiteRT file, in TensorFlow's interpreter.

    Raises:
        UsageError: it is no such file.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated")
        try:
            interpreter = tf.lite.Interpreter(str(path), num_threads=threads)
            call = interpreter.get_signature_runner()
        except ValueError as error:
            raise UsageError(f"MODEL {str(path)!r}: TensorFlow cannot read it as a LiteRT file: {error}") from error
    details = call.get_input_details()

    def run(item: Item) -> list[Any]:
        given = item if isinstance(item, Mapping) else {next(iter(details)): item}
        return outputs_in_order(
            call(
                **{name: np.asarray(value, details[name]["dtype"]) for name, value in given.items() if name in details}
            )
        )

    return run


def _callable(model: Any) -> tuple[Any, Sequence[str]]:
    """What takes inputs by name, and the names: a signature of a SavedModel, a Keras model."""
    if isinstance(model, tf_ext.TunedModel):
        converted = tf_ext.convert(model)
        name = next(iter(converted.signatures))
        signature = converted.signatures[name]
        return (lambda feed: signature(**feed)), [each.name for each in model.model.signatures[name].inputs]
    if isinstance(model, str | Path) and Path(model).is_dir():
        loaded = tf_ext.load(model)
        signature = loaded.signatures[next(iter(loaded.signatures))]
        signature.loaded = loaded  # owns the variables, which must live as long
        return (lambda feed: signature(**feed)), list(signature.structured_input_signature[1])
    if isinstance(model, str | Path):
        model = tf.keras.models.load_model(model)
    names = [each.name for each in _signature(model).inputs]
    function = tf.function(lambda feed: model(feed if len(names) > 1 else feed[names[0]], training=False))
    return function, names
