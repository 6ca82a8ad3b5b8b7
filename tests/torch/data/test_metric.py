"""Tests of evaluation by a labelled loader and a metric."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from inc_autotune.core.errors import ArgumentError, DataError, EvaluationError
from inc_autotune.core.evaluation.function import check_evaluation_arguments
from inc_autotune.torch_ext.data.metric import evaluation_function

SCORES = torch.tensor([[3.0, 1, 0], [0, 2, 1], [0, 1, 2], [5, 1, 0]])
LABELS = torch.tensor([0, 1, 0, 0])


class Identity(nn.Module):
    def forward(self, x):
        return x


class Keyed(nn.Module):
    """Returns a loss first, as Hugging Face models do when they get labels."""

    def forward(self, x, labels=None):
        loss = {} if labels is None else {"loss": torch.tensor(9.0)}
        return {**loss, "hidden": x * 0, "logits": x}


@dataclass
class Output:
    hidden: torch.Tensor
    logits: torch.Tensor


class Structured(nn.Module):
    def forward(self, x):
        return Output(x * 0, x)


class NeedsLabels(nn.Module):
    def forward(self, x, labels=None):
        if labels is None:
            raise ValueError("labels are needed")
        return {"loss": torch.tensor(1.0), "scores": x}


class Tupled(nn.Module):
    def forward(self, x):
        return x, x * 0


class Streaming:
    """Counts, in the manner of torchmetrics (`compute`) or neural-compressor (`result`)."""

    def __init__(self, end):
        self.end, self.resets = end, 0
        setattr(self, end, lambda: torch.tensor(self.correct / self.count))

    def reset(self):
        self.resets += 1
        self.correct = self.count = 0

    def update(self, predictions, labels):
        self.correct += int((predictions.argmax(1) == labels).sum())
        self.count += len(labels)


def loader(batch_size=3):
    return DataLoader(TensorDataset(SCORES, LABELS), batch_size=batch_size)


@pytest.mark.parametrize(
    ("model", "items"),
    [
        (Identity(), [(SCORES, LABELS)]),
        (Identity(), [((SCORES,), LABELS)]),
        (Identity(), [(SCORES.numpy(), LABELS.numpy())]),
        (Identity(), [({"x": SCORES}, LABELS)]),
        (Identity(), [{"x": SCORES, "label": LABELS}]),
        (Keyed(), [{"x": SCORES, "labels": LABELS}]),
        (Keyed(), [(SCORES, LABELS)]),
        (Structured(), [(SCORES, LABELS)]),
        (Tupled(), [(SCORES, LABELS)]),
    ],
)
def test_accuracy_of_every_form_of_item_and_output(model, items):
    assert evaluation_function(items, "accuracy")(model) == 0.75


def test_labels_are_passed_to_a_model_that_does_not_run_without_them():
    items = [{"x": SCORES, "labels": LABELS}]
    assert evaluation_function(items, "accuracy")(NeedsLabels()) == 0.75


@pytest.mark.parametrize(
    ("predictions", "labels"),
    [
        (torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))),
        (torch.randn(2, 7, 4, 5), torch.randint(0, 7, (2, 4, 5))),
    ],
)
def test_accuracy_finds_the_class_axis_and_leaves_out_ignored_labels(predictions, labels):
    axis = predictions.shape.index(7)
    labels = predictions.argmax(axis)
    labels[0, 0] = -100
    labels[1, 1] = (labels[1, 1] + 1) % 7
    counted = (labels != -100).sum()
    expected = float((predictions.argmax(axis) == labels).sum() / counted)
    assert evaluation_function([(predictions, labels)], "accuracy")(Identity()) == pytest.approx(expected)


def test_accuracy_without_any_counted_label_is_not_a_number():
    assert math.isnan(evaluation_function([(SCORES, LABELS * 0 - 100)], "accuracy")(Identity()))


def test_function_gets_everything_concatenated():
    seen = []

    def metric(predictions, labels):
        seen.append((predictions, labels))
        return (predictions.argmax(1) == labels).float().mean()

    evaluate = evaluation_function(loader(), metric)
    assert evaluate(Identity()) == 0.75
    assert evaluate(Tupled()) == 0.75
    assert torch.equal(seen[0][0], SCORES)
    assert torch.equal(seen[0][1], LABELS)
    assert isinstance(evaluate(Identity()), float)


def test_labels_that_are_no_tensors():
    assert (
        evaluation_function([(SCORES[:2], ["a", "b"]), (SCORES[2:], ["c", "d"])], lambda p, y: len(y))(Identity()) == 4
    )
    assert evaluation_function([(SCORES[:1], 0), (SCORES[1:2], 1)], _match)(Identity()) == 1.0
    pair = (LABELS, SCORES)
    assert evaluation_function([(SCORES, pair), (SCORES, pair)], lambda p, y: len(y[0]))(Identity()) == 8
    boxes = {"boxes": SCORES}
    assert evaluation_function([(SCORES, boxes), (SCORES, boxes)], lambda p, y: len(y["boxes"]))(Identity()) == 8


def _match(predictions, labels):
    return float((predictions.argmax(1) == labels).float().mean())


@pytest.mark.parametrize("end", ["compute", "result"])
def test_streaming_metrics_are_reset_for_every_model(end):
    metric = Streaming(end)
    evaluate = evaluation_function(loader(), metric)
    assert evaluate(Identity()) == 0.75
    assert evaluate(Identity()) == 0.75
    assert metric.resets == 2


def test_evaluation_needs_no_gradients_and_leaves_the_mode():
    model = nn.Linear(3, 3).eval()
    assert 0 <= evaluation_function(loader(), "accuracy")(model) <= 1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_reading_is_settled_by_the_first_model():
    evaluate = evaluation_function([{"x": SCORES, "labels": LABELS}], "accuracy")
    assert evaluate(Keyed()) == 0.75
    traced = torch.jit.trace(Identity(), SCORES)
    assert evaluate(traced) == 0.75


def test_loader_must_be_readable_again():
    with pytest.raises(ArgumentError, match="eval_dataloader is a generator, which can be read only once"):
        check_evaluation_arguments(None, (item for item in [(SCORES, LABELS)]), "accuracy", evaluation_function)
    with pytest.raises(ArgumentError, match="eval_dataloader=3"):
        evaluation_function(3, "accuracy")


@pytest.mark.parametrize("items", [[SCORES], [(SCORES,)], [{"x": SCORES}]])
def test_items_without_label(items):
    with pytest.raises(DataError, match=r"eval_dataloader yields[\s\S]*needs a label"):
        evaluation_function(items, "accuracy")(Identity())


def test_empty_loader():
    with pytest.raises(DataError, match="eval_dataloader is empty"):
        evaluation_function([], "accuracy")(Identity())


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("acuracy", "Did you mean 'accuracy'"),
        (5, "eval_metric=5"),
        (Streaming, "Give an instance"),
        (object(), "called"),
    ],
)
def test_unusable_metrics(metric, words):
    with pytest.raises(ArgumentError, match=words):
        evaluation_function(loader(), metric)


@pytest.mark.parametrize("value", [None, "good", True, [0.5, 0.6], torch.ones(2)])
def test_metric_that_returns_no_number(value):
    with pytest.raises(EvaluationError, match="metric"):
        evaluation_function(loader(), lambda predictions, labels: value)(Identity())


def test_outputs_that_cannot_be_concatenated():
    items = [(torch.randn(2, 3), LABELS[:2]), (torch.randn(2, 4), LABELS[:2])]
    with pytest.raises(DataError, match="cannot be concatenated"):
        evaluation_function(items, _match)(Identity())


def test_predictions_that_do_not_fit_the_labels():
    with pytest.raises(DataError, match=r"Tensor float32 \[4, 3\] do not fit labels Tensor int64 \[2\]"):
        evaluation_function([(SCORES, LABELS[:2])], "accuracy")(Identity())


def test_evaluation_arguments():
    def own(model):
        return 1.0

    assert check_evaluation_arguments(None, None, None, evaluation_function) is None
    assert check_evaluation_arguments(own, None, None, evaluation_function) is own
    evaluate = check_evaluation_arguments(None, loader(), "accuracy", evaluation_function)
    assert evaluate is not None
    assert evaluate(Identity()) == 0.75
    with pytest.raises(ArgumentError, match="without eval_metric"):
        check_evaluation_arguments(None, loader(), None, evaluation_function)
    with pytest.raises(ArgumentError, match="without eval_dataloader"):
        check_evaluation_arguments(None, None, "accuracy", evaluation_function)
    with pytest.raises(ArgumentError, match="both given"):
        check_evaluation_arguments(own, loader(), None, evaluation_function)
    with pytest.raises(ArgumentError, match="cannot be called"):
        check_evaluation_arguments(0.9, None, None, evaluation_function)


class Detector(nn.Module):
    """Finds in each image the box that its input is, as torchvision's detectors return it."""

    def forward(self, x):
        return [{"boxes": row[None, :4], "scores": row[4:5], "labels": row[5:].long()} for row in x]


def test_named_metrics_with_options_and_of_all_outputs():
    loader = [(SCORES, torch.tensor([1, 2, 1, 1]))]
    assert evaluation_function(loader, {"topk": {"k": 2}})(Identity()) == 1
    assert evaluation_function(loader, "topk")(Identity()) == 0
    assert evaluation_function([(SCORES, SCORES + 2)], "RMSE")(Identity()) == 2
    found = torch.tensor([[0.0, 0, 4, 4, 0.9, 1], [1, 1, 3, 3, 0.8, 1]])
    labels = [{"boxes": torch.tensor([[0.0, 0, 4, 5]]), "labels": torch.tensor([1])}] * 2
    assert evaluation_function([(found, labels)], "map")(Detector()) == 0.5
