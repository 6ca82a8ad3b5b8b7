"""Which data belongs to which signature of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inc_autotune.tf_ext.graph.graph_model import GraphModel


def data_by_signature(data: Any, model: GraphModel) -> Mapping[str, Any]:
    """The user's data by name of the signature that it is for.

    Args:
        data: a dict of data by signature name; anything else, such as a dict of arrays by input name, is for the first
            signature.
        model: with the signatures.
    """
    first = next(iter(model.signatures.values()))
    if isinstance(data, Mapping) and data and all(key in model.signatures for key in data):
        inputs = {each.name for each in first.inputs}
        if not set(data) <= inputs:
            return data
    return {first.name: data}
