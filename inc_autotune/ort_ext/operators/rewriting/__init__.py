"""Passes over the fp32 graph, before anything is quantized: one a file, each a function from `Graph` to `Graph`.

`passes` has their order. Imports what stands below operators.
"""

from inc_autotune.ort_ext.operators.rewriting.passes import rewritten
from inc_autotune.ort_ext.operators.rewriting.pooling import has_integer_average

__all__ = ["has_integer_average", "rewritten"]
