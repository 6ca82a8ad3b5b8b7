"""Labelled data and a metric become an evaluation function."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from inc_autotune.core.errors import ArgumentError, DataError
from inc_autotune.tf_ext.data.metric import evaluation_function
from inc_autotune.tf_ext.model.signatures import SignatureModel
from inc_autotune.tf_ext.model.source import load_source
from tests.tf import small_models as small

X = small.chain_data(40)
SOURCE = load_source(small.dense_chain())
MODEL = SignatureModel(SOURCE)
SCORES = MODEL(X).numpy()
LABELS = np.where(np.arange(40) % 4 == 0, 0, SCORES.argmax(-1))
ACCURACY = float((SCORES.argmax(-1) == LABELS).mean())
DATA = tf.data.Dataset.from_tensor_slices((X, LABELS))


def evaluated(metric: Any, data: Any = DATA) -> Any:
    return evaluation_function(data, metric, SOURCE.signatures["serving_default"])


@pytest.mark.parametrize(
    "metric",
    [
        *("accuracy", {"topk": {"k": 1}}),
        *(keras.metrics.SparseCategoricalAccuracy(), keras.metrics.SparseTopKCategoricalAccuracy(k=1)),
        *(lambda scores, labels: (scores.argmax(-1) == labels).mean(),),
    ],
)
def test_metrics_of_every_form_see_outputs_and_labels(metric: Any) -> None:
    assert 0.5 < ACCURACY < 1
    evaluate = evaluated(metric)
    for _ in range(2):  # a metric that keeps a state starts again
        assert evaluate(MODEL) == pytest.approx(ACCURACY)


def test_samples_and_batches_give_the_same() -> None:
    for data in (DATA.batch(7), [(X, LABELS)], {"x": X, "labels": LABELS}):
        assert evaluated("accuracy", data)(MODEL) == pytest.approx(ACCURACY)


def test_the_output_named_logits_is_the_one_that_counts() -> None:
    source = load_source(small.TwoLayers())
    model, scale = SignatureModel(source), np.ones((40, 1), np.float32)
    labels = model(X, scale)["logits"].numpy().argmax(-1)
    data = [({"value": X, "scale": scale}, labels)]
    assert evaluation_function(data, "accuracy", source.signatures["serving_default"])(model) == 1


@pytest.mark.parametrize(
    ("metric", "data", "error", "words"),
    [
        (keras.metrics.SparseCategoricalAccuracy, DATA, ArgumentError, "is a class"),
        ("acuracy", DATA, ArgumentError, "Did you mean 'accuracy'"),
        (3, DATA, ArgumentError, "cannot be called"),
        ("accuracy", 3, ArgumentError, "eval_dataset"),
        ("accuracy", [X], DataError, "no label"),
    ],
)
def test_bad_metrics_and_data(metric: Any, data: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        evaluated(metric, data)(MODEL)
