"""What outputs of graphs tell of an error."""

import numpy as np
import pytest

from inc_autotune.graphs.outputs import BLIND, ONLY_INTEGERS, comparable_arrays, comparison_note

SCORES, LABELS = np.array([[0.5, 0.25]], np.float32), np.array([1])


@pytest.mark.parametrize(
    ("outputs", "expected", "note"),
    [
        ([SCORES, LABELS], [SCORES], None),
        ([LABELS], [LABELS], ONLY_INTEGERS),
        ([np.array([True])], [np.ones(1)], ONLY_INTEGERS),
        ([LABELS, [SCORES, SCORES]], [SCORES, SCORES], None),
        ([[{"b": 0.25, "a": 0.5}, {"b": 1.0, "a": 0.0}]], [np.array([0.5, 0.25]), np.array([0.0, 1.0])], None),
        ([np.array(["a"], object)], [], BLIND),
        ([["a"]], [], BLIND),
        ([], [], BLIND),
    ],
)
def test_numbers_are_found_in_whatever_a_runtime_returns(outputs, expected, note):
    found = comparable_arrays(outputs)
    assert [each.tolist() for each in found] == [each.tolist() for each in expected]
    assert all(each.dtype.kind == "f" for each in found)
    assert comparison_note(outputs) == note
