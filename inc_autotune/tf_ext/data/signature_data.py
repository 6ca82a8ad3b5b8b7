"""Which data belongs to which signature of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inc_autotune.tf_ext.graph import GraphModel


class SignatureData(dict[str, Any]):
    """Data by name of the signature that it is for."""


def data_by_signature(data: Any, model: GraphModel) -> SignatureData:
    """The user's data by name of the signature that it is for.

    Args:
        data: a dict of data by signature name; anything else, such as a dict of arrays by input name, is for the first
            signature. What this function returned stays as it is.
        model: with the signatures.
    """
    if isinstance(data, SignatureData):
        return data
    first = next(iter(model.signatures.values()))
    if isinstance(data, Mapping) and data and all(key in model.signatures for key in data):
        inputs = {each.name for each in first.inputs}
        if not set(data) <= inputs:
            return SignatureData(data)
    return SignatureData({first.name: data})
