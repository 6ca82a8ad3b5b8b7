"""What outputs of graphs tell of an error."""

import numpy as np
import pytest

from inc_autotune.graphs.feed import Feed
from inc_autotune.graphs.outputs import BLIND, ONLY_INTEGERS, comparable_arrays, comparison_note
from inc_autotune.graphs.padding import comparable_outputs

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


def test_scores_of_words_are_compared_without_what_all_words_have_in_common():
    random = np.random.default_rng(0)
    logits = random.normal(size=(2, 5, 1200)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    feed = Feed({"input_ids": random.integers(0, 1200, (2, 5)), "attention_mask": mask}, 2, frozenset({"input_ids"}))
    hidden = random.normal(size=(2, 5, 24)).astype(np.float32)
    first, second = ([logits + common, hidden] for common in (0.0, random.normal(size=(2, 5, 1))))
    for one, other in zip(comparable_outputs(feed, first), comparable_outputs(feed, second), strict=True):
        assert len(one) == 8
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert comparable_outputs(feed, first)[1].tobytes() == hidden[mask.astype(bool)].tobytes()
