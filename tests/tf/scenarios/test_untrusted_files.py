"""Loading runs no code of Python, whatever stands in a file."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from inc_autotune import tf_ext
from inc_autotune.core.errors import AutotuneError, ModelError
from tests.pickle_bomb import pickle_bomb

DATA = [np.zeros((4, 8), np.float32)]


def test_a_pickle_is_no_model(tmp_path):
    for name in ("model.pb", "model.keras", "folder/saved_model.pb"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle_bomb(tmp_path / "ran"))
        with pytest.raises(AutotuneError):
            tf_ext.autotune(path.parent if path.parent != tmp_path else path, DATA)
    with pytest.raises(AutotuneError):
        tf_ext.load(tmp_path / "folder")
    assert not (tmp_path / "ran").exists()


def test_functions_inside_a_keras_file_are_not_run(tmp_path):
    inputs = keras.Input((8,))
    outputs = keras.layers.Lambda(lambda x: x * 2)(keras.layers.Dense(4)(inputs))
    keras.Model(inputs, outputs).save(tmp_path / "model.keras")
    with pytest.raises(ModelError, match="safe_mode"):
        tf_ext.autotune(tmp_path / "model.keras", DATA)
