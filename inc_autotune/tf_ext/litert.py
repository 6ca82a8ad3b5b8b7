"""A tuned model as a file for LiteRT, which was called TensorFlow Lite."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.tools import flatbuffer_utils

from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.core.files import write_file
from inc_autotune.core.op_config import OpConfig
from inc_autotune.graphs import WeightCache
from inc_autotune.tf_ext.calibration import Analysis
from inc_autotune.tf_ext.data import data_by_signature
from inc_autotune.tf_ext.data.feeds import feeds
from inc_autotune.tf_ext.emission import build_model
from inc_autotune.tf_ext.graph import GraphModel, SignatureGraph
from inc_autotune.tf_ext.model import SignatureModel, check_file
from inc_autotune.tf_ext.tuned_model import TunedModel, plan_of_recipe

logger = logging.getLogger(__name__)

CALIBRATION_SAMPLES = 100

_CONVERSIONS = (schema.BuiltinOperator.QUANTIZE, schema.BuiltinOperator.DEQUANTIZE)


def to_litert(tuned: TunedModel, calib_dataset: Any, path: str | Path | None = None) -> bytes:
    """Convert the first signature of a tuned model for LiteRT, with its integer kernels. Meant for CNNs.

    The tuned types hold: what is int8 there is int8 here, what fell back is float32, and inputs are smoothed alike.
    LiteRT decides the rest: it calibrates by minimum and maximum on the data given here, whatever the algorithm was;
    its activations are int8 with a zero point, of one range where the tuned model has one for each row; and operators
    that are not tuned, such as additions and pooling, are quantized too. Operators whose type it did not follow, such
    as ones too small for it, are logged as warnings.

    Args:
        tuned: what `autotune` or `apply_recipe` returned.
        calib_dataset: calibration data, see `autotune`; 100 samples are read.
        path: where to write the file too; None: nowhere.

    Returns:
        The content of a `.tflite` file. Inputs and outputs are float32 under the names of the signature.

    Raises:
        ArgumentError: `tuned` is no tuned model, has operators whose weights are not int8, there is no data for its
            first signature, or no file can be written to `path`.
        DataError: the data is empty or does not fit.
        ModelError: LiteRT has no form of the model.
    """
    if not isinstance(tuned, TunedModel):
        raise ArgumentError(f"tuned: a {type(tuned).__name__}. Allowed: what autotune() or apply_recipe() returned.")
    target = None if path is None else check_file(path, "path")
    name = next(iter(tuned.source.signatures))
    data = data_by_signature(calib_dataset, tuned.source)
    if name not in data:
        raise ArgumentError(f"calib_dataset has no data for {name!r}, the signature that is converted.")
    every = Analysis(tuned.source, list(tuned.source.signatures))
    graph = every.graphs[name]
    plan = plan_of_recipe(every, tuned.recipe)
    operators = every.operators_of(graph)
    integer = {key: plan.configs[key].is_quantized for key in operators if key in plan.configs}
    _check_types({key: config for key, config in plan.configs.items() if key in operators})
    signature = build_model(every, replace(plan, configs={}), WeightCache()).signatures[name]
    samples = list(feeds(data[name], signature, CALIBRATION_SAMPLES))

    def representative() -> Iterator[dict[str, Any]]:
        for feed in samples:
            for index in range(feed.size if feed.batched else 1):
                yield dict(feed.slice(index, index + 1).inputs)

    in_float = [each.nodes for key, each in operators.items() if not integer.get(key)]
    # Rounded before it is smoothed, an activation would gain nothing.
    multiplied = (node for node in signature.graph_def.node if node.op == "Mul" and node.name not in graph.by_name)
    in_float += [(node.name,) for node in multiplied]
    content = _converted(signature, representative, in_float)
    for key, each in operators.items():
        wanted, found = integer.get(key, False), _products(content, each.nodes)
        if not found or any(is_integer != wanted for _, is_integer in found):
            logger.warning("LiteRT did not follow the tuned type of %s: %s", key, "int8" if wanted else "float32")
    if target is not None:
        write_file(target, content)
    return content


def _check_types(configs: Mapping[str, OpConfig]) -> None:
    for name, config in configs.items():
        if config.is_quantized and (config.weight.dtype, config.weight.scheme) != ("int8", "sym"):
            raise ArgumentError(
                f"tuned: {name!r} has {config.weight.scheme} {config.weight.dtype} weights. LiteRT takes symmetric "
                "int8 ones. Tune without that type: excluded_precisions."
            )


def _converted(
    signature: SignatureGraph,
    representative: Callable[[], Iterator[dict[str, Any]]],
    in_float: Sequence[Sequence[str]],
) -> bytes:
    """The signature in integers but for some operators, given by the names of their nodes."""
    model = SignatureModel(GraphModel({signature.name: signature}))
    module = tf.Module()
    module.weights = list(model.weights)
    make = partial(tf.lite.TFLiteConverter.from_concrete_functions, [model.default.function], module)
    try:
        content = make().convert() if in_float else b""
        names = [name for nodes in in_float for name, _ in _products(content, nodes)]
        converter = make()
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        if not names:
            return bytes(converter.convert())
        # What tf.lite's QuantizationDebugger does, which wants an integer operator to be left.
        converter._experimental_calibrate_only = True
        return bytes(mlir_quantize(converter.convert(), denylisted_nodes=names))
    except Exception as error:  # the converter raises exceptions of its own kinds, and plain ones
        raise ModelError(
            f"tuned: LiteRT's converter refuses signature {signature.name!r} ({type(error).__name__}: {error}). It has "
            "no form of some operators; it is meant for CNNs."
        ) from error


def _products(content: bytes, nodes: Sequence[str]) -> list[tuple[str, bool]]:
    """Name of the output, and whether it is of integers, of each operator of a file that stands for one of the nodes.

    A tensor of a file has the names of all nodes that were fused, with semicolons, perhaps with a number behind. The
    output of the last operator has lost them, so weights count too.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            if model.operatorCodes[operator.opcodeIndex].builtinCode in _CONVERSIONS:
                continue
            output, *read = (graph.tensors[index] for index in (operator.outputs[0], *operator.inputs) if index >= 0)
            weights = [each for each in read if model.buffers[each.buffer].data is not None]
            names = {part for each in (output, *weights) for part in each.name.decode().split(";")}
            if any(_is_numbered(name, node) for name in names for node in nodes):
                found.append((output.name.decode(), output.type == schema.TensorType.INT8))
    return found


def _is_numbered(name: str, node: str) -> bool:
    return name.startswith(node) and (name == node or name[len(node) :].isdigit())
