"""Kills of `save` leave the old SavedModel or the new one, and nothing else for long."""

from __future__ import annotations

import os
import shutil

import pytest

from inc_autotune import tf_ext
from inc_autotune.tf_ext.model import saved_model
from tests.killing import kill_at_random
from tests.tf.small_models import chain_data, frozen_graph


def content(folder):
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills_leave_a_whole_saved_model(tmp_path, monkeypatch):
    whole, models = [], []
    for seed in (1, 2):
        tuned = tf_ext.autotune(frozen_graph(), chain_data(8, seed), objective="modelsize", progress=False)
        models.append(tf_ext.convert(tuned))
        tf_ext.save(models[-1], tmp_path / str(seed))
        whole.append(content(tmp_path / str(seed)))
    target = tmp_path / "target" / "model"
    target.parent.mkdir()
    tf_ext.save(models[0], target)

    def check():
        assert content(target) in whole

    # TensorFlow must not run in a forked process: there its files are copied into place, slowly enough to be hit.
    monkeypatch.setattr(saved_model, "_module", lambda model: models.index(model))

    def copied(number, path, signatures):
        shutil.copytree(tmp_path / str(number + 1), path, dirs_exist_ok=True)

    monkeypatch.setattr(saved_model.tf.saved_model, "save", copied)
    work = [lambda each=each: tf_ext.save(each, target) for each in models]
    assert kill_at_random(lambda: [save() for save in work], check, seconds=(0.01, 0.1)) == 20
    tf_ext.save(models[1], target)
    assert content(target) == whole[1]
    assert [each.name for each in target.parent.iterdir()] == ["model"]
