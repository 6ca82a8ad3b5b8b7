"""Nothing that is read is written over, and what cannot be written is found first."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from inc_autotune.command_line.errors import UsageError
from inc_autotune.command_line.places import check_places
from inc_autotune.core.errors import ArgumentError

RUN = ("--data", "data.npz", "--eval", "evaluation:score")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "chain.onnx"), "--output 'chain.onnx': is MODEL too, which would be lost"),
        (("-o", "linked.onnx"), "is MODEL too"),
        (("-o", "./int8.onnx", "--report", "chain.onnx"), "a report is an HTML page"),
        (("-o", "int8.onnx", "--report", "report.pdf"), "a report is an HTML page"),
        (("-o", ""), "--output is missing"),
    ],
)
def test_a_run_that_would_lose_a_file_does_not_start(folder, program, arguments, message):
    (folder / "linked.onnx").symlink_to(folder / "chain.onnx")
    before = (folder / "chain.onnx").read_bytes()
    result = program("tune", "chain.onnx", *RUN, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert (folder / "chain.onnx").read_bytes() == before


def test_a_recipe_is_not_applied_over_its_model(folder, program):
    assert program("quantize", "chain.onnx", "--data", "data.npz", "-o", "int8.onnx").exit_code == 0
    before = (folder / "chain.onnx").read_bytes()
    result = program("apply", "int8.recipe.yaml", "chain.onnx", "-o", "chain.onnx")
    assert result.exit_code == 2
    assert (folder / "chain.onnx").read_bytes() == before


def test_two_results_have_two_names():
    with pytest.raises(UsageError, match=r"--report 'a\.html': is --output too"):
        check_places({"--output": "a.html", "--report": "a.html"}, {})


def test_what_does_not_exist_is_like_nothing(tmp_path):
    check_places({"--output": tmp_path / "new", "--report": None}, {"MODEL": "module:object", "--data": None})


def test_a_folder_that_takes_no_files_is_named(monkeypatch, tmp_path):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UsageError, match=r"--output .*new.*Permission denied. Give another place"):
        check_places({"--output": tmp_path / "new" / "int8.onnx"}, {})


def test_a_model_that_cannot_be_written_after_all_need_not_be_looked_for_again(folder, program, monkeypatch):
    def refuse(*_):
        raise ArgumentError("path='int8.onnx': cannot be written: no space left.")

    monkeypatch.setattr("inc_autotune.command_line.frameworks.onnx.Onnx.save", refuse)
    result = program("tune", "chain.onnx", *RUN, "-o", "int8.onnx", "--storage", "run.db")
    assert result.exit_code == 1
    assert "no space left. `inc-autotune resume sqlite:///run.db -o OTHER`" in result.stderr
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert program("resume", "run.db", "-o", "other.onnx").exit_code == 0
    assert Path("other.onnx").is_file()


@pytest.mark.parametrize(
    ("framework", "name"),
    [("tensorflow.TensorFlow", "TensorFlow"), ("torch.Torch", "PyTorch")],
)
def test_a_folder_of_another_model_is_refused_first(tmp_path, framework, name):
    module, _, cls = framework.partition(".")
    pytest.importorskip(module)
    chosen = getattr(importlib.import_module(f"inc_autotune.command_line.frameworks.{module}"), cls)()
    assert chosen.name == name
    (tmp_path / "model.safetensors").write_text("months of training")
    with pytest.raises(ArgumentError, match=r"--output=.*not written by this library"):
        chosen.check_output(tmp_path)
    with pytest.raises(UsageError, match="--output"):
        chosen.check_output(tmp_path / "model.onnx")
    chosen.check_output(tmp_path / "new")
