"""Nonsense as any argument of a verb is refused by the argument's name."""

from __future__ import annotations

import pytest

from inc_autotune import torch_ext
from tests.hostile import answers
from tests.torch.small_models import outlier_mlp, tune, vectors


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Arguments of each verb with which it works."""
    folder = tmp_path_factory.mktemp("nonsense")
    tuned = tune(outlier_mlp(), vectors(1), objective="modelsize")
    torch_ext.save(tuned, folder / "saved")
    return {
        "autotune": {"model": outlier_mlp(), "calib_dataloader": vectors(1), "progress": False},
        "apply_recipe": {"model": outlier_mlp(), "recipe": tuned.tuning_recipe},
        "convert": {"tuned": tuned},
        "save": {"model": tuned, "path": folder / "again"},
        "load": {"path": folder / "saved", "model": outlier_mlp()},
    }


@pytest.mark.parametrize(
    ("verb", "argument"),
    [
        ("autotune", "model"),
        ("apply_recipe", "model"),
        ("apply_recipe", "recipe"),
        ("convert", "tuned"),
        ("save", "model"),
        ("save", "path"),
        ("load", "path"),
        ("load", "model"),
    ],
)
def test_nonsense_is_named(good, verb, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert answers(getattr(torch_ext, verb), good[verb], argument) == {}
