"""SavedModels by way of the loader of TensorFlow 1, which makes no objects.

`tf.saved_model.load` makes all objects anew and fails where a class is unknown: at the optimizer of a model of Keras 2,
for example, though no signature needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_from_session_graph
from tensorflow.python.saved_model.loader_impl import SavedModelLoader
from tensorflow.python.util import deprecation

from inc_autotune.core.errors import ModelError

_SERVE = "serve"
_NOT_FROZEN = ("HashTable", "MutableHashTable", "MutableDenseHashTable", "VarHandleOp")


@dataclass(frozen=True)
class FrozenSignature:
    """A signature as a graph, with names of tensors by name of the input or output."""

    graph_def: GraphDef
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class SessionSignatures(dict[str, FrozenSignature]):
    """Signatures of one SavedModel by name."""


def signatures_by_session(path: Path) -> SessionSignatures:
    """The signatures of a SavedModel with the tag "serve", without variables.

    Raises:
        ModelError: one needs tables, which a frozen graph cannot fill, or there is no signature.
        Exception: whatever TensorFlow raises on a SavedModel that it cannot load.
    """
    v1 = tf.compat.v1
    found = SessionSignatures()
    with tf.Graph().as_default(), v1.Session() as session:
        signatures = SavedModelLoader(str(path)).load(session, [_SERVE]).signature_def
        whole = session.graph.as_graph_def()
        for name, each in signatures.items():
            if name.startswith("__saved_model"):
                continue
            outputs = {key: tensor.name for key, tensor in each.outputs.items()}
            ends = [tensor.split(":")[0] for tensor in outputs.values()]
            with deprecation.silence():  # of what TensorFlow calls itself
                graph_def = convert_variables_to_constants_from_session_graph(session, whole, ends)
            if any(node.op.startswith(_NOT_FROZEN) for node in graph_def.node):
                raise ModelError(f"model: signature {name!r} needs tables.")
            found[name] = FrozenSignature(graph_def, {key: tensor.name for key, tensor in each.inputs.items()}, outputs)
    if not found:
        raise ModelError("model: this SavedModel has no signature.")
    return found
