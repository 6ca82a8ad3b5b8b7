"""Calibration that travels in a file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from inc_autotune import ort_ext
from inc_autotune.core.errors import ArgumentError, CalibrationError
from inc_autotune.core.files import read_arrays
from inc_autotune.core.run_context import CalibrationDone, RunContext, running_in
from inc_autotune.graphs.calibration_state import unpack_calibration
from tests.ort.small_models import conv_net, linear_chain


class Counted:
    """Batches, and how often they were read."""

    def __init__(self, *shape):
        self.readings = 0
        self._shape = shape

    def __iter__(self):
        self.readings += 1
        generator = np.random.default_rng(1)
        return iter([generator.normal(size=(4, *self._shape)).astype(np.float32) for _ in range(6)])


@pytest.fixture
def file(tmp_path):
    return tmp_path / "calibration.safetensors"


def tuned(model, data, file, **given):
    with running_in(RunContext(calibration=file)):
        return ort_ext.autotune(model, data, progress=False, **given).tuning_result


@pytest.mark.parametrize(
    ("model", "shape", "given"),
    [
        (linear_chain, (32,), {"op_type_dict": {"MatMul": {"activation": {"algorithm": ["kl"]}}}}),
        (conv_net, (3, 8, 8), {"sampling_sizes": [8, 20]}),
    ],
    ids=["histograms", "two sizes"],
)
def test_what_one_process_found_serves_the_others(model, shape, given, file):
    data = Counted(*shape)
    first, second = (tuned(model(), data, file, **given) for _ in range(2))
    assert data.readings == 1
    alone = ort_ext.autotune(model(), Counted(*shape), progress=False, **given).tuning_result
    for each in (first, second):
        assert each.recipe.operators == alone.recipe.operators
        assert each.smoothing == alone.smoothing
        assert each.notes == alone.notes


def test_a_file_of_another_call_or_a_damaged_one_is_an_error(file):
    tuned(linear_chain(), Counted(32), file)
    for model, given, changed in ((linear_chain(), {"seed": 3}, "seed"), (conv_net(), {}, "model")):
        with pytest.raises(ArgumentError, match=f"another {changed}"):
            tuned(model, Counted(32), file, **given)
    for content in (b"", file.read_bytes()[:-9]):
        file.write_bytes(content)
        with pytest.raises(ArgumentError, match="damaged"):
            tuned(linear_chain(), Counted(32), file)


def test_shards_are_merged_to_what_one_process_finds(tmp_path):
    """All batches of both folds and those held out, at two sampling sizes, with a file lost on the way."""
    given = {"op_type_dict": {"MatMul": {"activation": {"algorithm": ["kl"]}}}, "sampling_sizes": [8, 20]}
    found = []

    def begun(context):
        found.append(read_arrays(context.calibration))

    def tuned_as(context):
        with running_in(replace(context, begun=begun)):
            ort_ext.autotune(linear_chain(), Counted(32), progress=False, **given)

    parts = tuple(tmp_path / f"part {n}" for n in (1, 2))

    def calibrating(contexts):
        with running_in(contexts[0]), pytest.raises(CalibrationDone):
            ort_ext.autotune(linear_chain(), Counted(32), progress=False, **given)
        return lambda: None

    tuned_as(RunContext(calibration=tmp_path / "one"))
    tuned_as(RunContext(calibration=tmp_path / "three", parts=parts, calibrating=calibrating))
    assert [part.exists() for part in parts] == [True, False]
    one, three = (
        unpack_calibration(json.loads(about["calibration"])["found"]["calibrations"][""], arrays)
        for arrays, about in found
    )
    assert (one.samples, one.digest, one.note, one.unfit) == (three.samples, three.digest, three.note, three.unfit)
    for size in (8, 20, 24):
        for mine, others in zip(one.snapshot(size).parts, three.snapshot(size).parts, strict=True):
            assert mine.keys() == others.keys()
            for name, each in mine.items():
                assert each.count == others[name].count
                if each.count:
                    np.testing.assert_array_equal(each.channel_mean, others[name].channel_mean)
                    for algorithm in ("minmax", "kl"):
                        ranges = (every.activation_range(algorithm, "uint8", "asym") for every in (each, others[name]))
                        assert len(set(ranges)) == 1
    for mine, others in zip(one.held_out.outputs, three.held_out.outputs, strict=True):
        np.testing.assert_array_equal(mine, others)
    assert one.moments.keys() == three.moments.keys() != set()
    for name, moment in one.moments.items():
        for (*_, mine), (*_, others) in zip(moment.blocks(), three.moments[name].blocks(), strict=True):
            np.testing.assert_allclose(mine, others, rtol=1e-4, atol=1e-5)


def test_shards_of_different_data_are_an_error(tmp_path):
    def calibrating(contexts):
        with running_in(contexts[0]), pytest.raises(CalibrationDone):
            ort_ext.autotune(linear_chain(), [np.ones((4, 32), np.float32)] * 6, progress=False)
        return lambda: None

    context = RunContext(calibration=tmp_path / "two", parts=(tmp_path / "part",), calibrating=calibrating)
    with running_in(context), pytest.raises(CalibrationError, match="different calibration data"):
        ort_ext.autotune(linear_chain(), Counted(32), progress=False)
