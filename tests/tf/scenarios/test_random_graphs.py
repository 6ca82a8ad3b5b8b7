"""Random graphs of convolutions: with integer kernels they are as exact as simulated with the same values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.graphs.weights import WeightCache
from inc_autotune.tf_ext.adaptor import TensorFlowAdaptor
from inc_autotune.tf_ext.emission.build import build_model
from inc_autotune.tf_ext.emission.routes import ROUTES
from inc_autotune.tf_ext.measurement.kernel_trial import KernelSupport
from inc_autotune.tf_ext.model.candidate import Candidate
from tests.tf.quantizing import WITHOUT_VNNI, expected_form, forms_in, random, source_of

CHANNELS, SIDE = 8, 6
ACTIVATIONS = {"none": lambda x: x, "relu": tf.nn.relu, "relu6": tf.nn.relu6}

LARGEST_LOSS = 3.0
"""Decibels: what integer kernels hand on is rounded for readers of real numbers too."""


@dataclass(frozen=True)
class Step:
    """One operator; `first` and `second` count tensors from the last one backwards."""

    kind: str
    first: int
    second: int
    function: str
    size: int
    gain: float


STEPS = st.lists(
    st.builds(
        Step,
        kind=st.sampled_from(["convolution", "convolution", "depthwise", "pool", "pad", "concat", "add"]),
        first=st.integers(0, 2),
        second=st.integers(0, 3),
        function=st.sampled_from(list(ACTIVATIONS)),
        size=st.sampled_from([1, 3]),
        gain=st.sampled_from([0.25, 1.0, 4.0]),
    ),
    min_size=6,
    max_size=6,
)


def convolved(x: Any, step: Step, seed: int, channels: int = CHANNELS) -> Any:
    filters = random(step.size, step.size, x.shape[-1], channels, seed=seed) * step.gain
    return tf.nn.conv2d(x, filters / np.sqrt(step.size**2 * x.shape[-1]), 1, "SAME") + random(channels, seed=seed) / 4


def computed(x: Any, other: Any, step: Step, seed: int) -> Any:
    """One operator on tensors of the same height and width."""
    if step.kind == "pool":
        return tf.nn.max_pool2d(x, 3, 1, "SAME")
    if step.kind == "pad":
        return tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])[:, 1:-1, 1:-1]
    if step.kind == "concat":
        return tf.concat([x, other], -1) if x.shape[-1] + other.shape[-1] <= 4 * CHANNELS else x
    function = ACTIVATIONS[step.function]
    if step.kind == "add":
        return function(x + other) if x.shape[-1] == other.shape[-1] else x
    if step.kind == "depthwise":
        filters = random(3, 3, x.shape[-1], 1, seed=seed) * step.gain / 3
        return function(tf.nn.depthwise_conv2d(x, filters, [1, 1, 1, 1], "SAME"))
    return function(convolved(x, step, seed))


def network(steps: list[Step]) -> Any:
    """A function that returns its last tensor convolved, and every other tensor that nobody reads, convolved too."""

    def function(x: Any) -> dict[str, Any]:
        tensors, read = [tf.nn.relu(convolved(x, Step("convolution", 0, 0, "relu", 3, 1.0), 0))], set()
        for seed, step in enumerate(steps, 1):
            indices = [max(len(tensors) - 1 - back, 0) for back in (step.first, step.second)]
            read |= set(indices)
            tensors.append(computed(*(tensors[index] for index in indices), step, seed))
        ends = [index for index in range(len(tensors)) if index not in read]
        last = Step("convolution", 0, 0, "none", 3, 1.0)
        return {f"output_{index}": convolved(tensors[index], last, 100 + index) for index in ends}

    return function


def calibrated(adaptor: TensorFlowAdaptor, model: Candidate, data: Any) -> dict[str, Any]:
    """The configuration with every operator at its default."""
    adaptor.calibrate(model, data, (len(data),))
    options = {operator: each[0] for operator, each in adaptor.query_fw_capability(model)["opwise"].items()}
    return {"op": options, "calib_iteration": len(data)}


def both_forms(source: Any, data: Any) -> tuple[Candidate, Candidate]:
    """With integer kernels, and simulated."""
    adaptor, model = TensorFlowAdaptor(), Candidate(source)
    plan = adaptor.plan(calibrated(adaptor, model, data))
    simulated = replace(plan, simulated=frozenset(plan.configs))
    analysis = adaptor.analysis(model)
    integer, twin = (Candidate(build_model(analysis, each, WeightCache())) for each in (plan, simulated))
    return integer, twin


def steps_of(*values: tuple[str, int, int, str, int, float]) -> list[Step]:
    return [Step(*each) for each in values]


MIXED_SIGNS = steps_of(
    ("convolution", 0, 0, "none", 1, 1.0),
    ("convolution", 1, 0, "relu", 3, 4.0),
    ("pool", 2, 0, "none", 3, 1.0),
    ("concat", 2, 0, "none", 1, 1.0),
    ("concat", 2, 1, "none", 1, 1.0),
)
WITHOUT_READER = steps_of(
    ("convolution", 0, 0, "none", 1, 0.25),
    ("convolution", 0, 0, "none", 1, 0.25),
    ("concat", 0, 2, "none", 1, 1.0),
    ("depthwise", 0, 0, "none", 3, 0.25),
)
BETWEEN_CONVOLUTIONS = steps_of(
    ("depthwise", 0, 0, "none", 3, 1.0),
    ("convolution", 0, 0, "relu", 1, 1.0),
    ("depthwise", 0, 0, "relu", 3, 1.0),
    ("convolution", 0, 0, "none", 1, 1.0),
    ("depthwise", 0, 0, "relu", 3, 1.0),
    ("convolution", 0, 0, "none", 3, 1.0),
)
SMALL_BESIDE_LARGE = steps_of(
    ("pool", 0, 0, "none", 1, 1.0),
    ("convolution", 1, 0, "relu6", 1, 0.25),
    ("pool", 0, 0, "none", 1, 1.0),
    ("concat", 0, 2, "none", 1, 1.0),
    ("concat", 2, 1, "none", 1, 1.0),
)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(STEPS)
@example(MIXED_SIGNS)
@example(WITHOUT_READER)
@example(BETWEEN_CONVOLUTIONS)
def test_bits_of_weights_follow_from_what_the_kernel_reads(steps: list[Step]) -> None:
    """On processors on which any one route, or all of those without VNNI, want 7 bits."""
    source = source_of(network(steps), tf.TensorSpec((None, SIDE, SIDE, CHANNELS), name="x"))
    adaptor, model = TensorFlowAdaptor(), Candidate(source)
    tune_cfg = calibrated(adaptor, model, random(8, SIDE, SIDE, CHANNELS, seed=1))
    supports = [
        KernelSupport(saturating=WITHOUT_VNNI.saturating & {route}, halving=WITHOUT_VNNI.halving & {route})
        for route in ROUTES
    ]
    for support in (*supports, WITHOUT_VNNI):
        adaptor.support = support
        for route, form in forms_in(adaptor.quantize(tune_cfg, model, None).model):
            assert form == expected_form(route, support), route


@settings(max_examples=6, deadline=None, derandomize=True)
@given(STEPS)
@example(MIXED_SIGNS)
@example(WITHOUT_READER)
@example(SMALL_BESIDE_LARGE)
def test_integer_kernels_compute_what_is_simulated(steps: list[Step]) -> None:
    source = source_of(network(steps), tf.TensorSpec((None, SIDE, SIDE, CHANNELS), name="x"))
    data = random(8, SIDE, SIDE, CHANNELS, seed=1)
    integer, simulated = both_forms(source, data)
    expected, actual, twin = (each.callable.default(data) for each in (Candidate(source), integer, simulated))
    for name, value in expected.items():
        found, wanted = (signal_to_noise_db(value.numpy(), each[name].numpy()) for each in (actual, twin))
        assert found > wanted - LARGEST_LOSS, f"{name}: {found:.1f} dB with integer kernels, {wanted:.1f} simulated"
