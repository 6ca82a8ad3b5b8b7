"""Emission: a plan is lowered to a graph. The nodes of the quantized graph are written in the order of the fp32 graph.

`build` walks over the fp32 graph; `context` holds the graph under construction; the functions `emit_...` write one kind
of operator each. Imports calibration and everything below it.
"""

from inc_autotune.tf_ext.emission.activation_grid import grid_of
from inc_autotune.tf_ext.emission.build import build_model, build_signature
from inc_autotune.tf_ext.emission.chains import IntegerChains
from inc_autotune.tf_ext.emission.input_rounding import InputRounding, input_rounding
from inc_autotune.tf_ext.emission.rounding import with_steps
from inc_autotune.tf_ext.emission.routes import (
    CONVOLUTION_KERNEL,
    DEPTHWISE_KERNEL,
    GROUPED_KERNEL,
    GROUPS,
    MATMUL_KERNEL,
    ROUTES,
    Primitive,
    Route,
    listed,
    route_of_node,
)
from inc_autotune.tf_ext.emission.smoothing import place_smoothing
from inc_autotune.tf_ext.emission.weight_width import with_reduced_weights

__all__ = [
    "CONVOLUTION_KERNEL",
    "DEPTHWISE_KERNEL",
    "GROUPED_KERNEL",
    "GROUPS",
    "MATMUL_KERNEL",
    "ROUTES",
    "InputRounding",
    "IntegerChains",
    "Primitive",
    "Route",
    "build_model",
    "build_signature",
    "grid_of",
    "input_rounding",
    "listed",
    "place_smoothing",
    "route_of_node",
    "with_reduced_weights",
    "with_steps",
]
