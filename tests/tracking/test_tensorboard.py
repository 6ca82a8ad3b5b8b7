"""Trials as curves, read back by TensorBoard itself."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from inc_autotune.core.errors import ArgumentError
from inc_autotune.testing import Scores, random_model
from inc_autotune.tracking import TensorBoardCallback
from tests.core.tuner.test_tuning import run

pytest.importorskip("tensorboardX")


def test_curves_are_found_again(tmp_path, monkeypatch):
    # With it TensorBoard does not import TensorFlow, which takes seconds and reads the same.
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with TensorBoardCallback(tmp_path / "run") as callback:
        result = run(Scores(1.0, 0.5, float("nan"), 1.0), model=random_model(8), on_trial=callback).result
        callback.log_result(result)
    events = accumulator.EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("trial/score")] == [(1, 0.5), (3, 1.0)]
    assert events.Scalars("trial/units_fp32")[-1].value == len(result.fallbacks)
    assert events.Scalars("result/fp32_score")[0].value == 1.0
    words = events.Tensors("trial/text_summary")[1].tensor_proto.string_val[0].decode()
    assert "**state**: failed" in words
    assert "Goal met" in events.Tensors("result/text_summary")[0].tensor_proto.string_val[0].decode()


def test_a_folder_that_is_no_path_is_an_error():
    with pytest.raises(ArgumentError, match="log_dir=3"):
        TensorBoardCallback(3)
