"""The fp32 graph that all quantized models are built from: a model after a sequence of passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import TypeAlias

from inc_autotune.ort_ext.graph import Graph, GraphBuilder
from inc_autotune.ort_ext.model import SourceModel
from inc_autotune.ort_ext.operators.rewriting.attention import separate_projections
from inc_autotune.ort_ext.operators.rewriting.batch_norm import fold_batch_norms
from inc_autotune.ort_ext.operators.rewriting.einsum import multiply_einsums
from inc_autotune.ort_ext.operators.rewriting.fused_products import separate_products
from inc_autotune.ort_ext.operators.rewriting.gelu import rewrite_gelu
from inc_autotune.ort_ext.operators.rewriting.gemm_operands import usual_operands
from inc_autotune.ort_ext.operators.rewriting.padding import with_full_pads
from inc_autotune.ort_ext.operators.rewriting.plain_gemm import plain_gemms
from inc_autotune.ort_ext.operators.rewriting.pooling import separate_averages
from inc_autotune.ort_ext.operators.rewriting.resizing import with_full_sizes
from inc_autotune.ort_ext.operators.rewriting.separate_sums import separate_residuals
from inc_autotune.ort_ext.target import GraphForm

Pass: TypeAlias = Callable[[Graph], Graph]
"""Returns a graph that computes the same function; the graph itself if there is nothing to change."""


def rewritten(source: SourceModel, form: GraphForm) -> Graph:
    """The same function in operators that onnxruntime computes faster, and without errors.

    Args:
        source: the fp32 model.
        form: of the models that will be built from the graph.
    """
    return reduce(lambda graph, rewrite: rewrite(graph), passes(form), Graph(source))


def passes(form: GraphForm) -> tuple[Pass, ...]:
    """The passes for a form, in their order."""
    return (
        separate_projections,
        fold_batch_norms,
        separate_products,
        multiply_einsums,
        usual_operands,
        plain_gemms,
        with_full_pads,
        with_full_sizes,
        separate_averages,
        partial(rewrite_gelu, form=form),
        *((separate_residuals,) if form.cpu_fusions else ()),
        without_unread,
    )


def without_unread(graph: Graph) -> Graph:
    """Leave out constants that no node reads, and stored shapes of intermediate tensors, which may no longer hold."""
    builder = GraphBuilder(graph)
    for node in graph.nodes:
        builder.keep(node)
    return Graph(builder.build())
