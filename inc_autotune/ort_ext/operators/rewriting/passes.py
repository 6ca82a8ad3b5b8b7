"""The fp32 graph as all quantized models are built from it."""

from __future__ import annotations

from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.model.source import SourceModel
from inc_autotune.ort_ext.operators.rewriting.attention import separate_projections
from inc_autotune.ort_ext.operators.rewriting.batch_norm import fold_batch_norms
from inc_autotune.ort_ext.operators.rewriting.gelu import rewrite_gelu
from inc_autotune.ort_ext.operators.rewriting.padding import with_full_pads
from inc_autotune.ort_ext.operators.rewriting.plain_gemm import plain_gemms
from inc_autotune.ort_ext.operators.rewriting.pooling import separate_averages
from inc_autotune.ort_ext.operators.rewriting.resizing import with_full_sizes
from inc_autotune.ort_ext.operators.rewriting.separate_sums import separate_residuals
from inc_autotune.ort_ext.target.forms import GraphForm


def rewritten(source: SourceModel, form: GraphForm) -> Graph:
    """The same function in operators that onnxruntime computes faster, and right."""
    graph = plain_gemms(fold_batch_norms(separate_projections(Graph(source))))
    graph = Graph(rewrite_gelu(separate_averages(with_full_sizes(with_full_pads(graph))), form))
    return Graph(separate_residuals(graph)) if form.cpu_fusions else graph
