"""Metrics that have a name, of classes, numbers and texts; `metric.NAMED_METRICS` lists them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import array_api_compat
import numpy as np

from inc_autotune.core.arguments import shown
from inc_autotune.core.arrays import Array
from inc_autotune.core.data import describe, is_array
from inc_autotune.core.errors import ArgumentError, DataError
from inc_autotune.core.optional import require

IGNORED_LABEL = -100
EXTRA = "metrics"
BINARY_THRESHOLD = 0.5
_AVERAGES = ("binary", "micro", "macro", "weighted")


class TopK:
    """Share of labels that are among the `k` classes with the largest scores; labels of -100 are not counted.

    Scores are [..., classes] or [batch, classes, ...]; labels are integers of the same shape without `classes`.

    Args:
        k: how many classes count.
    """

    higher_is_better: ClassVar[bool] = True
    name: ClassVar[str] = "topk"

    def __init__(self, k: int = 1) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ArgumentError(f"eval_metric: topk: k={shown(k)}. Allowed: a whole number >= 1.")
        self._k = k
        self.reset()

    def reset(self) -> None:
        self._correct = self._count = 0

    def update(self, predictions: Any, labels: Any) -> None:
        scores, labels = _scores_and_labels(predictions, labels, self.name)
        if self._k == 1:
            hits = scores.argmax(1) == labels
        else:
            hits = (np.argsort(-scores, axis=1, kind="stable")[:, : self._k] == labels[:, None]).any(1)
        self._correct += int(hits.sum())
        self._count += len(labels)

    def compute(self) -> float:
        return self._correct / self._count if self._count else math.nan


class Accuracy(TopK):
    """Share of labels that are the class with the largest score."""

    name = "accuracy"

    def __init__(self) -> None:
        super().__init__(1)


class F1:
    """The F1 score of classes, by scikit-learn.

    Args:
        average: "binary", "micro", "macro" or "weighted". None: "binary" where there are two classes, else "macro".
        threshold: a single score above it is class 1.
    """

    higher_is_better: ClassVar[bool] = True

    def __init__(self, average: str | None = None, threshold: float = BINARY_THRESHOLD) -> None:
        require("sklearn", extra=EXTRA)
        if average is not None and average not in _AVERAGES:
            raise ArgumentError(
                f"eval_metric: f1: average={shown(average)}. Allowed: {', '.join(map(repr, _AVERAGES))}."
            )
        self._average = average
        self._threshold = threshold
        self.reset()

    def reset(self) -> None:
        self._predicted: list[Array] = []
        self._labels: list[Array] = []
        self._binary = True

    def update(self, predictions: Any, labels: Any) -> None:
        scores, labels = _scores_and_labels(predictions, labels, "f1", single=True)
        self._binary = self._binary and scores.shape[1] <= 2
        self._predicted.append(scores[:, 0] > self._threshold if scores.shape[1] == 1 else scores.argmax(1))
        self._labels.append(labels)

    def compute(self) -> float:
        from sklearn.metrics import f1_score

        average = self._average or ("binary" if self._binary else "macro")
        labels, predicted = np.concatenate(self._labels), np.concatenate(self._predicted)
        return float(f1_score(labels, predicted.astype(labels.dtype), average=average))


class Auc:
    """The area under the ROC curve, by scikit-learn; of several classes, each against all others.

    Args:
        average: of several classes: "macro" or "weighted".
    """

    higher_is_better: ClassVar[bool] = True

    def __init__(self, average: str = "macro") -> None:
        require("sklearn", extra=EXTRA)
        if average not in ("macro", "weighted"):
            raise ArgumentError(f"eval_metric: auc: average={shown(average)}. Allowed: 'macro', 'weighted'.")
        self._average = average
        self.reset()

    def reset(self) -> None:
        self._scores: list[Array] = []
        self._labels: list[Array] = []

    def update(self, predictions: Any, labels: Any) -> None:
        scores, labels = _scores_and_labels(predictions, labels, "auc", single=True)
        self._scores.append(scores)
        self._labels.append(labels)

    def compute(self) -> float:
        from sklearn.metrics import roc_auc_score

        scores, labels = np.concatenate(self._scores).astype(np.float64), np.concatenate(self._labels)
        if scores.shape[1] <= 2:
            # Of two logits their difference orders the samples as their softmax does.
            return float(roc_auc_score(labels, scores[:, -1] - (scores[:, 0] if scores.shape[1] == 2 else 0)))
        shares = np.exp(scores - scores.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        classes = np.arange(scores.shape[1])
        return float(roc_auc_score(labels, shares, average=self._average, multi_class="ovr", labels=classes))


class _Deviation:
    """The mean of something of the differences between predictions and labels of one shape."""

    higher_is_better: ClassVar[bool] = False
    name: ClassVar[str]

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._sum, self._count = 0.0, 0

    def update(self, predictions: Any, labels: Any) -> None:
        predicted, expected = as_numpy(predictions), as_numpy(labels)
        if predicted.size == expected.size and (predicted.ndim <= 1 or 1 in predicted.shape):
            predicted = predicted.reshape(expected.shape)  # [batch, 1] for labels [batch]
        if predicted.shape != expected.shape:
            raise DataError(
                f"eval_metric={self.name!r}: predictions {describe(predictions)} do not fit labels {describe(labels)}. "
                "Both must have one shape."
            )
        self._sum += self._measure(predicted.astype(np.float64) - expected.astype(np.float64))
        self._count += predicted.size

    def _measure(self, difference: Array) -> float:
        raise NotImplementedError

    def compute(self) -> float:
        return self._sum / self._count if self._count else math.nan


class MeanSquaredError(_Deviation):
    """The mean of squared differences; smaller is better."""

    name = "mse"

    def _measure(self, difference: Array) -> float:
        return float((difference * difference).sum())


class MeanAbsoluteError(_Deviation):
    """The mean of absolute differences; smaller is better."""

    name = "mae"

    def _measure(self, difference: Array) -> float:
        return float(np.abs(difference).sum())


class RootMeanSquaredError(MeanSquaredError):
    """The root of the mean of squared differences, over all batches at once; smaller is better."""

    name = "rmse"

    def compute(self) -> float:
        return math.sqrt(super().compute())


class Bleu:
    """The corpus BLEU of texts, 0 to 100, by sacrebleu.

    Args:
        decode: makes texts of predictions, and of labels that are arrays, such as `tokenizer.batch_decode`. Scores over
            a vocabulary become the most likely token first. None: both are texts already.
        tokenize: how sacrebleu splits texts: "13a", "intl", "zh", "char", ...
        lowercase: whether case is ignored.
    """

    higher_is_better: ClassVar[bool] = True

    def __init__(
        self, decode: Callable[[Any], list[str]] | None = None, tokenize: str = "13a", lowercase: bool = False
    ) -> None:
        require("sacrebleu", extra=EXTRA)
        if decode is not None and not callable(decode):
            raise ArgumentError(f"eval_metric: bleu: decode={shown(decode)} cannot be called.")
        from sacrebleu.metrics.bleu import BLEU

        try:
            self._bleu = BLEU(tokenize=tokenize, lowercase=lowercase)
        except Exception as error:  # of a tokenizer it does not know
            raise ArgumentError(f"eval_metric: bleu: tokenize={shown(tokenize)}: {error}") from error
        self._decode = decode
        self.reset()

    def reset(self) -> None:
        self._texts: list[str] = []
        self._references: list[list[str]] = []

    def update(self, predictions: Any, labels: Any) -> None:
        texts, references = self._as_texts(predictions, "predictions"), self._as_texts(labels, "labels")
        if len(texts) != len(references):
            raise DataError(f"eval_metric='bleu': {len(texts)} texts are predicted, and {len(references)} are labels.")
        self._texts += [str(text) for text in texts]
        self._references += [[each] if isinstance(each, str) else list(each) for each in references]

    def _as_texts(self, value: Any, what: str) -> list[Any]:
        if is_array(value):
            array = as_numpy(value)
            if array.dtype.kind in "SUO":
                return [each.decode() if isinstance(each, bytes) else str(each) for each in array.ravel().tolist()]
            if self._decode is None:
                raise DataError(
                    f"eval_metric='bleu': {what} are {describe(value)}, not texts. Give a function that makes texts of "
                    "them: eval_metric={'bleu': {'decode': tokenizer.batch_decode}}."
                )
            return list(self._decode(array.argmax(-1) if array.dtype.kind == "f" and array.ndim > 2 else array))
        return [value] if isinstance(value, str) else list(value)

    def compute(self) -> float:
        most = max(map(len, self._references))
        columns: list[list[Any]] = [
            [each[place] if place < len(each) else None for each in self._references] for place in range(most)
        ]
        return float(self._bleu.corpus_score(self._texts, columns).score)


def as_numpy(value: Any) -> Array:
    """An array of any framework, on the CPU, as one of NumPy; floats as float32 where NumPy has no such type."""
    if is_array(value) and not isinstance(value, np.ndarray):
        namespace = array_api_compat.array_namespace(value)
        if namespace.isdtype(value.dtype, "real floating"):
            value = namespace.astype(value, namespace.float32)
    return np.asarray(value)


def _scores_and_labels(predictions: Any, labels: Any, name: str, *, single: bool = False) -> tuple[Array, Array]:
    """Scores as [samples, classes] and labels as [samples], without the labels of -100.

    Args:
        single: whether one score a sample will do, for two classes.

    Raises:
        DataError: the shapes do not fit, or labels are no numbers of classes.
    """
    scores, classes = as_numpy(predictions), as_numpy(labels)
    _check_classes(classes, labels, name)
    for axis in (-1, 1):
        if scores.ndim > 1 and _without(scores.shape, axis) == classes.shape:
            rows = np.moveaxis(scores, axis, -1).reshape(-1, scores.shape[axis])
            break
    else:
        if not (single and scores.shape == classes.shape):
            raise DataError(
                f"eval_metric={name!r}: predictions {describe(predictions)} do not fit labels {describe(labels)}. "
                "Predictions must be scores [batch, ..., classes] or [batch, classes, ...] for labels [batch, ...]."
                + (" Of one-hot labels give the places: labels.argmax(-1)." if scores.shape == classes.shape else "")
            )
        rows = scores.reshape(-1, 1)
    if rows.shape[1] == 1 and not single:
        raise DataError(f"eval_metric={name!r}: predictions {describe(predictions)} have one class, which always wins.")
    counted = classes.ravel() != IGNORED_LABEL
    return rows[counted], classes.ravel()[counted]


def _check_classes(classes: Array, labels: Any, name: str) -> None:
    """Refuse labels that equal no class, which would be scored as if every answer were wrong."""
    is_whole = classes.dtype.kind in "biu" or (classes.dtype.kind == "f" and bool((classes == np.floor(classes)).all()))
    if not is_whole:
        raise DataError(
            f"eval_metric={name!r}: labels are {describe(labels)}, such as {shown(classes.ravel().tolist()[:1])}. "
            "Allowed: whole numbers of classes, from 0."
        )


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    sizes = list(shape)
    del sizes[axis]
    return tuple(sizes)
