"""Whether a model can be quantized at all, found before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from inc_autotune.core.errors import ModelError
from inc_autotune.ort_ext.graph import bodies
from inc_autotune.ort_ext.model.versions import opset_version

_HALF_PRECISION_OPSET = 19
_HALF_TYPES = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
_WEIGHTED = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})

_INTEGER_OPERATORS = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"),
        *("MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized", "QGemm", "QAttention"),
        *("MatMulIntegerToFloat", "MatMulInteger16", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"),
        *("QEmbedLayerNormalization", "QOrderedMatMul", "QOrderedAttention", "QuantizeBFP", "DequantizeBFP", "QMoE"),
    }
)


def check_model(proto: ModelProto) -> None:
    """Refuse what cannot be quantized as it is.

    Args:
        proto: a model whose weights may be only headers.

    Raises:
        ModelError: the model is quantized already, or its weights are half precision.
    """
    _check_not_quantized(proto)
    _check_single_precision(proto)


def _check_not_quantized(proto: ModelProto) -> None:
    found = [node for node in _all_nodes(proto.graph) if _is_integer_operator(node)]
    if found:
        first = found[0]
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise ModelError(
            f"model: is quantized already: {first.name or 'a node'} is a {first.op_type}{more}. Give the fp32 model."
        )


def _is_integer_operator(node: NodeProto) -> bool:
    return node.op_type in _INTEGER_OPERATORS or node.op_type.startswith("QLinear")


def _check_single_precision(proto: ModelProto) -> None:
    half = {
        tensor.name: _HALF_TYPES[tensor.data_type]
        for tensor in proto.graph.initializer
        if tensor.data_type in _HALF_TYPES
    }
    for node in proto.graph.node:
        name = next((name for name in node.input if name in half), None)
        if node.op_type not in _WEIGHTED or name is None:
            continue
        version = opset_version(proto)
        below = f", and below opset {_HALF_PRECISION_OPSET} (this one has {version}) ONNX cannot express it"
        raise ModelError(
            f"model: weight {name!r} of {node.name} is {half[name]}. On a CPU int8 makes such a model no faster"
            f"{below if version < _HALF_PRECISION_OPSET else ''}. Give the fp32 model; export it in float32."
        )


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of all bodies in it."""
    for node in graph.node:
        yield node
        for _, body in bodies(node):
            yield from _all_nodes(body)
