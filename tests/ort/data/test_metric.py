"""Evaluation of a session by a labelled loader and a metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from inc_autotune.core.errors import ArgumentError, DataError
from inc_autotune.ort_ext.data.metric import evaluation_function
from inc_autotune.ort_ext.model.sessions import make_session
from inc_autotune.ort_ext.model.source import SourceModel, load_source
from tests.ort.small_models import embedding_classifier, linear_chain, sentences, vectors

SOURCE = load_source(linear_chain())
DATA = vectors(3)
BEST = [make_session(SOURCE).run(None, {"x": x})[0].argmax(-1) for x in DATA]


def evaluated(loader: Any, metric: Any = "accuracy", source: SourceModel = SOURCE) -> float:
    return evaluation_function(loader, metric, source.inputs)(make_session(source))


def test_accuracy_over_all_batches() -> None:
    assert evaluated(list(zip(DATA, BEST, strict=True))) == 1
    assert evaluated([(DATA[0], BEST[0]), (DATA[1], BEST[1] + 1)]) == 0.5


def test_named_metrics_with_options_and_of_all_outputs() -> None:
    second = [(x, make_session(SOURCE).run(None, {"x": x})[0].argsort(-1)[..., -2]) for x in DATA]
    assert evaluated(second, {"topk": {"k": 2}}) == 1
    assert evaluated(second, "topk") == 0
    proto = linear_chain()
    with pytest.raises(DataError, match="predictions are a dict"):  # not a single output of it
        evaluated(second, "map", load_source(proto))


def test_torch_tensors_are_numpy_arrays_to_the_metric() -> None:
    def metric(predictions: Any, labels: Any) -> float:
        assert isinstance(predictions, np.ndarray)
        assert isinstance(labels["first"], np.ndarray)
        return float((predictions.argmax(-1) == labels["first"]).mean())

    loader = [(torch.tensor(x), {"first": torch.tensor(y)}) for x, y in zip(DATA, BEST, strict=True)]
    assert evaluated(loader, metric) == 1


def test_labels_in_a_dict() -> None:
    source = load_source(embedding_classifier())
    assert 0 <= evaluated([{**each, "labels": np.zeros(4, int)} for each in sentences()], "accuracy", source) <= 1


def test_the_logits_are_preferred_to_other_outputs() -> None:
    proto = linear_chain()
    proto.graph.output.insert(0, helper.make_empty_tensor_value_info("fc1.out"))
    loader = list(zip(DATA, BEST, strict=True))
    assert evaluated(loader, lambda predictions, labels: predictions.shape[1], load_source(proto)) == 64
    proto.graph.node.append(helper.make_node("Identity", ["y"], ["logits"], "copy"))
    proto.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))
    assert evaluated(loader, lambda predictions, labels: predictions.shape[1], load_source(proto)) == 5


def test_a_function_evaluates_again_from_the_start() -> None:
    evaluate = evaluation_function([(DATA[0], BEST[0])], lambda predictions, labels: len(labels), SOURCE.inputs)
    assert [evaluate(make_session(SOURCE)) for _ in range(2)] == [4, 4]


def test_what_cannot_be_evaluated() -> None:
    with pytest.raises(ArgumentError, match=r"eval_dataloader=3 cannot be iterated over"):
        evaluated(3)
    with pytest.raises(DataError, match="no label"):
        evaluated(DATA)
