"""An Einsum with a constant weight is a matrix product, above all in attention over sequences of any length."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from inc_autotune import tf_ext
from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.model.source import load_source
from inc_autotune.tf_ext.operators.discovery import find_operators
from tests.tf.quantizing import graph_of, operators_in, quantized, random, source_of
from tests.tf.small_models import block_data, transformer_block

SIZES = {"a": 5, "b": 6, "c": 16, "d": 4, "e": 8, ".": 2}


def shape_of(letters):
    return tuple(SIZES[letter] for letter in letters.replace("...", "."))


def einsum(equation, *, swapped=False, known="c"):
    """A model of one Einsum, its data and what it should return; only the sizes of dimensions in `known` are known."""
    operands = equation.split("->")[0].split(",")
    activation, weight = operands[::-1] if swapped else operands
    value, data = random(*shape_of(weight)), random(*shape_of(activation), seed=1)
    shape = [SIZES[letter] if letter in known else None for letter in activation.replace("...", ".")]

    def function(x):
        return tf.einsum(equation, *((value, x) if swapped else (x, value)))

    expected = np.einsum(equation, *((value, data) if swapped else (data, value)))
    return source_of(function, tf.TensorSpec(shape, name="x")), data, expected


@pytest.mark.parametrize("known", ["cd", "bcd", "abcd"])
@pytest.mark.parametrize(
    "equation",
    [
        *("ac,ce->ae", "abc,cde->abde", "abcd,cde->abe", "abcd,dec->abe", "abc,edc->abde", "c,ce->e"),
        pytest.param("abc,cde->adbe", id="features between rows"),
        pytest.param("abc,bd->acd", id="a middle dimension is contracted"),
        pytest.param("abcd,bce->dea", id="everything moves"),
        pytest.param("abc,cde->abd", id="a sum over the weight alone"),
    ],
)
def test_a_product_in_any_spelling_is_quantized(equation, known):
    source, data, expected = einsum(equation, known=known)
    assert "Einsum" not in operators_in(Candidate(source))
    np.testing.assert_allclose(Candidate(source).callable(data).numpy(), expected, rtol=1e-4, atol=1e-5)
    model = quantized(source, data)
    assert operators_in(model).count("_QuantizedMatMul") == 1
    assert signal_to_noise_db(expected, model.callable(data).numpy()) > 30


def test_dimensions_without_letters_and_a_weight_that_comes_first():
    for equation, swapped in (("...bc,ce->...be", False), ("cde,abc->abde", True)):
        source, data, expected = einsum(equation, swapped=swapped)
        model = quantized(source, data)
        assert operators_in(model).count("_QuantizedMatMul") == 1
        assert signal_to_noise_db(expected, model.callable(data).numpy()) > 30


@pytest.mark.parametrize(
    "equation",
    [
        pytest.param("abc,bce->abe", id="a weight for each row"),
        pytest.param("abc,ce->ae", id="a sum over the activation alone"),
        pytest.param("abc,c->abc", id="no product"),
    ],
)
def test_what_is_no_product_stays_as_it_is(equation):
    source, data, expected = einsum(equation)
    assert operators_in(Candidate(source)).count("Einsum") == 1
    assert not find_operators(graph_of(source)).found
    np.testing.assert_allclose(Candidate(source).callable(data).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_attention_over_any_length_is_quantized_and_saved(tmp_path):
    model, data = transformer_block(length=None), block_data(16)
    tuned = tf_ext.autotune(model, data, progress=False, smoothquant_args={"alpha": 0.5})
    assert sum(each.dtype == "int8" for each in tuned.tuning_result.operators) == 7
    tf_ext.save(tuned, tmp_path / "int8")
    loaded = tf_ext.load(tmp_path / "int8").signatures["serving_default"]
    for length in (5, 12):
        other = block_data(8, length)
        real = other["attention_mask"].astype(bool)
        actual = next(iter(loaded(**{name: tf.constant(value) for name, value in other.items()}).values())).numpy()
        assert signal_to_noise_db(np.asarray(model(other))[real], actual[real]) > 25


def test_operators_of_one_length_and_of_any_are_the_same():
    found = [find_operators(graph_of(load_source(transformer_block(length)))).found for length in (12, None)]
    assert len(found[0]) == len(found[1]) == 8  # the table among them
    for fixed, free in zip(*(each.values() for each in found), strict=True):
        assert free.features == fixed.features
        assert (free.epilogue.bias is None) == (fixed.epilogue.bias is None)
    queries = [each.input for name, each in found[1].items() if any(part in name for part in ("query", "key", "value"))]
    assert len(queries) == 3
    assert len(set(queries)) == 1
