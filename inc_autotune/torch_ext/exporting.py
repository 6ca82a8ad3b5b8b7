"""Converted models as files that run without this library: what the exporters of such files share."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_map

from inc_autotune.core.arguments import check_file
from inc_autotune.core.errors import ArgumentError
from inc_autotune.torch_ext.modules import QuantizedConvolution, QuantizedLinear, is_prepared, is_quantized


@dataclass(frozen=True)
class ExportedModel:
    """What `compile_to_package` or `convert_to_openvino` wrote.

    Args:
        path: the file.
        integer_kernels: calls of integer kernels in the compiled program.
        integer_operators: operators of the model that multiply integers elsewhere.
    """

    path: Path
    integer_kernels: int
    integer_operators: int

    def __str__(self) -> str:
        return f"{self.path}: {self.integer_kernels} calls of integer kernels, of {self.integer_operators} operators"


def check_arguments(quantized: Any, path: str | Path, suffix: str, kind: str, dynamic_shapes: Any) -> Path:
    """The file to write.

    Args:
        quantized: what has to be a converted model.
        path: what has to be the name of a file with this suffix.
        suffix: of the file, with its dot.
        kind: what the file holds, for messages.
        dynamic_shapes: "auto", None, or what `torch.export.export` looks at itself.

    Raises:
        ArgumentError: one of them is something else.
    """
    modules = list(quantized.modules()) if isinstance(quantized, nn.Module) else []
    if any(map(is_prepared, modules)):
        raise ArgumentError("quantized: is a tuned model. Pass convert(tuned).")
    if not any(map(is_quantized, modules)):
        raise ArgumentError(f"quantized: a {type(quantized).__name__}. Allowed: what convert() or load() returned.")
    file = check_file(path)
    if file.suffix != suffix:
        raise ArgumentError(f"path={str(file)!r}: {kind} is called *{suffix}. Give it such a name.")
    if isinstance(dynamic_shapes, str) and dynamic_shapes != "auto":
        raise ArgumentError(f"dynamic_shapes={dynamic_shapes!r}. Allowed: 'auto', None, or what torch.export takes.")
    return file


def exported_program(quantized: nn.Module, example_inputs: Any, dynamic_shapes: Any) -> ExportedProgram:
    """The model as a program of `torch.export`; raises whatever the exporter does.

    Args:
        quantized: a converted model.
        example_inputs: a tensor, a tuple of inputs, or a dict of keyword inputs, as the model is called.
        dynamic_shapes: "auto": each dimension of the inputs that is longer than 1, where the model bears it; else what
            `torch.export.export` takes.
    """
    args, kwargs = _call(example_inputs)
    shapes = _every_dimension(quantized, args, kwargs) if isinstance(dynamic_shapes, str) else dynamic_shapes
    return torch.export.export(quantized, args, kwargs, dynamic_shapes=shapes, strict=False)


def integer_operators(quantized: nn.Module) -> list[QuantizedLinear | QuantizedConvolution]:
    """The Linears and convolutions of a converted model that multiply integers."""
    return [module for module in quantized.modules() if isinstance(module, QuantizedLinear | QuantizedConvolution)]


def warn_of_float_operators(written: ExportedModel, remedy: str) -> None:
    """Tell where a file has fewer calls of integer kernels than the model has operators for them.

    Args:
        written: the file.
        remedy: what to do, a sentence.
    """
    if written.integer_kernels < written.integer_operators:
        warnings.warn(
            f"{written.path} calls {written.integer_kernels} integer kernels, and {written.integer_operators} "
            f"operators of the model multiply integers: the others compute in float there. {remedy}",
            stacklevel=3,
        )


def _call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return (tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)), {}


def _every_dimension(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """By argument, that each dimension longer than 1 may have other sizes as far as the model bears it."""

    def dimensions(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        return {axis: torch.export.Dim.AUTO for axis, size in enumerate(value.shape) if size > 1}

    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    return {name: tree_map(dimensions, value) for name, value in bound.arguments.items()}
