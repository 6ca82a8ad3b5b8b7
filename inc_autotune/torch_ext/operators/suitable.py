"""Which of the options of an operator type make sense for one operator."""

from __future__ import annotations

from torch import nn

from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import integer_type
from inc_autotune.core.vocabulary import FLOAT_DTYPES
from inc_autotune.torch_ext.model import is_half
from inc_autotune.torch_ext.operators.types import LINEAR_TYPES, TYPES_WITH_GROUPS, weight_matrix
from inc_autotune.torch_ext.target import kernels


def suits(option: OpConfig, op_type: str, module: nn.Module | None) -> bool:
    """Whether an operator can have an option, and gains anything by it.

    A float type is none to an operator in half precision, nor bf16 where the processor does not multiply it. Columns of
    a weight must fall into whole groups, and two of 4 bits into each byte.

    Args:
        option: of the capability.
        op_type: key of `OPERATORS`.
        module: the operator; None where it is not a module yet.
    """
    if option.dtype in FLOAT_DTYPES and option.dtype != "fp32":
        has_it = module is not None and is_half(module)
        return not has_it and (option.dtype != "bf16" or kernels.has_bf16())
    if module is None or option.approach != "weight_only" or op_type not in TYPES_WITH_GROUPS:
        return True
    # Unsigned rows of a table without groups may have an odd number of columns.
    is_padded = op_type not in LINEAR_TYPES and option.weight.dtype != "int4"
    least = 2 if integer_type(option.weight.dtype).bits == 4 and not is_padded else 1
    return weight_matrix(module).shape[1] % (option.weight.group_size or least) == 0
