"""Looking at a model, and at this machine."""

from __future__ import annotations

import pytest
import tensorflow as tf

from inc_autotune import command_line
from inc_autotune.core import optional


def test_operators_shares_and_reasons(folder, program, as_json):
    text = program("inspect", "chain.onnx").stdout
    assert "can be quantized: 2 of 2 operators, 100 % of the weights" in text
    found = as_json("inspect", "chain.onnx")
    assert found["framework"] == "ONNX Runtime"
    assert [each["name"] for each in found["operators"]] == ["fc1", "fc2"]
    assert "int8 static" in found["operators"][0]["options"]
    assert sum(each["weight_share"] for each in found["operators"]) == pytest.approx(1)


def test_a_keras_file(folder, as_json):
    layers = [tf.keras.Input((8,), name="x"), tf.keras.layers.Dense(16), tf.keras.layers.Dense(4)]
    tf.keras.Sequential(layers).save("model.keras")
    found = as_json("inspect", "model.keras")
    assert found["framework"] == "TensorFlow"
    assert found["quantizable_share"] == pytest.approx(1)


def test_a_folder_without_a_model(folder, program):
    (folder / "empty").mkdir()
    result = program("inspect", "empty")
    assert result.exit_code == 2
    assert "holds no saved_model.pb" in result.stderr


def test_an_object_that_is_no_model(folder, program):
    for name, message in (("evaluation:number", "is a int"), ("evaluation:broken", "calling it failed: TypeError")):
        result = program("inspect", name)
        assert result.exit_code == 2
        assert message in result.stderr


def test_a_framework_that_is_missing_is_named_with_its_extra(folder, program, monkeypatch):
    find = optional.find_spec
    monkeypatch.setattr(optional, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    result = program("inspect", "chain.onnx")
    assert result.exit_code == 2
    assert "pip install 'inc-autotune[onnx]'" in result.stderr
    assert "pip install 'inc-autotune[onnx]'" in program("doctor").stdout


def test_the_program_needs_its_extra(monkeypatch):
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"inc-autotune\[cli\]"):
        command_line.main()


def test_the_doctor_names_versions_and_kernels(as_json, program):
    found = as_json("doctor")
    assert found["packages"]["onnxruntime"]
    assert {"PyTorch", "ONNX Runtime", "TensorFlow"} <= found.keys()
    assert "8-bit weights" in found["PyTorch"]
    assert program("--version").stdout.startswith("inc-autotune ")
