"""Which configurations have an integer kernel; the others are simulated."""

from __future__ import annotations

from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import integer_type
from inc_autotune.torch_ext.modules.integer_rows import ZERO_POINT_PARTS
from inc_autotune.torch_ext.operators import CONVOLUTION_TYPES, LINEAR_TYPES, RECURRENT_TYPES, TABLE_TYPES
from inc_autotune.torch_ext.target import has_engine

BITS_IN_GROUPS = (2, 3)
"""Bits of weights that are stored without a gap where they stand in groups, whose sizes fill whole bytes."""


def simulation_reason(operator_name: str, config: OpConfig) -> str | None:
    """Why an operator of this config is computed in float with integer values; None where an integer form exists.

    Args:
        operator_name: as from `operator_type`.
        config: an integer config; a float config is never simulated.
    """
    weight, activation = config.weight, config.activation
    if weight.is_float:
        return None
    if operator_name in TABLE_TYPES:
        return None if config.approach == "weight_only" else f"{operator_name} reads no activation to quantize"
    if operator_name in RECURRENT_TYPES and config.approach == "weight_only":
        return None if weight.dtype in ("int8", "uint8") else f"no storage format for {weight.dtype}"
    if is_weight_only_product(operator_name, config):
        is_stored = integer_type(weight.dtype).bits == 8 or _is_stored_small(config)
        return None if is_stored else f"no storage format for {weight.dtype}"
    if operator_name not in (*LINEAR_TYPES, *CONVOLUTION_TYPES, *RECURRENT_TYPES):
        return f"no integer kernel for {operator_name}"
    if weight.dtype != "int8" or weight.scheme == "asym":
        return f"no kernel for {weight.dtype} {weight.scheme} weights"
    if activation.dtype not in ("int8", "uint8"):
        return f"no kernel for {activation.dtype} activations"
    if operator_name in CONVOLUTION_TYPES:
        if config.approach != "static":
            return f"no {config.approach} kernel for {operator_name}"
        if not has_engine("onednn"):
            return "this torch was built without oneDNN"
    return None


def is_weight_only_product(operator_name: str, config: OpConfig) -> bool:
    """Whether the operator is a product of a float activation and a weight of integers."""
    return operator_name in LINEAR_TYPES and config.is_quantized and config.approach == "weight_only"


def zero_point_parts(operator_name: str, config: OpConfig) -> int:
    """Into how many parts the step between two zero points of a weight is divided: what its deployable form stores."""
    return ZERO_POINT_PARTS if _is_stored_small(config) and stores_small_scales(operator_name, config) else 1


def _is_stored_small(config: OpConfig) -> bool:
    """Whether there is a format for the integers of a weight in less than a byte each."""
    bits = integer_type(config.weight.dtype).bits
    return bits == 4 or (bits in BITS_IN_GROUPS and config.weight.group_size is not None)


def is_table_like_a_product(operator_name: str, config: OpConfig) -> bool:
    """Whether an Embedding stores its rows as weight-only products store theirs: signed ones, and groups."""
    is_table = operator_name == "Embedding" and config.is_quantized and config.approach == "weight_only"
    weight = config.weight
    return is_table and (weight.group_size is not None or weight.dtype in ("int8", "int4"))


def stores_small_scales(operator_name: str, config: OpConfig) -> bool:
    """Whether the deployable form keeps the scales of its weight as bfloat16."""
    return is_weight_only_product(operator_name, config) or is_table_like_a_product(operator_name, config)


def multiplies_integers(operator_name: str, config: OpConfig) -> bool:
    """Whether the operator runs as u8 * s8 products, which saturate in some kernels on processors without VNNI."""
    rounds_both = config.is_quantized and config.approach != "weight_only"
    return rounds_both and simulation_reason(operator_name, config) is None


def writes_integers(operator_name: str, config: OpConfig) -> bool:
    """Whether the operator's kernel writes uint8, so that its output range must be known."""
    return operator_name in CONVOLUTION_TYPES and multiplies_integers(operator_name, config)
