"""Writing SavedModels so that a crash leaves the old one or the new one, never a part."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.files import replace_folder, temporary_name, writing
from inc_autotune.tf_ext.model.paths import check_path
from inc_autotune.tf_ext.model.signatures import SignatureCallable, SignatureModel

EXTRA = "assets.extra"
"""Folder of a SavedModel for files that TensorFlow does not read."""

_MARK = "inc_autotune"


def write_saved_model(model: SignatureModel, directory: str | Path, extra: Mapping[str, bytes] | None = None) -> None:
    """Write a plain SavedModel: it loads wherever TensorFlow is, with the signatures of the model.

    The weights are variables in the dtypes of their arrays. Besides the signatures there is a `serve`, as in what Keras
    exports: it takes a tensor, a list or a dict, and knows the order of the inputs.

    Args:
        model: what to write.
        directory: where; folders above it are made. An empty folder, or a SavedModel written by this function, is
            replaced.
        extra: contents of more files by name, for the folder `assets.extra`.

    Raises:
        ArgumentError: there is something else, or nothing can be written there.
    """
    directory = check_path(directory, "directory")
    check_replaceable(directory, "directory")
    temporary = temporary_name(directory)
    with writing(directory, "directory"):
        temporary.mkdir(parents=True)
        try:
            signatures = {name: each.function for name, each in model.signatures.items()}
            with _system_errors():
                tf.saved_model.save(_module(model), str(temporary), signatures)
            folder = temporary / EXTRA
            folder.mkdir(exist_ok=True)
            for name, content in {_MARK: b"", **(extra or {})}.items():
                (folder / name).write_bytes(content)
            replace_folder(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _system_errors() -> Iterator[None]:
    """What TensorFlow raises where files cannot be written, a full disk for instance, as an OSError."""
    try:
        yield
    except (
        tf.errors.FailedPreconditionError,
        tf.errors.NotFoundError,
        tf.errors.PermissionDeniedError,
        tf.errors.ResourceExhaustedError,
        tf.errors.UnknownError,
    ) as error:
        raise OSError(error.message) from error


def check_replaceable(directory: Path, argument: str) -> None:
    """Refuse to write a model over what this library did not write.

    Raises:
        ArgumentError: there is a file, or a directory with something else in it.
    """
    if not os.path.lexists(directory):
        return
    if not directory.is_dir() or directory.is_symlink():
        raise ArgumentError(f"{argument}={str(directory)!r}: is not a directory. Give the name of a new one.")
    if any(directory.iterdir()) and not (directory / EXTRA / _MARK).is_file():
        raise ArgumentError(
            f"{argument}={str(directory)!r}: holds something that was not written by this library, and is not "
            "replaced. Give the name of a new directory, or remove it first."
        )


def _module(model: SignatureModel) -> tf.Module:
    """What TensorFlow saves: it follows attributes."""
    module = tf.Module()
    module.weights = list(model.weights)
    module.tables = [table for each in model.signatures.values() for table in each.tables]
    module.serve = _serve(model.default)
    return module


def _serve(signature: SignatureCallable) -> Any:
    """The signature as Keras exports one: inputs as a tensor, a list or a dict; one output as a tensor."""

    def serve(inputs: Any) -> Any:
        if isinstance(inputs, Mapping):
            inputs = [inputs[each.name] for each in signature.inputs]
        results = signature.function(*(inputs if isinstance(inputs, list) else [inputs]))
        return next(iter(results.values())) if len(results) == 1 else results

    function = tf.function(serve, autograph=False)
    specs = [each.spec for each in signature.inputs]
    if len(specs) == 1:
        function.get_concrete_function(specs[0])
    elif signature.ordered:
        function.get_concrete_function(specs)
    function.get_concrete_function({each.name: each.spec for each in signature.inputs})
    return function
