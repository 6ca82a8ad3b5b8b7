"""The user's model, read once, whatever it was given as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, TensorShapeProto, helper

from inc_autotune.core.errors import ModelError
from inc_autotune.graphs import InputDescription, reading_model
from inc_autotune.ort_ext.graph import GraphModel, MappedWeights, bodies, split
from inc_autotune.ort_ext.model.check import check_model
from inc_autotune.ort_ext.model.folding import fold_weights
from inc_autotune.ort_ext.model.half_precision import compute_in_float32, half_type
from inc_autotune.ort_ext.model.model_file import read_proto
from inc_autotune.ort_ext.model.normalization import normalize
from inc_autotune.ort_ext.model.structure_check import check_structure
from inc_autotune.ort_ext.model.versions import spell_domains, with_one_opset

_NO_NAMES = ("", "-1", "?", "None")

VALID = "Is it a valid model? onnx.checker.check_model(model, full_check=True) and an InferenceSession tell more."
"""What to do where a model cannot be understood."""

BODY_REASON = "it is inside a body of If, Loop or Scan, which stays as it is"


@dataclass(frozen=True, kw_only=True)
class SourceModel(GraphModel):
    """The user's fp32 model.

    Every node has a name of its own, Constant nodes are initializers, and functions are inlined. `weights` has the
    value of every initializer that NumPy can hold, small ones too.

    Args:
        path: its file; None where it was given in memory.
        inputs: what a caller has to give, in the order of the graph; not those that have an initializer as default.
        body_operators: name -> type of each operator in a body of If, Loop or Scan. A name is the path to the operator:
            `If_0/then_branch/MatMul_3`.
        original: the model as it was given, where its operators had to be converted to a newer version, or computed in
            half precision; else None.
        half_type: "float16" or "bfloat16", in which the model computed as it was given; None: in float32.
    """

    path: Path | None
    inputs: tuple[InputDescription, ...]
    body_operators: Mapping[str, str]
    original: GraphModel | None = None
    half_type: str | None = None


def load_source(model: Any) -> SourceModel:
    """Read and check a model; it is not changed.

    Args:
        model: a path, also of a model with external data, which is mapped and not loaded; the bytes of a model; a
            `ModelProto`; or an object with one as `model_proto`, as `torch.onnx.export(dynamo=True)` returns.

    Raises:
        ArgumentError: it is none of these, or there is no such file.
        ModelError: it is no ONNX model, is damaged, or cannot be quantized as it is.
    """
    with reading_model(VALID):
        file = read_proto(model)
        proto, weights = split(file.proto, file.folder)
        spell_domains(proto)
        given = proto
        proto = with_one_opset(given)
        original = None if proto is given else GraphModel(given, weights, file.folder)
        proto = normalize(proto, weights)
        check_model(proto)
        check_structure(proto)
        half = half_type(proto)
        if half is not None:
            if original is None:
                as_given = ModelProto()
                as_given.CopyFrom(proto)
                original = GraphModel(as_given, MappedWeights(weights), file.folder)
            compute_in_float32(proto, weights)
        fold_weights(proto, weights)
        return SourceModel(
            proto,
            weights,
            file.folder,
            path=file.path,
            inputs=tuple(_input_descriptions(proto.graph)),
            body_operators=dict(_body_operators(proto.graph)),
            original=original,
            half_type=half,
        )


def _input_descriptions(graph: GraphProto) -> Iterator[InputDescription]:
    defaults = {each.name for each in graph.initializer}
    for each in graph.input:
        if each.name in defaults:
            continue
        tensor = each.type.tensor_type
        if tensor.elem_type == TensorProto.UNDEFINED:
            kind = (each.type.WhichOneof("value") or "value_type").removesuffix("_type")
            raise ModelError(f"model: input {each.name!r} is a {kind} without an element type. Allowed: typed tensors.")
        shape = None
        if tensor.HasField("shape"):
            shape = tuple(map(_declared_size, tensor.shape.dim))
        yield InputDescription(each.name, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)


def _declared_size(size: TensorShapeProto.Dimension) -> int | str | None:
    """A number where it is fixed, a name, or None. Exporters write -1 or a question mark for sizes they do not know."""
    if size.HasField("dim_value"):
        return int(size.dim_value) if size.dim_value >= 0 else None
    return None if size.dim_param in _NO_NAMES else str(size.dim_param)


def _body_operators(graph: GraphProto, path: str = "") -> Iterator[tuple[str, str]]:
    for node in graph.node:
        for label, body in bodies(node):
            inside = f"{path}{node.name}/{label}/"
            yield from ((inside + each.name, each.op_type) for each in body.node)
            yield from _body_operators(body, inside)
