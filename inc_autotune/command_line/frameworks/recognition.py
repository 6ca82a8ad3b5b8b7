"""Which framework a model on the command line belongs to, and what that framework reads it as."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from inc_autotune.command_line.errors import UsageError
from inc_autotune.command_line.frameworks.framework import Framework, ModelInputs
from inc_autotune.command_line.objects import find_object, is_object_name
from inc_autotune.core.optional import require

ALLOWED = (
    "an .onnx file, a folder with a SavedModel, a .keras file, a folder of the transformers library, a folder that "
    "`tune` wrote, or module:object, a model or a function that makes one"
)


@dataclass(frozen=True)
class LoadedModel:
    """A model of the command line.

    Args:
        text: as it was given.
        framework: that it belongs to.
        value: what the framework's methods take.
        folder: of a transformers model, which holds its tokenizer too; None else.
    """

    text: str
    framework: Framework
    value: Any
    folder: Path | None = None

    @cached_property
    def inputs(self) -> ModelInputs:
        """What the model reads, found once for all data that is opened for it."""
        return self.framework.inputs(self.value)


def load_model(text: str, before: Collection[LoadedModel] = ()) -> LoadedModel:
    """Read a model that was named on the command line.

    Args:
        text: see `ALLOWED`.
        before: models that were named before; the first PyTorch model among them gives a folder its architecture.

    Raises:
        UsageError: it is none of what is allowed.
        MissingDependencyError: its framework is not installed; the message names the extra.
    """
    if not text:
        raise UsageError(f"MODEL: is empty. Allowed: {ALLOWED}.")
    path = Path(text)
    if path.suffix in (".onnx", ".keras", ".tflite"):
        if not path.is_file():
            raise UsageError(f"MODEL {text!r}: there is no such file.")
        if path.suffix == ".tflite" and not before:
            raise UsageError(
                f"MODEL {text!r}: a LiteRT file can only be timed, beside the model that it came from: "
                f"`inc-autotune benchmark MODEL {text}`."
            )
        return LoadedModel(text, _onnx() if path.suffix == ".onnx" else _tensorflow(), path)
    if path.is_dir():
        return _from_folder(text, path, before)
    if is_object_name(text):
        return _from_object(text)
    reason = "this kind of file is not known" if path.exists() else "there is no such file or folder"
    raise UsageError(f"MODEL {text!r}: {reason}. Allowed: {ALLOWED}.")


def _from_folder(text: str, folder: Path, before: Collection[LoadedModel]) -> LoadedModel:
    if (folder / "saved_model.pb").is_file():
        return LoadedModel(text, _tensorflow(), folder)
    if (folder / "recipe.yaml").is_file():
        framework = _torch()
        from inc_autotune.command_line.frameworks.torch import load_quantized

        known = next((each.value for each in before if each.framework.name == framework.name), None)
        return LoadedModel(text, framework, load_quantized(folder, known))
    if (folder / "config.json").is_file():
        framework = _torch()
        from inc_autotune.command_line.frameworks.torch import from_transformers

        return LoadedModel(text, framework, from_transformers(folder), folder)
    raise UsageError(
        f"MODEL {text!r}: this folder holds no saved_model.pb, config.json or recipe.yaml. Allowed: {ALLOWED}."
    )


def _from_object(text: str) -> LoadedModel:
    found = find_object(text, "MODEL")
    framework = _framework_of(found)
    if framework is None and callable(found):
        try:
            found = found()
        except Exception as error:  # whatever a user's function raises
            raise UsageError(f"MODEL {text!r}: calling it failed: {type(error).__name__}: {error}.") from error
        framework = _framework_of(found)
    if framework is None:
        raise UsageError(
            f"MODEL {text!r}: is a {type(found).__name__}. Allowed: a torch.nn.Module, a Keras model, a tf.Module, an "
            "onnx.ModelProto, or a function without arguments that makes one."
        )
    return LoadedModel(text, framework, found)


def _framework_of(value: Any) -> Framework | None:
    """By the names of a value's classes, so that no framework is imported in vain."""
    names = {f"{each.__module__}.{each.__qualname__}" for each in type(value).__mro__}
    if "torch.nn.modules.module.Module" in names:
        return _torch()
    if any(name.startswith(("keras.", "tensorflow.")) for name in names):
        return _tensorflow()
    return _onnx() if any(name.startswith("onnx.") for name in names) else None


def _onnx() -> Framework:
    require("onnx", extra="onnx")
    require("onnxruntime", extra="onnx")
    from inc_autotune.command_line.frameworks.onnx import Onnx

    return Onnx()


def _torch() -> Framework:
    require("torch", extra="torch")
    from inc_autotune.command_line.frameworks.torch import Torch

    return Torch()


def _tensorflow() -> Framework:
    require("tensorflow", extra="tf")
    from inc_autotune.command_line.frameworks.tensorflow import TensorFlow

    return TensorFlow()
