"""Errors of operators from the command line."""

from __future__ import annotations

from pathlib import Path


def test_operators_of_two_files_are_compared(folder, program, as_json):
    assert program("quantize", "chain.onnx", "--data", "data.npz", "-o", "int8.onnx").exit_code == 0
    result = as_json("compare", "chain.onnx", "int8.onnx", "--data", "data.npz", "--samples", "8")
    assert result["samples"] == 8
    assert result["operators"][-1]["name"] == "output"
    assert all(20 < each["sqnr"] < 80 for each in result["operators"])
    shown = program("compare", "chain.onnx", "int8.recipe.yaml", "--data", "data.npz", "--report", "page.html")
    assert shown.exit_code == 0
    assert "what to try, in order" in shown.stdout
    assert Path("page.html").stat().st_size > 1e6


def test_a_model_that_is_not_tuned_is_refused(folder, program):
    result = program("compare", "chain.onnx", "chain.onnx", "--data", "data.npz")
    assert result.exit_code == 2
    assert "carries no recipe" in result.stderr
    missing = program("compare", "chain.onnx", "none.yaml", "--data", "data.npz")
    assert missing.exit_code == 2
    assert "there is no such file" in missing.stderr
