"""Calibration that travels in a file, whole and in shards."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.files import read_arrays
from inc_autotune.core.run_context import CalibrationDone, RunContext, running_in
from inc_autotune.torch_ext.calibration import calibration_state, unpack_calibration
from inc_autotune.torch_ext.operators import ModelTrace
from tests.torch.scenarios.test_differing_batches import Experts
from tests.torch.small_models import OutlierMLP

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

NEAREST = {"progress": False, "recipes": {"weight_rounding": "nearest"}, "smoothquant_args": {"alpha": 0.5}}


class Mixed(nn.Module):
    """Reads two images, or one twice, and says which it was."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.ran = []

    def forward(self, one, other):
        self.ran.append(one is other)
        y = torch.relu(self.norm(self.first(one))) + self.first(other)
        return {"scores": self.last(y.mean((2, 3)))}


def images():
    generator = torch.Generator().manual_seed(1)
    given = [torch.randn(4, 3, 8, 8, generator=generator).to(memory_format=torch.channels_last) for _ in range(6)]
    return [(each, each) for each in given]


def rows(features=16):
    generator = torch.Generator().manual_seed(1)
    # All features of a batch have one sign: of the experts, another one runs in every second pair of batches.
    return [torch.randn(4, features, generator=generator).abs() * (1 - number // 2 % 2 * 2) for number in range(7)]


def experts():
    torch.manual_seed(0)
    return Experts()


class Counted:
    """Batches, and how often they were read."""

    def __init__(self, batches):
        self.batches, self.readings = batches, 0

    def __iter__(self):
        self.readings += 1
        return iter(self.batches)


def found(context, model, data, **given):
    """The result of a call in a context, and the calibration that it has or hands on."""
    files = []
    with running_in(replace(context, begun=lambda others: files.append(read_arrays(others.calibration)))):
        result = torch_ext.autotune(model, data, **{"progress": False, **given}).tuning_result
    (arrays, about) = files[0]
    return result, unpack_calibration(arrays, json.loads(about["calibration"])["found"], model)


def assert_equal_numbers(one, other):
    """Whether the operators of two results have the same numbers."""
    assert one.recipe.operators == other.recipe.operators
    assert one.recipe.arrays.keys() == other.recipe.arrays.keys()
    for name, array in one.recipe.arrays.items():
        np.testing.assert_array_equal(array, other.recipe.arrays[name])
    assert one.notes == other.notes
    assert one.smoothing == other.smoothing


@pytest.mark.parametrize(
    ("make", "data", "given"),
    [
        (OutlierMLP, rows(), {"op_type_dict": {"Linear": {"activation": {"algorithm": ["kl"]}}}}),
        (Mixed, images(), {"sampling_sizes": [8, 20]}),
        (experts, rows(), {}),
    ],
    ids=["histograms", "two sizes", "another pass"],
)
def test_what_one_process_found_serves_the_others(make, data, given, tmp_path):
    context, counted = RunContext(calibration=tmp_path / "calibration"), Counted(data)
    (first, told), (second, again) = (found(context, make().eval(), counted, **given) for _ in range(2))
    assert counted.readings == 1
    alone = torch_ext.autotune(make().eval(), data, progress=False, **given).tuning_result
    for each in (first, second):
        assert_equal_numbers(each, alone)
    (_, one), (_, other) = told, again
    assert one.traces == other.traces
    for mine, others in zip(one.firsts, other.firsts, strict=True):
        assert mine.form == others.form
        assert mine.args[0].stride() == others.args[0].stride()


@pytest.mark.parametrize(("make", "data"), [(Mixed, images()), (experts, rows())], ids=["images", "another pass"])
def test_shards_are_merged_to_what_one_process_finds(make, data, tmp_path):
    """At two sampling sizes, with operators that some batches alone run, and with a file lost on the way."""
    given = {"sampling_sizes": [8, 20], "op_type_dict": {".*": {"activation": {"algorithm": ["kl"]}}}}
    parts = tuple(tmp_path / f"part {n}" for n in (1, 2))
    ran = []

    def calibrating(contexts):
        model = make().eval()
        with running_in(contexts[0]), pytest.raises(CalibrationDone):
            torch_ext.autotune(model, data, **{"progress": False, **given})
        ran.append(getattr(model, "ran", None))
        return lambda: None

    one, (calibration, observed) = found(RunContext(calibration=tmp_path / "one"), make().eval(), data, **given)
    context = RunContext(calibration=tmp_path / "three", parts=parts, calibrating=calibrating)
    three, (merged, seen) = found(context, make().eval(), data, **given)
    assert [part.exists() for part in parts] == [True, False]
    assert one.notes == three.notes
    assert (observed.trace, observed.is_kept, observed.notes) == (seen.trace, seen.is_kept, seen.notes)
    assert (calibration.samples, calibration.digest) == (merged.samples, merged.digest)
    for size in (8, 20, calibration.samples):
        for mine, others in zip(calibration.snapshot(size).parts, merged.snapshot(size).parts, strict=True):
            assert mine.keys() == others.keys()
            for name, each in mine.items():
                assert each.count == others[name].count
                if each.count:
                    assert torch.equal(each.channel_mean, others[name].channel_mean)
                    for algorithm in ("minmax", "kl") if each.histogram is not None else ("minmax",):
                        ranges = [every.activation_range(algorithm, "uint8", "asym") for every in (each, others[name])]
                        assert ranges[0] == ranges[1]
    for mine, others in zip(calibration.held_out.outputs, merged.held_out.outputs, strict=True):
        assert torch.equal(mine, others)
    assert calibration.moments.keys() == merged.moments.keys() != set()
    for name, moment in calibration.moments.items():
        for (*_, mine), (*_, others) in zip(moment.blocks(), merged.moments[name].blocks(), strict=True):
            torch.testing.assert_close(mine, others, rtol=1e-4, atol=1e-5)


def test_every_field_of_a_trace_comes_back():
    with running_in(RunContext(calibrates_only=True)):
        trace = torch_ext.adaptor.TorchAdaptor()
        trace.calibrate(Mixed().eval(), images(), (24,))
    full = replace(
        trace.trace,
        chains={"first": frozenset({"last"})},
        shared_sums=frozenset({"first"}),
        foreign=frozenset({"last"}),
    )
    packed = json.loads(json.dumps(calibration_state._pack_trace(full)))
    assert calibration_state._unpack_trace(packed) == full
    assert isinstance(full, ModelTrace)


def test_a_program_has_no_shards_and_what_no_file_holds_is_calibrated_by_each(tmp_path):
    class Inputs:
        """No container that the library knows how to write."""

        def __init__(self, tensor):
            self.tensor = tensor

    class Reads(OutlierMLP):
        def forward(self, inputs):
            return super().forward(inputs.tensor)

    model, data = OutlierMLP().eval(), rows()
    context = RunContext(calibration=tmp_path / "file")
    with running_in(replace(context, shard=(0, 2))), pytest.raises(ArgumentError, match="shards=True: calib_func"):
        torch_ext.autotune(model, calib_func=lambda model: [model(each) for each in data], progress=False)
    result, _ = found(context, model, Counted(data), **NEAREST)
    assert result.recipe.operators
    other = RunContext(calibration=tmp_path / "other")
    with running_in(other):
        torch_ext.autotune(
            Reads().eval(), calib_func=lambda model: [model(Inputs(each)) for each in data], progress=False
        )
    assert not other.calibration.exists()
