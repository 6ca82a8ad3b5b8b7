"""Tables of integers: on request, a scale for each row, saved small, and right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from inc_autotune import tf_ext
from inc_autotune.core.quantization import signal_to_noise_db
from tests.tf.quantizing import check_files
from tests.tf.small_models import randomized

pytestmark = pytest.mark.filterwarnings("ignore:the tuned model is not faster")

IDS = np.random.default_rng(0).integers(0, 400, (24, 6)).astype(np.int32)


def tagger() -> Any:
    inputs = keras.Input((6,), dtype="int32", name="ids")
    model = randomized(keras.Model(inputs, layers.Dense(5)(layers.Embedding(400, 32)(inputs))))
    table, *others = model.get_weights()
    # Rows of very different sizes.
    model.set_weights([table * np.geomspace(1, 100, len(table))[:, None], *others])
    return model


def kinds(tuned: Any) -> dict[str, str]:
    return {each.type: each.approach or each.reason for each in tuned.tuning_result.operators}


def test_a_table_stays_in_floats_unless_asked_for() -> None:
    tuned = tf_ext.autotune(tagger(), IDS, progress=False)
    assert "on request only" in kinds(tuned)["GatherV2"]


@pytest.mark.parametrize(
    "arguments",
    [{"objective": "modelsize"}, {"op_type_dict": {"GatherV2": {"weight": {"dtype": ["int8"]}}}}],
    ids=["for the size", "by a rule"],
)
def test_a_table_of_integers(arguments: dict[str, Any], tmp_path: Path) -> None:
    model = tagger()
    tuned = tf_ext.autotune(model, IDS, progress=False, **arguments)
    assert kinds(tuned)["GatherV2"] == "weight_only"
    got = tf_ext.convert(tuned)(IDS).numpy()
    assert signal_to_noise_db(model(IDS).numpy(), got) > 30
    check_files(tuned, model, IDS, tmp_path / "int8", name="ids")
    assert tuned.tuning_result.size_ratio > 2.5


def test_small_rows_keep_their_digits_beside_large_ones() -> None:
    model = tagger()
    tuned = tf_ext.autotune(model, IDS, objective="modelsize", progress=False)
    small = np.sort(IDS.reshape(-1))[:6][None]
    only_table = tf_ext.autotune(
        model, IDS, objective="modelsize", op_type_dict={".*MatMul.*": {"weight": {"dtype": ["fp32"]}}}, progress=False
    )
    assert signal_to_noise_db(model(small).numpy(), tf_ext.convert(only_table)(small).numpy()) > 35
    assert kinds(tuned)["GatherV2"] == "weight_only"
