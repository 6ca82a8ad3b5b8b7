"""GraphDefs whose weights lie beside them as arrays, a view of such a graph, and building new ones.

Imports core and graphs only.
"""

from inc_autotune.tf_ext.graph.bodies import BRANCHES, CONDITION, LOOPS, Body, bodies_of, is_editable
from inc_autotune.tf_ext.graph.builder import GraphBuilder
from inc_autotune.tf_ext.graph.call_forms import Extra, rewrite_call, weight_extras
from inc_autotune.tf_ext.graph.functions import body_nodes, calls, is_compiled, name_by_content
from inc_autotune.tf_ext.graph.graph import COPIES, Graph, data_inputs, node_name, reachable, tensor_name
from inc_autotune.tf_ext.graph.graph_model import (
    GraphModel,
    SignatureGraph,
    Table,
    TensorDescription,
    is_weight_size,
    placeholder,
)
from inc_autotune.tf_ext.graph.names import with_unique_names
from inc_autotune.tf_ext.graph.shapes import reshape, shape_like
from inc_autotune.tf_ext.graph.weights_behind import OLD_CONTROL_FLOW, PRODUCTS, WITHOUT_KERNEL, constants_behind

__all__ = [
    "BRANCHES",
    "CONDITION",
    "COPIES",
    "LOOPS",
    "OLD_CONTROL_FLOW",
    "PRODUCTS",
    "WITHOUT_KERNEL",
    "Body",
    "Extra",
    "Graph",
    "GraphBuilder",
    "GraphModel",
    "SignatureGraph",
    "Table",
    "TensorDescription",
    "bodies_of",
    "body_nodes",
    "calls",
    "constants_behind",
    "data_inputs",
    "is_compiled",
    "is_editable",
    "is_weight_size",
    "name_by_content",
    "node_name",
    "placeholder",
    "reachable",
    "reshape",
    "rewrite_call",
    "shape_like",
    "tensor_name",
    "weight_extras",
    "with_unique_names",
]
