"""Which nodes a recipe tuned in PyTorch applies to."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from inc_autotune import ort_ext
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.quantization.affine import quantize
from inc_autotune.core.quantization.rounding_steps import pack_steps
from inc_autotune.core.quantization.weight_grid import weight_parameters
from inc_autotune.core.result.recipe import OperatorRecipe, Recipe
from tests.ort.scenarios.test_convolutions import NetWriter, assert_close, run
from tests.ort.small_models import GraphWriter, linear_chain

STATIC = OpConfig(
    TensorConfig("int8", "sym", "per_channel", "minmax"),
    TensorConfig("uint8", "asym", "per_tensor", "minmax"),
    "static",
)


def linear(minimum: float = -3.0, maximum: float = 3.0) -> OperatorRecipe:
    return OperatorRecipe("Linear", STATIC, "", {"input_minimum": minimum, "input_maximum": maximum})


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("/fc1/MatMul", "fc1"),
        ("/encoder/layers.0/fc1/MatMul", "encoder.layers.0.fc1"),
        ("/features/features.0/features.0.1/MatMul_3", "features.0.1"),
        ("/layer1/layer1.0/fc1/MatMul", "layer1.0.fc1"),
        ("/wrapper/net/fc1/MatMul", "net.fc1"),
    ],
)
def test_names_of_the_older_exporter(name: str, module: str) -> None:
    """`torch.onnx.export(dynamo=False)` renames the weights of MatMul, and notes no modules in metadata."""
    model = linear_chain()
    model.graph.node[0].name = name
    tuned = ort_ext.apply_recipe(model, Recipe("pytorch", {module: linear()}, {}, {}))
    assert tuned.recipe.operators[name].config.dtype == "int8"
    assert tuned.recipe.metadata["not_matched"] == {}


def test_a_name_without_modules_is_no_path() -> None:
    model = linear_chain()
    model.graph.node[0].name, model.graph.node[1].name = "/MatMul", "/Add"
    model.graph.node[3].name = "/fc2/MatMul"
    tuned = ort_ext.apply_recipe(model, Recipe("pytorch", {"fc2": linear(0.0)}, {}, {}))
    assert {name: each.config.dtype for name, each in tuned.recipe.operators.items()} == {
        "/MatMul": "fp32",
        "/fc2/MatMul": "int8",
    }


def rounded_in_torch(module_type: str, steps: np.ndarray) -> Recipe:
    config, entry = STATIC.with_rounding("second_moment"), linear().calibration
    module = OperatorRecipe(module_type, config, "", {**entry, "rounding_steps": "fc1.rounding_steps"})
    return Recipe("pytorch", {"fc1": module}, {"fc1.rounding_steps": steps}, {})


def test_steps_of_another_weight_are_told_and_rounded_to_nearest(caplog: pytest.LogCaptureFixture) -> None:
    model = linear_chain()
    model.graph.node[0].name = "/fc1/MatMul"
    tuned = ort_ext.apply_recipe(model, rounded_in_torch("Linear", pack_steps(np.ones((5, 3), np.int8))))
    assert "weights of 1 modules were rounded by second moments in PyTorch, and their nodes" in caplog.text
    assert tuned.recipe.operators["/fc1/MatMul"] == OperatorRecipe("MatMul", STATIC, "", linear().calibration)
    assert "fc1.rounding_steps" not in tuned.recipe.arrays


@pytest.mark.parametrize("form", ["cpu", "qdq"])
@pytest.mark.parametrize("module_type", ["Linear", "Conv1D"])
@pytest.mark.parametrize("gemm", [False, True])
def test_weights_that_torch_rounded_by_second_moments_get_its_integers(module_type: str, gemm: bool, form: str) -> None:
    model = linear_chain(gemm=gemm)
    model.graph.node[0].name = "/fc1/MatMul"
    steps = np.random.default_rng(0).integers(-1, 2, (64, 32))
    given = steps.T if module_type == "Conv1D" else steps
    tuned = ort_ext.apply_recipe(model, rounded_in_torch(module_type, pack_steps(given)))
    assert tuned.recipe.operators["/fc1/MatMul"].config.rounding == "second_moment"
    weight = numpy_helper.to_array(next(each for each in model.graph.initializer if each.name == "fc1.weight"))
    weight = weight if gemm else weight.T
    parameters = weight_parameters(weight, STATIC.weight, axis=0, framework="pytorch")
    expected = np.clip(quantize(weight, parameters, 0) + steps, -128, 127)
    constants = {each.name: numpy_helper.to_array(each) for each in ort_ext.convert(tuned, form).graph.initializer}
    actual = constants["fc1.weight.quantized"]
    np.testing.assert_array_equal(actual if actual.shape == expected.shape else actual.T, expected)
    np.testing.assert_array_equal(constants["fc1.weight.scale"], parameters.scale)


def conv(minimum: float, maximum: float, lowest: float, highest: float) -> OperatorRecipe:
    limits = (minimum, maximum, lowest, highest)
    keys = ("input_minimum", "input_maximum", "output_minimum", "output_maximum")
    return OperatorRecipe("Conv2d", STATIC, "", dict(zip(keys, limits, strict=True)))


def test_a_range_from_before_a_clip_ends_where_the_clip_does() -> None:
    """PyTorch folds a batch normalization and quantizes before a ReLU6; here what comes out of it is quantized."""
    net = NetWriter()
    first = net.clip(net.batch_norm(net.conv("x", "conv1"), "norm"), "clip", 0.0, 2.0)
    net.conv(first, "conv2")
    model = net.image_model()
    recipe = {"conv1": conv(-4, 4, -6.0, 8.0), "conv2": conv(0.0, 2.0, -6.0, 6.0)}
    tuned = ort_ext.apply_recipe(model, Recipe("pytorch", recipe, {}, {}))
    assert tuned.recipe.operators["conv1"].calibration["outputs"]["clip.out"] == [0.0, 2.0]
    types = [node.op_type for node in ort_ext.convert(tuned).graph.node]
    assert types.count("QuantizeLinear") == 3
    assert "Clip" not in types
    assert_close(run(ort_ext.convert(tuned)), run(model))


def test_every_layer_of_a_recurrent_module_is_found() -> None:
    """`torch.onnx.export` writes one LSTM for each layer."""
    graph = GraphWriter()
    x = "x"
    for layer in range(2):
        weights = [graph.random(f"{name}{layer}", 1, 32, 8, scale=0.3) for name in ("input", "state")]
        x = graph.add("LSTM", x, *weights, name=f"/encoder/lstm/LSTM_{layer}", hidden_size=8)
        x = graph.add("Squeeze", x, graph.constant(f"axes{layer}", [1], np.int64))
    model = graph.model({"x": (TensorProto.FLOAT, [3, 2, 8])}, 3)
    activation = TensorConfig("uint8", "asym", "per_tensor", "minmax")
    dynamic = OpConfig(TensorConfig("int8", "sym", "per_channel", "minmax"), activation, "dynamic")
    tuned = ort_ext.apply_recipe(
        model, Recipe("pytorch", {"encoder.lstm": OperatorRecipe("LSTM", dynamic, "", {})}, {}, {})
    )
    assert [node.op_type for node in ort_ext.convert(tuned).graph.node].count("DynamicQuantizeLSTM") == 2
