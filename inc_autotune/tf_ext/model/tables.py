"""Lookup tables that a function reads, and the objects that make and fill them when a SavedModel is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.checkpoint.graph_view import ObjectGraphView

from inc_autotune.core.errors import ModelError
from inc_autotune.tf_ext.graph import Table


def tables_of(name: str, function: Any, unfrozen: Mapping[str, Any], owner: Any) -> dict[str, Table]:
    """The tables behind what is left of a function's captured tensors when its variables are constants.

    Args:
        name: of the signature.
        function: a ConcreteFunction.
        unfrozen: symbolic tensors that stand for what is left, by name of their placeholders.
        owner: the user's model, among whose parts the tables are searched.

    Raises:
        ModelError: something is left that is no part of the user's model.
    """
    captured = {inner.name.split(":")[0]: outer for outer, inner in function.graph.captures}
    found = {}
    for placeholder, tensor in unfrozen.items():
        handle = captured.get(placeholder)
        holder = None if handle is None else _holder(handle, owner)
        if holder is None:
            readers = ", ".join(sorted({reader.type for reader in tensor.consumers()}))
            raise ModelError(
                f"model: signature {name!r} uses resources that are no variables, in {readers}, and nothing that was "
                "given holds them. Tables are kept where their owner is known: give the directory of the SavedModel, "
                "or the Keras model or tf.Module that has the table as an attribute. Datasets cannot be kept."
            )
        found[placeholder] = Table(handle, holder)
    return found


def _holder(handle: Any, owner: Any) -> Any | None:
    """The part of a model that makes a resource when the model is loaded."""
    if not isinstance(owner, tf.__internal__.tracking.Trackable):
        return None
    parts, _ = ObjectGraphView(owner).breadth_first_traversal()
    return next((each for each in parts if getattr(each, "resource_handle", None) is handle), None)
