"""Reading and writing summaries; needs no extension, since they are plain data."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from inc_autotune.core.errors import QuantizationError
from inc_autotune.torch_ext.ipex.operations import followers_to_keep, operations, operator_type
from inc_autotune.torch_ext.ipex.summary import ModuleNumbers, configured, smoothable

CLASS = "<class 'torch.nn.modules.{}'>"
LINEAR, CONV, POOL = (CLASS.format(name) for name in ("linear.Linear", "conv.Conv2d", "pooling.MaxPool2d"))
RELU, ADD = "<built-in method relu of type object at 0x7f>", "<method 'add' of 'torch._C.TensorBase' objects>"


def tensor(number: int, quantized: bool) -> dict[str, Any]:
    dtype = "torch.quint8" if quantized else "torch.float32"
    return {
        "id": number,
        "orig_dtype": "torch.float32",
        "inf_dtype": dtype,
        "force_dtype": dtype,
        "scale": [0.1],
        "zero_point": [0],
    }


def entry(op_type: str, fqn: str, inputs: dict[int, bool], result: int) -> dict[str, Any]:
    weights = [tensor(0, True)] if op_type in (LINEAR, CONV) else []
    return {
        "op_type": op_type,
        "op_type_is_module": op_type.startswith("<class"),
        "fqn": fqn,
        "input_tensor_infos": [tensor(number, quantized) for number, quantized in inputs.items()],
        "weight_tensor_infos": weights,
        "output_tensor_infos": [tensor(result, False)],
    }


def summary(*entries: dict[str, Any], returned: int | None = None) -> dict[str, Any]:
    outputs = [] if returned is None else [{"id": returned}]
    calls = {str(index): each for index, each in enumerate(entries)}
    return {" ": {"q_op_infos": calls, "nonq_op_infos": {}, "layer_output_infos": outputs}}


RESNET = summary(
    entry(CONV, "stem", {0: True}, 1),
    entry(RELU, "", {1: False}, 2),
    entry(POOL, "pool", {2: True}, 3),
    entry(CONV, "conv", {3: True}, 4),
    entry(ADD, "", {3: True, 4: False}, 5),
    entry(LINEAR, "head", {5: True}, 6),
)
FLATTEN, DROPOUT = CLASS.format("flatten.Flatten"), CLASS.format("dropout.Dropout")
CLASSIFIER = summary(
    entry(CONV, "conv", {0: True}, 1),
    entry(POOL, "early", {1: True}, 2),
    entry(CONV, "last", {2: True}, 3),
    entry(POOL, "late", {3: True}, 4),
    entry(FLATTEN, "flat", {5: True}, 6),
    entry(LINEAR, "head", {6: True}, 7),
)
CLASSIFIER[" "]["nonq_op_infos"] = {"0": entry(DROPOUT, "drop", {4: False}, 5)}
TWO_READERS = summary(entry(LINEAR, "query", {0: True}, 1), entry(LINEAR, "key", {0: True}, 2))


def dtypes(result: dict[str, Any]) -> dict[str, list[str]]:
    return {
        each.name: [info["force_dtype"].removeprefix("torch.") for info in each.inputs] for each in operations(result)
    }


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (LINEAR, "Linear"),
        (RELU, "relu"),
        (ADD, "add"),
        ("<built-in function linear>", "linear"),
        ("<function adaptive_avg_pool2d at 0x7f>", "adaptive_avg_pool2d"),
        ("something else", "something else"),
    ],
)
def test_types_are_names_of_classes_and_functions(text, name):
    assert operator_type(text) == name


def test_calls_of_functions_are_named_by_their_place():
    assert [each.name for each in operations(RESNET)] == ["stem", "relu_1", "pool", "conv", "add_4", "head"]


@pytest.mark.parametrize(
    ("quantized", "kept"),
    [
        ({"stem", "conv", "add_4", "head"}, {"2", "4"}),
        ({"stem", "conv", "head"}, {"2"}),  # the addition was ruled out
        ({"conv", "add_4", "head"}, set()),  # the pool follows the stem, and the addition both
        ({"stem", "add_4", "head"}, {"2"}),
        (set(), set()),
    ],
)
def test_followers_are_quantized_where_what_they_follow_is(quantized, kept):
    assert followers_to_keep(RESNET, quantized) == {(" ", index) for index in kept}


def test_what_reaches_a_reshape_is_not_quantized_before_it():
    assert followers_to_keep(CLASSIFIER, {"conv", "last", "head"}) == {(" ", "1")}


def test_what_is_not_configured_stays_in_fp32_and_the_summary_as_it_is():
    before = copy.deepcopy(RESNET)
    result = configured(RESNET, {"head": ModuleNumbers(0.5, 3, (0.25,))}, ())
    assert before == RESNET
    assert dtypes(result) == {
        "stem": ["float32"],
        "relu_1": ["float32"],
        "pool": ["float32"],
        "conv": ["float32"],
        "add_4": ["float32", "float32"],
        "head": ["quint8"],
    }
    head = operations(result)[-1].entry
    assert head["input_tensor_infos"][0]["scale"] == [0.5]
    assert head["input_tensor_infos"][0]["zero_point"] == [3]
    assert head["weight_tensor_infos"][0]["scale"] == [0.25]


def test_a_pool_keeps_the_range_of_its_input():
    numbers = {name: ModuleNumbers(0.5, 3, (0.25,)) for name in ("stem", "conv", "head")}
    calls = {each.name: each.entry for each in operations(configured(RESNET, numbers, ("add_4",)))}
    assert calls["conv"]["input_tensor_infos"][0]["scale"] == [0.1]
    assert calls["head"]["input_tensor_infos"][0]["scale"] == [0.5]


def test_readers_of_one_tensor_share_its_range_where_they_can():
    same = configured(TWO_READERS, {name: ModuleNumbers(0.5, 3, (1.0,)) for name in ("query", "key")}, ())
    assert all(each.inputs[0]["scale"] == [0.5] for each in operations(same))
    smoothed = ModuleNumbers(0.5, 3, (1.0,), (2.0, 4.0))
    query, key = operations(configured(TWO_READERS, {"query": smoothed, "key": ModuleNumbers(0.7, 0, (1.0,))}, ()))
    for call in (query, key):
        assert call.inputs[0]["scale"] == {"0_0": [0.5], "1_0": [0.7]}
        assert call.inputs[0]["smooth_quant_scaling_factor"] == {"0_0": [0.5, 0.25], "1_0": [1.0, 1.0]}
    assert query.entry["weight_tensor_infos"][0]["smooth_quant_scaling_factor"] == [2.0, 4.0]
    assert key.entry["weight_tensor_infos"][0]["smooth_quant_scaling_factor"] == [1.0, 1.0]


def test_a_smoothed_tensor_is_rounded_for_nobody_else():
    both = summary(entry(LINEAR, "up", {0: True}, 1), entry(ADD, "", {1: False, 0: True}, 2))
    result = configured(both, {"up": ModuleNumbers(0.5, 0, (1.0,), (2.0,))}, ("add_1",))
    assert dtypes(result) == {"up": ["quint8"], "add_1": ["float32", "float32"]}


def test_convolutions_that_read_one_tensor_differently_are_an_error():
    two = summary(entry(CONV, "left", {0: True}, 1), entry(CONV, "right", {0: True}, 2))
    with pytest.raises(QuantizationError, match=r"left, right.*one range"):
        configured(two, {"left": ModuleNumbers(0.5, 0, (1.0,)), "right": ModuleNumbers(0.7, 0, (1.0,))}, ())


def test_a_tensor_that_its_module_returns_is_not_smoothed():
    assert smoothable(TWO_READERS) == {"query", "key"}
    returned = summary(*TWO_READERS[" "]["q_op_infos"].values(), returned=0)
    assert smoothable(returned) == set()
