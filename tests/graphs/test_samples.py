"""What of an item is a sample, and how a limit of samples is spread over large items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from inc_autotune.core.data.batch_axis import NOT_A_BATCH
from inc_autotune.graphs.feed import Feed, InputDescription, named_feed
from inc_autotune.graphs.feeds import unlabelled
from inc_autotune.graphs.samples import SPREAD_ITEMS, SampleAxis

GENERATOR = np.random.default_rng(0)
Model = Callable[[np.ndarray], np.ndarray]


def rows(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


def axis_of(model: Model) -> SampleAxis:
    return SampleAxis(lambda feed: [model(feed.inputs["x"])])


def checked(model: Model, value: np.ndarray, declared: tuple[int | None, ...]) -> Feed:
    inputs = [InputDescription("x", np.dtype(np.float32), declared)]
    return axis_of(model).checked(named_feed({"x": value}, inputs, "data"))


def per_row(x: np.ndarray) -> np.ndarray:
    return np.tanh(x)


DEPENDENT: dict[str, Model] = {
    "causal": lambda x: np.cumsum(x, axis=0),
    "backwards": lambda x: np.cumsum(x[::-1], axis=0)[::-1],
    "neighbours": lambda x: x + np.roll(x, 1, axis=0),
    "normalized": lambda x: x - x.mean(axis=0),
    "reversed": lambda x: x[::-1],
    "one number": lambda x: np.square(x).sum(),
    "shorter": lambda x: x[: len(x) // 2] + x[len(x) - len(x) // 2 :],
}


def test_rows_computed_one_by_one_are_samples_and_may_be_cut() -> None:
    feed = checked(per_row, rows(12, 3), (None, 3))
    assert (feed.size, feed.divisible) == (12, True)


@pytest.mark.parametrize("declared", [(None, 3), (12, 3)])
@pytest.mark.parametrize("model", DEPENDENT.values(), ids=DEPENDENT)
def test_rows_that_depend_on_each_other_are_one_sample(model: Model, declared: tuple[int | None, ...]) -> None:
    feed = checked(model, rows(12, 3), declared)
    assert (feed.size, feed.divisible) == (1, False)


def test_a_fixed_batch_of_rows_computed_one_by_one_counts_but_is_not_cut() -> None:
    feed = checked(per_row, rows(8, 3), (8, 3))
    assert (feed.size, feed.divisible) == (8, False)


def test_a_vector_is_one_sample() -> None:
    weight = rows(32, 16)
    feed = checked(lambda x: x @ weight, rows(32), (32,))
    assert (feed.size, feed.divisible) == (1, False)


def test_a_table_that_happens_to_have_as_many_rows_is_no_batch() -> None:
    inputs = [InputDescription(name, np.dtype(np.float32), (None, 3)) for name in ("x", "table")]
    axis = SampleAxis(lambda feed: [feed.inputs["x"] @ feed.inputs["table"].T])
    feed = axis.checked(named_feed({"x": rows(5, 3), "table": rows(5, 3)}, inputs, "data"))
    assert (feed.size, feed.divisible) == (1, False)
    assert axis.notes == [NOT_A_BATCH]


def test_an_item_of_one_row_proves_nothing_for_the_next() -> None:
    axis = axis_of(DEPENDENT["causal"])
    inputs = [InputDescription("x", np.dtype(np.float32), (None, 3))]
    items = [rows(1, 3), rows(12, 3), rows(7, 3)]
    assert [(feed.size, len(feed.inputs["x"])) for feed in unlabelled(iter(items), inputs, 100, "data", axis=axis)] == [
        *((1, 1), (1, 12), (1, 7))
    ]


def given(sizes: list[int], limit: int) -> tuple[list[int], int, list[str]]:
    """Samples taken from each item, how many items were read, and notes."""
    read = 0

    def items():
        nonlocal read
        value = np.empty((max(sizes), 3), np.float32)
        for number, size in enumerate(sizes):
            read += 1
            value[:] = number  # as loaders do that use their memory again
            yield value[:size]

    inputs = [InputDescription("x", np.dtype(np.float32), (None, 3))]
    axis = axis_of(per_row)
    feeds = list(unlabelled(items(), inputs, limit, "data", axis=axis))
    for feed in feeds:
        assert len(np.unique(feed.inputs["x"])) == 1
    assert sorted(feed.inputs["x"][0, 0] for feed in feeds) == [feed.inputs["x"][0, 0] for feed in feeds]
    return [feed.size for feed in feeds], read, axis.notes


def test_items_below_the_limit_are_taken_as_they_are() -> None:
    assert given([40, 40, 40, 40], 100) == ([40, 40, 20], 3, [])


def test_large_items_give_a_share_each() -> None:
    sizes, read, notes = given([120] * 40, 100)
    assert sum(sizes) == 100
    assert len(sizes) == read == SPREAD_ITEMS
    assert max(sizes) - min(sizes) <= 4
    assert "taken from the first 8 items" in notes[0]


@pytest.mark.parametrize(
    ("items", "limit", "taken"),
    [([500], 100, [100]), ([100, 1], 100, [99, 1]), ([100, 3, 100], 100, [63, 3, 34]), ([4, 4, 4], 2, [1, 1])],
)
def test_few_or_small_items_behind_a_large_one(items: list[int], limit: int, taken: list[int]) -> None:
    sizes, _, notes = given(items, limit)
    assert sizes == taken
    assert bool(notes) == (len(taken) > 1)


def test_a_limit_of_one_sample_reads_one_item() -> None:
    assert given([4, 4], 1) == ([1], 1, [])
