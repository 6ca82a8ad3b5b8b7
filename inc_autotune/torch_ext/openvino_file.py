"""Files of OpenVINO: its runtime multiplies the integers of a converted model, without torch and this library."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from inc_autotune.core.errors import ModelError, foreign_errors_as
from inc_autotune.core.files import Content, write_files, writing
from inc_autotune.core.ignored_warnings import ignored_warnings
from inc_autotune.core.optional import require
from inc_autotune.torch_ext.exporting import (
    ExportedModel,
    check_arguments,
    exported_program,
    integer_operators,
    warn_of_float_operators,
)
from inc_autotune.torch_ext.model.untouched import generator_kept
from inc_autotune.torch_ext.modules import ranges_left_to_runtime

_PRODUCTS = ("FullyConnected", "MatMul", "Convolution", "Deconvolution")
"""How the compiled program calls the operators that multiply by weights."""


def convert_to_openvino(
    quantized: nn.Module, example_inputs: Any, path: str | Path, *, dynamic_shapes: Any = "auto"
) -> ExportedModel:
    """Write a converted model as a file of OpenVINO, whose CPU runtime multiplies the same integers.

    `openvino.compile_model(path)` runs it, without torch, this library and the model's code. Weights are stored as they
    are multiplied, 8 bits each, and everything else as it is in the model. The weights have the 7 or 8 bits of the
    converted model; 8 are exact where this processor's kernels are. Operators whose ranges are found at run time keep
    their integer weights, and OpenVINO finds the ranges in its own way, of parts of rows, where the processor has VNNI.
    Weight-only operators are stored in integers, and computed in float.

    Args:
        quantized: what `convert` or `load` returned, in eval mode. It is not changed.
        example_inputs: a tensor, a tuple of inputs, or a dict of keyword inputs, as the model is called.
        path: of the file to write, `*.xml`; the weights are put into `*.bin` beside it. Existing ones are replaced.
        dynamic_shapes: "auto": each dimension of the inputs that is longer than 1, where the model bears it; None: the
            file is for these shapes alone, and a little faster; or what `torch.export.export` takes.

    Returns:
        How many calls of integer kernels OpenVINO makes of it on this processor, and how many operators of the model
        multiply integers by calibrated ranges.

    Raises:
        ArgumentError: `quantized` is not a converted model, or `path` no such file, or nothing can be written there.
        MissingDependencyError: OpenVINO, the extra `openvino`, is not installed.
        ModelError: the model cannot be exported, or OpenVINO does not know one of its operations.
    """
    target = check_arguments(quantized, path, ".xml", "a file of OpenVINO", dynamic_shapes)
    require("openvino", extra="openvino")

    def failed(error: Exception) -> ModelError:
        return ModelError(
            f"quantized: cannot be converted to OpenVINO: {type(error).__name__}: {error}\nMake torch.export.export("
            "quantized, example_inputs) work first, or go by an ONNX file, which ort_ext quantizes and OpenVINO reads."
        )

    with generator_kept(), torch.no_grad(), ranges_left_to_runtime(), foreign_errors_as(failed):
        model = _openvino_model(exported_program(quantized, example_inputs, dynamic_shapes))
        kernels = _integer_kernels(model)
    _write(model, target)
    calibrated = [module for module in integer_operators(quantized) if module.input_scale is not None]
    written = ExportedModel(target, kernels, len(calibrated))
    warn_of_float_operators(written, "Compile the converted model with compile_to_package instead.")
    return written


def _openvino_model(exported: ExportedProgram) -> Any:
    """An `openvino.Model`. By the frontend itself: `openvino.convert_model` also reports to its makers."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch import ConversionExtension
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    for name, conversion in {
        "quantized_decomposed.dequantize_per_channel.default": _dequantized,
        "aten.__lshift__.Scalar": _shifted_left,
        "aten.__rshift__.Scalar": _shifted_right,
    }.items():
        frontend.add_extension(ConversionExtension(name, conversion))
    _leave_out_whole_slices(exported)
    with _unknown_decompositions_ignored(), ignored_warnings(FutureWarning, "`isinstance\\(treespec, LeafSpec"):
        decoder = TorchFXPythonDecoder.from_exported_program(exported)
        # The decoder has to live until the model is converted.
        model = frontend.convert(frontend.load(decoder))
    # The decoder takes all sizes for dynamic ones, or those that the exporter has found to be fixed.
    model.reshape(dict(zip(model.inputs, _input_shapes(exported), strict=True)))
    return model


def _leave_out_whole_slices(exported: ExportedProgram) -> None:
    """Take out `x[:]`, which the exporter of torch 2.8 writes with no bounds, and OpenVINO's frontend cannot read."""
    graph, returned = exported.graph_module.graph, set(exported.graph_signature.user_outputs)
    for node in list(graph.nodes):
        if node.target == torch.ops.aten.slice.Tensor and len(node.args) <= 2 and node.name not in returned:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _input_shapes(exported: ExportedProgram) -> list[list[int]]:
    """Of each input that is a tensor; -1 stands for any size."""
    inputs = {*exported.graph_signature.user_inputs}
    found = [node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder" and node.name in inputs]
    tensors = [value for value in found if isinstance(value, torch.Tensor)]
    return [[int(size) if is_concrete_int(size) else -1 for size in tensor.shape] for tensor in tensors]


def _dequantized(context: Any) -> Any:
    """Integer weight, converted and scaled: OpenVINO's frontend leaves dequantization out, and so scales nothing."""
    import openvino.opset13 as operations

    weight, scale = context.get_input(0), context.get_input(1)
    shape = [1] * weight.get_partial_shape().rank.get_length()
    shape[context.get_values_from_const_input(3)] = -1
    by_channel = operations.reshape(scale, operations.constant(shape, dtype="int64"), False)
    return operations.multiply(operations.convert(weight, "f32"), by_channel).outputs()


def _shifted_left(context: Any) -> Any:
    import openvino.opset15 as operations

    values, bits = context.get_input(0), context.get_input(1)
    return operations.bitwise_left_shift(values, operations.convert_like(bits, values)).outputs()


def _shifted_right(context: Any) -> Any:
    import openvino.opset15 as operations

    values, bits = context.get_input(0), context.get_input(1)
    return operations.bitwise_right_shift(values, operations.convert_like(bits, values)).outputs()


@contextmanager
def _unknown_decompositions_ignored() -> Iterator[None]:
    """Keep OpenVINO from logging, with tracebacks, which operators this torch does not decompose anyway."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return record.msg != "Operation %s not found in decomp table"

    # Without a handler the first record would configure the root logger for the whole process.
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    root.addFilter(is_wanted)
    try:
        yield
    finally:
        root.removeFilter(is_wanted)
        root.removeHandler(silent)


def _integer_kernels(model: Any) -> int:
    """Products that OpenVINO computes from integers on this processor."""
    import openvino

    def facts(operator: Any) -> tuple[str, str, str]:
        found = operator.get_rt_info()
        kind, precision, kernel = (found[key].astype(str) for key in ("layerType", "runtimePrecision", "primitiveType"))
        return kind, precision, kernel

    compiled = openvino.Core().compile_model(model, "CPU")
    found = [facts(operator) for operator in compiled.get_runtime_model().get_ops()]
    # Of products with integer weights and float inputs the precision is an integer's too, but not the kernel.
    return sum(
        kind in _PRODUCTS and precision in ("u8", "i8") and kernel.lower().endswith("_i8")
        for kind, precision, kernel in found
    )


def _write(model: Any, target: Path) -> None:
    import openvino

    def content(file: Path) -> Content:
        def copy(to: BinaryIO) -> None:
            with file.open("rb") as source:
                shutil.copyfileobj(source, to)

        return copy

    # Both files replace old ones at once, which OpenVINO's writer does not do.
    with writing(target), tempfile.TemporaryDirectory(prefix=".openvino-", dir=target.parent) as folder:
        made = Path(folder, "model.xml")
        openvino.save_model(model, made, compress_to_fp16=False)
        weights = {target.with_suffix(".bin"): content(made.with_suffix(".bin"))}
        write_files(target, content(made), weights)
