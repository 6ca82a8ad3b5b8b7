"""The probe tells what onnxruntime's kernels do on this processor."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from inc_autotune.ort_ext.target.saturation import KERNELS, saturates

SIZE = 64


def product(x: int, w: int, dtype: type = np.int8) -> np.ndarray:
    """`SIZE` products of `x` in uint8 by `w`, added up by onnxruntime."""
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [
            helper.make_tensor_value_info("x", TensorProto.UINT8, [2, SIZE]),
            helper.make_tensor_value_info("w", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [SIZE, SIZE]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [2, SIZE])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": np.full((2, SIZE), x, np.uint8), "w": np.full((SIZE, SIZE), w, dtype)})[0]


@pytest.mark.parametrize("w", [127, -127])
def test_the_probe_says_what_a_product_does(w):
    is_wrong = bool((product(255, w) != 255 * w * SIZE).any())
    assert saturates("MatMul", "uint8", "int8") is is_wrong


@pytest.mark.parametrize("w", [64, -64])
def test_seven_bits_are_exact_everywhere(w):
    assert (product(255, w) == 255 * w * SIZE).all()


@pytest.mark.parametrize("activation", ["uint8", "int8"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_unsigned_weights_are_exact_everywhere(kernel, activation):
    assert (product(255, 255, np.uint8) == 255 * 255 * SIZE).all()
    assert not saturates(kernel, activation, "uint8")


@pytest.mark.parametrize("weight", ["uint8", "int8"])
@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_depthwise_convolutions_are_exact_everywhere(activation, weight):
    assert not saturates("depthwise Conv", activation, weight)


def test_convolutions_saturate_where_products_of_matrices_do():
    assert saturates("Conv", "uint8", "int8") is saturates("MatMul", "uint8", "int8")
