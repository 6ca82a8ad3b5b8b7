"""Corrections of bias and weight from the argument to the ONNX model, and its recipe."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from inc_autotune import ort_ext
from inc_autotune.core.result.recipe import Recipe
from tests.ort.small_models import GraphWriter, vectors

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

BOTH = ("fast_bias_correction", "weight_correction")
# For size: what is fast enough depends on the machine.
QUIET = {"progress": False, "objective": "modelsize"}


def images(seed: int = 1) -> list[np.ndarray]:
    """Far from zero, so that the mean of the input weighs more than its spread."""
    return [batch + np.float32(10) for batch in vectors(8, 4, 6, 8, 8, seed=seed)]


def rows(seed: int = 1) -> list[np.ndarray]:
    return [batch + np.float32(10) for batch in vectors(8, 4, 6, seed=seed)]


def net(op_type: str, *shape: int, bias: bool = True, **attributes: object) -> onnx.ModelProto:
    """One operator with a weight of this shape, and perhaps a bias of 4 elements."""
    graph = GraphWriter()
    weight = graph.random("one.weight", *shape, scale=0.5)
    added = graph.random("one.bias", 4, scale=0.5) if bias else None
    if op_type == "MatMul":
        product = graph.add("MatMul", "x", weight, name="one")
        if added is not None:
            graph.add("Add", product, added, name="plus")
        return graph.model({"x": (TensorProto.FLOAT, ["batch", 6])}, 2)
    graph.add(op_type, "x", weight, *([] if added is None else [added]), name="one", **attributes)
    is_image = len(shape) > 2
    space = [8, 8] if is_image else []
    return graph.model({"x": (TensorProto.FLOAT, ["batch", 6, *space])}, 4 if is_image else 2)


MODELS = {
    "conv": (net("Conv", 4, 6, 3, 3), images),
    "conv without bias": (net("Conv", 4, 6, 3, 3, bias=False), images),
    "grouped": (net("Conv", 4, 3, 3, 3, group=2), images),
    "transposed": (net("ConvTranspose", 6, 2, 2, 2, group=2, strides=[2, 2]), images),
    "matmul": (net("MatMul", 6, 4), rows),
    "gemm": (net("Gemm", 4, 6, transB=1), rows),
}


@pytest.fixture(scope="module", params=list(MODELS))
def case(request):
    """A model, data, and the models tuned without corrections, with one, and with both."""
    model, data = MODELS[request.param]
    tuned = {
        count: ort_ext.autotune(model, data(), recipes=dict(zip(BOTH, (count > 0, count > 1), strict=True)), **QUIET)
        for count in range(3)
    }
    return model, data, tuned


def outputs(session, data):
    return np.concatenate([session.run(None, {"x": batch})[0] for batch in data()])


@pytest.mark.parametrize("form", ["cpu", "qdq"])
def test_the_mean_output_comes_closer_with_the_same_operators(case, form):
    model, data, tuned = case
    expected = outputs(onnxruntime.InferenceSession(model.SerializeToString()), data)

    def error(count):
        difference = outputs(ort_ext.session(tuned[count], form=form), data) - expected
        return np.abs(difference.mean((0, *range(2, difference.ndim)))).sum()

    assert error(1) < 0.4 * error(0)
    assert error(2) < 0.4 * error(0)
    kinds = [Counter(node.op_type for node in ort_ext.convert(each, form=form).graph.node) for each in tuned.values()]
    for kind in kinds:
        del kind["DequantizeLinear"]  # of constants
    assert kinds[0] == kinds[1] == kinds[2]


def test_the_result_says_it(case):
    result = case[2][2].tuning_result
    (operator,) = result.operators
    assert operator.corrections == BOTH
    assert result.corrections[0][0] == " + ".join(BOTH)
    assert case[2][0].tuning_result.corrections == ()


def test_the_recipe_gives_the_same_model(case):
    model, _, tuned = case
    again = ort_ext.apply_recipe(model, Recipe.from_yaml(tuned[2].recipe.to_yaml()))
    assert ort_ext.convert(again) == ort_ext.convert(tuned[2])


def test_a_product_without_bias_gets_none():
    """In the portable form it would be another operator."""
    model = net("MatMul", 6, 4, bias=False)
    tuned = ort_ext.autotune(model, rows(), recipes={"fast_bias_correction": True, "weight_correction": False}, **QUIET)
    (operator,) = tuned.tuning_result.operators
    assert operator.corrections == ()
    assert any("'fast_bias_correction' has no effect" in note for note in tuned.tuning_result.notes)
