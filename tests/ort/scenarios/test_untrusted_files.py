"""Loading runs no code and reads no file but those of the model, whatever stands in a file."""

from __future__ import annotations

import onnx
import pytest

from inc_autotune import ort_ext
from inc_autotune.core.errors import ModelError
from tests.ort.small_models import linear_chain, vectors
from tests.pickle_bomb import pickle_bomb


@pytest.mark.parametrize("use", [ort_ext.load, lambda path: ort_ext.autotune(path, vectors())])
def test_a_pickle_is_no_model(use, tmp_path):
    (tmp_path / "model.onnx").write_bytes(pickle_bomb(tmp_path / "ran"))
    with pytest.raises(ModelError):
        use(tmp_path / "model.onnx")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("location", ["../secret", "{folder}/secret", "a/../../secret"])
def test_weights_are_not_read_from_elsewhere(location, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(10_000))
    folder = tmp_path / "model"
    folder.mkdir()
    model = linear_chain()
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="data", size_threshold=0)
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location.format(folder=tmp_path)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError):
        ort_ext.autotune(folder / "model.onnx", vectors())
