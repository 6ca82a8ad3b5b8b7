"""A capability with 4-bit convolutions, and what options have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from inc_autotune.core.op_config import OpConfig, TensorConfig

PYTORCH = Path(__file__).parents[3] / "inc_autotune" / "torch_ext" / "capability" / "pytorch.yaml"

# The few lines that add a data type, as the documentation shows them.
INT4 = """\
int4:
  static:
    Conv2d:
      weight: {dtype: [int4], scheme: [sym], granularity: [per_channel], algorithm: [minmax]}
      activation: {dtype: [uint4], scheme: [sym], granularity: [per_tensor], algorithm: [minmax]}
"""
INT4_CONV = OpConfig(
    TensorConfig("int4", "sym", "per_channel", "minmax"), TensorConfig("uint4", "sym", "per_tensor", "minmax"), "static"
)
BF16 = OpConfig(TensorConfig("bf16"), TensorConfig("bf16"))


def dtypes(options: Iterable[OpConfig]) -> list[str]:
    return list(dict.fromkeys(option.dtype for option in options))


def approaches(options: Iterable[OpConfig]) -> list[str | None]:
    return list(dict.fromkeys(option.approach for option in options))
