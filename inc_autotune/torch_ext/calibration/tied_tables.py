"""Tables of embeddings that are rounded as the product with the same weight is, so that integers are stored once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.calibration.operator_calibration import OperatorCalibration
from inc_autotune.torch_ext.operators import operator_type, tied_tables

Decided = tuple[dict[str, OpConfig], dict[str, OperatorCalibration]]
"""Configurations and calibrations by operator name."""


def follow_products(
    configs: Mapping[str, OpConfig], calibrations: Mapping[str, OperatorCalibration], model: nn.Module
) -> Decided:
    """The same, where tables are smoothed and rounded as the products with the same weight.

    A table does where both are weight-only and their weights have one configuration. The rows it looks up are then
    those of the product, divided by its smoothing scale.
    """
    followed = dict(configs), dict(calibrations)
    for table, product in tied_tables(dict(model.named_modules())).items():
        if table in configs and product in configs and _are_alike(configs[table], configs[product]):
            seen = calibrations[product]
            followed[0][table] = configs[table].with_rounding(configs[product].rounding)
            followed[1][table] = replace(calibrations[table], smoothing=seen.smoothing, steps=seen.steps)
    return followed


def shared_weights(model: nn.Module, *, tables: bool) -> frozenset[int]:
    """Identities of the parameters that several modules have.

    Args:
        model: in fp32.
        tables: whether an Embedding counts as one of them.
    """
    modules = [each for each in model.modules() if tables or operator_type(each) != "Embedding"]
    counts = Counter(id(each) for module in modules for each in module._parameters.values() if each is not None)
    return frozenset(each for each, count in counts.items() if count > 1)


def _are_alike(table: OpConfig, product: OpConfig) -> bool:
    return table.approach == product.approach == "weight_only" and table.weight == product.weight
