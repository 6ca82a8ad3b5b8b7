"""How far outputs are apart."""

import math

import numpy as np
import pytest

from inc_autotune.core.analysis.output_error import relative_error

VALUES = np.array([1.0, -2.0, 2.0], np.float32)


def test_squared_error_over_squared_reference_averaged_over_outputs():
    assert relative_error([VALUES], [VALUES]) == 0
    assert relative_error([VALUES], [np.zeros(3, np.float32)]) == 1
    assert relative_error([VALUES, VALUES], [VALUES, np.zeros(3, np.float32)]) == 0.5
    assert relative_error([], []) == 0


@pytest.mark.parametrize("masked", [-np.inf, np.inf, np.finfo(np.float32).min, 1e20])
def test_masked_elements_are_not_compared(masked):
    reference = np.array([1.0, masked, 2.0], np.float32)
    assert relative_error([reference], [reference]) == 0
    assert relative_error([reference], [np.array([1.0, 0.0, 1.0], np.float32)]) == pytest.approx(0.2)


def test_outputs_of_another_shape_or_number_are_unrelated():
    assert relative_error([VALUES, VALUES], [VALUES, VALUES[:2]]) == 0.5
    assert relative_error([VALUES], [VALUES, VALUES]) == 0.5
    assert relative_error([VALUES, VALUES], [VALUES]) == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_candidate_that_is_not_finite_is_infinitely_far(value):
    assert relative_error([VALUES], [np.array([1.0, value, 2.0], np.float32)]) == math.inf
