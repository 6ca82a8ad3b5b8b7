"""Whether a model can be quantized at all, found before anything runs."""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from inc_autotune.core.errors import ModelError
from inc_autotune.ort_ext.graph import all_nodes

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
        ModelError: the model is quantized already.
    """
    found = [node for node in all_nodes(proto.graph) if _is_integer_operator(node)]
    if found:
        first = found[0]
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise ModelError(
            f"model: is quantized already: {first.name or 'a node'} is a {first.op_type}{more}. Give the fp32 model."
        )


def _is_integer_operator(node: NodeProto) -> bool:
    return node.op_type in _INTEGER_OPERATORS or node.op_type.startswith("QLinear")
