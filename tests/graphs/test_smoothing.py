"""Which operators share a smoothing scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.op_config import FP32_TENSOR, OpConfig, TensorConfig
from inc_autotune.core.quantization.smoothquant import group_weight_absmax, smoothing_scale
from inc_autotune.core.quantization.statistics import ActivationStatistics
from inc_autotune.graphs.smoothing import shared_weights, smoothed_alike, smoothing_scales


@dataclass(frozen=True)
class Product:
    name: str
    input: str
    weight: str
    is_linear: bool = True
    type: str = "MatMul"


OPERATORS = {
    each.name: each
    for each in (
        Product("query", "x", "a"),
        Product("key", "x", "b"),
        Product("step", "y", "b"),
        Product("alone", "z", "c"),
        Product("table", "x", "d", is_linear=False),
    )
}
GENERATOR = np.random.default_rng(0)
WEIGHTS = {name: GENERATOR.normal(size=(5, 3)).astype(np.float32) for name in "abcd"}
INT8 = TensorConfig("int8", "sym", "per_channel", "minmax")


def config(alpha: float | None, **more: TensorConfig) -> OpConfig:
    return OpConfig(
        **{"weight": INT8, "activation": TensorConfig("uint8", "asym", "per_tensor", "minmax"), **more}
    ).with_alpha(alpha)


def weight_of(operator: Product) -> str:
    return operator.weight


def matrices(operators: Sequence[Product]) -> list[FloatArray]:
    return [WEIGHTS[each.weight] for each in operators]


def statistics() -> dict[str, ActivationStatistics]:
    found = {name: ActivationStatistics(name, rows=0, seed=0, histogram=False) for name in "xyz"}
    for factor, each in enumerate(found.values(), 1):
        each.update(factor * GENERATOR.normal(size=(20, 3)).astype(np.float32), -1)
    return found


def test_operators_that_share_a_tensor_or_a_weight_share_a_scale() -> None:
    known = statistics()
    scales = smoothing_scales(OPERATORS, dict.fromkeys(OPERATORS, config(0.5)), known, weight_of, matrices)
    assert list(scales) == ["query", "key", "step", "alone"], "a table is not smoothed"
    assert scales["query"] is scales["key"] is scales["step"]
    absmax = np.maximum(known["x"].channel_absmax, known["y"].channel_absmax)
    expected = smoothing_scale(absmax, group_weight_absmax([WEIGHTS["a"], WEIGHTS["b"]]), 0.5)
    np.testing.assert_array_equal(scales["step"], expected)
    expected = smoothing_scale(known["z"].channel_absmax, group_weight_absmax([WEIGHTS["c"]]), 0.5)
    np.testing.assert_array_equal(scales["alone"], expected)


def test_operators_configured_differently_have_scales_of_their_own() -> None:
    configs = {"query": config(0.5), "key": config(0.6), "step": config(None), "alone": config(0.5)}
    scales = smoothing_scales(OPERATORS, configs, statistics(), weight_of, matrices)
    assert list(scales) == ["query", "alone", "key"]
    assert not np.array_equal(scales["query"], scales["key"])


def test_what_is_not_quantized_is_not_smoothed() -> None:
    halves = TensorConfig("bf16")
    configs = {"query": config(0.5, weight=halves, activation=halves), "key": OpConfig(FP32_TENSOR, FP32_TENSOR)}
    assert not smoothing_scales(OPERATORS, configs, statistics(), weight_of, matrices)


def test_weights_are_shared_by_operators_with_other_inputs() -> None:
    assert shared_weights(OPERATORS.values(), weight_of) == {"key", "step"}
    same_input = [Product("one", "x", "a"), Product("other", "x", "a")]
    assert not shared_weights(same_input, weight_of)


def test_groups_read_one_tensor_divided_by_one_scale() -> None:
    one, other = np.ones(3, np.float32), np.full(3, 2, np.float32)
    scales = {"query": one, "key": one.copy(), "step": one, "elsewhere": other}
    groups = smoothed_alike(OPERATORS, scales)
    assert [[each.name for each in group] for _, group in groups] == [["query", "key"], ["step"]]
    groups = smoothed_alike(OPERATORS, {"query": one, "key": other})
    assert [(scale[0], group[0].name) for scale, group in groups] == [(1, "query"), (2, "key")]
