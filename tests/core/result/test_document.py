"""Results as plain values."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.result import TuningResult
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, random_model


@pytest.fixture
def result():
    scores = iter([1.0, 0.2, float("nan"), 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    arguments = validate_arguments(strategies=["auto"], backends=["default"], progress=False)
    data = [np.random.default_rng(1).normal(size=(32, 16)).astype(np.float32)]
    return tune(NumpyAdaptor(), random_model(), data, lambda model: next(scores, 1.0), arguments).result


def test_a_result_comes_back_from_json(result):
    assert result.harms
    assert {trial.state for trial in result.trials} == {"complete", "failed"}
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert TuningResult.from_dict(json.loads(text)) == replace(result, recipe=None)


@pytest.mark.parametrize("name", ["met", "trials", "operators", "phases", "chosen", "smoothing"])
def test_a_damaged_result_is_an_error_of_ours(result, name):
    document = result.to_dict()
    for value in ("?", {"a": []}, [[]]):
        with pytest.raises(ArgumentError, match="damaged"):
            TuningResult.from_dict({**document, name: value})
    del document[name]
    with pytest.raises(ArgumentError, match="damaged"):
        TuningResult.from_dict(document)
