import numpy as np
import pytest

from inc_autotune.core.analysis.gain import gain
from inc_autotune.testing import MinimalNumpyAdaptor, NumpyAdaptor, random_model


class Measuring(MinimalNumpyAdaptor):
    """Costs by model, chosen by the test."""

    def __init__(self, seconds=None, sizes=None, footprints=None):
        super().__init__()
        self.seconds, self.sizes, self.footprints = seconds, sizes, footprints

    def measure(self, models):
        return None if self.seconds is None else [self.seconds[model] for model in models]

    def model_size(self, model):
        return None if self.sizes is None else self.sizes[model]

    def footprint(self, models):
        return None if self.footprints is None else [self.footprints[model] for model in models]


ALL = {
    "seconds": {"fp32": 3.0, "int8": 1.5},
    "sizes": {"fp32": 400, "int8": 100},
    "footprints": {"fp32": 900, "int8": 600},
}


@pytest.mark.parametrize(("objective", "expected"), [("performance", 2.0), ("modelsize", 4.0), ("footprint", 1.5)])
def test_a_gain_is_the_cost_of_fp32_over_that_of_the_candidate(objective, expected):
    assert gain(Measuring(**ALL), objective, "fp32", "int8") == expected


@pytest.mark.parametrize("objective", ["performance", "modelsize", "footprint"])
def test_what_is_not_measured_is_no_gain(objective):
    assert gain(Measuring(), objective, "fp32", "int8") is None


def test_a_cost_of_nothing_is_no_gain():
    assert gain(Measuring(sizes={"fp32": 400, "int8": 0}), "modelsize", "fp32", "int8") is None


def test_memory_at_run_time_shrinks_less_than_the_weights():
    adaptor, model = NumpyAdaptor(), random_model()
    data = [np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)]
    adaptor.calibrate(model, data, (32,))
    opwise = adaptor.query_fw_capability(model)["opwise"]
    everything = {"op": {operator: options[0] for operator, options in opwise.items()}, "calib_iteration": 32}
    candidate = adaptor.quantize(everything, model, data)
    assert gain(adaptor, "modelsize", model, candidate) == 4.0
    assert 1.0 < gain(adaptor, "footprint", model, candidate) < 4.0
