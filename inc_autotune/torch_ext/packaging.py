"""Packages that AOTInductor compiles: PyTorch runs them without the code of the model, and without ours."""

from __future__ import annotations

import inspect
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from inc_autotune.core.arguments import check_file
from inc_autotune.core.errors import ArgumentError, MissingDependencyError, ModelError
from inc_autotune.torch_ext.model.untouched import generator_kept
from inc_autotune.torch_ext.modules import QuantizedConvolution, QuantizedLinear, is_prepared, is_quantized

_INTEGER_CALL = re.compile(r"aoti_torch_cpu_+q(?:linear|conv)\w*_pointwise\w*\(")
"""How a package's source calls oneDNN's integer kernels."""


@dataclass(frozen=True)
class Package:
    """What `compile_to_package` wrote.

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


def compile_to_package(
    quantized: nn.Module, example_inputs: Any, path: str | Path, *, dynamic_shapes: Any = "auto"
) -> Package:
    """Compile a converted model with AOTInductor, for this kind of processor.

    The package runs where torch is, in Python (`torch._inductor.aoti_load_package(path)`) or C++, without this library
    and without the model's code. Integer products become oneDNN's, with what stands behind them; weights are stored as
    they are multiplied. Inputs must lie in memory as the examples do, contiguous as a rule: a package does not look. It
    takes a C++ compiler and a minute or more.

    Args:
        quantized: what `convert` or `load` returned, in eval mode. It is not changed.
        example_inputs: a tensor, a tuple of inputs, or a dict of keyword inputs, as the model is called.
        path: of the file to write, `*.pt2`; an existing one is replaced.
        dynamic_shapes: "auto": each dimension of the inputs that is longer than 1, where the model bears it; None: the
            package is for these shapes alone, and a little faster; or what `torch.export.export` takes.

    Raises:
        ArgumentError: `quantized` is not a converted model, or `path` no such file.
        MissingDependencyError: there is no C++ compiler.
        ModelError: the model cannot be exported or compiled.
    """
    _check_converted(quantized)
    target = _checked_path(path)
    if dynamic_shapes is not None and isinstance(dynamic_shapes, str) and dynamic_shapes != "auto":
        raise ArgumentError(f"dynamic_shapes={dynamic_shapes!r}. Allowed: 'auto', None, or what torch.export takes.")
    _check_compiler()
    args, kwargs = _call(example_inputs)
    shapes = _every_dimension(quantized, args, kwargs) if isinstance(dynamic_shapes, str) else dynamic_shapes
    # It takes a second to import.
    from torch._inductor import aoti_compile_and_package, config

    with generator_kept(), torch.no_grad(), config.patch(freezing=True):
        try:
            exported = torch.export.export(quantized, args, kwargs, dynamic_shapes=shapes, strict=False)
            aoti_compile_and_package(exported, package_path=str(target))
        except Exception as error:  # whatever the exporter and the compiler raise
            raise ModelError(
                f"quantized: cannot be compiled to a package: {type(error).__name__}: {error}\nTrace it with "
                "torch.jit.trace, or make torch.export.export(quantized, example_inputs) work first."
            ) from error
    package = Package(target, _integer_calls(target), _integer_operators(quantized))
    if package.integer_kernels < package.integer_operators:
        warnings.warn(
            f"{target} calls {package.integer_kernels} integer kernels, and {package.integer_operators} operators "
            "of the model multiply integers: the others compute in float there. Trace the converted model instead.",
            stacklevel=2,
        )
    return package


def _check_converted(quantized: Any) -> None:
    modules = list(quantized.modules()) if isinstance(quantized, nn.Module) else []
    if any(map(is_prepared, modules)):
        raise ArgumentError("quantized: is a tuned model. Pass convert(tuned).")
    if not any(map(is_quantized, modules)):
        raise ArgumentError(f"quantized: a {type(quantized).__name__}. Allowed: what convert() or load() returned.")


def _checked_path(path: str | Path) -> Path:
    file = check_file(path)
    if file.suffix != ".pt2":
        raise ArgumentError(f"path={str(file)!r}: a package is called *.pt2. Give it such a name.")
    return file


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # of a class that torch renames
        raise MissingDependencyError(
            "compile_to_package needs a C++ compiler, and torch finds none. Install g++ or clang, or name one in the "
            "environment variable CXX."
        ) from error


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


def _integer_calls(package: Path) -> int:
    with zipfile.ZipFile(package) as files:
        sources = [files.read(name).decode() for name in files.namelist() if name.endswith(".wrapper.cpp")]
    return sum(len(_INTEGER_CALL.findall(source)) for source in sources)


def _integer_operators(quantized: nn.Module) -> int:
    return sum(isinstance(module, QuantizedLinear | QuantizedConvolution) for module in quantized.modules())
