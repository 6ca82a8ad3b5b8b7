"""The words of the framework YAML and of the operator rules: dtypes, schemes, granularities, algorithms, approaches."""

from __future__ import annotations

from inc_autotune.core.op_config import FLOAT_DTYPES

INTEGER_DTYPES = tuple(f"{sign}int{bits}" for bits in range(8, 0, -1) for sign in ("", "u"))
DTYPES = (*INTEGER_DTYPES, *FLOAT_DTYPES)
DTYPES_TEXT = "int1 to int8, uint1 to uint8, fp32, bf16, fp16"
INTEGER_DTYPES_TEXT = "int1 to int8, uint1 to uint8"

SCHEMES = ("sym", "asym")
GRANULARITIES = ("per_tensor", "per_channel")
ALGORITHMS = ("minmax", "kl", "percentile", "mse")

APPROACHES = ("static", "dynamic", "weight_only")
"""In the order in which they are preferred."""


def dtype_bits(dtype: str) -> int:
    """Width of an integer dtype: 4 for `int4` and `uint4`."""
    return int(dtype.removeprefix("u").removeprefix("int"))


def listing(words: tuple[str, ...] | list[str]) -> str:
    """`'a', 'b', 'c'`: how allowed words are shown in a message."""
    return ", ".join(repr(word) for word in words)
