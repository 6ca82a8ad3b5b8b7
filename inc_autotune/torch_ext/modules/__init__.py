"""Operators of a model in their three forms: fp32, prepared (fake-quantized, trainable) and quantized (deployable).

`prepare_module` makes the second from the first, `convert_module` the third from the second.
"""

from inc_autotune.torch_ext.modules.attention import with_bf16_attention, without_bf16_attention
from inc_autotune.torch_ext.modules.availability import multiplies_integers, simulation_reason, writes_integers
from inc_autotune.torch_ext.modules.build import converted_model, plain_model, prepared_model
from inc_autotune.torch_ext.modules.convolution import QuantizedConvolution
from inc_autotune.torch_ext.modules.embedding import QuantizedEmbedding
from inc_autotune.torch_ext.modules.integer_rows import integers_of
from inc_autotune.torch_ext.modules.linear import QuantizedLinear, ranges_left_to_runtime
from inc_autotune.torch_ext.modules.prepared import PreparedInteger
from inc_autotune.torch_ext.modules.registry import (
    convert_module,
    is_prepared,
    is_quantized,
    prepare_module,
    rounding_steps,
)
from inc_autotune.torch_ext.modules.shared_rows import share_as_saved, share_rows
from inc_autotune.torch_ext.modules.state import QuantizedOperator, packs, without_packing
from inc_autotune.torch_ext.modules.student import (
    is_student,
    load_arrays,
    make_student,
    model_arrays,
    settle,
    trained_calibrations,
    trained_model,
    trained_operators,
    trained_recipe,
    unwrapped,
)
from inc_autotune.torch_ext.modules.weight_only import WeightOnlyLinear
from inc_autotune.torch_ext.modules.weight_only_embedding import WeightOnlyEmbedding

__all__ = [
    "PreparedInteger",
    "QuantizedConvolution",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "QuantizedOperator",
    "WeightOnlyEmbedding",
    "WeightOnlyLinear",
    "convert_module",
    "converted_model",
    "integers_of",
    "is_prepared",
    "is_quantized",
    "is_student",
    "load_arrays",
    "make_student",
    "model_arrays",
    "multiplies_integers",
    "packs",
    "plain_model",
    "prepare_module",
    "prepared_model",
    "ranges_left_to_runtime",
    "rounding_steps",
    "settle",
    "share_as_saved",
    "share_rows",
    "simulation_reason",
    "trained_calibrations",
    "trained_model",
    "trained_operators",
    "trained_recipe",
    "unwrapped",
    "with_bf16_attention",
    "without_bf16_attention",
    "without_packing",
    "writes_integers",
]
