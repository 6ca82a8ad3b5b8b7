"""The fp32 graph as all quantized models are built from it."""

from __future__ import annotations

from inc_autotune.ort_ext.forms import GraphForm
from inc_autotune.ort_ext.gelu import rewrite_gelu
from inc_autotune.ort_ext.graph import Graph
from inc_autotune.ort_ext.residual import separate_residuals
from inc_autotune.ort_ext.source import SourceModel


def rewritten(source: SourceModel, form: GraphForm) -> Graph:
    """The same function in operators that onnxruntime computes faster."""
    graph = Graph(rewrite_gelu(Graph(source), form))
    return Graph(separate_residuals(graph)) if form.cpu_fusions else graph
