"""What is timed, and how often; the times themselves are the test's own."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto

from inc_autotune.core.analysis import unit_timing
from inc_autotune.core.analysis.timing import PairSeconds
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.search.options import allowed_options, offered_options
from inc_autotune.core.space.units import Unit, build_space
from inc_autotune.ort_ext.adaptor import OrtAdaptor
from inc_autotune.ort_ext.measurement.models import session_clock
from inc_autotune.ort_ext.model.source import load_source
from tests.ort.small_models import WIDTH, GraphWriter, conv_net, transformer_block, vectors


def options(threads: int) -> onnxruntime.SessionOptions:
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = threads
    return made


def chain(layers: int = 3) -> ModelProto:
    """Layers of one shape, and a last one of another."""
    graph = GraphWriter()
    x = "x"
    for index in range(layers):
        x = graph.add("Relu", graph.linear(x, f"layer{index}", WIDTH, WIDTH))
    graph.linear(x, "head", WIDTH, 2)
    return graph.model({"x": (TensorProto.FLOAT, ["batch", WIDTH])}, rank=2)


def calibrated(model: ModelProto, data: list[Any], **arguments: Any) -> tuple[OrtAdaptor, tuple[Unit, ...]]:
    adaptor = OrtAdaptor(**arguments)
    candidate = adaptor.candidate(load_source(model))
    adaptor.calibrate(candidate, data, (16,))
    allowed = allowed_options(
        offered_options(adaptor, candidate), validate_arguments(strategies=["auto"], backends=["default"])
    )
    return adaptor, build_space(allowed, adaptor.groups(candidate)).units


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Any], list[Any]]]:
    """The outputs of both forms of each pair that is timed; the integer one takes 1 ms, fp32 three."""
    seen: list[tuple[list[Any], list[Any]]] = []

    def pair_seconds(fp32: Any, integer: Any, clock: Any, **_: Any) -> PairSeconds:
        seen.append((fp32(), integer()))
        return PairSeconds(0.003, 0.001)

    monkeypatch.setattr(unit_timing, "pair_seconds", pair_seconds)
    return seen


def test_one_thread_is_timed_on_its_own_clock() -> None:
    assert session_clock("CPUExecutionProvider") is time.thread_time
    assert session_clock("CUDAExecutionProvider") is time.perf_counter


@pytest.mark.parametrize("given", [partial(options, 2), options(2), None])
def test_models_are_compared_in_one_thread_whatever_the_options_say(given: Any) -> None:
    adaptor = OrtAdaptor(session_options=given)
    model = adaptor.candidate(load_source(chain()))
    alone = model.in_one_thread()
    assert alone.session.get_session_options().intra_op_num_threads == 1
    assert alone.in_one_thread() is alone
    assert model.session.get_session_options().intra_op_num_threads != 1
    if isinstance(given, onnxruntime.SessionOptions):
        assert given.intra_op_num_threads == 2
    adaptor.calibrate(model, vectors(4, 4, WIDTH), (16,))
    assert all(seconds > 0 for seconds in [*adaptor.measure([model, model]), *adaptor.measure_threads([model, model])])


def test_options_of_several_threads_are_taken_back() -> None:
    given = options(2)
    given.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    given.add_session_config_entry("session.intra_op_thread_affinities", "1")
    adaptor = OrtAdaptor(session_options=given)
    alone = adaptor.candidate(load_source(chain())).in_one_thread()
    assert alone.session.get_session_options().execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert given.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert given.get_session_config_entry("session.intra_op_thread_affinities") == "1"


def test_one_thread_has_nothing_more_to_measure() -> None:
    adaptor = OrtAdaptor(session_options=partial(options, 1))
    model = adaptor.candidate(load_source(chain()))
    adaptor.calibrate(model, vectors(4, 4, WIDTH), (16,))
    assert adaptor.measure_threads([model, model]) is None


def test_units_of_one_shape_share_a_measurement(pairs: list[Any]) -> None:
    adaptor, units = calibrated(chain(), vectors(4, 4, WIDTH))
    speeds = adaptor.unit_speeds(units)
    assert len(pairs) == 2
    assert set(speeds) == {"layer0", "layer1", "layer2", "head"}
    assert {each.speedup for each in speeds.values()} == {3.0}
    assert speeds["head"].measured == f"MatMul {WIDTH}x2 on 4x{WIDTH}"


def test_both_forms_compute_the_same(pairs: list[Any]) -> None:
    adaptor, units = calibrated(transformer_block(), vectors(4, 4, 6, WIDTH))
    speeds = adaptor.unit_speeds(units)
    assert len(pairs) == len({unit_shape(unit) for unit in units})
    for fp32, integer in pairs:
        assert len(fp32) == len(integer)
        for expected, found in zip(fp32, integer, strict=True):
            assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)
    assert "and 2 more" in next(each.measured for name, each in speeds.items() if name.endswith("query"))


def unit_shape(unit: Unit) -> str:
    """The layers of a transformer block that have shapes of their own."""
    return unit.name.split(".")[-1]


def test_convolutions_are_not_judged(pairs: list[Any]) -> None:
    adaptor, units = calibrated(conv_net(), vectors(4, 4, 3, 8, 8))
    types = {unit.name: unit.operators[0][1] for unit in units}
    assert "Conv" in types.values()
    assert {types[name] for name in adaptor.unit_speeds(units)} == {"Gemm"}


def test_what_is_done_too_soon_is_left_out() -> None:
    adaptor, units = calibrated(chain(), vectors(4, 4, WIDTH))
    assert adaptor.unit_speeds(units) == {}


def test_no_time_left_measures_nothing(pairs: list[Any]) -> None:
    adaptor, units = calibrated(chain(), vectors(4, 4, WIDTH))
    assert adaptor.unit_speeds(units, lambda: True) == {}
    answers = iter([False, False])
    # Asked before the pass and before each new shape.
    assert set(adaptor.unit_speeds(units, lambda: next(answers, True))) == {"layer0", "layer1", "layer2"}
    assert len(pairs) == 1


def test_the_example_inputs_are_what_is_timed(pairs: list[Any]) -> None:
    adaptor, units = calibrated(chain(), vectors(4, 4, WIDTH), example_inputs=vectors(1, 3, WIDTH)[0])
    assert adaptor.unit_speeds(units)["head"].measured.endswith(f"on 3x{WIDTH}")


def test_an_lstm_is_judged_with_all_that_it_reads(pairs: list[Any]) -> None:
    graph = GraphWriter()
    weights = [graph.random(name, 1, 32, size, scale=0.3) for name, size in (("input", 6), ("state", 8))]
    lengths = graph.add("Cast", graph.constant("lengths", [3.0, 2.0]), to=TensorProto.INT32)
    first = graph.add("ReduceSum", graph.add("Slice", "x", *(graph.constant(f"s{i}", [i], np.int64) for i in (0, 1))))
    first = graph.add("Expand", first, graph.constant("shape", [1, 2, 8], np.int64))
    graph.add("LSTM", "x", *weights, "", lengths, first, "h0", name="lstm", hidden_size=8)
    graph.add("Squeeze", "lstm.out", graph.constant("axes", [1], np.int64))
    h0 = (TensorProto.FLOAT, [1, 2, 8])
    model = graph.model({"x": (TensorProto.FLOAT, [3, 2, 6]), "h0": h0}, 3)
    data = [
        dict(zip(("x", "h0"), each, strict=True)) for each in zip(vectors(4, 3, 2, 6), vectors(4, 1, 2, 8), strict=True)
    ]
    adaptor, units = calibrated(model, data)
    assert adaptor.unit_speeds(units)["lstm"].measured == "LSTM 1x32x6 on 3x2x6"
    fp32, integer = pairs[0]
    assert np.linalg.norm(integer[0] - fp32[0]) < 0.05 * np.linalg.norm(fp32[0])


def test_convolutions_of_groups_are_judged_between_integers(pairs: list[Any]) -> None:
    graph = GraphWriter()
    x = graph.add("Conv", "x", graph.random("first.weight", 8, 4, 3, 3, scale=0.2), name="first", pads=[1] * 4)
    operands = graph.random("depthwise.weight", 8, 1, 3, 3, scale=0.4), graph.random("depthwise.bias", 8)
    x = graph.add("Conv", x, *operands, name="depthwise", group=8, pads=[1] * 4)
    x = graph.add("Relu", x)
    x = graph.add("ConvTranspose", x, graph.random("up.weight", 8, 4, 2, 2, scale=0.3), name="up", strides=[2, 2])
    graph.add("Conv", x, graph.random("last.weight", 2, 4, 1, 1, scale=0.5), name="last")
    model = graph.model({"x": (TensorProto.FLOAT, ["batch", 4, 6, 6])}, 4)
    adaptor, units = calibrated(model, vectors(4, 2, 4, 6, 6))
    speeds = adaptor.unit_speeds(units)
    assert {name: each.measured for name, each in speeds.items()} == {
        "depthwise": "Conv 8x1x3x3 on 2x8x6x6",
        "up": "ConvTranspose 8x4x2x2 on 2x8x6x6",
    }
    for fp32, integer in pairs:
        assert fp32[0].dtype == integer[0].dtype == np.uint8
        difference = np.abs(fp32[0].astype(int) - integer[0])
        assert difference.max() <= 2
        assert integer[0].std() > 10
