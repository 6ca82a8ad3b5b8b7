"""A SavedModel whose objects TensorFlow cannot make anew is read all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from inc_autotune import tf_ext
from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.tf_ext.model.signatures import SignatureModel
from inc_autotune.tf_ext.model.source import load_source
from tests.tf.quantizing import random
from tests.tf.small_models import WIDTH, TwoLayers, chain_data

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

X = chain_data()
SCALE = np.full((8, 1), 2, np.float32)


class Optimizer(tf.Module):
    """Has slots as optimizers of Keras 2 have, and is of no class that is known when the model is loaded."""

    def __init__(self, variable: Any) -> None:
        super().__init__()
        object.__setattr__(self, "parts", (variable, tf.Variable(tf.zeros_like(variable))))  # not followed

    def get_slot_names(self) -> list[str]:
        return ["momentum"]

    def get_slot(self, variable: Any, name: str) -> Any:
        return self.parts[1] if variable is self.parts[0] else None

    def _create_or_restore_slot_variable(self, **_: Any) -> None: ...


@pytest.fixture(scope="module")
def with_slots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("slots") / "model"
    module = TwoLayers()
    module.optimizer = Optimizer(module.first)
    tf.saved_model.save(module, str(directory), {"embed": module.embed, "serving_default": module.__call__})
    with pytest.raises(AttributeError, match="add_slot"):
        tf.saved_model.load(str(directory))
    return directory


def test_slots_of_an_optimizer_are_no_obstacle(with_slots: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = load_source(with_slots)
    assert not caplog.records
    assert list(source.signatures) == ["serving_default", "embed"]
    assert not source.signatures["serving_default"].ordered
    model, module = SignatureModel(source), TwoLayers()
    expected = module(X, SCALE)
    for name, value in model.signatures["serving_default"](value=X, scale=SCALE).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.signatures["embed"](X)["output_0"], module.embed(X), rtol=1e-4, atol=1e-5)


def test_such_a_model_is_tuned_and_saved(with_slots: Path, tmp_path: Path) -> None:
    tuned = tf_ext.autotune(with_slots, {"value": X, "scale": SCALE}, progress=False)
    assert [each.dtype for each in tuned.tuning_result.operators] == ["int8", "int8"]
    tf_ext.save(tuned, tmp_path / "int8")
    assert sorted(tf.saved_model.load(str(tmp_path / "int8")).signatures) == ["embed", "serving_default"]


def test_signatures_of_such_a_model_are_chosen(with_slots: Path) -> None:
    assert list(load_source(with_slots, "embed").signatures) == ["embed"]
    with pytest.raises(ArgumentError, match=r"no signature 'embedd'.*Did you mean 'embed'"):
        load_source(with_slots, ["embedd"])


def test_a_model_with_several_tags_is_given_as_an_object(tmp_path: Path) -> None:
    v1, weight = tf.compat.v1, random(WIDTH, 4)
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        x = v1.placeholder(tf.float32, [None, WIDTH], name="x")
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": x @ weight})
        builder = v1.saved_model.Builder(str(tmp_path / "model"))
        builder.add_meta_graph_and_variables(session, ["gpu"], {"serving_default": signature})
        builder.add_meta_graph(["train"], {"serving_default": signature})
        builder.save()
    with pytest.raises(ModelError, match=r"load it with tf.saved_model.load\(directory, tags="):
        load_source(tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"), tags=["gpu"])
    np.testing.assert_allclose(SignatureModel(load_source(loaded))(X), X @ weight, rtol=1e-4, atol=1e-5)
