"""The ONNX format: models whose weights are mapped from files, a view of their graph, and building new ones.

Imports core and graphs only.
"""

from inc_autotune.ort_ext.graph.builder import GraphBuilder, with_rewritten
from inc_autotune.ort_ext.graph.graph import CONTRIB_DOMAIN, Graph, read_by
from inc_autotune.ort_ext.graph.graph_model import (
    GraphModel,
    all_nodes,
    bodies,
    embedded,
    embedded_bytes,
    headers,
    initializer,
    is_header,
    is_in_file,
    little_endian,
    names_read,
    names_taken,
    set_location,
    without_unused,
)
from inc_autotune.ort_ext.graph.initializers import is_plain, split
from inc_autotune.ort_ext.graph.mapped_weights import MappedWeights
from inc_autotune.ort_ext.graph.nodes import LINEAR_TYPES, attributes, given_input, is_depthwise, with_inputs
from inc_autotune.ort_ext.graph.part import part_between

__all__ = [
    "CONTRIB_DOMAIN",
    "LINEAR_TYPES",
    "Graph",
    "GraphBuilder",
    "GraphModel",
    "MappedWeights",
    "all_nodes",
    "attributes",
    "bodies",
    "embedded",
    "embedded_bytes",
    "given_input",
    "headers",
    "initializer",
    "is_depthwise",
    "is_header",
    "is_in_file",
    "is_plain",
    "little_endian",
    "names_read",
    "names_taken",
    "part_between",
    "read_by",
    "set_location",
    "split",
    "with_inputs",
    "with_rewritten",
    "without_unused",
]
