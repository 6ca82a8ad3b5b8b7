"""Timing files of models beside each other."""

from __future__ import annotations

import numpy as np
import pytest


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


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_a_litert_file_is_timed_beside_the_model_it_came_from(folder, program, as_json):
    tf = pytest.importorskip("tensorflow")
    inputs = tf.keras.Input((32,), name="x")
    tf.keras.Model(inputs, tf.keras.layers.Dense(4)(inputs)).save("dense.keras")
    made = program("quantize", "dense.keras", "--data", "data.npz", "-o", "dense.tflite")
    assert made.exit_code == 0, made.output
    _, lite = as_json("benchmark", "dense.keras", "dense.tflite", "--data", "data.npz", "--seconds", "0.01")
    assert lite["sqnr_db"] > 20
    for command in (("inspect", "dense.tflite"), ("quantize", "dense.tflite", "--data", "data.npz", "-o", "again")):
        result = program(*command)
        assert result.exit_code == 2
        assert "a LiteRT file can only be timed" in result.stderr
    (folder / "broken.tflite").write_bytes(b"nothing")
    result = program("benchmark", "dense.keras", "broken.tflite", "--data", "data.npz")
    assert result.exit_code == 2
    assert "cannot read it as a LiteRT file" in result.stderr
