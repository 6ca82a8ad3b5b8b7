"""Packages that AOTInductor compiles: PyTorch runs them without the code of the model, and without ours."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inc_autotune.core.errors import MissingDependencyError, ModelError
from inc_autotune.torch_ext.exporting import (
    ExportedModel,
    check_arguments,
    exported_program,
    integer_operators,
    warn_of_float_operators,
)
from inc_autotune.torch_ext.model.untouched import generator_kept

_INTEGER_CALL = re.compile(r"aoti_torch_cpu_+q(?:linear|conv)\w*_pointwise\w*\(")
"""How a package's source calls oneDNN's integer kernels."""


def compile_to_package(
    quantized: nn.Module, example_inputs: Any, path: str | Path, *, dynamic_shapes: Any = "auto"
) -> ExportedModel:
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
    target = check_arguments(quantized, path, ".pt2", "a package", dynamic_shapes)
    _check_compiler()
    # It takes a second to import.
    from torch._inductor import aoti_compile_and_package, config

    with generator_kept(), torch.no_grad(), config.patch(freezing=True):
        try:
            exported = exported_program(quantized, example_inputs, dynamic_shapes)
            aoti_compile_and_package(exported, package_path=str(target))
        except Exception as error:  # whatever the exporter and the compiler raise
            raise ModelError(
                f"quantized: cannot be compiled to a package: {type(error).__name__}: {error}\nTrace it with "
                "torch.jit.trace, or make torch.export.export(quantized, example_inputs) work first."
            ) from error
    package = ExportedModel(target, _integer_calls(target), len(integer_operators(quantized)))
    warn_of_float_operators(package, "Trace the converted model instead.")
    return package


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # of a class that torch renames
        raise MissingDependencyError(
            "compile_to_package needs a C++ compiler, and torch finds none. Install g++ or clang, or name one in the "
            "environment variable CXX."
        ) from error


def _integer_calls(package: Path) -> int:
    with zipfile.ZipFile(package) as files:
        sources = [files.read(name).decode() for name in files.namelist() if name.endswith(".wrapper.cpp")]
    return sum(len(_INTEGER_CALL.findall(source)) for source in sources)
