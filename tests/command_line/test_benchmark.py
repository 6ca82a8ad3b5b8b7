"""Timing files of models beside each other."""

from __future__ import annotations

import numpy as np


def test_models_are_timed_and_compared_on_the_same_inputs(folder, program, as_json):
    assert program("quantize", "chain.onnx", "--data", "data.npz", "-o", "int8.onnx").exit_code == 0
    command = ("benchmark", "chain.onnx", "int8.onnx", "chain.onnx", "--data", "data.npz", "--seconds", "0.01")
    first, int8, again = as_json(*command, "--threads", "1")
    assert first["speedup"] == 1
    assert first["sqnr_db"] is None
    assert 20 < int8["sqnr_db"] < 80
    assert again["sqnr_db"] is None  # no difference at all is no number
    assert int8["runs"] == first["runs"] >= 5
    assert "median" in program(*command).stdout


def test_data_of_another_model_is_refused(folder, program):
    np.savez("other.npz", a=np.zeros((2, 32), np.float32), b=np.zeros((2, 32), np.float32))
    result = program("benchmark", "chain.onnx", "--data", "other.npz")
    assert result.exit_code == 2
    assert "the model has no input 'a'" in result.stderr
