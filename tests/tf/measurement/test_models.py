"""How fast single units are, and on which clock."""

from __future__ import annotations

import time

import keras
import pytest
import tensorflow as tf
from keras import layers

from inc_autotune.core.search.options import offered_options
from inc_autotune.core.space.units import build_space
from inc_autotune.tf_ext.adaptor import TensorFlowAdaptor
from inc_autotune.tf_ext.measurement import models as measurement
from inc_autotune.tf_ext.model.candidate import Candidate
from inc_autotune.tf_ext.model.source import load_source
from tests.tf.quantizing import random
from tests.tf.small_models import (
    block_data,
    chain_data,
    convolutions,
    dense_chain,
    image_data,
    randomized,
    transformer_block,
    two_signatures,
)


@pytest.fixture(autouse=True)
def every_unit_is_measured(monkeypatch):
    monkeypatch.setattr("inc_autotune.tf_ext.adaptor.measure_units", measurement.measure_units)
    monkeypatch.setattr(measurement, "SHORTEST_CALLS", 0.0)
    monkeypatch.setattr(measurement, "BUDGET_SECONDS", 60.0)


def measured(model, data, signatures=None):
    """What was measured of each unit, and all units."""
    adaptor, candidate = TensorFlowAdaptor(signatures=signatures), Candidate(load_source(model))
    adaptor.calibrate(candidate, data, (8,))
    space = build_space(offered_options(adaptor, candidate), adaptor.groups(candidate))
    units = [each for each in space.units if each.options[0].approach == "static"]
    speeds = adaptor.unit_speeds(units)
    assert all(each.speedup > 0 for each in speeds.values())
    return {name: each.measured for name, each in speeds.items()}, [unit.name for unit in units]


def test_example_inputs_are_a_part_of_the_fingerprint():
    prints = []
    for samples in (4, 4, 5):
        candidate = Candidate(load_source(dense_chain()))
        adaptor = TensorFlowAdaptor(example_inputs=chain_data(samples))
        adaptor.calibrate(candidate, chain_data(32), (32,))
        prints.append(adaptor.fingerprint(candidate))
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(("length", "queries"), [(12, "BatchMatMulV2"), (None, "MatMul")])
def test_matrix_products_are_models_of_their_own(length, queries):
    texts, units = measured(transformer_block(length), block_data(8))
    assert texts.keys() == set(units)
    assert f"{queries} 32x32 and 2 more on 8x12x32" in texts.values()


def test_units_of_a_second_signature_are_not_measured(tmp_path):
    path = two_signatures(tmp_path / "two")
    data = {"serving_default": {"value": random(8, 32), "scale": random(8, 1)}, "embed": {"value": random(8, 32)}}
    texts, units = measured(str(path), data, ["serving_default", "embed"])
    assert texts.keys() == {name for name in units if name.startswith("serving_default")}
    assert len(texts) < len(units)


def test_convolutions_are_measured_where_they_hand_nothing_on():
    """Behind a function that integer kernels do not know, each quantizes for itself."""
    x = inputs = keras.Input((12, 12, 4), name="x")
    for size in (3, 1):
        x = layers.Conv2D(8, size, padding="same", activation="swish")(x)
    texts, units = measured(randomized(keras.Model(inputs, x)), random(8, 12, 12, 4))
    assert texts.keys() == set(units)
    assert set(texts.values()) == {"Conv2D 3x3x4x8 on 8x12x12x4", "Conv2D 1x1x8x8 on 8x12x12x8"}


def test_convolutions_between_others_are_not_measured():
    """Of the five, the last two read a depthwise one in fp32 and are averaged in fp32."""
    texts, units = measured(convolutions(), image_data(8))
    assert [name for name in units if name in texts] == units[3:]
    assert list(texts.values()) == ["Conv2D 1x1x16x16 and 1 more on 8x8x8x16", "MatMul 24x5 on 8x24"]


def test_a_unit_that_takes_little_longer_than_a_call_is_not_judged(monkeypatch):
    """However long calls take: a busy machine must not decide about the head of a classifier."""
    monkeypatch.setattr(measurement, "SHORTEST_CALLS", 3.0)
    monkeypatch.setattr(measurement, "_seconds_of_a_call", lambda: 10.0)
    texts, _ = measured(transformer_block(), block_data(8))
    assert texts == {}


@pytest.mark.parametrize(("threads", "one"), [((1, 1), True), ((1, 2), False), ((0, 1), False)])
def test_work_is_timed_without_that_of_other_processes(threads, one, monkeypatch):
    names = ("get_intra_op_parallelism_threads", "get_inter_op_parallelism_threads")
    for name, count in zip(names, threads, strict=True):
        monkeypatch.setattr(tf.config.threading, name, lambda count=count: count)
    assert measurement.has_one_thread() is one
    assert measurement.clock() is time.process_time
