"""What adaptors of static graphs have alike, on a runtime of the test's own: two products of NumPy."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.arrays import Array, FloatArray
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.quantization.affine import fake_quantize, quantization_parameters
from inc_autotune.core.quantization.smoothquant import smoothed_range
from inc_autotune.core.quantization.statistics import ActivationStatistics
from inc_autotune.core.space.capability import load_capability
from inc_autotune.core.space.units import Unit
from inc_autotune.graphs.adaptor import GraphAdaptor
from inc_autotune.graphs.calibration import Values, WatchedTensor, calibrate
from inc_autotune.graphs.digest import content
from inc_autotune.graphs.feed import Feed
from inc_autotune.graphs.plan import OperatorCalibration, QuantizationPlan
from inc_autotune.graphs.smoothing import shared_weights, smoothing_scales
from inc_autotune.graphs.weights import QuantizedWeight, quantize_weight
from inc_autotune.testing.adaptor_contract import AdaptorContract
from inc_autotune.testing.numpy_adaptor import CAPABILITY

FRAMEWORK = "onnxruntime"
GENERATOR = np.random.default_rng(0)
WEIGHTS = {name: GENERATOR.normal(size=(8, 8)).astype(np.float32) / 3 for name in ("w1", "w2")}
DATA = GENERATOR.normal(size=(32, 8)).astype(np.float32) * np.r_[np.ones(7), 20].astype(np.float32)


@dataclass(frozen=True)
class Product:
    name: str
    input: str
    weight: str
    type: str = "Dense"
    is_linear: bool = True


@dataclass(frozen=True)
class Graph:
    """Products of a chain with tanh between them; `plan` is what they are rounded by."""

    products: tuple[Product, ...]
    plan: QuantizationPlan | None = None
    weights: Mapping[str, QuantizedWeight] | None = None

    def tensors(self, x: FloatArray) -> dict[str, FloatArray]:
        values = {"x": x}
        for index, each in enumerate(self.products):
            source = values[each.input]
            values[f"t{index}"] = np.tanh(self._product(each, source))
        return values

    def _product(self, product: Product, x: FloatArray) -> FloatArray:
        config = None if self.plan is None else self.plan.configs.get(product.name)
        if config is None:
            return x @ WEIGHTS[product.weight].T
        assert self.plan is not None
        assert self.weights is not None
        calibration, weight = self.plan.calibration(product.name), self.weights[product.name]
        assert calibration.range is not None
        low, high = (np.float32(each) for each in calibration.range)
        scheme = config.activation.scheme or "asym"
        parameters = quantization_parameters(low, high, dtype=config.activation.dtype, scheme=scheme)
        smoothed = x if calibration.smoothing is None else x / calibration.smoothing
        rounded: FloatArray = fake_quantize(smoothed, parameters) @ (weight.values.T * weight.scale)
        return rounded


MODEL = Graph((Product("one", "x", "w1"), Product("two", "t0", "w2")))


class Analysis:
    def __init__(self, graph: Graph) -> None:
        self.operators = {each.name: each for each in graph.products}
        self.skipped = {"lookup": ("Gather", "its table is computed")}
        self.groups = [[name] for name in self.operators]
        self.shared_weights = shared_weights(self.operators.values(), weight_of)


def weight_of(product: Product) -> str:
    return content(WEIGHTS[product.weight])


class DenseAdaptor(GraphAdaptor[Analysis]):
    framework = FRAMEWORK
    untrainable = "products cannot be trained."

    def __init__(self, capability: Any = None, example: Any = None) -> None:
        super().__init__(load_capability(CAPABILITY, "1", capability), histogram=False, example_inputs=example)

    def analyze(self, model: Graph) -> Analysis:
        return Analysis(model)

    def why_nearest(self, op_type: str) -> str:
        return f"{op_type} has no rows"

    def calibrate(self, model: Graph, dataloader: Any, sampling_sizes: Sequence[int], seed: int = 0) -> int:
        watched = [
            WatchedTensor(each.input, rows=True, histogram=False) for each in self.analysis(model).operators.values()
        ]

        def run(feed: Feed, samples: int) -> Values:
            values = model.tensors(feed.inputs["x"])
            return Values([list(values.values())[-1]], values)

        feeds = [Feed({"x": each}, len(each), frozenset("x")) for each in dataloader]
        self.calibrations["only"] = calibrate(run, watched, feeds, sampling_sizes, seed=seed, argument="data")
        return self.samples

    def plan(self, tune_cfg: Mapping[str, Any]) -> QuantizationPlan:
        configs, statistics = self.configs(tune_cfg), self.statistics_of(tune_cfg)
        operators = self.known.operators
        scales = smoothing_scales(
            operators, configs, statistics, weight_of, lambda products: [WEIGHTS[each.weight] for each in products]
        )
        calibrations = {
            name: OperatorCalibration(
                smoothed_range(
                    statistics[operators[name].input], scales.get(name), config.activation, framework=FRAMEWORK
                ),
                scales.get(name),
            )
            for name, config in configs.items()
        }
        return QuantizationPlan(configs, calibrations)

    def build(self, plan: QuantizationPlan, model: Graph) -> Graph:
        weights = {name: self._weight(self.known.operators[name], plan) for name in plan.configs}
        return Graph(model.products, plan, weights)

    def _weight(self, product: Product, plan: QuantizationPlan) -> QuantizedWeight:
        config, scale = plan.configs[product.name].weight, plan.calibration(product.name).smoothing
        weight = WEIGHTS[product.weight] * (1 if scale is None else scale)
        version = (weight_of(product), content(scale), config)
        return self.weights.get(
            product.name, version, lambda: quantize_weight(weight, config, axis=0, framework=FRAMEWORK)
        )

    def outputs(self, candidate: Graph, signature: str, feed: Feed) -> Sequence[Array]:
        return [list(candidate.tensors(feed.inputs["x"]).values())[-1]]

    def matrices(self, operators: Sequence[str]) -> Sequence[FloatArray]:
        return [WEIGHTS[self.known.operators[name].weight] for name in operators]

    def reduces(self, unit: Unit, statistics: ActivationStatistics) -> bool:
        return False

    def fingerprint(self, model: Graph) -> str:
        digest = hashlib.sha256()
        self.add_data(digest)
        return digest.hexdigest()


class TestDenseAdaptor(AdaptorContract):
    def make_adaptor(self) -> Adaptor:
        return DenseAdaptor()

    def make_model(self) -> Graph:
        return MODEL

    def make_data(self) -> list[FloatArray]:
        return [DATA]

    def outputs(self, model: Graph) -> FloatArray:
        return list(model.tensors(DATA[:4]).values())[-1]


INT8 = OpConfig(
    TensorConfig("int8", "sym", "per_channel", "minmax"),
    TensorConfig("uint8", "asym", "per_tensor", "minmax"),
    "static",
)
HALF = OpConfig(TensorConfig("bf16"), TensorConfig("bf16"))


def calibrated(graph: Graph = MODEL, **more: Any) -> DenseAdaptor:
    adaptor = DenseAdaptor(**more)
    adaptor.calibrate(graph, [DATA[:16], DATA[16:]], (32,))
    return adaptor


def tune_cfg(**configs: OpConfig) -> dict[str, Any]:
    return {"op": {(name, "Dense"): each.to_dict() for name, each in configs.items()}, "calib_iteration": 32}


def test_an_operator_that_the_model_does_not_have_is_an_error_that_names_those_it_has() -> None:
    with pytest.raises(ArgumentError, match=r"tune_cfg\['op'\]: no operator is named 'three'. Operators: 'one', 'two'"):
        calibrated().configs(tune_cfg(one=INT8, three=INT8))


def test_halves_stay_in_fp32_where_the_runtime_does_not_write_them() -> None:
    adaptor = calibrated()
    given = tune_cfg(one=HALF, two=INT8)
    assert adaptor.configs(given) == {"two": INT8}
    adaptor.computes_halves = True
    assert adaptor.configs(given) == {"one": HALF, "two": INT8}


def test_an_alpha_of_what_cannot_be_smoothed_is_dropped() -> None:
    graph = Graph((Product("one", "x", "w1"), Product("two", "t0", "w2", is_linear=False)))
    found = calibrated(graph).configs(tune_cfg(one=INT8.with_alpha(0.5), two=INT8.with_alpha(0.5)))
    assert [each.alpha for each in found.values()] == [0.5, None]


def test_training_is_refused_with_the_reason() -> None:
    with pytest.raises(ArgumentError, match=r"^q_func: products cannot be trained\.$"):
        DenseAdaptor().quantize(tune_cfg(one=INT8), MODEL, [DATA], q_func=print)


def test_what_is_asked_too_early_is_an_error() -> None:
    adaptor = DenseAdaptor()
    with pytest.raises(RuntimeError, match="not been given a model"):
        adaptor.configs(tune_cfg(one=INT8))
    adaptor.analysis(MODEL)
    for ask in (lambda: adaptor.samples, adaptor.reference_outputs, adaptor.measured_feed):
        with pytest.raises(RuntimeError, match="not been calibrated"):
            ask()


def test_operators_without_an_entry_in_the_capability_are_skipped_with_the_reason() -> None:
    graph = Graph((Product("one", "x", "w1"), Product("odd", "t0", "w2", type="Odd")))
    adaptor = DenseAdaptor()
    assert list(adaptor.query_fw_capability(graph)["opwise"]) == [("one", "Dense")]
    skipped = {"lookup": "its table is computed", "odd": "no entry for Odd in the capability"}
    assert adaptor.skipped(graph) == skipped
    assert [adaptor.operator_type(graph, name) for name in ("lookup", "odd")] == ["Gather", "Odd"]


def unit(name: str, config: OpConfig = INT8) -> Unit:
    return Unit(name, ((name, "Dense"),), (config,))


def test_linear_units_that_quantize_their_input_may_be_smoothed() -> None:
    adaptor = calibrated()
    weight_only = OpConfig(INT8.weight, TensorConfig("fp32"), "weight_only")
    groups = adaptor.input_groups([unit("one"), unit("two", weight_only)], 32)
    assert [each.name for each in groups] == ["one"]
    (group,) = groups
    np.testing.assert_array_equal(next(iter(group.weights())), WEIGHTS["w1"])
    assert group.statistics is adaptor.statistics(32, without_held_out=True)["x"]
    assert len(group.folds) == 2
    assert group.least_gain == 1


def test_units_with_a_shared_weight_get_no_alpha_of_their_own() -> None:
    adaptor = calibrated(Graph((Product("one", "x", "w1"), Product("two", "t0", "w1"))))
    assert [each.least_gain for each in adaptor.input_groups([unit("one"), unit("two")], 32)] == [math.inf, math.inf]
    built = adaptor.quantize(tune_cfg(one=INT8.with_alpha(0.5), two=INT8.with_alpha(0.5)), MODEL, None)
    assert built.weights["one"] is built.weights["two"]


def test_candidates_are_compared_on_the_samples_held_out() -> None:
    adaptor = calibrated()
    expected, again = adaptor.reference_outputs(), adaptor.run(MODEL)
    assert expected
    for one, other in zip(expected, again, strict=True):
        np.testing.assert_array_equal(one, other)
    rounded = adaptor.run(adaptor.quantize(tune_cfg(one=INT8, two=INT8), MODEL, None))
    assert all((one != other).any() for one, other in zip(expected, rounded, strict=True))


def test_speed_is_measured_on_the_example_and_else_on_samples_held_out() -> None:
    adaptor = calibrated()
    assert 0 < adaptor.measured_feed().size <= 8
    without = adaptor.fingerprint(MODEL)
    adaptor.example = Feed({"x": DATA[:3]}, 3, frozenset("x"))
    assert adaptor.measured_feed() is adaptor.example
    assert adaptor.fingerprint(MODEL) != without
