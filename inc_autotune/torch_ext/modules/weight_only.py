"""Linear with a weight of 8, 4, 3 or 2 bits and a float activation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import integer_type
from inc_autotune.torch_ext.modules.integer_rows import ZERO_POINT_PARTS, dequantized, integers_of, stored_weight
from inc_autotune.torch_ext.modules.state import QuantizedOperator, packs
from inc_autotune.torch_ext.modules.weight_only_products import BLOCK_ELEMENTS, weight_only_product
from inc_autotune.torch_ext.target import weight_only
from inc_autotune.torch_ext.target.kernels import has_bf16

_product = torch.jit.script_if_tracing(weight_only_product)  # type: ignore[no-untyped-call]


class WeightOnlyLinear(QuantizedOperator):
    """y = (x / smoothing) @ dequantize(weight).T + bias, also for the transformers library's `Conv1D`.

    A step of generation reads every weight for a few rows, and takes as long as reading them does. Forms, chosen by a
    fixed rule:

    1. few rows (`weight_only.most_rows`): torch's kernels, which read the integers and multiply in bfloat16. There is
       none for 3 and 2 bits, whose integers are unpacked into the form of the one for 4 bits;
    2. more rows, and shapes that the kernels do not know: the weight is dequantized block by block, to bfloat16 where
       the processor multiplies it, else to float32;
    3. compiled, exported and away from the CPU: dequantized as a whole, in float32.

    A trace chooses by the rows that it is given, too. Inputs of any leading shape, float32, bfloat16 or
    float16; the output has the dtype of the input.

    Args:
        config: weight_only, of 8 or 4 bits, or of 3 or 2 in groups.
        weight: integers [out_features, in_features].
        weight_scale: [out_features, groups].
        weight_zero_point: the same shape; of 4 bits and less, multiples of a sixteenth, which is what is stored.
        bias: float32 [out_features] or None.
        smoothing: float32 [in_features], the input is divided by it; None: not smoothed.
        input_shift: float32 [in_features], taken from the input before it is divided; the bias has its product.
    """

    integer_weight: Tensor
    weight_scale: Tensor
    zero_points: Tensor | None
    bias: Tensor | None
    smoothing: Tensor | None
    input_shift: Tensor | None
    _inverse_smoothing: Tensor | None
    _kernel_weight: Tensor | None
    _kernel_scale: Tensor | None

    def __init__(
        self,
        config: OpConfig,
        weight: Tensor,
        weight_scale: Tensor,
        weight_zero_point: Tensor,
        bias: Tensor | None,
        smoothing: Tensor | None = None,
        input_shift: Tensor | None = None,
    ) -> None:
        super().__init__(config)
        self.out_features, self.in_features = weight.shape
        self.bits = integer_type(config.weight.dtype).bits
        integers, scale, zero_points = stored_weight(weight, weight_scale, weight_zero_point, config.weight.dtype)
        self.keep("integer_weight", integers)
        self.keep("weight_scale", scale)
        self.keep("zero_points", zero_points)
        self.keep("bias", bias)
        self.keep("smoothing", smoothing)
        self.keep("input_shift", input_shift)
        self.rebuild()

    @torch.no_grad()
    def rebuild(self) -> None:
        self.keep("_kernel_weight", None)
        self.keep("_kernel_scale", None)
        if not self.has_values:
            return
        self.keep("_inverse_smoothing", None if self.smoothing is None else self.smoothing.reciprocal(), derived=True)
        groups = self.weight_scale.shape[1]
        self._group = self.in_features // groups
        if not self.weight_scale.is_cpu or not weight_only.has_kernel(self.bits) or not packs():
            return
        if self.bits <= 4 and weight_only.fits_int4(self.out_features, self.in_features, self._group):
            self.keep(
                "_kernel_weight", weight_only.pack_int4(integers_of(self.integer_weight, self.bits)), derived=True
            )
            points = None if self.zero_points is None else self.zero_points.float() / ZERO_POINT_PARTS
            self.keep("_kernel_scale", weight_only.group_scales(self.weight_scale, points), derived=True)
        elif self.bits == 8 and groups == 1 and self.zero_points is None:
            self.keep("_kernel_scale", self.weight_scale[:, 0].contiguous(), derived=True)

    def forward(self, x: Tensor) -> Tensor:
        smoothed = x if self.input_shift is None else x - self.input_shift
        smoothed = smoothed if self._inverse_smoothing is None else smoothed * self._inverse_smoothing
        rows = smoothed.reshape(-1, self.in_features)
        if torch.compiler.is_compiling() or not x.is_cpu:
            y = F.linear(rows.float(), self._smoothed_weight())
        else:
            y = _product(
                *(rows, self.integer_weight, self.weight_scale, self.zero_points),
                *(self._kernel_weight, self._kernel_scale, self.bits, weight_only.most_rows(self.bits)),
                *(torch.bfloat16 if has_bf16() else torch.float32, max(BLOCK_ELEMENTS // max(self.in_features, 1), 1)),
            )
        y = y.float() if self.bias is None else y.float() + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def _smoothed_weight(self) -> Tensor:
        return dequantized(self.integer_weight, self.bits, self.weight_scale, self.zero_points, torch.float32)

    @property
    def weight(self) -> Tensor:
        weight = self._smoothed_weight()
        return (weight if self.smoothing is None else weight / self.smoothing).to(self.layer_dtype)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"smoothed={self.smoothing is not None}, {super().extra_repr()}"
        )
