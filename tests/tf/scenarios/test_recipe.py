"""Recipes: the same model again, without data."""

from __future__ import annotations

import numpy as np
import pytest

from inc_autotune import tf_ext
from inc_autotune.core.errors import ArgumentError, RecipeError
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.tf_ext.measurement.kernel_trial import KernelSupport
from tests.tf.quantizing import FULL, WITHOUT_VNNI, expected_form, forms_in
from tests.tf.small_models import (
    block_data,
    chain_data,
    convolutions,
    dense_chain,
    image_data,
    transformer_block,
    two_signatures,
)

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

QUIET = {"progress": False, "sampling_sizes": [16]}


@pytest.fixture(scope="module")
def tuned():
    return tf_ext.autotune(dense_chain(), chain_data(32), **QUIET)


def weights_and_graphs(tuned):
    return {
        name: (each.graph_def.SerializeToString(deterministic=True), {key: each.weights[key] for key in each.weights})
        for name, each in tuned.model.signatures.items()
    }


def assert_same(first, second):
    first, second = weights_and_graphs(first), weights_and_graphs(second)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name][0] == second[name][0]
        np.testing.assert_equal(first[name][1], second[name][1])


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (dense_chain, chain_data),
        (convolutions, image_data),
        (transformer_block, lambda samples: block_data(samples)),
    ],
)
def test_a_recipe_builds_the_same_graph_and_weights(model, data, tmp_path):
    given = model()
    tuned = tf_ext.autotune(given, data(32), smoothquant_args={"alpha": 0.5}, **QUIET)
    tuned.recipe.save(tmp_path / "recipe.yaml")
    assert_same(tuned, tf_ext.apply_recipe(given, tmp_path / "recipe.yaml"))


def test_a_recipe_remembers_how_the_graph_was_written():
    rules = {"scale_propagation_max_pooling": False, "scale_propagation_concat": False}
    given = convolutions()
    tuned = tf_ext.autotune(given, image_data(32), recipes=rules, **QUIET)
    again = tf_ext.apply_recipe(given, Recipe.from_yaml(tuned.recipe.to_yaml()))
    assert_same(tuned, again)
    assert "QuantizedMaxPool" not in {node.op for node in next(iter(again.model.signatures.values())).graph_def.node}


def test_a_recipe_of_several_signatures(tmp_path):
    path = two_signatures(tmp_path / "model")
    data = {
        "serving_default": {"value": chain_data(32), "scale": np.ones((32, 1), np.float32)},
        "embed": chain_data(32),
    }
    tuned = tf_ext.autotune(path, data, **QUIET)
    assert {name.split("/")[0] for name in tuned.recipe.operators} == {"serving_default", "embed"}
    assert_same(tuned, tf_ext.apply_recipe(path, tuned.recipe))


def test_the_recipe_lies_beside_a_saved_model(tuned, tmp_path):
    tf_ext.save(tuned, tmp_path / "model")
    again = tf_ext.apply_recipe(dense_chain(), tmp_path / "model" / "assets.extra" / "recipe.yaml")
    assert_same(tuned, again)


def test_a_recipe_of_another_model_is_refused(tuned):
    with pytest.raises(RecipeError, match="Is it the same model"):
        tf_ext.apply_recipe(convolutions(), tuned.recipe)


def test_a_recipe_of_another_framework_is_refused(tuned):
    with pytest.raises(RecipeError, match="is for 'pytorch'"):
        tf_ext.apply_recipe(dense_chain(), Recipe("pytorch", tuned.recipe.operators))


def test_a_smoothing_scale_of_another_size_is_refused():
    tuned = tf_ext.autotune(dense_chain(), chain_data(32), smoothquant_args={"alpha": 0.5}, **QUIET)
    arrays = {name: array[:-1] for name, array in tuned.recipe.arrays.items()}
    with pytest.raises(RecipeError, match="features in the model"):
        tf_ext.apply_recipe(dense_chain(), Recipe("tensorflow", tuned.recipe.operators, arrays))


def test_what_is_no_recipe_is_refused():
    with pytest.raises(ArgumentError, match="recipe: a dict"):
        tf_ext.apply_recipe(dense_chain(), {})


@pytest.fixture
def on(monkeypatch):
    """Pretends that this processor is another one."""

    def pretend(support):
        for module in ("adaptor", "tuned_model"):
            monkeypatch.setattr(f"inc_autotune.tf_ext.{module}.kernel_support", lambda: support)

    return pretend


@pytest.mark.parametrize(("model", "data"), [(dense_chain, chain_data), (convolutions, image_data)])
def test_a_recipe_with_eight_bits_gets_seven_without_vnni_and_says_so(model, data, on, caplog):
    on(KernelSupport())
    given = model()
    tuned = tf_ext.autotune(given, data(32), **QUIET)
    assert {form for _, form in forms_in(tuned.model)} == {FULL}
    on(WITHOUT_VNNI)
    again = tf_ext.apply_recipe(given, tuned.recipe)
    assert "7 bits are used" in caplog.text
    found = forms_in(again.model)
    assert all(form == expected_form(route, WITHOUT_VNNI) for route, form in found)
    reduced = [name for name, each in again.recipe.operators.items() if each.calibration.get("reduce_range")]
    assert len(reduced) == len(found)
    assert not any("reduce_range" in each.calibration for each in tuned.recipe.operators.values())


@pytest.mark.parametrize(("model", "data"), [(dense_chain, chain_data), (convolutions, image_data)])
def test_a_recipe_with_seven_bits_is_the_same_model_everywhere(model, data, on, caplog):
    on(WITHOUT_VNNI)
    given = model()
    tuned = tf_ext.autotune(given, data(32), **QUIET)
    on(KernelSupport())
    again = tf_ext.apply_recipe(given, Recipe.from_yaml(tuned.recipe.to_yaml()))
    assert_same(tuned, again)
    assert again.recipe.to_yaml() == tuned.recipe.to_yaml()
    assert "7 bits" not in caplog.text


def test_a_file_for_litert_has_no_bits_to_lose(on, caplog):
    on(KernelSupport())
    tuned = tf_ext.autotune(dense_chain(), chain_data(32), **QUIET)
    on(WITHOUT_VNNI)
    tf_ext.to_litert(tuned, chain_data(32))
    assert "7 bits" not in caplog.text
