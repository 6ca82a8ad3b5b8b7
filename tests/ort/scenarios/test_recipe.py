"""Recipes and saved models: the same bytes again, and recipes that were tuned in PyTorch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from inc_autotune import ort_ext
from inc_autotune.core.errors import ArgumentError, ModelError, RecipeError
from inc_autotune.core.op_config import OpConfig, SmoothingForm, TensorConfig
from inc_autotune.core.result.recipe import OperatorRecipe, Recipe
from inc_autotune.graphs.recipe_entries import without_steps
from tests.ort.small_models import WIDTH, conv_net, linear_chain, transformer_block, vectors

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

X = vectors(1, 4, 6, WIDTH, seed=5)[0]
STATIC = OpConfig(
    TensorConfig("int8", "sym", "per_channel", "minmax"),
    TensorConfig("uint8", "asym", "per_tensor", "minmax"),
    "static",
)


@pytest.fixture(scope="module")
def tuned() -> ort_ext.TunedModel:
    data = vectors(8, 4, 6, WIDTH)
    return ort_ext.autotune(transformer_block(outliers=20.0), data, sampling_sizes=[32], progress=False)


def run(session: onnxruntime.InferenceSession, x=X) -> np.ndarray:
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("form", ["qdq", "cpu"])
def test_a_recipe_gives_the_same_bytes_again(tuned, form, tmp_path):
    ort_ext.save(tuned, tmp_path / "first.onnx", form)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["first.onnx", "first.recipe.yaml"]
    again = ort_ext.apply_recipe(transformer_block(outliers=20.0), tmp_path / "first.recipe.yaml")
    ort_ext.save(again, tmp_path / "second.onnx", form)
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
    onnx.checker.check_model(tmp_path / "first.onnx")


def test_a_recipe_of_convolutions_gives_the_same_model_again(tmp_path):
    tuned = ort_ext.autotune(conv_net(), vectors(8, 4, 3, 8, 8), sampling_sizes=[32], progress=False)
    again = ort_ext.apply_recipe(conv_net(), Recipe.from_yaml(tuned.recipe.to_yaml()))
    assert ort_ext.convert(again) == ort_ext.convert(tuned)


def test_a_saved_model_runs_in_onnxruntime_alone(tuned, tmp_path):
    ort_ext.save(tuned, tmp_path / "model.onnx")
    alone = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    np.testing.assert_allclose(run(alone), run(ort_ext.session(tuned, form="qdq")), rtol=1e-5, atol=1e-6)
    assert "inc_autotune.recipe" in alone.get_modelmeta().custom_metadata_map


def test_both_forms_compute_the_same(tuned):
    qdq, cpu = (run(ort_ext.session(tuned, form=form)) for form in ("qdq", "cpu"))
    assert np.linalg.norm(qdq - cpu) < 0.02 * np.linalg.norm(cpu)
    types = {node.op_type for node in ort_ext.convert(tuned, "cpu").graph.node}
    assert {"MatMulIntegerToFloat", "Gelu"} <= types


def test_a_loaded_model_has_its_recipe_and_its_form(tuned, tmp_path):
    ort_ext.save(tuned, tmp_path / "model.onnx", "cpu")
    loaded = ort_ext.load(tmp_path / "model.onnx")
    assert loaded.recipe.to_yaml() == without_steps(tuned.recipe).to_yaml()
    np.testing.assert_array_equal(run(ort_ext.session(loaded)), run(ort_ext.session(tuned, form="cpu")))
    ort_ext.save(loaded, tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
    with pytest.raises(ArgumentError, match="saved as 'cpu'"):
        ort_ext.convert(loaded, "qdq")


def test_a_model_that_save_did_not_write_is_refused(tmp_path):
    onnx.save(linear_chain(), tmp_path / "plain.onnx")
    with pytest.raises(ModelError, match="carries no recipe"):
        ort_ext.load(tmp_path / "plain.onnx")


@pytest.mark.parametrize("path", [None, 5, b"model.onnx"])
def test_what_is_no_path_is_refused(tuned, path):
    with pytest.raises(ArgumentError, match=r"path=.*not a path"):
        ort_ext.save(tuned, path)
    with pytest.raises(ArgumentError, match=r"path=.*not a path"):
        ort_ext.load(path)


def test_a_missing_file_is_named_as_the_argument_it_was_given_as(tmp_path):
    with pytest.raises(ArgumentError, match=r"path='.*no.onnx': there is no such file"):
        ort_ext.load(tmp_path / "no.onnx")


def test_an_empty_form_is_no_form(tuned, tmp_path):
    with pytest.raises(ArgumentError, match="form='': unknown form"):
        ort_ext.save(tuned, tmp_path / "model.onnx", form="")


def test_a_recipe_for_another_model_is_refused(tuned):
    with pytest.raises(RecipeError, match=r"6 of its 6 quantized operators are not in the model"):
        ort_ext.apply_recipe(linear_chain(), tuned.recipe)
    with pytest.raises(RecipeError, match="tensorflow"):
        ort_ext.apply_recipe(linear_chain(), replace(tuned.recipe, framework="tensorflow"))
    with pytest.raises(ArgumentError, match="recipe: a dict"):
        ort_ext.apply_recipe(linear_chain(), {})


def torch_recipe(**operators: OperatorRecipe) -> Recipe:
    named = {name.replace("_", "."): each for name, each in operators.items()}
    return Recipe("pytorch", named, {"s": np.full(64, 2.0, np.float32)}, {"score": 1.0})


def exported(prefix: str = "") -> onnx.ModelProto:
    """`linear_chain` with the metadata that torch.onnx.export(dynamo=True) writes."""
    model = linear_chain()
    for node in model.graph.node:
        if node.op_type == "MatMul":
            scopes = ["", f"{prefix}net", f"{prefix}net.{node.name}", "linear"]
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=repr(scopes))
    return model


@pytest.mark.parametrize("prefix", ["", "wrapper."])
def test_a_recipe_tuned_in_torch_applies_to_the_export(prefix, caplog):
    first = OperatorRecipe("Linear", STATIC, "", {"input_minimum": -3.0, "input_maximum": 3.0})
    second = OperatorRecipe(
        "Linear", STATIC.with_alpha(0.5), "", {"input_minimum": 0.0, "input_maximum": 3.0, "smoothing": "s"}
    )
    lost = OperatorRecipe("Linear", STATIC, "", {"input_minimum": -3.0, "input_maximum": 3.0})
    recipe = torch_recipe(net_fc1=first, net_fc2=second, net_fc3=lost)
    tuned = ort_ext.apply_recipe(exported(prefix), recipe)
    assert {name: each.config.dtype for name, each in tuned.recipe.operators.items()} == {"fc1": "int8", "fc2": "int8"}
    assert tuned.recipe.metadata["not_matched"] == {"net.fc3": "no node comes from it"}
    assert "net.fc3" in caplog.text
    x = np.clip(vectors()[0], -3, 3)
    reference = run(onnxruntime.InferenceSession(linear_chain().SerializeToString()), x)
    assert np.linalg.norm(run(ort_ext.session(tuned), x) - reference) < 0.05 * np.linalg.norm(reference)


def test_a_torch_recipe_of_which_nothing_fits_is_an_error():
    lost = OperatorRecipe("Linear", STATIC, "", {"input_minimum": -3.0, "input_maximum": 3.0})
    shifted = replace(lost, config=STATIC.with_alpha(0.5).with_form(SmoothingForm(shifted=True)))
    for recipe in (torch_recipe(other=lost), torch_recipe(net_fc1=shifted)):
        with pytest.raises(RecipeError, match="none of its 1 quantized modules was found"):
            ort_ext.apply_recipe(exported(), recipe)
