"""Items of a loader become the named inputs of a model, whatever its framework."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from inc_autotune.core.errors import ArgumentError, DataError
from inc_autotune.graphs.feed import Feed, InputDescription, named_feed
from inc_autotune.graphs.feeds import labelled, loader_items, unlabelled
from inc_autotune.graphs.samples import SampleAxis

X = np.arange(12, dtype=np.float32).reshape(4, 3)
IDS, MASK = np.arange(8).reshape(2, 4), np.ones((2, 4), np.int64)
LABEL = np.asarray([0, 1])

ONE = [InputDescription("x", np.dtype(np.float32), (None, 3))]
TWO = [InputDescription(name, np.dtype(np.int64), ("batch", "sequence")) for name in ("ids", "mask")]


def first(item: Any, inputs: list[InputDescription], **options: Any) -> Any:
    return next(unlabelled(iter([item]), inputs, None, "data", **options))


@pytest.mark.parametrize("item", [X, (X,), [X], (X, 1), {"x": X}, ({"x": X}, 1), ((X,), 1), {"x": X, "label": 1}])
def test_forms_of_items_for_one_input(item: Any) -> None:
    feed = first(item, ONE)
    assert np.array_equal(feed.inputs["x"], X)
    assert (feed.size, feed.batched, feed.single) == (4, {"x"}, False)


@pytest.mark.parametrize(
    "item", [(IDS, MASK), (IDS, MASK, LABEL), ((IDS, MASK), LABEL), {"mask": MASK, "ids": IDS, "labels": LABEL}]
)
def test_forms_of_items_for_two_inputs(item: Any) -> None:
    feed = first(item, TWO)
    assert np.array_equal(feed.inputs["ids"], IDS)
    assert np.array_equal(feed.inputs["mask"], MASK)


@pytest.mark.parametrize(("takes_any", "sizes"), [(True, [4, 1]), (False, [4, 4])])
def test_batches_are_cut_only_where_the_model_takes_one_sample(takes_any: bool, sizes: list[int]) -> None:
    asked = []

    def outputs(feed: Feed) -> list[Any] | None:
        asked.append(len(feed.inputs["x"]))
        return [2 * feed.inputs["x"]] if takes_any or asked[-1] == 4 else None

    axis = SampleAxis(outputs)
    assert [feed.size for feed in unlabelled(iter([X, X, X]), ONE, 5, "data", axis=axis)] == sizes
    assert asked == ([1, 1, 4] if takes_any else [1, 4, 4, 4])
    assert axis.notes == []


def test_a_single_sample_is_a_batch_of_one() -> None:
    feed = first((IDS[0], MASK[0]), TWO)
    assert feed.single
    assert feed.inputs["ids"].shape == (1, 4)
    ((_, label),) = labelled(iter([(X[0], 7)]), ONE, "data")
    assert label.tolist() == [7]


def test_one_input_without_a_batch_is_a_mistake() -> None:
    with pytest.raises(DataError, match=r"'ids' is .* rank 1.*value\[None\]"):
        first((IDS[0], MASK), TWO)


def test_positions_mean_nothing_where_there_is_no_order() -> None:
    with pytest.raises(DataError, match=r"no order: ids.*Give dicts by name"):
        first((IDS, MASK), TWO, ordered=False)
    assert np.array_equal(first({"ids": IDS, "mask": MASK}, TWO, ordered=False).inputs["ids"], IDS)
    assert np.array_equal(first((X,), ONE, ordered=False).inputs["x"], X)


def test_the_limit_cuts_the_last_batch_and_reads_no_further() -> None:
    read = []

    def items() -> Iterator[Any]:
        for index in range(5):
            read.append(index)
            yield X

    assert [feed.size for feed in unlabelled(items(), ONE, 6, "data")] == [4, 2]
    assert read == [0, 1]


def test_a_copy_does_not_change_with_the_loaders_memory() -> None:
    memory = X.copy()
    feed = named_feed({"x": memory}, ONE, "data").copy()
    memory[:] = 0
    assert np.array_equal(feed.inputs["x"], X)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "is empty"),
        ([{"y": X, "x": X}, X], "items of different forms"),
        ([{"z": X}], r"missing: 'x'; unknown: 'z'"),
        ([X[:, :2]], "dimension 1 .* is 2, but the model fixes it to 3"),
        ([X[:0]], "without samples"),
        ([X.astype(np.complex64)], "would be rounded"),
        ([[1.0, 2.0, 3.0]], "does not fit the model's 1 inputs"),
    ],
)
def test_items_that_do_not_fit(items: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=f"data .*{words}|data: .*{words}"):
        list(unlabelled(iter(items), ONE, None, "data"))


def test_labels_are_needed() -> None:
    with pytest.raises(DataError, match="there is no label"):
        next(labelled(iter([X]), ONE, "data"))
    with pytest.raises(DataError, match="an item without a label"):
        list(labelled(iter([(X, LABEL), (X, None)]), ONE, "data"))


class Samples:
    """Like a torch Dataset: it has a length, but never raises IndexError."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return X[index % 4]


def test_loaders() -> None:
    assert len(list(loader_items(Samples(), "data", "anything"))) == 3
    with pytest.raises(ArgumentError, match=r"data=3 cannot be iterated over. Allowed: anything"):
        loader_items(3, "data", "anything")
