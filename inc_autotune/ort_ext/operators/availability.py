"""Which configurations ONNX Runtime can compute."""

from __future__ import annotations

from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import integer_type
from inc_autotune.ort_ext.graph import LINEAR_TYPES
from inc_autotune.ort_ext.operators.discovery import Layout
from inc_autotune.ort_ext.operators.recurrent import RECURRENT_TYPES

APPROACHES = {
    **dict.fromkeys(LINEAR_TYPES, ("static", "dynamic", "weight_only")),
    **dict.fromkeys(("Conv", "ConvTranspose"), ("static",)),
    **dict.fromkeys(RECURRENT_TYPES, ("dynamic",)),
    "Gather": ("weight_only",),
}


def missing_kernel(op_type: str, config: OpConfig, layout: Layout = "right") -> str | None:
    """Why an operator cannot have this configuration; None where it can.

    Types narrower than 8 bits are values within 8 (in a weight-only weight within 4, if they fit): they run as fast.
    """
    approaches = APPROACHES[op_type]
    if layout == "stack" and config.approach == "weight_only":
        return "weight-only kernels take one matrix, not a stack of them"
    if config.approach not in approaches:
        return f"no integer kernel for {op_type} with approach {config.approach!r}, only {', '.join(approaches)}"
    weight, activation = config.weight, config.activation
    if config.approach == "weight_only" and (weight.scheme != "sym" or not integer_type(weight.dtype).signed):
        return f"weight-only kernels take signed symmetric weights, not {weight.dtype} {weight.scheme}"
    if config.approach == "dynamic" and (activation.dtype, activation.scheme) != ("uint8", "asym"):
        return f"dynamic kernels quantize to uint8 asym, not {activation.dtype} {activation.scheme}"
    return None
