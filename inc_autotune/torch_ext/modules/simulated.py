"""Any operator at any bit width, computed in float with integer values."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from inc_autotune.core.op_config import OpConfig
from inc_autotune.torch_ext.modules.rounding import fake_quantized_input, smoothed_input
from inc_autotune.torch_ext.modules.state import QuantizedOperator
from inc_autotune.torch_ext.operators import OPERATORS


class SimulatedOperator(QuantizedOperator):
    """The numbers of an integer operator for which there is no kernel; not faster than fp32.

    The weight is stored as integers of 1 to 8 bits in a byte each and dequantized at every call; the input is
    rounded to its integers and back. Runs, traces, exports and compiles on every device.

    Args:
        operator_name: key of `OPERATORS`.
        config: integer weight; static, dynamic or weight_only.
        source: the fp32 operator, for its attributes.
        weight: int8 or uint8, in the layout of the operator.
        weight_scale: float32, shaped to broadcast against `weight`, as is `weight_zero_point`.
        weight_zero_point: int32.
        bias: float32 or None.
        smoothing: float32 [in_features], the input is divided by it; None: not smoothed.
        input_scale: float32 0-d; None: dynamic or weight_only.
        input_zero_point: int32 0-d, in the integers of `config.activation.dtype`.
        input_shift: float32 [in_features], taken from the input before it is divided; the bias has its product.
    """

    simulated = True
    integer_weight: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor
    bias: Tensor | None
    smoothing: Tensor | None
    input_scale: Tensor | None
    input_zero_point: Tensor | None
    input_shift: Tensor | None

    def __init__(
        self,
        operator_name: str,
        config: OpConfig,
        source: Any,
        weight: Tensor,
        weight_scale: Tensor,
        weight_zero_point: Tensor,
        bias: Tensor | None,
        smoothing: Tensor | None = None,
        input_scale: Tensor | None = None,
        input_zero_point: Tensor | None = None,
        input_shift: Tensor | None = None,
    ) -> None:
        super().__init__(config)
        self.operator_name = operator_name
        for name in OPERATORS[operator_name].attributes:
            setattr(self, name, getattr(source, name))
        self.keep("integer_weight", weight)
        self.keep("weight_scale", weight_scale)
        self.keep("weight_zero_point", weight_zero_point)
        self.keep("bias", bias)
        self.keep("smoothing", smoothing)
        self.keep("input_scale", input_scale)
        self.keep("input_zero_point", input_zero_point)
        self.keep("input_shift", input_shift)
        self.rebuild()

    def rebuild(self) -> None:
        self._has_zero_points = not self.has_values or bool(self.weight_zero_point.any())

    def forward(self, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        dtype = x.dtype if x.is_floating_point() else self.layer_dtype
        if x.is_floating_point():
            x = smoothed_input(x.float(), self.smoothing, self.input_shift)
            x = fake_quantized_input(x, self.config, self.input_scale, self.input_zero_point)
        weight = self._smoothed_weight()
        tensors = {"weight": weight, "bias": self.bias}
        y: Tensor = OPERATORS[self.operator_name].compute(self, x, tensors, *arguments, **keywords)
        return y.to(dtype)

    def _smoothed_weight(self) -> Tensor:
        # In place: each temporary of a large weight takes ten times as long as the arithmetic.
        weight = self.integer_weight.float()
        if self._has_zero_points:
            weight.sub_(self.weight_zero_point)
        return weight.mul_(self.weight_scale)

    def float_weight(self) -> Tensor:
        """The weight of the layer, dequantized to float32."""
        weight = self._smoothed_weight()
        if self.smoothing is None:
            return weight
        return weight / (self.smoothing if self.operator_name != "Conv1D" else self.smoothing.unsqueeze(1))

    @property
    def weight(self) -> Tensor:
        return self.float_weight().to(self.layer_dtype)

    def extra_repr(self) -> str:
        return f"{self.operator_name} {list(self.integer_weight.shape)}, {super().extra_repr()}"
