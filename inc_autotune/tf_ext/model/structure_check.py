"""Whether a graph holds what ends the process when TensorFlow reads it, found before TensorFlow is handed the graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from inc_autotune.core.errors import ModelError

MOST_ELEMENTS = 2**31
"""Of a constant, and of an input whose size is declared. TensorFlow makes larger ones without asking for memory."""

_REMEDY = "The model is damaged: export it again."
_KNOWN_TYPES = frozenset(DataType.values())
_WITHOUT_BYTES = (DataType.DT_INVALID, DataType.DT_STRING, DataType.DT_RESOURCE, DataType.DT_VARIANT)


def check_structure(graph_def: GraphDef) -> None:
    """Refuse a graph that makes TensorFlow abort instead of raising an error.

    Args:
        graph_def: with the functions of its library.

    Raises:
        ModelError: an attribute has a type that there is none of, a constant another type or size than its values, a
            tensor more than `MOST_ELEMENTS`, or a function no name.
    """
    for function in graph_def.library.function:
        if not function.signature.name:
            raise ModelError(f"model: a function of the graph has no name. {_REMEDY}")
        _check_nodes(function.node_def)
    _check_nodes(graph_def.node)


def check_saved_model(folder: Path) -> None:
    """The same for the graphs of a SavedModel; one written as text, or that is none, is left to TensorFlow.

    Raises:
        ModelError: as for `check_structure`.
    """
    path = folder / "saved_model.pb"
    if not path.is_file():
        return
    try:
        saved = SavedModel.FromString(path.read_bytes())
    except (DecodeError, OSError):
        return  # TensorFlow raises an error of its own
    for each in saved.meta_graphs:
        check_structure(each.graph_def)


def _check_nodes(nodes: Iterable[NodeDef]) -> None:
    for node in nodes:
        for name, value in node.attr.items():
            for dtype in (value.type, *value.list.type):
                _check_type(node, name, dtype)
            for tensor in _tensors(value):
                _check_tensor(node, name, tensor)
            for shape in (value.shape, *value.list.shape):
                _check_size(node, name, shape)
        if _is_mistyped_constant(node):
            raise ModelError(f"model: the constant {node.name!r} has values of another type than its own. {_REMEDY}")


def _is_mistyped_constant(node: NodeDef) -> bool:
    if node.op != "Const" or not {"value", "dtype"} <= set(node.attr):  # to ask for a missing one would add it
        return False
    return bool(node.attr["value"].tensor.dtype != node.attr["dtype"].type)


def _tensors(value: AttrValue) -> Iterator[TensorProto]:
    if value.HasField("tensor"):
        yield value.tensor
    yield from value.list.tensor


def _check_type(node: NodeDef, name: str, dtype: int) -> None:
    if dtype not in _KNOWN_TYPES:
        raise ModelError(f"model: {name!r} of {node.name!r} is of type {dtype}, which there is none of. {_REMEDY}")


def _check_tensor(node: NodeDef, name: str, tensor: TensorProto) -> None:
    _check_type(node, name, tensor.dtype)
    _check_size(node, name, tensor.tensor_shape)
    sizes = [each.size for each in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in sizes):
        raise ModelError(f"model: {name!r} of {node.name!r} is a tensor without a shape. {_REMEDY}")
    if not tensor.tensor_content or tensor.dtype in _WITHOUT_BYTES:
        return
    width = np.dtype(tf.dtypes.as_dtype(tensor.dtype).as_numpy_dtype).itemsize
    if len(tensor.tensor_content) != math.prod(sizes) * width:
        raise ModelError(
            f"model: {name!r} of {node.name!r} has {len(tensor.tensor_content)} bytes for {math.prod(sizes)} values. "
            f"{_REMEDY}"
        )


def _check_size(node: NodeDef, name: str, shape: TensorShapeProto) -> None:
    elements = math.prod(each.size for each in shape.dim if each.size > 0)
    if elements > MOST_ELEMENTS:
        raise ModelError(
            f"model: {name!r} of {node.name!r} declares {elements} elements, more than {MOST_ELEMENTS}. {_REMEDY}"
        )
