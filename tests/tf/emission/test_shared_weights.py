"""A weight that several operators read is stored once, as it is in fp32."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from inc_autotune import tf_ext
from inc_autotune.tf_ext.adaptor import TensorFlowAdaptor
from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.model.source import load_source
from inc_autotune.tf_ext.target.choices import GraphChoices
from tests.tf.quantizing import random, source_of

STEPS, WIDTH = 4, 48


class Recurrent(tf.Module):
    """An unrolled recurrence, whose two matrices every step reads, under two signatures."""

    def __init__(self):
        self.inner = tf.Variable(random(WIDTH, WIDTH) / WIDTH**0.5)
        self.outer = tf.Variable(random(WIDTH, WIDTH, seed=1) / WIDTH**0.5)

    def states(self, x):
        state = tf.zeros_like(x[:, 0])
        for step in range(STEPS):
            state = tf.tanh(x[:, step] @ self.outer + state @ self.inner)
        return state

    @tf.function(input_signature=[tf.TensorSpec([None, STEPS, WIDTH], name="x")])
    def last(self, x):
        return {"state": self.states(x)}

    @tf.function(input_signature=[tf.TensorSpec([None, STEPS, WIDTH], name="x")])
    def first(self, x):
        return {"state": tf.tanh(x[:, 0] @ self.outer) @ self.inner}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    module, path = Recurrent(), tmp_path_factory.mktemp("model") / "recurrent"
    tf.saved_model.save(module, str(path), {"serving_default": module.last, "first": module.first})
    return path


def integer_weights(model):
    """The arrays of int8 in all signatures: each as often as it is stored."""
    arrays = {id(each): each for graph in model.signatures.values() for each in graph.weights.values()}
    return [each for each in arrays.values() if each.dtype == np.int8]


def matrices(model):
    """The arrays of the size of a matrix in all signatures: each as often as it is stored."""
    arrays = {id(each): each for graph in model.signatures.values() for each in graph.weights.values()}
    return [each for each in arrays.values() if each.shape == (WIDTH, WIDTH)]


def float_bytes(model):
    arrays = {id(each): each for graph in model.signatures.values() for each in graph.weights.values()}
    return sum(each.nbytes for each in arrays.values() if each.dtype == np.float32)


class Quantizer:
    """An adaptor with its model, calibrated."""

    def __init__(self, source, data, signatures=None, form="kernels"):
        self.model = Candidate(source)
        self.adaptor = TensorFlowAdaptor(signatures=signatures, choices=GraphChoices(form=form))
        self.adaptor.calibrate(self.model, data, (16,))
        self.operators = self.adaptor.query_fw_capability(self.model)["opwise"]

    def config(self, alpha=None, **more):
        op = {
            key: {**options[0], **({} if alpha is None else {"alpha": alpha})}
            for key, options in self.operators.items()
        }
        return {"op": op, "calib_iteration": 16, **more}

    def built(self, alpha=None):
        return self.adaptor.quantize(self.config(alpha), self.model, None)


DATA = random(16, STEPS, WIDTH, seed=2)


@pytest.mark.parametrize("form", ["kernels", "qdq"])
def test_steps_of_a_recurrence_share_their_weights(path, form):
    quantizer = Quantizer(load_source(path, "serving_default"), DATA, form=form)
    assert len(quantizer.operators) == 2 * STEPS
    built = quantizer.built()
    assert [each.dtype for each in matrices(built.model)] == [np.int8 if form == "kernels" else np.float32] * 2
    for half in ("weight", "activation"):
        simulated = quantizer.adaptor.half_quantized(quantizer.config(), quantizer.model, half)
        assert len(integer_weights(simulated.model)) == (2 if half == "weight" else 0)
        assert float_bytes(simulated.model) < 3 * 4 * WIDTH * WIDTH


def test_signatures_share_their_weights(path):
    data = {"serving_default": DATA, "first": DATA}
    quantizer = Quantizer(load_source(path), data, list(data))
    built = quantizer.built()
    assert len(integer_weights(built.model)) == 2


def test_candidates_share_their_weights(path):
    quantizer = Quantizer(load_source(path, "serving_default"), DATA)
    one, other = ({id(each) for each in integer_weights(quantizer.built().model)} for _ in range(2))
    assert one == other


def test_equal_convolutions_share_their_weights_as_matrices_too():
    kernel = random(1, 1, 48, 48)
    source = source_of(
        lambda x: tf.tanh(tf.nn.conv2d(tf.tanh(tf.nn.conv2d(x, kernel, 1, "SAME")), kernel, 1, "SAME")),
        tf.TensorSpec((None, 4, 4, 48), name="x"),
    )
    built = Quantizer(source, random(16, 4, 4, 48, seed=3)).built()
    assert len(integer_weights(built.model)) == 1


def test_weights_that_differ_in_what_follows_them_are_not_shared():
    """A factor behind the product belongs to the weight of its integer kernel."""
    weight = random(48, 48)
    factor = np.linspace(0.5, 2, 48, dtype=np.float32)
    source = source_of(
        lambda x: {"plain": x @ weight, "scaled": (tf.tanh(x) @ weight) * factor}, tf.TensorSpec((None, 48), name="x")
    )
    data = random(16, 48, seed=4)
    quantizer = Quantizer(source, data)
    operators = quantizer.adaptor.analysis(quantizer.model).operators.values()
    assert [each.epilogue.multiplier is not None for each in operators].count(True) == 1
    built = quantizer.built()
    assert len(integer_weights(built.model)) == 2
    expected = Candidate(source).callable(data)
    for name, value in built.callable(data).items():
        error = np.square(value - expected[name]).mean() / np.square(expected[name]).mean()
        assert error < 1e-3


@pytest.mark.parametrize("alpha", [0.5, 0.0])
def test_smoothed_steps_share_a_scale_and_their_weights(path, alpha):
    quantizer = Quantizer(load_source(path, "serving_default"), DATA * np.linspace(0.1, 4, WIDTH, dtype=np.float32))
    built = quantizer.built(alpha)
    assert len(integer_weights(built.model)) == 2
    plan = quantizer.adaptor.plan(quantizer.config(alpha))
    assert len({each.smoothing.tobytes() for each in plan.calibrations.values()}) == 2


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_steps_get_no_alpha_of_their_own(path):
    tuned = tf_ext.autotune(
        path, DATA, signatures="serving_default", progress=False, smoothquant_args={"alpha": "auto"}
    )
    assert len({each.config.alpha for each in tuned.recipe.operators.values()}) == 1
    assert len(integer_weights(tuned.model)) == 2
