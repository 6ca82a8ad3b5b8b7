"""Resizes of some axes, between integer convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from inc_autotune import ort_ext
from inc_autotune.ort_ext.graph.graph import Graph
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from inc_autotune.ort_ext.operators.rewriting.resizing import with_full_sizes
from tests.ort.scenarios.test_convolutions import IMAGES, NetWriter

RESIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "scales": ({"scales": [2, 2]}, {"mode": "nearest", "axes": [2, 3]}),
    "scales of swapped axes": ({"scales": [2, 3]}, {"mode": "nearest", "axes": [3, 2]}),
    "scales of negative axes": ({"scales": [2, 2]}, {"mode": "linear", "axes": [-2, -1]}),
    "scale of one axis": ({"scales": [2]}, {"mode": "cubic", "axes": [2]}),
    "computed scales": ({"scales": None}, {"mode": "linear", "axes": [2, 3]}),
    "sizes": ({"sizes": [5, 7]}, {"mode": "nearest", "axes": [2, 3]}),
    "sizes of one axis": ({"sizes": [11]}, {"mode": "linear", "axes": [-1]}),
    "computed sizes": ({"sizes": None}, {"mode": "linear", "axes": [2, 3]}),
    "sizes and empty scales": ({"scales": [], "sizes": [5, 7]}, {"mode": "nearest", "axes": [2, 3]}),
    "a crop": (
        {"roi": [0.1, 0.2, 0.9, 0.7], "scales": [2, 2]},
        {"mode": "linear", "axes": [2, 3], "coordinate_transformation_mode": "tf_crop_and_resize"},
    ),
}


def resized(inputs: dict[str, Any], attributes: dict[str, Any]) -> ModelProto:
    net = NetWriter()
    names = []
    for name in ("roi", "scales", "sizes"):
        value = inputs.get(name, "none")
        if value == "none":
            names.append("")
        elif value is None:
            shape = net.add("Slice", net.add("Shape", "x"), net.integers("two", 2), net.integers("four", 4))
            names.append(
                shape if name == "sizes" else net.add("Div", net.add("Cast", shape, to=1), net.constant("q", 4))
            )
        else:
            names.append(net.integers(name, *value) if name == "sizes" else net.constant(name, value))
    net.conv(net.add("Resize", net.conv("x", "conv1"), *names, name="resize", **attributes), "conv2")
    return net.image_model()


@pytest.mark.parametrize(("inputs", "attributes"), RESIZES.values(), ids=RESIZES)
def test_a_resize_of_some_axes_is_written_for_all_and_runs_as_integers(
    inputs: dict[str, Any], attributes: dict[str, Any]
) -> None:
    model = resized(inputs, attributes)
    source = load_source(model)
    graph = with_full_sizes(Graph(source))
    (node,) = [node for node in graph.nodes if node.op_type == "Resize"]
    assert "axes" not in {each.name for each in node.attribute}
    feed = {"x": IMAGES[0]}
    (expected,), (actual,) = make_session(source).run(None, feed), make_session(graph.model).run(None, feed)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    tuned = ort_ext.autotune(model, IMAGES, progress=False)
    assert all(each.config.is_quantized for each in tuned.recipe.operators.values())
    (integers,) = ort_ext.session(tuned).run(None, feed)
    assert np.square(integers - expected).sum() < 0.01 * np.square(expected).sum()


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_a_resize_that_keeps_proportions_stays_as_it_is(policy: str) -> None:
    model = resized({"sizes": [5, 7]}, {"mode": "nearest", "axes": [2, 3], "keep_aspect_ratio_policy": policy})
    graph = Graph(load_source(model))
    assert with_full_sizes(graph) is graph
