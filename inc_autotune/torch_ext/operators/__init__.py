"""Finding the operators that can be quantized, and what surrounds them, from one watched forward pass.

Imports data and everything below it.
"""

from inc_autotune.torch_ext.operators.attention import FoundAttention, find_attention
from inc_autotune.torch_ext.operators.blocks import BlockCall, capture_calls, find_blocks, run_block
from inc_autotune.torch_ext.operators.examination import CAPTURED, CAPTURED_REASON, Examination, examine
from inc_autotune.torch_ext.operators.found_products import FoundProducts, candidate_parameters
from inc_autotune.torch_ext.operators.hidden_rules import with_rules_for_hidden_products
from inc_autotune.torch_ext.operators.merged_trace import (
    ANOTHER_WAY,
    given_up,
    in_order_of,
    is_served,
    merged,
    unserved,
    without,
)
from inc_autotune.torch_ext.operators.operator_calls import CallWatcher
from inc_autotune.torch_ext.operators.other_weights import OtherWeights, weights_by_owner
from inc_autotune.torch_ext.operators.recurrent import (
    RECURRENT_TYPES,
    RecurrentCall,
    directions,
    recurrent_weights,
)
from inc_autotune.torch_ext.operators.recurrent_steps import State, Steps, eager_steps, run_layers
from inc_autotune.torch_ext.operators.suitable import suits
from inc_autotune.torch_ext.operators.tied_tables import tied_tables
from inc_autotune.torch_ext.operators.trace import ModelTrace, OperatorTrace, analyse, foldable_batch_norms
from inc_autotune.torch_ext.operators.types import (
    CONVOLUTION_TYPES,
    LINEAR_TYPES,
    OPERATORS,
    TABLE_TYPES,
    TYPES_WITH_GROUPS,
    TYPES_WITHOUT_RANGE,
    WEIGHT_DTYPES,
    Operator,
    Tensors,
    operator_type,
    reduce_bags,
    weight_matrix,
)

__all__ = [
    "ANOTHER_WAY",
    "CAPTURED",
    "CAPTURED_REASON",
    "CONVOLUTION_TYPES",
    "LINEAR_TYPES",
    "OPERATORS",
    "RECURRENT_TYPES",
    "TABLE_TYPES",
    "TYPES_WITHOUT_RANGE",
    "TYPES_WITH_GROUPS",
    "WEIGHT_DTYPES",
    "BlockCall",
    "CallWatcher",
    "Examination",
    "FoundAttention",
    "FoundProducts",
    "ModelTrace",
    "Operator",
    "OperatorTrace",
    "OtherWeights",
    "RecurrentCall",
    "State",
    "Steps",
    "Tensors",
    "analyse",
    "candidate_parameters",
    "capture_calls",
    "directions",
    "eager_steps",
    "examine",
    "find_attention",
    "find_blocks",
    "foldable_batch_norms",
    "given_up",
    "in_order_of",
    "is_served",
    "merged",
    "operator_type",
    "recurrent_weights",
    "reduce_bags",
    "run_block",
    "run_layers",
    "suits",
    "tied_tables",
    "unserved",
    "weight_matrix",
    "weights_by_owner",
    "with_rules_for_hidden_products",
    "without",
]
