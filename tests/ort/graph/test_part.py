"""Parts of graphs as models."""

from __future__ import annotations

import numpy as np

from inc_autotune.ort_ext.graph.part import part_between
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from tests.ort.small_models import transformer_block, vectors


def test_a_part_computes_what_the_whole_does() -> None:
    source = load_source(transformer_block())
    nodes = {node.name: node for node in source.proto.graph.node}
    first = nodes["layer0.up"].input[0]
    last = nodes["layer0.down"].output[0]
    whole = make_session(source, extra_outputs=[first, last])
    values = whole.run([first, last], {source.inputs[0].name: vectors(1, 4, 6, 32)[0]})
    part = part_between(source, first, last)
    assert part is not None
    assert len(part.proto.graph.node) < len(source.proto.graph.node)
    np.testing.assert_allclose(make_session(part).run(None, {first: values[0]})[0], values[1], rtol=1e-5, atol=1e-6)


def test_what_does_not_follow_is_no_part() -> None:
    source = load_source(transformer_block())
    nodes = {node.name: node for node in source.proto.graph.node}
    first, last = nodes["layer0.up"].input[0], nodes["layer0.down"].output[0]
    assert part_between(source, last, first) is None
    assert part_between(source, first, source.proto.graph.output[0].name) is None  # the residual comes from before
