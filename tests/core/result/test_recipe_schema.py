"""Whatever a file holds, it is a recipe or one of our errors."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import yaml

from inc_autotune.core.errors import RecipeError
from inc_autotune.core.op_config import SMOOTHQUANT, OpConfig, SmoothingForm, TensorConfig
from inc_autotune.core.result.recipe import OperatorRecipe, Recipe


def document():
    config = OpConfig(
        TensorConfig("int8", "sym", "per_channel", "minmax"),
        TensorConfig("uint8", "asym", "per_tensor", "minmax"),
        "static",
        0.5,
        form=SmoothingForm(0.1, "norm"),
    )
    calibration = {"input_minimum": -1.0, "input_maximum": 2.0, "smoothing": "fc.smoothing", "reduce_range": True}
    recipe = Recipe(
        "pytorch",
        {"fc": OperatorRecipe("Linear", config, "a reason", calibration)},
        {"fc.smoothing": np.arange(1, 5, dtype=np.float32)},
        {"seed": 0},
    )
    return yaml.safe_load(recipe.to_yaml())


def changed(*steps_and_value):
    *steps, value = steps_and_value
    result = document()
    place = result
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = value
    return result


FC = ("operators", "fc")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (changed("arrays", {}), "there is no array 'fc.smoothing'"),
        (changed(*FC, "calibration", "input_maximum", "x"), "operators.fc.calibration.input_maximum"),
        (changed(*FC, "calibration", "input_maximum", [[]]), "operators.fc.calibration.input_maximum"),
        (changed(*FC, "calibration", "input_maximum", float("nan")), "finite number"),
        (changed(*FC, "calibration", "input_maximum", -3.0), "ends before it begins"),
        (changed(*FC, "calibration", "input_maximum", None), "one end only"),
        (changed(*FC, "calibration", "x"), "operators.fc.calibration"),
        (changed(*FC, "calibration", 5), "operators.fc.calibration"),
        (changed(*FC, "calibration", "smoothing", {"a": 1}), "operators.fc.calibration.smoothing"),
        (changed(*FC, "calibration", "reduce_range", "no"), "operators.fc.calibration.reduce_range"),
        (changed(*FC, "weight", "dtype", {}), "operators.fc.weight.dtype"),
        (changed(*FC, "smoothing_form", "beta", 1.5), "operators.fc.smoothing_form.beta"),
        (changed(*FC, "smoothing_form", "weight", "mean"), "'mean' is none of 'largest', 'norm'"),
        (changed(*FC, "weight", "dtype", "int9"), "'int9' is none of int1 to int8"),
        (changed(*FC, "weight", "colour", "red"), "operators.fc.weight.colour"),
        (changed(*FC, "alpha", 1.5), "operators.fc.alpha"),
        (changed(*FC, "activation", "quant_mode", "wild"), "'wild' is none of 'static'"),
        (changed("arrays", "fc.smoothing", "dtype", "object"), "'object' is none of"),
        (changed("arrays", "fc.smoothing", "shape", [2**40]), "more than"),
        (changed("arrays", "fc.smoothing", "shape", [5]), "has 16 bytes, and 5 elements"),
        (changed("arrays", "fc.smoothing", "base64", "???"), "is not base64"),
        (changed("operators", ["fc"]), "operators"),
        (changed("metadata", "text"), "metadata"),
    ],
    ids=range(23),
)
def test_the_value_that_is_wrong_is_named(bad, message):
    with pytest.raises(RecipeError, match=rf"^recipe: malformed recipe: .*{message}.*recipe\.save\(\)"):
        Recipe.from_yaml(yaml.safe_dump(bad))


ODD = (None, "", "x", -1, 2**70, 1e308, float("inf"), float("nan"), True, [], [[]], {}, {"a": 1}, "\0", b"bytes")


def test_mutated_documents_are_recipes_or_errors():
    generator, refused = random.Random(0), 0
    for _ in range(300):
        mutated = copy.deepcopy(document())
        for _ in range(generator.randint(1, 3)):
            place = mutated
            while True:
                keys = list(place) if isinstance(place, dict) else range(len(place))
                key = generator.choice(list(keys))
                if not isinstance(place[key], dict | list) or not place[key] or generator.random() < 0.2:
                    break
                place = place[key]
            if isinstance(place, dict) and generator.random() < 0.3:
                del place[key]
            else:
                place[key] = generator.choice(ODD)
            if not mutated:
                break
        try:
            Recipe.from_yaml(yaml.safe_dump(mutated))
        except RecipeError:
            refused += 1
    assert 150 < refused < 300


@pytest.mark.parametrize("text", ["[" * 1500, "a: !!int x", "a: !!timestamp x", "? [1]\n: 2", "a: 0x", "&a [*a]"])
def test_odd_yaml_is_an_error(text):
    with pytest.raises(RecipeError):
        Recipe.from_yaml(text)


def test_a_form_of_smoothing_comes_back_and_recipes_without_one_have_smoothquants():
    assert Recipe.from_yaml(yaml.safe_dump(document())).operators["fc"].config.form == SmoothingForm(0.1, "norm")
    old = document()
    del old["operators"]["fc"]["smoothing_form"]
    config = Recipe.from_yaml(yaml.safe_dump(old)).operators["fc"].config
    assert config.form == SMOOTHQUANT
    assert "smoothing_form" not in config.to_dict()
