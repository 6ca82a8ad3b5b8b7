"""A filter of zeros, as pruning leaves them, takes no accuracy from the others."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.tf_ext.model.candidate import Candidate
from tests.tf.quantizing import quantized, random, source_of


@pytest.mark.parametrize("dead", [0, 3])
def test_a_convolution_that_returns_floats(dead):
    filters = random(3, 3, 8, 16) / 6
    filters[..., :dead] = 0
    bias = random(16, seed=1)
    source = source_of(
        lambda x: tf.tanh(tf.nn.conv2d(x, filters, 1, "SAME") + bias), tf.TensorSpec((None, 6, 6, 8), name="x")
    )
    data = random(16, 6, 6, 8, seed=2)
    expected, found = (model.callable(data).numpy() for model in (Candidate(source), quantized(source, data)))
    assert signal_to_noise_db(expected[..., dead:], found[..., dead:]) > 30
    np.testing.assert_allclose(found[..., :dead], expected[..., :dead], atol=0.01)
