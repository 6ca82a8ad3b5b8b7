"""Kills of `save` leave the old model or the new one, with the recipe of that model beside it."""

from __future__ import annotations

import os

import numpy as np
import pytest

from inc_autotune import ort_ext
from inc_autotune.core.files import settled
from tests.killing import kill_at_random
from tests.ort.small_models import linear_chain, vectors

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_kills_leave_a_model_and_its_recipe(tmp_path):
    models = [
        ort_ext.autotune(linear_chain(), vectors(seed=seed), objective="modelsize", progress=False) for seed in (1, 2)
    ]
    texts = [each.recipe.to_yaml() for each in models]
    expected = [ort_ext.session(each).run(None, {"x": vectors()[0]})[0] for each in models]
    path = tmp_path / "model.onnx"
    inside = []  # a model holds its recipe without the steps of weights
    for each in models:
        ort_ext.save(each, path)
        inside.append(ort_ext.load(path).recipe.to_yaml())

    def check():
        loaded = ort_ext.load(path)
        found = inside.index(loaded.recipe.to_yaml())
        assert np.array_equal(ort_ext.session(loaded).run(None, {"x": vectors()[0]})[0], expected[found])
        assert settled(tmp_path / "model.recipe.yaml").read_text() == texts[found]

    work = [lambda each=each: ort_ext.save(each, path) for each in models]
    assert kill_at_random(lambda: [save() for save in work], check, seconds=(0.02, 0.1)) == 20
    ort_ext.save(models[1], path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx", "model.recipe.yaml"]
