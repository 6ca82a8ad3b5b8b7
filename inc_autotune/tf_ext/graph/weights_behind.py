"""Operators that multiply by weights, and the constants that a weight is computed of."""

from __future__ import annotations

from collections.abc import Iterator

from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.tf_ext.graph.graph import Graph, data_inputs, tensor_name

WITH_KERNEL = (
    "MatMul",
    "BatchMatMulV2",
    "BatchMatMulV3",
    "Conv2D",
    "DepthwiseConv2dNative",
    "Conv2DBackpropInput",
    "Conv3D",
    "Conv3DBackpropInputV2",
)
"""Products that integer kernels compute too."""

WITHOUT_KERNEL = (
    *("BatchMatMul", "Einsum", "SparseMatMul", "SparseTensorDenseMatMul", "XlaDot", "XlaDotV2", "XlaEinsum"),
    *("Conv", "Conv2DBackpropInputV2", "Conv3DBackpropInput"),
    *("DepthwiseConv2dNativeBackpropInput", "XlaConv", "XlaConvV2"),
    *("FusedMatMul", "_FusedMatMul", "_FusedBatchMatMulV2", "_FusedConv2D", "_FusedConv3D"),
    *("_FusedDepthwiseConv2dNative", "FusedPadConv2D", "FusedResizeAndPadConv2D"),
    *("BlockLSTM", "BlockLSTMV2", "LSTMBlockCell", "GRUBlockCell", "CudnnRNN", "CudnnRNNV2", "CudnnRNNV3"),
)
"""Products, convolutions and recurrences that no integer kernel computes."""

PRODUCTS = frozenset((*WITH_KERNEL, *WITHOUT_KERNEL))

OLD_CONTROL_FLOW = ("Enter", "RefEnter", "Switch", "RefSwitch")
"""What hands a tensor into a loop or branch as TensorFlow 1 writes them."""


def constants_behind(graph: Graph, tensor: str) -> tuple[str, ...]:
    """Names of the constants that a tensor is computed of; none where it depends on an input of the model."""
    found: dict[str, None] = {}
    seen: set[str] = set()
    left = [tensor]
    while left:
        each = left.pop()
        name = graph.constant_node(each)
        if name is not None:
            found[name] = None
            continue
        node = graph.producer(each)
        if node.name in seen:
            continue
        seen.add(node.name)
        read = list(_read(node))
        if not read:
            return ()
        left += read
    return tuple(found)


def _read(node: NodeDef) -> Iterator[str]:
    """The tensors that decide a node's result: not what chooses the branch that it goes into."""
    return iter([tensor_name(node.input[0])]) if node.op in OLD_CONTROL_FLOW else data_inputs(node)
