"""Scales by exponents and statistics of the weights; SmoothQuant's own form is tested in test_smoothquant.py."""

import numpy as np
import pytest

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import SMOOTHQUANT, SmoothingForm
from inc_autotune.core.quantization.smoothing_scale import group_scale, group_weight_norm, smoothing_scale

ABSMAX = np.asarray([4.0, 9.0, 0.0], np.float32)
WEIGHTS = [np.asarray([[1.0, -2.0, 3.0]], np.float32), np.asarray([[0.0, 2.0, 4.0], [1.0, 1.0, 0.0]], np.float32)]


def test_a_scale_has_the_exponents_and_the_statistic_of_its_form():
    norm = np.sqrt(np.asarray([2.0, 9.0, 25.0]))
    np.testing.assert_allclose(group_weight_norm(WEIGHTS), norm, rtol=1e-6)
    largest = np.asarray([1.0, 2.0, 4.0])
    for form, expected in (
        (SMOOTHQUANT, ABSMAX**0.5 / largest**0.5),
        (SmoothingForm(0.0), ABSMAX**0.5),
        (SmoothingForm(0.2), ABSMAX**0.5 / largest**0.2),
        (SmoothingForm(weight="norm"), ABSMAX**0.5 / norm**0.5),
        (SmoothingForm(0.2, "norm"), ABSMAX**0.5 / norm**0.2),
    ):
        found = group_scale(ABSMAX, WEIGHTS, 0.5, form)
        np.testing.assert_allclose(found, [*expected[:2], 1.0], rtol=1e-6)
        assert found.dtype == np.float32


@pytest.mark.parametrize("beta", [-0.1, 1.1, True, "0.5"])
def test_an_exponent_outside_of_its_range_is_refused(beta):
    with pytest.raises(ArgumentError, match=r"beta=.*\nAllowed: a number from 0 to 1"):
        smoothing_scale(ABSMAX, ABSMAX, 0.5, beta)
