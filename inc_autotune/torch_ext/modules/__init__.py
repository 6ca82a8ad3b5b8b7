"""Operators of a model in their three forms: fp32, prepared (fake-quantized, trainable) and quantized (deployable).

`prepare_module` makes the second from the first, `convert_module` the third from the second.
"""

from inc_autotune.torch_ext.modules.availability import multiplies_integers, simulation_reason, writes_integers
from inc_autotune.torch_ext.modules.registry import convert_module, is_prepared, is_quantized, prepare_module

__all__ = [
    "convert_module",
    "is_prepared",
    "is_quantized",
    "multiplies_integers",
    "prepare_module",
    "simulation_reason",
    "writes_integers",
]
