"""A folder with the configuration of a transformers model and its ONNX files, as optimum lays it out."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from inc_autotune import ort_ext
from inc_autotune.core.errors import ArgumentError
from tests.ort.small_models import linear_chain, vectors


@pytest.fixture(scope="module")
def tuned():
    return ort_ext.autotune(linear_chain(), vectors(), objective="modelsize", progress=False)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "1_Pooling").mkdir(parents=True)
    config = {"model_type": "bert", "quantization_config": {"library": "inc_autotune"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "1_Pooling" / "config.json").write_text("{}")
    onnx.save(linear_chain(), folder / "exported.onnx")
    return folder


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_folder_has_all_that_optimum_reads(tuned, source, tmp_path):
    folder = tmp_path / "out"
    ort_ext.save_pretrained(tuned, folder, source=source, model=source / "exported.onnx", base_model="someone/tiny")
    assert names(folder) == [
        *("README.md", "config.json", "model.onnx", "model_quantized.onnx", "model_quantized.recipe.yaml"),
        "tokenizer.json",
    ]
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "bert"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Nothing was evaluated" not in card  # the size was measured
    assert f"| relative size of the weights | 1 | {1 / tuned.tuning_result.size_ratio:.3f} |" in card
    batch = {"x": vectors()[0]}
    fp32, int8 = (
        onnxruntime.InferenceSession(folder / name).run(None, batch)[0]
        for name in ("model.onnx", "model_quantized.onnx")
    )
    assert np.array_equal(fp32, onnxruntime.InferenceSession(source / "exported.onnx").run(None, batch)[0])
    assert np.array_equal(int8, ort_ext.session(tuned, form="qdq").run(None, batch)[0])
    assert not np.array_equal(int8, fp32)


def test_a_sentence_encoder_keeps_its_modules_and_has_its_models_in_a_folder(tuned, source, tmp_path):
    (source / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}, {"path": "../../etc"}]')
    ort_ext.save_pretrained(tuned, tmp_path / "out", source=source)
    found = names(tmp_path / "out")
    assert {"1_Pooling/config.json", "modules.json", "onnx/model_quantized.onnx"} < {*found}
    assert "onnx/model.onnx" not in found
    assert "library_name: sentence-transformers" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_what_cannot_be_saved_is_named(tuned, source, tmp_path):
    with pytest.raises(ArgumentError, match=r"source=.*holds no config\.json"):
        ort_ext.save_pretrained(tuned, tmp_path / "out", source=tmp_path)
    with pytest.raises(ArgumentError, match=r"model=.*no such file"):
        ort_ext.save_pretrained(tuned, tmp_path / "out", source=source, model=tmp_path / "none.onnx")
    with pytest.raises(ArgumentError, match="tuned: a str"):
        ort_ext.save_pretrained("model.onnx", tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()
