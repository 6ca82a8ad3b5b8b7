"""The sequence of passes."""

from __future__ import annotations

import numpy as np
import pytest

from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.operators.rewriting.passes import passes, rewritten, without_unread
from inc_autotune.ort_ext.target.forms import CPU, QDQ
from tests.ort.small_models import linear_chain


@pytest.mark.parametrize("form", [CPU, QDQ])
def test_a_pass_without_anything_to_do_returns_the_graph_itself(form):
    graph = Graph(load_source(linear_chain()))
    *earlier, last = passes(form)
    assert last is without_unread
    assert all(rewrite(graph) is graph for rewrite in earlier)


def test_constants_that_nothing_reads_are_left_out():
    model = linear_chain()
    unread = model.graph.initializer.add()
    unread.CopyFrom(model.graph.initializer[0])
    unread.name = "unread"
    graph = rewritten(load_source(model), CPU)
    assert "unread" not in graph.initializers
    assert list(graph.nodes) == list(model.graph.node)
    for name in graph.initializers:
        np.testing.assert_array_equal(graph.constant(name), Graph(load_source(model)).constant(name))
