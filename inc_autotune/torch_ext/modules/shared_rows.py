"""One set of integers for a table of embeddings and the head that is tied to it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from inc_autotune.torch_ext.modules.weight_only import WeightOnlyLinear
from inc_autotune.torch_ext.modules.weight_only_embedding import WeightOnlyEmbedding

_SHARED = ("integer_weight", "weight_scale", "zero_points", "smoothing")

_LOOKED_AT_FIRST = 256
"""Integers of two tensors that are compared before all of them are."""


def share_rows(model: nn.Module) -> nn.Module:
    """Let every table of a converted model have the very tensors of a product with the same numbers, in place."""
    modules = list(model.modules())
    products = [each for each in modules if isinstance(each, WeightOnlyLinear)]
    for table in (each for each in modules if isinstance(each, WeightOnlyEmbedding)):
        product = next((each for each in products if _are_equal(table, each)), None)
        if product is not None:
            for name in _SHARED:
                table.keep(name, getattr(product, name))
    return model


def share_as_saved(model: nn.Module, kept: Mapping[str, str]) -> None:
    """Let tables have the tensors of products that they had when they were saved, whatever numbers these hold now.

    Args:
        model: converted.
        kept: names of tensors that were not written, with those that were written in their place.
    """
    modules = dict(model.named_modules())
    for pair in kept.items():
        paths = [name.rpartition(".") for name in pair]
        owners = [modules.get(path) for path, _, _ in paths]
        table = next((each for each in owners if isinstance(each, WeightOnlyEmbedding)), None)
        product = next((each for each in owners if isinstance(each, WeightOnlyLinear)), None)
        leaf = paths[0][2]
        if table is not None and product is not None and leaf == paths[1][2] and leaf in _SHARED:
            table.keep(leaf, getattr(product, leaf))


def _are_equal(table: WeightOnlyEmbedding, product: WeightOnlyLinear) -> bool:
    return table.bits == product.bits and all(
        _same(getattr(table, name), getattr(product, name)) for name in reversed(_SHARED)
    )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one is other:
        return one is other
    if one.shape != other.shape or one.device != other.device or one.is_meta:
        return False
    begin = (each.flatten()[:_LOOKED_AT_FIRST] for each in (one, other))
    return torch.equal(*begin) and torch.equal(one, other)
