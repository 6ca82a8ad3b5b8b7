"""Steps of rounded weights, from the moment to the integers."""

from __future__ import annotations

import numpy as np
import pytest

from inc_autotune.core.errors import RecipeError
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.core.quantization.second_moment import SecondMoment, error_under
from inc_autotune.graphs.rounding import StepsCache, weight_steps
from inc_autotune.graphs.weights import quantize_weight

CONFIG = TensorConfig("int4", "sym", "per_channel", "minmax")


def moment_and_weight() -> tuple[SecondMoment, np.ndarray]:
    generator = np.random.default_rng(0)
    moment = SecondMoment(18)
    moment.update((generator.normal(size=(200, 3)) @ generator.normal(size=(3, 18))).astype(np.float32))
    return moment, generator.normal(size=(6, 2, 3, 3)).astype(np.float32)


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("axis", [0, -1])
def test_stepped_integers_do_less_harm_under_the_moment_on_any_axis(granularity: str, axis: int) -> None:
    moment, weight = moment_and_weight()
    config = TensorConfig("int4", "sym", granularity, "minmax")
    steps = weight_steps(weight, config, moment, smoothing=None, framework="onnxruntime")
    given = np.ascontiguousarray(np.moveaxis(weight, 0, axis))
    nearest, rounded = (
        quantize_weight(given, config, axis=axis, framework="onnxruntime", steps=each) for each in (None, steps)
    )
    errors = [
        float(error_under(moment, (np.moveaxis(each.floats(axis), axis, 0) - weight).reshape(6, -1)).sum())
        for each in (nearest, rounded)
    ]
    assert errors[1] < 0.5 * errors[0]
    assert rounded.values.min() >= -8
    assert rounded.values.max() <= 7


def test_steps_of_another_size_are_refused() -> None:
    moment, weight = moment_and_weight()
    steps = weight_steps(weight, CONFIG, moment, smoothing=None, framework="onnxruntime")
    with pytest.raises(RecipeError, match="does not fit its 54 elements"):
        quantize_weight(weight[:3], CONFIG, axis=0, framework="onnxruntime", steps=steps)


def test_the_last_steps_of_an_operator_are_kept() -> None:
    cache, made = StepsCache(), []

    def get(operator: str, version: int) -> None:
        cache.get(operator, version, lambda: made.append((operator, version)) or np.zeros(1, np.uint8))

    for operator, version in [("a", 1), ("b", 1), ("a", 1), ("a", 2), ("a", 1)]:
        get(operator, version)
    assert made == [("a", 1), ("b", 1), ("a", 2), ("a", 1)]
