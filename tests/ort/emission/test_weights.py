"""Weights in blocks: how long the blocks are."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from inc_autotune import ort_ext
from inc_autotune.core.op_config import TensorConfig
from inc_autotune.ort_ext.emission.weights import block_size
from tests.ort.small_models import GraphWriter, vectors


@pytest.mark.parametrize(
    ("features", "bits", "expected"),
    [(256, 8, 128), (64, 8, 64), (192, 8, 64), (96, 8, 32), (48, 8, 16), (100, 8, 16), (40, 4, 16), (64, 4, 32)],
)
def test_blocks_pad_as_little_as_can_be(features: int, bits: int, expected: int) -> None:
    assert block_size(features, TensorConfig(f"int{bits}", "sym", "per_channel")) == expected


@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
@pytest.mark.parametrize(
    ("weight", "expected"),
    [({}, [32, 1, 64]), ({"granularity": ["per_group_32"]}, [32, 2, 32])],
    ids=["longest", "as asked"],
)
def test_a_weight_of_64_features_is_stored_without_padding(weight, expected) -> None:
    graph = GraphWriter()
    graph.linear("x", "fc", 64, 32)
    model = graph.model({"x": (TensorProto.FLOAT, ["batch", 64])}, 2)
    rules = {"fc": {"weight": weight}} if weight else None
    tuned = ort_ext.autotune(model, vectors(4, 4, 64), approach="weight_only", op_name_dict=rules, progress=False)
    stored = {each.name: each.dims for each in ort_ext.convert(tuned).graph.initializer}
    assert list(stored["fc.weight.quantized"]) == expected
    x = vectors(1, 4, 64)[0]
    expected = x @ np.frombuffer(model.graph.initializer[0].raw_data, np.float32).reshape(64, 32)
    expected = expected + np.frombuffer(model.graph.initializer[1].raw_data, np.float32)
    found = ort_ext.session(tuned).run(None, {"x": x})[0]
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)
