"""What models and units cost: time of passes and operators, memory counted."""

from itertools import count

import pytest
import torch
from torch import nn

from inc_autotune.core.analysis import unit_timing
from inc_autotune.core.analysis.timing import PairSeconds
from inc_autotune.core.analysis.unit_speed import measured_speeds, slow_units
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.search.options import allowed_options, offered_options
from inc_autotune.core.space.units import build_space
from inc_autotune.torch_ext.adaptor import TorchAdaptor
from inc_autotune.torch_ext.data.batch import Batch
from inc_autotune.torch_ext.measurement import units as unit_measurement
from inc_autotune.torch_ext.measurement.footprint import peak_bytes, resident_bytes
from inc_autotune.torch_ext.measurement.units import operator_calls
from tests.torch.small_models import CalledTwice, Text, dtypes, id_batches, outlier_mlp, tune, vectors


class FewOutputs(nn.Module):
    """A convolution that int8 makes faster, and one with so few outputs that rounding its input takes longer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features, self.head = nn.Conv2d(16, 64, 3, padding=1), nn.Conv2d(64, 2, 1)

    def forward(self, x):
        return self.head(torch.relu(self.features(x)))


def big_images():
    return [torch.randn(8, 16, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]


def calibrated(model, data, **arguments):
    """The adaptor after calibration, and the units it may quantize."""
    adaptor = TorchAdaptor(**arguments)
    adaptor.calibrate(model, data, (100,))
    options = allowed_options(
        offered_options(adaptor, model), validate_arguments(strategies=["auto"], backends=["default"])
    )
    return adaptor, build_space(options, adaptor.groups(model)).units


@pytest.fixture(scope="module")
def speed_decides_nothing():
    """Not here: what decides is measured, or timed as the test says."""


@pytest.fixture
def timed_by_channels(monkeypatch):
    """In fp32 every operator takes a second; as integers it is done twice as fast, with few outputs half as fast."""

    def pair_seconds(fp32, integer, clock, *, shortest, ended):
        fp32(), integer()
        return PairSeconds(1.0, 0.5 if fp32.func.out_channels > 2 else 2.0)

    monkeypatch.setattr(unit_timing, "pair_seconds", pair_seconds)
    monkeypatch.setattr(unit_measurement, "BUDGET_SECONDS", 1e9)


# One pass of a whole model


def test_speed_is_measured_on_the_example_inputs_and_leaves_the_model_alone():
    model = outlier_mlp()
    seen = []
    handle = model.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[0]))
    adaptor, _ = calibrated(model, vectors(), example_inputs=vectors(1, size=3)[0])
    seen.clear()
    assert all(seconds > 0 for seconds in adaptor.measure([model]))
    assert set(seen) == {3}
    handle.remove()


def test_what_decides_is_measured_in_one_thread_and_what_is_told_in_all():
    torch.set_num_threads(2)
    try:
        model, seen = outlier_mlp(), []
        model.norm.register_forward_pre_hook(lambda module, args: seen.append(torch.get_num_threads()))
        adaptor, units = calibrated(model, vectors())
        seen.clear()
        adaptor.measure([model])
        adaptor.unit_speeds(units)
        assert seen.count(2) == 1, "the pass that finds the inputs of units"
        seen.clear()
        assert all(seconds > 0 for seconds in adaptor.measure_threads([model]))
        assert set(seen) == {2}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert adaptor.measure_threads([model]) is None


# Units


def test_real_units_are_measured():
    adaptor, units = calibrated(FewOutputs().eval(), big_images())
    speeds = adaptor.unit_speeds(units)
    assert set(speeds) <= {"features", "head"}, "a processor may be too fast for them to be judged"
    assert all(speed.speedup > 0 for speed in speeds.values())


@pytest.mark.usefixtures("timed_by_channels")
def test_a_slow_unit_is_found_and_a_fast_one_is_not():
    adaptor, units = calibrated(FewOutputs().eval(), big_images())
    reasons = slow_units(units, measured_speeds(adaptor, units))
    assert reasons == {"head": "int8 is not faster here: 0.50x of fp32 (Conv2d 2x64x1x1 on 8x64x32x32)"}


@pytest.mark.usefixtures("timed_by_channels")
def test_autotune_keeps_a_slow_unit_in_fp32_and_names_it():
    tuned = tune(FewOutputs().eval(), big_images(), lambda model: 1.0)
    assert dtypes(tuned) == {"features": "int8", "head": "fp32"}
    assert "int8 is not faster here: 0.50x" in tuned.tuning_result.fallbacks["head"]
    assert tuned.tuning_result.evaluations == 2


def test_units_too_short_to_be_judged_are_left_out(monkeypatch):
    ticks = count()
    monkeypatch.setattr(unit_measurement, "thread_clock", lambda: lambda: next(ticks) * 1e-6)
    adaptor, units = calibrated(outlier_mlp(), vectors())
    assert adaptor.unit_speeds(units) == {}


@pytest.mark.usefixtures("timed_by_channels")
def test_no_time_left_measures_nothing():
    adaptor, units = calibrated(FewOutputs().eval(), big_images())
    assert adaptor.unit_speeds(units, lambda: True) == {}
    answers = iter([False, False])
    # Time for the first operator only: asked before the pass and before each operator.
    speeds = adaptor.unit_speeds(units, lambda: next(answers, True))
    assert set(speeds) == {"features"}


def test_operators_of_one_geometry_share_a_measurement():
    torch.manual_seed(0)
    layers = [nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 8), nn.Linear(8, 16)]
    model = nn.Sequential(*layers, nn.Linear(16, 16, bias=False)).eval()
    types = {str(index): "Linear" for index, layer in enumerate(model) if isinstance(layer, nn.Linear)}
    calls = operator_calls(model, types, [Batch.of((vectors(1)[0],))])
    geometries = {name: each.geometry for name, (each,) in calls.items()}
    assert geometries["0"] == geometries["2"]
    assert len(set(geometries.values())) == 4, "other shapes, and the one without a bias, stand apart"
    assert calls["2"][0].name == "0"


def test_an_operator_that_is_called_several_times_is_measured_so_often():
    calls = operator_calls(CalledTwice().eval(), {"shared": "Linear"}, [Batch.of((vectors(1)[0],))])
    assert len(calls["shared"]) == 3


def test_watching_a_model_leaves_no_hook():
    model = outlier_mlp()
    operator_calls(model, {"query": "Linear"}, [Batch.of((vectors(1)[0],))])
    assert not model.query._forward_pre_hooks


# Memory


class Chain(nn.Module):
    def forward(self, x):
        return torch.relu(torch.relu(torch.relu(x)))


class Keeping(nn.Module):
    def forward(self, x):
        first = torch.relu(x)
        second = torch.relu(first)
        return first + torch.relu(second)


def test_memory_that_is_free_again_is_not_counted():
    x = torch.zeros(1000)
    # The copy of the inputs, what an operator reads and what it returns.
    assert peak_bytes(Chain(), Batch.of((x,))) == 3 * x.nbytes
    # relu(second) and the sum while `first` and `second` are still held.
    assert peak_bytes(Keeping(), Batch.of((x,))) == 5 * x.nbytes


def test_views_and_writes_in_place_take_no_memory():
    class Viewing(nn.Module):
        def forward(self, x):
            return x.view(10, -1).t()[3:].relu_()

    x = torch.zeros(1000)
    assert peak_bytes(Viewing(), Batch.of((x,))) == x.nbytes


def test_weights_count_once_and_packed_ones_too():
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)).eval()
    model[1].weight = model[0].weight
    assert resident_bytes(model) == 64 * 64 * 4
    data = [torch.randn(8, 64, generator=torch.Generator().manual_seed(1))] * 2
    adaptor, units = calibrated(model, data)
    opwise = {operator: unit.options[0].to_dict() for unit in units for operator in unit.operators}
    quantized = adaptor.quantize({"op": opwise, "calib_iteration": 16}, model, None)
    integers = sum(module.integer_weight.nbytes for module in quantized)
    packed = sum(module.integer_weight.nbytes for module in quantized if module.packed is not None)
    assert resident_bytes(quantized) >= integers + packed


def test_the_footprint_repeats_and_shrinks_with_the_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 512), nn.ReLU(), nn.Linear(512, 512)).eval()
    adaptor, units = calibrated(model, vectors())
    opwise = {operator: unit.options[0].to_dict() for unit in units for operator in unit.operators}
    quantized = adaptor.quantize({"op": opwise, "calib_iteration": 64}, model, None)
    once, again = adaptor.footprint([model, quantized]), adaptor.footprint([model, quantized])
    assert once == again
    assert once[0] > once[1] > adaptor.model_size(quantized)


def test_with_footprint_as_objective_embeddings_are_quantized_and_memory_is_reported():
    result = tune(Text().eval(), id_batches(), lambda model: 1.0, objective="footprint").tuning_result
    assert {each.name: each.dtype for each in result.operators}["table"] == "uint8"
    assert result.gain > 1
    assert "peak memory of a forward pass" in str(result)
