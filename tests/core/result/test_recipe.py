import numpy as np
import pytest

from inc_autotune.core.errors import RecipeError
from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.result.recipe import (
    OperatorRecipe,
    Recipe,
    SharedArrays,
    check_framework,
    check_operators,
    check_smoothing,
)

INT8 = OpConfig(TensorConfig("int8", "sym", "per_channel", "minmax"), TensorConfig("uint8", "asym"), "static", 0.7)


def recipe() -> Recipe:
    scale = np.array([1.1, 0.3, np.pi], np.float32)
    operators = {
        "fc": OperatorRecipe(
            "Linear", INT8, "", {"input_minimum": -0.1, "input_maximum": 0.2, "smoothing": "fc.smoothing"}
        ),
        "head": OperatorRecipe("Linear", FP32, "harm rank 1 of 2"),
    }
    return Recipe("pytorch", operators, {"fc.smoothing": scale}, {"score": 0.9})


def test_a_recipe_round_trips_exactly(tmp_path):
    recipe().save(tmp_path / "recipe.yaml")
    loaded = Recipe.load(tmp_path / "recipe.yaml")
    assert loaded.operators == recipe().operators
    assert loaded.metadata == recipe().metadata
    np.testing.assert_array_equal(loaded.arrays["fc.smoothing"], recipe().arrays["fc.smoothing"])
    assert loaded.to_yaml() == recipe().to_yaml()


def test_equal_arrays_are_kept_once_and_bytes_alone_do_not_make_them_equal():
    shared, zeros = SharedArrays(), np.zeros(4, np.float32)
    names = [
        shared.name(zeros, "a"),
        shared.name(zeros.copy(), "b"),
        shared.name(np.zeros(16, np.uint8), "c"),
        shared.name(zeros.reshape(2, 2), "d"),
    ]
    assert names == ["a", "a", "c", "d"]
    assert {name: each.dtype for name, each in shared.arrays.items()} == {"a": "float32", "c": "uint8", "d": "float32"}


def test_a_person_can_read_it():
    text = recipe().to_yaml()
    assert "reason: harm rank 1 of 2" in text
    assert "alpha: 0.7" in text
    assert text.index("operators:") < text.index("arrays:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not a YAML file"),
        ("a: 1", "not a recipe"),
        ("inc_autotune_recipe: 99", "format 99"),
        ("inc_autotune_recipe: 1\nframework: pytorch", "malformed"),
        ("inc_autotune_recipe: 1\nframework: pytorch\noperators: {fc: {type: Linear}}", "malformed"),
        ("inc_autotune_recipe: 1\noperators: !!python/object/apply:os.system ['true']", "not a YAML file"),
    ],
)
def test_a_malformed_recipe_is_an_error(text, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.from_yaml(text)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.load(tmp_path / "none.yaml")


def test_a_recipe_of_another_framework_is_refused():
    check_framework(recipe(), "pytorch")
    with pytest.raises(RecipeError, match="is for 'pytorch', not 'tensorflow'"):
        check_framework(recipe(), "tensorflow")


def test_a_recipe_of_another_model_is_refused():
    operators = {name: recipe().operators["fc"] for name in ("fc", "other")}
    check_operators(operators, {"fc": "Linear", "other": "Linear", "third": None})
    with pytest.raises(RecipeError, match=r"1 of its 2 .* first is 'other' \(Linear\)\. Is it the same model\?$"):
        check_operators(operators, {"fc": "Linear"})
    with pytest.raises(RecipeError, match=r"2 of its 2 .* the first is 'fc' .* the same model\? Name the layers\.$"):
        check_operators(operators, {"fc": "Conv2d", "other": None}, "Name the layers.")


def test_a_smoothing_scale_of_another_layer_is_refused():
    check_smoothing("fc", (16,), 16)
    with pytest.raises(RecipeError, match="'fc' reads 16 features in the model, 8 in the recipe"):
        check_smoothing("fc", (8,), 16)
    with pytest.raises(RecipeError, match="same model"):
        check_smoothing("fc", (1, 16), 16)
