"""Data of every form becomes inputs of a signature."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from inc_autotune.core.errors import ArgumentError, DataError
from inc_autotune.graphs.feed import Feed
from inc_autotune.tf_ext.data.feeds import BATCH_SIZE, feeds, labelled_feeds
from inc_autotune.tf_ext.graph.graph_model import SignatureGraph, TensorDescription
from tests.tf.small_models import Array

X = np.arange(40 * 3, dtype=np.float32).reshape(40, 3)
WHOLE = X.astype(np.int64)
Y = np.arange(40) % 5
IDS = np.arange(24, dtype=np.int32).reshape(4, 6)
MASK = np.ones((4, 6), np.int32)


def signature(*inputs: TensorDescription, ordered: bool = True) -> SignatureGraph:
    return SignatureGraph("serving_default", tf.compat.v1.GraphDef(), {}, inputs, (), ordered, {})


def described(name: str, shape: Any, dtype: Any = tf.float32) -> TensorDescription:
    return TensorDescription(name, dtype, shape, f"{name}:0")


ONE = signature(described("x", (None, 3)))
TEXT = (described("ids", (None, None), tf.int32), described("mask", (None, None), tf.int32))
TWO = signature(*TEXT)


def joined(found: Iterator[Feed], name: str = "x") -> Array:
    return np.concatenate([feed.inputs[name] for feed in found])


DATASET = tf.data.Dataset.from_tensor_slices


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return X[index * 10 : index * 10 + 10], Y[index * 10 : index * 10 + 10]


class TorchTensor:
    """What a tensor of PyTorch offers, which is not installed beside TensorFlow here."""

    def __init__(self, value: Array) -> None:
        self._value, self.shape, self.dtype, self.ndim = value, value.shape, f"torch.{value.dtype}", value.ndim

    def detach(self) -> TorchTensor:
        return self

    cpu = detach

    def numpy(self) -> Array:
        return self._value


@pytest.mark.parametrize(
    "make",
    [
        *(lambda: DATASET(X).batch(7), lambda: DATASET(X), lambda: DATASET((X, Y)).batch(8), lambda: DATASET((X, Y))),
        *(lambda: DATASET({"x": X, "label": Y}), lambda: DATASET(({"x": X}, Y)).batch(8), lambda: DATASET((X,))),
        *(lambda: X, lambda: tf.constant(X), lambda: X.reshape(4, 10, 3), lambda: {"x": X}, lambda: {"x": X, "y": Y}),
        *(lambda: [X[:30], X[30:]], lambda: list(X), lambda: (X[i : i + 4] for i in range(0, 40, 4))),
        *(lambda: [(x, y) for x, y in zip(X, Y, strict=True)], lambda: [{"x": X}], lambda: [tf.constant(X)], Batches),
        *(lambda: [TorchTensor(X)], lambda: [{"x": TorchTensor(X), "labels": TorchTensor(Y)}]),
        *(lambda: (X, Y), lambda: (X, Y[:, None]), lambda: ({"x": X}, Y), lambda: ([X], Y), lambda: (X[:30], X[30:])),
    ],
)
def test_every_form_of_data_for_one_input(make: Any) -> None:
    found = list(feeds(make(), ONE))
    assert np.array_equal(joined(iter(found)), X)
    assert sum(feed.size for feed in found) == 40


def test_data_for_several_inputs() -> None:
    table = {"ids": IDS, "mask": MASK}
    datasets = (DATASET(table), DATASET(table).batch(3), DATASET((IDS, MASK)))
    arrays = ([IDS, MASK], (IDS, MASK), ([IDS, MASK], Y[:4]), (table, Y[:4]), [[IDS, MASK]])
    for data in (table, *datasets, *arrays, [(IDS, MASK)], [table]):
        assert np.array_equal(joined(feeds(data, TWO), "ids"), IDS)
        assert np.array_equal(joined(feeds(data, TWO), "mask"), MASK)


def test_inputs_by_position_need_an_order() -> None:
    with pytest.raises(DataError, match=r"by position.*no order.*ids: int32.*Give dicts by name"):
        next(feeds([(IDS, MASK)], signature(*TEXT, ordered=False)))
    with pytest.raises(DataError, match="2 inputs: ids"):
        next(feeds([IDS, MASK], signature(*TEXT, ordered=False)))


def test_samples_of_a_dataset_are_batched_where_they_are_of_equal_length() -> None:
    assert [feed.size for feed in feeds(DATASET(X), ONE)] == [BATCH_SIZE, 8]
    texts = tf.data.Dataset.from_generator(
        lambda: ((np.ones(n, np.int32),) * 2 for n in (3, 5)), output_signature=(tf.TensorSpec([None], tf.int32),) * 2
    )
    assert [feed.inputs["ids"].shape for feed in feeds(texts, TWO)] == [(1, 3), (1, 5)]


def test_the_limit_counts_samples_and_reads_no_further() -> None:
    read = []

    def batches() -> Iterator[Array]:
        for start in range(0, 40, 4):
            read.append(start)
            yield X[start : start + 4]

    assert [feed.size for feed in feeds(batches(), ONE, limit=10)] == [4, 4, 2]
    assert read == [0, 4, 8]
    assert sum(feed.size for feed in feeds(DATASET(X).repeat(), ONE, limit=100)) == 100


def test_a_fixed_batch_is_kept() -> None:
    fixed = signature(described("x", (8, 3)))
    assert [feed.size for feed in feeds(X, fixed)] == [8] * 5
    with pytest.raises(DataError, match=r"fixes it to 8.*Give batches of 8"):
        next(feeds(DATASET(X), fixed))


@pytest.mark.parametrize(("dtype", "wanted"), [(np.float64, tf.float32), (np.int64, tf.float32), (np.uint8, tf.int32)])
def test_dtypes_are_cast_where_no_value_changes(dtype: Any, wanted: Any) -> None:
    (feed,) = feeds([X.astype(dtype)], signature(described("x", (None, 3), wanted)))
    assert feed.inputs["x"].dtype == wanted.as_numpy_dtype
    assert np.array_equal(feed.inputs["x"], X)


def test_bfloat16_inputs() -> None:
    (feed,) = feeds([X], signature(described("x", (None, 3), tf.bfloat16)))
    assert feed.inputs["x"].dtype == tf.bfloat16.as_numpy_dtype


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([X + 0.5], ["would be rounded", "declares x: int32"]),
        ([WHOLE[:, :2]], ["dimension 1", "is 2", "fixes it to 3"]),
        ([WHOLE[None, None]], ["of rank 4"]),
        ([{"inputs": X}], ["missing: 'x'", "unknown: 'inputs'"]),
        ([{"x": X, "z": X}], ["unknown: 'z'", "The model has: x: int32"]),
        ([(X, X, X)], ["does not fit the model's 1 inputs"]),
        ([], ["is empty"]),
        (DATASET(X).take(0), ["is empty"]),
        (X[:0], ["is empty"]),
        ([(WHOLE, Y), WHOLE], ["items of different forms"]),
        ({"x": X, "label": Y[:3]}, ["differ in their number of samples"]),
        (tf.data.Dataset.from_tensors(tf.ragged.constant([[1.0], [2.0, 3.0]])), ["ragged", "to_tensor()"]),
        ([tf.ragged.constant([[1], [2, 3]])], ["ragged"]),
        ([tf.sparse.from_dense(np.eye(3))], ["sparse", "tf.sparse.to_dense"]),
        (tf.data.Dataset.from_tensors(tf.sparse.from_dense(np.eye(3))), ["sparse"]),
        ([np.asarray([["a", "b", "c"]])], ["of another kind"]),
    ],
)
def test_data_that_does_not_fit(data: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        list(feeds(data, signature(described("x", (None, 3), tf.int32))))
    for word in ["calib_dataset", *words]:
        assert word in str(caught.value)


def test_one_array_for_several_inputs() -> None:
    with pytest.raises(DataError, match=r"one array.*2 inputs: ids.*dict of arrays by name"):
        next(feeds(IDS, TWO))


@pytest.mark.parametrize("data", [3, "text", lambda: X, None, {"x": [1, 2]}])
def test_data_of_another_kind(data: Any) -> None:
    with pytest.raises(ArgumentError, match=r"calib_dataset.*Allowed: a tf.data.Dataset"):
        feeds(data, ONE)


@pytest.mark.parametrize(
    "data",
    [
        *(DATASET((X, Y)), DATASET((X, Y)).batch(9), DATASET({"x": X, "label": Y}), {"x": X, "label": Y}, Batches()),
        *([(X, Y)], [({"x": X}, Y)], [(x, y) for x, y in zip(X, Y, strict=True)], (X, Y), ({"x": X}, Y)),
    ],
)
def test_labels_belong_to_their_samples(data: Any) -> None:
    pairs = list(labelled_feeds(data, ONE))
    assert np.array_equal(np.concatenate([label for _, label in pairs]), Y)
    assert all(len(label) == feed.size for feed, label in pairs)


def test_labels_are_needed_and_data_must_end() -> None:
    with pytest.raises(DataError, match=r"eval_dataset.*there is no label"):
        next(labelled_feeds(DATASET(X), ONE))
    with pytest.raises(ArgumentError, match=r"repeats without end.*take"):
        labelled_feeds(DATASET((X, Y)).repeat(), ONE)
