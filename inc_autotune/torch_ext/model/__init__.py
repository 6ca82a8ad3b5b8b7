"""The user's model: run without a trace, copied without its memory, freed of fused fast paths, its products uncovered.

Imports target.
"""

from inc_autotune.torch_ext.model.copies import (
    CARRIED,
    base_model,
    convert_modules,
    is_replaceable,
    own_tensors,
    replace_modules,
    shared_copy,
)
from inc_autotune.torch_ext.model.expansion import expand, expanded_copy, expansions
from inc_autotune.torch_ext.model.half_precision import HALF_DTYPES, half_precision_notes, is_half
from inc_autotune.torch_ext.model.parameter_products import ParameterProduct, install_products
from inc_autotune.torch_ext.model.tuned_module import TunedModule
from inc_autotune.torch_ext.model.untouched import (
    AddressMap,
    EagerDispatchMode,
    attention_fast_path_disabled,
    restored,
    tensors_in,
    written_tensors,
)

__all__ = [
    "CARRIED",
    "HALF_DTYPES",
    "AddressMap",
    "EagerDispatchMode",
    "ParameterProduct",
    "TunedModule",
    "attention_fast_path_disabled",
    "base_model",
    "convert_modules",
    "expand",
    "expanded_copy",
    "expansions",
    "half_precision_notes",
    "install_products",
    "is_half",
    "is_replaceable",
    "own_tensors",
    "replace_modules",
    "restored",
    "shared_copy",
    "tensors_in",
    "written_tensors",
]
