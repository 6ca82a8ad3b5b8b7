"""Whether rows along the first dimension are samples is found out from outputs."""

import numpy as np
import pytest

from inc_autotune.core.data.batch_axis import NOT_A_BATCH, BatchAxis, is_batch
from inc_autotune.graphs.feed import Feed

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(5, 3))


def feed(x):
    return Feed({"x": x}, len(x), frozenset({"x"}))


def proves(function, samples=40):
    return is_batch(lambda batch: function(batch.inputs["x"]), feed(RNG.normal(size=(samples, 5))))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x @ WEIGHT],
        lambda x: [(x @ WEIGHT).astype(np.float32) * (1 + 1e-6 * len(x))],
        lambda x: [x @ WEIGHT, np.arange(7.0)],
        lambda x: [x @ WEIGHT, np.square(x).mean()],
        lambda x: [x @ WEIGHT, x @ x.T],
        lambda x: [(x @ WEIGHT).reshape(-1)],
        lambda x: [np.squeeze(x @ WEIGHT)],
        lambda x: [np.squeeze(x @ WEIGHT[:, :1])],
        lambda x: list(x @ WEIGHT),
        lambda x: [np.where(x < x.max(1, keepdims=True), x, np.nan)],
    ],
    ids=[
        *("rows", "rounding", "a constant", "a loss", "similarities", "flat rows", "squeezed", "squeezed to a number"),
        *("a list", "NaN"),
    ],
)
@pytest.mark.parametrize("samples", [2, 3, 40])
def test_rows_that_are_samples_are_a_batch(function, samples):
    assert proves(function, samples)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [np.cumsum(x, 0)],
        lambda x: [np.cumsum(x[::-1], 0)[::-1]],
        lambda x: [x - x.mean(0)],
        lambda x: [x @ WEIGHT, x.max(0)],
        lambda x: [x.max(0)],
        lambda x: [np.square(x).mean()],
        lambda x: [x[: len(x) // 2] + x[len(x) - len(x) // 2 :]],
        lambda x: [x[::-1]],
        lambda x: [],
        lambda x: [np.full_like(x, np.nan)],
        lambda x: [x] if len(x) > 1 else None,
        lambda x: [x] if len(x) == 1 else None,
    ],
    ids=[
        *("causal", "backwards", "centred", "pooled beside", "pooled", "only a loss", "pairs", "reversed", "nothing"),
        *("only NaN", "no single sample", "only single samples"),
    ],
)
@pytest.mark.parametrize("samples", [2, 40])
def test_rows_that_depend_on_each_other_are_no_batch(function, samples):
    assert not proves(function, samples)


def test_an_item_is_one_sample_from_the_first_with_several_rows_on():
    calls = []

    def run(batch):
        calls.append(batch.size)
        return [np.cumsum(batch.inputs["x"], 0)]

    axis = BatchAxis(run, Feed.whole)
    assert axis.checked(feed(np.ones((1, 5)))).divisible
    assert calls == axis.notes == []
    assert not axis.checked(feed(np.ones((8, 5)))).divisible
    assert not axis.checked(feed(np.ones((6, 5)))).divisible
    assert calls == [1, 1, 8, 8], "the first and the last row, all of them, and again to see that no numbers are drawn"
    assert axis.notes == [NOT_A_BATCH]


def test_each_form_of_a_batch_is_proved():
    sizes = []

    def run(batch):
        sizes.append(batch.size)
        return [batch.inputs["x"]]

    axis = BatchAxis(run, Feed.whole, lambda batch: batch.inputs["x"].ndim)
    assert axis.checked(feed(np.ones((4, 5)))).divisible
    assert axis.checked(feed(np.ones((4, 5, 2)))).divisible
    assert axis.checked(feed(np.ones((6, 5)))).divisible
    assert sizes == [1, 1, 4] * 2
    assert axis.notes == []


@pytest.mark.parametrize(("couple", "expected"), [(lambda x: x, True), (lambda x: np.cumsum(x, 0), False)])
def test_rows_of_a_model_that_draws_random_numbers_may_differ_as_its_runs_do(couple, expected):
    generator = np.random.default_rng(0)
    assert proves(lambda x: [couple(x) + 0.1 * generator.normal(size=x.shape)]) is expected
