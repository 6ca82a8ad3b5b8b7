"""Keras models as functions with the names that `model.export` gives inputs and outputs."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tensorflow as tf

from inc_autotune.core.errors import ModelError

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")


def is_keras_model(model: Any) -> bool:
    """Whether it is a model of Keras 3, asked without importing Keras."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def read_keras_file(path: Path) -> Any:
    """The Keras model of a file.

    Raises:
        ModelError: it cannot be read, or needs code of the user's.
    """
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # whatever a layer's constructor raises
        raise ModelError(
            f"model={str(path)!r}: Keras cannot load it ({type(error).__name__}: {error}). If it needs code of your "
            "own, load it with keras.models.load_model(path, custom_objects=..., safe_mode=...) and give the model."
        ) from error


def traced(model: Any) -> Any | None:
    """A Keras model in inference mode as a ConcreteFunction; None where it has no symbolic inputs.

    The batch is dynamic, as in what `model.export` writes.

    Raises:
        ModelError: Keras runs on another backend, the model has no weights yet or keeps state between calls, an input
            is ragged or sparse, or Keras cannot trace it.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"model: Keras runs on the backend {keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow, or give what "
            "model.export(directory) writes."
        )
    if not model.built:
        raise ModelError("model: this Keras model has no weights yet. Call it once on data, or build it.")
    _check_stateless(model)
    if not hasattr(model, "inputs"):  # a subclass
        return None
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    tensors = tf.nest.flatten(structure)
    uneven = [each.name for each in tensors if each.sparse or getattr(each, "ragged", False)]
    if uneven:
        raise ModelError(f"model: input {uneven[0]!r} is sparse or ragged. Allowed: dense inputs.")

    def serve(*arguments: tf.Tensor) -> Any:
        return model(tf.nest.pack_sequence_as(structure, arguments), training=False)

    def with_batch(*batches: int | None) -> Any:
        specs = [
            tf.TensorSpec([batch, *each.shape[1:]], each.dtype, name=each.name)
            for batch, each in zip(batches, tensors, strict=True)
        ]
        return tf.function(serve, input_signature=specs, autograph=False).get_concrete_function()

    declared = [each.shape[0] for each in tensors]
    try:
        return with_batch(*(None for _ in tensors))
    except Exception as error:  # whatever a layer's call raises
        if all(batch is None for batch in declared):
            raise _untraceable(error) from error
    try:
        return with_batch(*declared)
    except Exception as error:
        raise _untraceable(error) from error


def _untraceable(error: Exception) -> ModelError:
    return ModelError(
        f"model: TensorFlow cannot trace this Keras model ({type(error).__name__}: {error}). Change it so that it can "
        "be called inside a tf.function with training=False, or give a ConcreteFunction."
    )


def _check_stateless(model: Any) -> None:
    stateful = [layer.name for layer in model._flatten_layers() if getattr(layer, "stateful", False)]
    if stateful:
        raise ModelError(
            f"model: layer {stateful[0]!r} is stateful: it keeps its state between calls in variables, which a frozen "
            "graph does not have. Build the model with stateful=False, copy the weights with "
            "new.set_weights(old.get_weights()), and tune that; where the state has to go on, make it an input "
            "(initial_state) and an output (return_state=True)."
        )


def exported(model: Any) -> Any:
    """A Keras model that is a subclass, by way of the SavedModel that Keras itself writes.

    Raises:
        ModelError: Keras cannot write it.
    """
    with TemporaryDirectory() as directory:
        try:
            model.export(directory, verbose=False)
        except Exception as error:  # whatever a layer's call raises
            raise ModelError(
                f"model: Keras cannot export it ({type(error).__name__}: {error}). Call it once on data before, or "
                "give a ConcreteFunction."
            ) from error
        return tf.saved_model.load(directory)
