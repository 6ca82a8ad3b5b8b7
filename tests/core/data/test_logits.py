"""Which outputs are scores of words, and what of them counts."""

import numpy as np
import pytest
import torch

from inc_autotune.core.data import scores_words, without_common_part


def ids(largest, shape=(2, 7)):
    return np.full(shape, largest, np.int64)


@pytest.mark.parametrize(
    ("shape", "inputs", "expected"),
    [
        ((2, 7, 5000), [ids(4999)], True),
        ((2, 7, 5000), [ids(4999), np.ones((2, 7), np.int64)], True),
        ((2, 7, 5000), [ids(4999), np.zeros((2, 3, 8, 8), np.float32)], True),
        ((2, 7, 5000), [ids(5000)], False),  # hidden states: fewer columns than words
        ((2, 7, 512), [ids(9)], False),
        ((2, 5000), [ids(9)], False),
        ((2, 7, 5000), [], False),
        ((2, 7, 5000), [ids(9, (2, 6))], False),
        ((2, 7, 5000), [np.zeros((2, 7), np.float32)], False),
        ((0, 7, 5000), [ids(9, (0, 7))], False),
    ],
)
def test_scores_of_words_are_known_by_the_ids_that_go_in(shape, inputs, expected):
    assert scores_words(shape, inputs) is expected


@pytest.mark.parametrize("of", [np.asarray, torch.from_numpy])
def test_what_all_words_have_in_common_does_not_count(of):
    logits = np.random.default_rng(0).normal(size=(2, 3, 11)).astype(np.float32)
    common = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    expected = np.asarray(without_common_part(of(logits)))
    np.testing.assert_allclose(np.asarray(without_common_part(of(logits + common))), expected, atol=1e-5)
    np.testing.assert_allclose(expected.mean(-1), 0, atol=1e-6)
    assert expected.dtype == np.float32
