"""Calibration that travels in a file."""

from __future__ import annotations

import numpy as np
import pytest

from inc_autotune import ort_ext
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.run_context import RunContext, running_in
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
