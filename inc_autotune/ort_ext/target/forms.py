"""The forms in which a quantized graph is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GraphForm:
    """What may stand in a quantized graph.

    Args:
        name: the user's name for the form.
        contrib_operators: whether static and dynamic operators are written as the fused operators of onnxruntime,
            which other runtimes do not know; else with the operators of the ONNX standard alone. Weight-only operators
            are MatMulNBits in every form, for the standard has no block-wise weights before opset 21.
        cpu_fusions: whether additions are written so that onnxruntime's CPU kernels come out of its own fusions.
        gemm_to_matmul: whether a quantized Gemm becomes a MatMul and an addition; else it stays one Gemm.
        float_outputs: operator types whose outputs are never quantized.
        backbone_only: whether only nodes between convolutions and matrix products have quantized outputs.
        float_bias: whether the bias of a Conv or Gemm stays in float32; else it becomes 32-bit integers.
        dedicated_pairs: whether each node that reads a quantized activation has a QuantizeLinear and a DequantizeLinear
            of its own.
        weight_pairs: whether weights are stored in float32, with a QuantizeLinear before the DequantizeLinear.
    """

    name: str
    contrib_operators: bool = False
    cpu_fusions: bool = True
    gemm_to_matmul: bool = True
    float_outputs: frozenset[str] = frozenset({"MatMul", "Gemm"})
    backbone_only: bool = False
    float_bias: bool = False
    dedicated_pairs: bool = False
    weight_pairs: bool = False

    @property
    def joins_bias(self) -> bool:
        """Whether a MatMul and the addition of its bias are one operator; not if the product itself is quantized."""
        return "MatMul" in self.float_outputs


QDQ = GraphForm("qdq")
CPU = GraphForm("cpu", contrib_operators=True)
