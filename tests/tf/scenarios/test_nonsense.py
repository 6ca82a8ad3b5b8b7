"""Nonsense as any argument of a verb is refused by the argument's name."""

from __future__ import annotations

import pytest

from inc_autotune import tf_ext
from tests.hostile import answers
from tests.tf.small_models import chain_data, frozen_graph


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Arguments of each verb with which it works."""
    folder = tmp_path_factory.mktemp("nonsense")
    tuned = tf_ext.autotune(frozen_graph(), chain_data(2), objective="modelsize", progress=False)
    tf_ext.save(tuned, folder / "saved")
    return {
        "autotune": {"model": frozen_graph(), "calib_dataset": chain_data(2), "progress": False},
        "apply_recipe": {"model": frozen_graph(), "recipe": tuned.recipe},
        "convert": {"tuned": tuned},
        "save": {"model": tuned, "directory": folder / "again"},
        "load": {"directory": folder / "saved"},
    }


@pytest.mark.parametrize(
    ("verb", "argument"),
    [
        ("autotune", "model"),
        ("autotune", "signatures"),
        ("apply_recipe", "model"),
        ("apply_recipe", "recipe"),
        ("convert", "tuned"),
        ("save", "model"),
        ("save", "directory"),
        ("load", "directory"),
    ],
)
def test_nonsense_is_named(good, verb, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert answers(getattr(tf_ext, verb), good[verb], argument) == {}
