"""Copies of nodes with other inputs."""

from __future__ import annotations

import pytest
from onnx import helper

from inc_autotune.ort_ext.graph.nodes import with_inputs


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["x", "", "c"]),
        ({0: "y"}, ["y", "", "c"]),
        ({1: "b", 4: "e"}, ["x", "b", "c", "", "e"]),
        ({2: ""}, ["x"]),
    ],
)
def test_inputs_are_replaced_added_and_left_out(changes, expected):
    node = helper.make_node("Clip", ["x", "", "c"], ["z"], name="clip")
    changed = with_inputs(node, changes)
    assert (list(changed.input), changed.name, list(changed.output)) == (expected, "clip", ["z"])
    assert list(node.input) == ["x", "", "c"]
