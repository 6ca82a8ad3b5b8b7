"""Tables of embeddings whose weight is also that of a product, as the heads of language models have it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from inc_autotune.torch_ext.operators.types import LINEAR_TYPES, operator_type


def tied_tables(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """The first product that has the weight of each Embedding, by the names of both; others have none.

    Args:
        modules: all of a model, by name.
    """
    products: dict[int, str] = {}
    for name, module in modules.items():
        # Of Conv1D the weight is the other way round.
        if operator_type(module) == LINEAR_TYPES[0]:
            products.setdefault(id(module.weight), name)
    tables = {name: module for name, module in modules.items() if operator_type(module) == "Embedding"}
    return {name: products[id(table.weight)] for name, table in tables.items() if id(table.weight) in products}
