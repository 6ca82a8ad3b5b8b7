"""The bias of an operator, with what rounding takes from its mean output."""

from __future__ import annotations

import numpy as np

from inc_autotune.core.arrays import FloatArray
from inc_autotune.core.quantization import InputMeans, output_shift
from inc_autotune.graphs.weights import QuantizedWeight


def corrected_bias(
    bias: FloatArray | None,
    weight: FloatArray,
    quantized: QuantizedWeight,
    means: InputMeans | None,
) -> FloatArray | None:
    """The bias that gives an operator the mean output of fp32.

    Args:
        bias: float32 [out_channels]; None without bias.
        weight: float32 [out_channels, in_channels / groups, *kernel], after smoothing.
        quantized: the same in integers, in the same layout.
        means: of the operator's input; None: the bias is not corrected.

    Returns:
        Float32 [out_channels]; `bias` itself without means.

    Raises:
        ValueError: the weight has another number of input channels than there are means.
    """
    if means is None:
        return bias
    groups, rest = divmod(len(means.exact), weight.shape[1])
    if rest or groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"{len(means.exact)} means of inputs for a weight of shape {list(weight.shape)}")
    shift = np.asarray(output_shift(weight, quantized.floats(0), means, groups), np.float32)
    return shift if bias is None else bias + shift
