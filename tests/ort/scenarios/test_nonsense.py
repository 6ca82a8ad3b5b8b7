"""Nonsense as any argument of a verb is refused by the argument's name."""

from __future__ import annotations

import pytest

from inc_autotune import ort_ext
from tests.hostile import answers
from tests.ort.small_models import linear_chain, vectors


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Arguments of each verb with which it works."""
    folder = tmp_path_factory.mktemp("nonsense")
    tuned = ort_ext.autotune(linear_chain(), vectors(1), objective="modelsize", progress=False)
    ort_ext.save(tuned, folder / "model.onnx")
    return {
        "autotune": {"model": linear_chain(), "calib_dataloader": vectors(1), "progress": False},
        "apply_recipe": {"model": linear_chain(), "recipe": tuned.recipe},
        "session": {"tuned": tuned},
        "convert": {"tuned": tuned},
        "save": {"tuned": tuned, "path": folder / "again.onnx"},
        "load": {"path": folder / "model.onnx"},
    }


@pytest.mark.parametrize(
    ("verb", "argument"),
    [
        ("autotune", "model"),
        ("autotune", "providers"),
        ("autotune", "session_options"),
        ("apply_recipe", "model"),
        ("apply_recipe", "recipe"),
        ("session", "tuned"),
        ("session", "providers"),
        ("session", "session_options"),
        ("session", "form"),
        ("session", "graph_optimization_level"),
        ("convert", "tuned"),
        ("convert", "form"),
        ("save", "tuned"),
        ("save", "path"),
        ("save", "form"),
        ("load", "path"),
    ],
)
def test_nonsense_is_named(good, verb, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert answers(getattr(ort_ext, verb), good[verb], argument) == {}
