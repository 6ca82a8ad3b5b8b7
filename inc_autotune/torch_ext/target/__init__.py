"""What this machine and this torch offer: instruction sets, engines, kernels that are safe to use.

Imports core only.
"""

from inc_autotune.torch_ext.target.kernels import PackedWeight, has_engine
from inc_autotune.torch_ext.target.saturation import SAFE_WEIGHT_MAGNITUDE, is_within_7_bits

__all__ = ["SAFE_WEIGHT_MAGNITUDE", "PackedWeight", "has_engine", "is_within_7_bits"]
