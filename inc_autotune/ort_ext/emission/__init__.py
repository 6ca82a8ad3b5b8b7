"""Emission: a plan is lowered to a graph. The nodes of the quantized graph are written in the order of the fp32 graph.

`build` walks over the fp32 graph; `context` holds the model under construction; the functions `emit_...` write one kind
of operator each. Imports calibration and everything below it.
"""

from inc_autotune.ort_ext.emission.build import build_model
from inc_autotune.ort_ext.emission.rounding import with_steps
from inc_autotune.ort_ext.emission.smoothing import FoldTargets, place_smoothing

__all__ = ["FoldTargets", "build_model", "place_smoothing", "with_steps"]
