"""Transposed convolutions compute in integers what they do in fp32, whatever their geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from inc_autotune import ort_ext
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import load_source
from tests.ort.processors import pretend
from tests.ort.small_models import GraphWriter, vectors

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

CHANNELS, SIZE = 4, 7
GEOMETRIES: dict[str, dict[str, Any]] = {
    "doubling": {"kernel": 2, "strides": [2, 2]},
    "overlapping": {"kernel": 4, "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "odd": {"kernel": 3, "strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    "uneven padding": {"kernel": 5, "strides": [3, 3], "pads": [0, 2, 1, 3]},
    "gaps": {"kernel": 2, "strides": [3, 3], "output_padding": [1, 0]},
    "stride 1": {"kernel": 3, "pads": [1, 1, 0, 1]},
    "dilated": {"kernel": 3, "dilations": [2, 1], "pads": [1, 0, 2, 1]},
    "dilated with a stride": {"kernel": 3, "strides": [2, 2], "dilations": [2, 2], "pads": [1, 1, 1, 1]},
    "groups": {"kernel": 3, "strides": [2, 2], "group": 2, "pads": [1, 1, 1, 1]},
    "depthwise": {"kernel": 4, "strides": [2, 2], "group": CHANNELS, "pads": [1, 1, 1, 1]},
    "same upper": {"kernel": 3, "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "same lower": {"kernel": 4, "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    "output shape": {"kernel": 3, "strides": [2, 2], "output_shape": [14, 13]},
    "output shape, more before": {"kernel": 4, "strides": [2, 2], "output_shape": [15, 13], "auto_pad": "SAME_UPPER"},
    "valid": {"kernel": 3, "strides": [2, 2], "auto_pad": "VALID"},
    "strides that differ": {"kernel": 3, "strides": [2, 3], "pads": [0, 1, 1, 1]},
    "one stride of 1": {"kernel": 3, "strides": [1, 2], "pads": [1, 1, 1, 1], "dilations": [2, 1]},
}


def upsampler(
    *, kernel: int, rank: int = 2, norm: bool = False, activation: bool = True, **attributes: Any
) -> ModelProto:
    """Two convolutions with a transposed one between them."""
    graph = GraphWriter()
    window, sizes = [3] * rank, [SIZE] * rank
    pads = [1] * (2 * rank)
    x = graph.add(
        "Conv", "x", graph.random("first.weight", CHANNELS, CHANNELS, *window, scale=0.2), name="first", pads=pads
    )
    x = graph.add("Relu", x, name="relu")
    per_group = 6 // attributes.get("group", 1) if attributes.get("group", 1) < CHANNELS else 1
    made = per_group * attributes.get("group", 1)
    weight = graph.random("up.weight", CHANNELS, per_group, *[kernel] * rank, scale=0.3)
    x = graph.add("ConvTranspose", x, weight, graph.random("up.bias", made, scale=0.3), name="up", **attributes)
    if norm:
        parts = [
            graph.constant(f"norm.{part}", np.linspace(low, 2, made))
            for part, low in zip("gbmv", (0.5, -1, -1, 0.5), strict=True)
        ]
        x = graph.add("BatchNormalization", x, *parts, name="norm")
    x = graph.add("Relu", x, name="relu2") if activation else x
    graph.add("Conv", x, graph.random("last.weight", 3, made, *window, scale=0.2), name="last", pads=pads)
    return graph.model({"x": (TensorProto.FLOAT, ["batch", CHANNELS, *sizes])}, 2 + rank)


def check(model: ModelProto, shape: tuple[int, ...]) -> ort_ext.TunedModel:
    data = vectors(4, *shape)
    tuned = ort_ext.autotune(model, data, progress=False)
    found = {each.name: (each.type, each.dtype) for each in tuned.tuning_result.operators}
    assert found["up"] == ("ConvTranspose", "int8")
    assert tuned.tuning_result.weight_shares == pytest.approx({"int8": 1.0})
    expected = make_session(load_source(model)).run(None, {"x": data[0]})[0]
    for form in ("qdq", "cpu"):
        built = ort_ext.convert(tuned, form)
        assert "ConvTranspose" not in {node.op_type for node in built.graph.node}
        got = ort_ext.session(tuned, form=form).run(None, {"x": data[0]})[0]
        assert got.shape == expected.shape
        assert np.linalg.norm(got - expected) < 0.04 * np.linalg.norm(expected)
    return tuned


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_geometry(name: str) -> None:
    check(upsampler(**GEOMETRIES[name]), (2, CHANNELS, SIZE, SIZE))


@pytest.mark.parametrize("name", ["doubling", "overlapping", "uneven padding", "stride 1"])
def test_one_dimension(name: str) -> None:
    given = dict(GEOMETRIES[name])
    for key in ("strides", "pads"):
        if key in given:
            given[key] = given[key][: len(given[key]) // 2] if key == "strides" else given[key][::2]
    check(upsampler(rank=1, **given), (2, CHANNELS, SIZE))


THREE_DIMENSIONS: dict[str, dict[str, Any]] = {
    "doubling": {"kernel": 2, "strides": [2, 2, 2]},
    "overlapping": {"kernel": 4, "strides": [2, 2, 2], "pads": [1] * 6, "group": 2},
    "flat": {"kernel": 3, "strides": [1, 2, 3], "pads": [1] * 6, "output_padding": [0, 1, 0]},
    "stride 1": {"kernel": 3, "pads": [1] * 6, "dilations": [1, 2, 1]},
}


@pytest.mark.parametrize("name", THREE_DIMENSIONS)
def test_three_dimensions(name: str) -> None:
    check(upsampler(rank=3, **THREE_DIMENSIONS[name]), (2, CHANNELS, SIZE, SIZE, SIZE))


@pytest.mark.parametrize(
    ("rank", "attributes"), [(2, GEOMETRIES["strides that differ"]), (3, THREE_DIMENSIONS["flat"])]
)
def test_sizes_that_are_known_at_run_time_only(rank: int, attributes: dict[str, Any]) -> None:
    model = upsampler(rank=rank, **attributes)
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.Clear()
    tuned = check(model, (2, CHANNELS, *[SIZE] * rank))
    other = vectors(1, 1, CHANNELS, *range(5, 5 + rank))[0]
    expected = make_session(load_source(model)).run(None, {"x": other})[0]
    assert ort_ext.session(tuned).run(None, {"x": other})[0].shape == expected.shape


@pytest.mark.parametrize("group", [1, 2])
def test_a_batch_normalization_behind_it_is_folded(group: int) -> None:
    tuned = check(upsampler(norm=True, **GEOMETRIES["overlapping"], group=group), (2, CHANNELS, SIZE, SIZE))
    assert "BatchNormalization" not in {node.op_type for node in ort_ext.convert(tuned).graph.node}


def test_the_recipe_gives_the_same_model() -> None:
    model = upsampler(**GEOMETRIES["overlapping"], activation=False)
    tuned = check(model, (2, CHANNELS, SIZE, SIZE))
    again = ort_ext.apply_recipe(model, Recipe.from_yaml(tuned.recipe.to_yaml()))
    assert ort_ext.convert(again) == ort_ext.convert(tuned)


def test_seven_bits_where_products_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, vnni=False)
    tuned = check(upsampler(**GEOMETRIES["doubling"]), (2, CHANNELS, SIZE, SIZE))
    assert tuned.recipe.operators["up"].calibration["reduce_range"]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"strides": [1, 1], "pads": [3, 3, 3, 3]}, "cuts more"),
    ],
)
def test_what_has_no_such_form_stays_with_the_reason(attributes: dict[str, Any], words: str) -> None:
    tuned = ort_ext.autotune(upsampler(kernel=3, **attributes), vectors(4, 2, CHANNELS, SIZE, SIZE), progress=False)
    assert words in tuned.tuning_result.fallbacks["up"]


def test_an_output_shape_for_inputs_of_varying_size_stays_with_the_reason() -> None:
    model = upsampler(kernel=3, strides=[2, 2], output_shape=[14, 14])
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.Clear()
    tuned = ort_ext.autotune(model, vectors(4, 2, CHANNELS, SIZE, SIZE), progress=False)
    assert "output_shape" in tuned.tuning_result.fallbacks["up"]
