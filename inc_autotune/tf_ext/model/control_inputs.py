"""Takes what operators only wait for, such as an assertion, away from those that may be written anew."""

from __future__ import annotations

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import op_def_registry

from inc_autotune.graphs import reserved
from inc_autotune.tf_ext.graph import COPIES


def with_waiting_copies(graph_def: GraphDef) -> GraphDef:
    """The graph where a copy of the first input waits in place of each operator that computes with tensors.

    So an assertion still comes before what depends on it, whatever becomes of the operator, and the inputs of operators
    are tensors only.
    """
    if not any(_waits(node) for node in graph_def.node):
        return graph_def
    result = GraphDef(versions=graph_def.versions, library=graph_def.library)
    taken = {node.name for node in graph_def.node}
    for node in graph_def.node:
        made = result.node.add()
        made.CopyFrom(node)
        if not _waits(node):
            continue
        name = reserved(f"{node.name}/waiting", taken)
        waited_for = [each for each in node.input if each.startswith("^")]
        copy = result.node.add(op="Identity", name=name, input=[node.input[0], *waited_for])
        copy.attr["T"].CopyFrom(node.attr["T"])
        made.input[:] = [name, *(each for each in node.input[1:] if not each.startswith("^"))]
    return result


def _waits(node: NodeDef) -> bool:
    """Whether a node waits for others, and its first input is one tensor of the type that the node is of."""
    if node.op in COPIES or not node.input or node.input[0].startswith("^") or not node.input[-1].startswith("^"):
        return False
    definition = op_def_registry.get(node.op)
    if definition is None or definition.is_stateful or not definition.input_arg:
        return False
    first = definition.input_arg[0]
    return first.type_attr == "T" and not first.number_attr
