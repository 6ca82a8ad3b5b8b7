"""Metrics by name, compared with scikit-learn, with sacrebleu, or with values counted by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from inc_autotune.core.arguments import validate_arguments
from inc_autotune.core.errors import ArgumentError, DataError
from inc_autotune.core.evaluation.function import check_evaluation_arguments, with_direction_of
from inc_autotune.core.evaluation.metric import is_better_when_larger, make_metric

GENERATOR = np.random.default_rng(0)
SCORES = GENERATOR.standard_normal((40, 4)).astype(np.float32)
LABELS = GENERATOR.integers(0, 4, 40)
PAIRS = GENERATOR.standard_normal((40, 2)).astype(np.float32)
BITS = GENERATOR.integers(0, 2, 40)


def value_of(metric: Any, predictions: Any, labels: Any, batch: int = 16) -> float:
    """In batches of unequal size, after a reset."""
    made = make_metric(metric)
    made.update(predictions[:batch], labels[:batch])
    made.reset()
    for start in range(0, len(labels), batch):
        made.update(predictions[start : start + batch], labels[start : start + batch])
    return float(made.compute())


@given(k=st.integers(1, 3))
def test_topk_is_that_of_scikit_learn(k: int) -> None:
    expected = metrics.top_k_accuracy_score(LABELS, SCORES, k=k, labels=range(4))
    assert value_of({"topk": {"k": k}}, SCORES, LABELS) == pytest.approx(expected)


def test_topk_leaves_out_ignored_labels_and_is_accuracy_by_default() -> None:
    labels = np.where(np.arange(40) % 3, LABELS, -100)
    assert value_of("topk", SCORES, labels) == value_of("accuracy", SCORES, labels)
    counted = labels >= 0
    assert value_of("topk", SCORES, labels) == pytest.approx((SCORES.argmax(1) == labels)[counted].mean())


def test_f1() -> None:
    assert value_of("f1", PAIRS, BITS) == pytest.approx(metrics.f1_score(BITS, PAIRS.argmax(1)))
    assert value_of("F1", SCORES, LABELS) == pytest.approx(metrics.f1_score(LABELS, SCORES.argmax(1), average="macro"))
    weighted = metrics.f1_score(LABELS, SCORES.argmax(1), average="weighted")
    assert value_of({"f1": {"average": "weighted"}}, SCORES, LABELS) == pytest.approx(weighted)
    single = metrics.f1_score(BITS, PAIRS[:, 0] > 0)
    assert value_of({"f1": {"threshold": 0}}, PAIRS[:, 0], BITS) == pytest.approx(single)
    assert value_of({"f1": {"threshold": 0}}, PAIRS[:, :1], BITS) == pytest.approx(single)


def test_auc() -> None:
    shares = np.exp(SCORES.astype(np.float64))
    shares /= shares.sum(1, keepdims=True)
    assert value_of("auc", SCORES, LABELS) == pytest.approx(metrics.roc_auc_score(LABELS, shares, multi_class="ovr"))
    assert value_of("auc", PAIRS, BITS) == pytest.approx(metrics.roc_auc_score(BITS, PAIRS[:, 1] - PAIRS[:, 0]))
    assert value_of("auc", PAIRS[:, 0], BITS) == pytest.approx(metrics.roc_auc_score(BITS, PAIRS[:, 0]))


def test_errors_of_numbers() -> None:
    predicted, expected = SCORES, SCORES + PAIRS[:, :1]
    assert value_of("MSE", predicted, expected) == pytest.approx(metrics.mean_squared_error(expected, predicted))
    assert value_of("mae", predicted, expected) == pytest.approx(metrics.mean_absolute_error(expected, predicted))
    root = metrics.root_mean_squared_error(expected.ravel(), predicted.ravel())
    assert value_of("rmse", predicted, expected) == pytest.approx(root)
    assert value_of("mae", PAIRS[:, :1], PAIRS[:, 0]) == 0
    with pytest.raises(DataError, match=r"\[16, 4\] do not fit labels ndarray int64 \[16\]"):
        value_of("mse", SCORES, LABELS)


def test_bleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="the extra metrics is not installed")
    texts = ["the cat sat on the mat today", "there is a dog in the garden now", "it rains"]
    references = ["the cat sat on a mat today", "there is a dog in the big garden now", "it snows"]
    expected = sacrebleu.corpus_bleu(texts, [references]).score
    assert 0 < expected < 100
    assert value_of("BLEU", texts, references, batch=2) == pytest.approx(expected)
    assert value_of("bleu", np.asarray([each.encode() for each in texts], object), references) == pytest.approx(
        expected
    )
    # Tokens become texts by the user's function, scores over a vocabulary become tokens first.
    words = sorted({word for text in texts for word in text.split()})
    tokens = np.zeros((3, 8, len(words)), np.float32)
    for row, text in enumerate(texts):
        for place, word in enumerate(text.split()):
            tokens[row, place, words.index(word)] = 1

    def decode(ids: Any) -> list[str]:
        return [" ".join(words[i] for i in row[: len(text.split())]) for row, text in zip(ids, texts, strict=True)]

    assert value_of({"bleu": {"decode": decode}}, tokens, references) == pytest.approx(expected)
    with pytest.raises(DataError, match=r"'decode': tokenizer.batch_decode"):
        value_of("bleu", tokens, references)


def test_metrics_of_nothing_are_not_a_number() -> None:
    for name in ("accuracy", "topk", "mse", "rmse", "map"):
        assert math.isnan(make_metric(name).compute())


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("topkk", "Did you mean 'topk'?"),
        ("roc", "Did you mean 'auc'?"),
        ({"topk": {"kk": 5}}, "topk: unknown option 'kk'. Allowed: 'k'."),
        ({"topk": {"k": 0}}, "topk: k=0. Allowed: a whole number >= 1"),
        ({"topk": 5}, "options are 5. Allowed: a dict of options"),
        ({"topk": {}, "f1": {}}, "has 2 names"),
        ({"mse": {"compare_label": False}}, "unknown option 'compare_label'. Allowed: none. Predictions are compared"),
        ({"f1": {"average": "mean"}}, "average='mean'"),
        ({"map": {"map_points": 10}}, "map_points=10"),
        ({"map": {"iou_thrs": "0.5:0:1"}}, "iou_thrs='0.5:0:1'"),
        ({"map": {"output_index_mapping": {"boxes": 0}}}, "output_index_mapping"),
    ],
)
def test_names_and_options_that_are_refused(metric: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        make_metric(metric)
    assert words in str(caught.value)


def test_accuracy_of_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="have one class"):
        value_of("accuracy", PAIRS[:, :1], BITS)


def test_a_criterion_that_turns_a_named_metric_round_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"better when smaller.*'higher_is_better': False"):
        check_evaluation_arguments(None, [1], "mse", lambda loader, metric: len)
    with pytest.raises(ArgumentError, match=r"better when larger.*'higher_is_better': True"):
        check_evaluation_arguments(None, [1], {"topk": {}}, lambda loader, metric: len, higher_is_better=False)
    assert check_evaluation_arguments(None, [1], "mse", lambda *_: len, higher_is_better=False) is len
    assert is_better_when_larger(len) is None


@pytest.mark.parametrize("labels", [LABELS.astype(str), LABELS + 0.5, np.array(["cat"] * len(LABELS), dtype=object)])
@pytest.mark.parametrize("metric", ["accuracy", "f1", "auc"])
def test_labels_that_equal_no_class_are_refused(metric: str, labels: Any) -> None:
    with pytest.raises(DataError, match=r"labels are .*Allowed: whole numbers of classes"):
        value_of(metric, SCORES, labels)


def test_whole_numbers_in_any_type_are_labels() -> None:
    assert value_of("accuracy", SCORES, LABELS.astype(np.float32)) == value_of("accuracy", SCORES, LABELS)


def test_one_hot_labels_are_told_how() -> None:
    with pytest.raises(DataError, match=r"labels\.argmax\(-1\)"):
        value_of("accuracy", SCORES, np.eye(4)[LABELS])


@pytest.mark.parametrize(
    ("criterion", "metric", "larger"),
    [
        (None, "mse", False),
        ({"absolute": 0.1}, "RMSE", False),
        (None, {"topk": {"k": 2}}, True),
        ({"higher_is_better": True}, "mse", True),  # which `check_evaluation_arguments` refuses
        (None, len, True),
    ],
)
def test_the_direction_of_a_named_metric_need_not_be_said(criterion: Any, metric: Any, larger: bool) -> None:
    arguments = validate_arguments(strategies=["auto"], backends=["default"], accuracy_criterion=criterion)
    directed = with_direction_of(metric, arguments)
    assert directed.accuracy_criterion.higher_is_better is larger
    assert directed.accuracy_criterion.relative == arguments.accuracy_criterion.relative
    assert arguments.accuracy_criterion.higher_is_better is True
