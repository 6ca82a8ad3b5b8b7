"""Loaders of every form become the inputs of a session."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader
from torch.utils.data import DataLoader, TensorDataset

from inc_autotune.core.errors import ArgumentError, DataError
from inc_autotune.graphs.feed import InputDescription
from inc_autotune.ort_ext.data.feeds import feeds, labelled_feeds

Shape = tuple[int | str | None, ...]


def described(name: str, shape: Shape | None = ("batch", 3), dtype: Any = np.float32) -> InputDescription:
    return InputDescription(name, np.dtype(dtype), shape)


ONE = [described("x")]
TWO = [described("ids", ("batch", "sequence"), np.int64), described("mask", ("batch", "sequence"), np.int64)]
X = np.arange(12, dtype=np.float32).reshape(4, 3)
IDS, MASK = np.arange(8).reshape(2, 4), np.ones((2, 4), np.int64)
LABEL = np.asarray([0, 1])


def first(items: Any, inputs: list[InputDescription]) -> dict[str, np.ndarray]:
    return next(feeds(items, inputs)).inputs


@pytest.mark.parametrize(
    "item",
    [X, torch.tensor(X), (X,), [X], (X, LABEL), [torch.tensor(X), 1], {"x": X}, ({"x": X}, LABEL), ((X,), LABEL)],
)
def test_forms_of_items_for_one_input(item: Any) -> None:
    feed = first([item], ONE)
    assert list(feed) == ["x"]
    assert np.array_equal(feed["x"], X)


@pytest.mark.parametrize(
    "item",
    [
        *((IDS, MASK), [IDS, MASK], (IDS, MASK, LABEL), ((IDS, MASK), LABEL), ([IDS, MASK], LABEL), ((IDS, MASK),)),
        *({"mask": MASK, "ids": IDS}, UserDict(ids=IDS, mask=MASK), {"ids": IDS, "mask": MASK, "labels": LABEL}),
        *(({"ids": IDS, "mask": MASK},), ({"ids": IDS, "mask": MASK}, LABEL), (torch.tensor(IDS), torch.tensor(MASK))),
    ],
)
def test_forms_of_items_for_two_inputs(item: Any) -> None:
    feed = first([item], TWO)
    assert list(feed) == ["ids", "mask"]
    assert np.array_equal(feed["ids"], IDS)
    assert np.array_equal(feed["mask"], MASK)


def test_an_input_with_the_name_of_a_label_is_an_input() -> None:
    assert list(first([{"x": X, "y": X}], [described("x"), described("y")])) == ["x", "y"]


@pytest.mark.parametrize(
    "loader",
    [
        *(DataLoader(TensorDataset(torch.tensor(X)), batch_size=2), TensorDataset(torch.tensor(X)[:, None])),
        *([X[:2], X[2:]], iter([X[:2], X[2:]]), (X[i : i + 1] for i in range(4))),
    ],
)
def test_forms_of_loaders(loader: Any) -> None:
    assert np.array_equal(np.concatenate([feed.inputs["x"] for feed in feeds(loader, ONE)]), X)


class Reader(CalibrationDataReader):
    """A reader of onnxruntime, with a rewind as in its examples."""

    def __init__(self) -> None:
        self.rewind()

    def rewind(self) -> None:
        self._items: Iterator[Any] = iter([{"x": X[:2]}, {"x": X[2:]}])

    def get_next(self) -> Any:
        return next(self._items, None)


def test_a_calibration_data_reader_is_rewound_and_read_to_its_end() -> None:
    reader = Reader()
    reader.get_next()
    assert [feed.size for feed in feeds(reader, ONE)] == [2, 2]


def test_a_loader_is_read_no_further_than_needed() -> None:
    read = []

    def loader() -> Iterator[np.ndarray]:
        for index in range(100):
            read.append(index)
            yield X

    assert [feed.size for feed in feeds(loader(), ONE, limit=10)] == [4, 4, 2]
    assert read == [0, 1, 2]


def test_batches_may_differ_in_length_and_size() -> None:
    items = [(np.ones((size, length), np.int64),) * 2 for size, length in ((2, 4), (1, 9), (5, 3))]
    assert [feed.size for feed in feeds(items, TWO)] == [2, 1, 5]


def test_a_batch_is_cut_only_where_the_model_allows_it() -> None:
    other = described("table", (None, 2))
    feed = next(feeds([(X, np.ones((7, 2)))], [described("x"), other], limit=3))
    assert feed.inputs["x"].shape == (3, 3)
    assert feed.inputs["table"].shape == (7, 2)
    fixed = next(feeds([X], [described("x", (4, 3))], limit=3))
    assert (fixed.size, fixed.inputs["x"].shape) == (4, (4, 3))


def test_a_copy_does_not_change_with_the_loaders_memory() -> None:
    memory = X.copy()
    feed = next(feeds([memory], ONE)).copy()
    memory[:] = 0
    assert np.array_equal(feed.inputs["x"], X)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (IDS.astype(np.int32), np.int64),
        (IDS, np.int32),
        (IDS > 3, np.int64),
        (MASK, np.bool_),
        (IDS.astype(np.uint8), np.float32),
        (IDS.astype(np.float64), np.float32),
        (IDS.astype(np.float16), np.float32),
        (torch.tensor(IDS, dtype=torch.bfloat16, requires_grad=False), np.float32),
        (torch.ones(2, 4, requires_grad=True), np.float32),
        (np.asarray([["a", "b"]]), object),
        (np.asarray([[-np.inf, 1.0]]), np.float32),
    ],
)
def test_dtypes_are_cast_to_the_declared_ones(value: Any, dtype: Any) -> None:
    result = first([value], [described("x", (None, None), dtype)])["x"]
    assert result.dtype == dtype
    assert result.tolist() == value.tolist()


@pytest.mark.parametrize(
    ("value", "dtype", "problem"),
    [
        (X, np.int64, "would be rounded"),
        (np.asarray([[2**40]]), np.int32, "values that do not fit"),
        (np.asarray([[-1]]), np.uint8, "values that do not fit"),
        (np.asarray([[-1]]), np.uint64, "values that do not fit"),
        (np.asarray([[2]]), np.bool_, "values that do not fit"),
        (np.asarray([[2**53 + 1]]), np.float32, "values that do not fit"),
        (np.asarray([["a"]]), np.float32, "of another kind"),
        (X, object, "of another kind"),
        (X.astype(np.complex64), np.float32, "rounded"),
        (np.asarray([[1e39]]), np.float32, "values beyond what float32 holds"),
        (np.asarray([[7e4]], np.float32), np.float16, "values beyond what float16 holds"),
    ],
)
def test_a_cast_that_changes_values_is_an_error(value: Any, dtype: Any, problem: str) -> None:
    with pytest.raises(DataError, match=f"'x' is ndarray .*declares x.*{problem}.*astype"):
        first([value], [described("x", (None, None), dtype)])


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"ids": IDS}, ["missing: 'mask'", "ids: int64 [batch, sequence]; mask: int64", "'ids': ndarray int64 [2, 4]"]),
        ({"ids": IDS, "mask": MASK, "types": MASK}, ["unknown: 'types'", "mask: int64 [batch, sequence]"]),
        ({"input": IDS, "masks": MASK}, ["missing: 'ids', 'mask'", "unknown: 'input', 'masks'"]),
        ({"ids": IDS, "masks": MASK}, ["Did you mean 'mask'?"]),
        ({}, ["missing: 'ids', 'mask'"]),
        (IDS, ["ndarray int64 [2, 4]", "2 inputs", "Allowed: a dict by input name"]),
        ((IDS,), ["2 inputs"]),
        ((IDS, MASK, MASK, LABEL), ["2 inputs"]),
        (((IDS, MASK, MASK), LABEL), ["yields 3 inputs", "the model has 2"]),
        ("text", ["str"]),
        ({"ids": [[1, 2]], "mask": MASK}, ["'ids' is a list of numbers"]),
        ({"ids": "text", "mask": MASK}, ["'ids' is str; no array"]),
        ({"ids": IDS[0], "mask": MASK}, ["of rank 1", "of rank 2", "value[None]"]),
        ({"ids": IDS[None, None], "mask": MASK}, ["of rank 4"]),
        ({"ids": IDS, "mask": MASK[:, :3]}, ["'ids' and 'mask' share dimension 'sequence'", "4 and 3"]),
        ({"ids": IDS[:0], "mask": MASK[:0]}, ["without samples"]),
    ],
)
def test_items_that_do_not_fit(item: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        first([item], TWO)
    for word in ["calib_dataloader", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 3), ["dimension 0", "'x' is 4", "fixes it to 1", "batches of 1"]),
        ((None, 5), ["dimension 1", "is 3", "Pad"]),
    ],
)
def test_fixed_dimensions_are_held(shape: Shape, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        first([X], [described("x", shape)])
    for word in words:
        assert word in str(caught.value)


def test_one_name_for_two_axes_is_no_contradiction() -> None:
    assert first([X], [described("x", ("dynamic", "dynamic"))])["x"] is X


def test_an_input_of_unknown_rank_takes_any_array() -> None:
    assert first([X[None]], [described("x", None)])["x"].shape == (1, 4, 3)


def test_an_input_without_dimensions() -> None:
    feed = next(feeds([(0.5, X)], [described("scale", ()), described("x")]))
    assert feed.inputs["scale"].dtype == np.float32
    assert feed.size == 4


def test_items_of_different_forms() -> None:
    items = feeds([(X, LABEL), {"x": X}], ONE)
    next(items)
    with pytest.raises(DataError, match=r"different forms: the first ones were \(one input, label\), then came"):
        next(items)


@pytest.mark.parametrize("loader", [[], iter(()), DataLoader([])])
def test_an_empty_loader(loader: Any) -> None:
    with pytest.raises(DataError, match="calib_dataloader is empty"):
        next(feeds(loader, ONE))


@pytest.mark.parametrize("loader", [None, 3, X, {"x": X}, "data", torch.tensor(X), lambda: X])
def test_what_is_no_loader_is_refused_at_once(loader: Any) -> None:
    with pytest.raises(ArgumentError, match=r"calib_dataloader.*Allowed: a DataLoader"):
        feeds(loader, ONE)


def test_exceptions_of_the_loader_pass_through() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield X
        raise KeyError("of the user")

    items = feeds(broken(), ONE)
    next(items)
    with pytest.raises(KeyError, match="of the user"):
        next(items)


@pytest.mark.parametrize("item", [(IDS, MASK, LABEL), ((IDS, MASK), LABEL), {"ids": IDS, "mask": MASK, "label": LABEL}])
def test_labels(item: Any) -> None:
    feed, label = next(labelled_feeds([item], TWO))
    assert list(feed.inputs) == ["ids", "mask"]
    assert label is LABEL


@pytest.mark.parametrize("item", [(IDS, MASK), {"ids": IDS, "mask": MASK}])
def test_a_missing_label(item: Any) -> None:
    with pytest.raises(DataError, match=r"eval_dataloader .*no label.*\(inputs, label\)"):
        next(labelled_feeds([item], TWO))
