"""`nn.Bilinear` with the product of its second input as a Linear child."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from inc_autotune.torch_ext.model.expanded_form import ExpandedForm, Parts, is_recorded, linear


class ExpandedBilinear(ExpandedForm):
    """y[o] = x1 . projection(x2)[o] + bias[o], where `projection` makes [out_features, in1_features] of x2.

    Of the second input, since so the weight [out, in1, in2] is a Linear's as it lies in memory. Inputs and outputs are
    those of `nn.Bilinear`: of any leading shape.
    """

    hidden_parameters = ("weight",)
    new_children = ("projection",)
    children_names = ("projection",)

    projection: nn.Linear
    bias: Tensor | None
    in1_features: int
    out_features: int

    @staticmethod
    def linears(module: Any, parts: Parts) -> Mapping[str, nn.Linear]:
        rows = parts.part(module.weight, module.weight.detach().flatten(0, 1), "rows of all outputs")
        return {"projection": linear(rows, None, module)}

    @staticmethod
    def problem(module: Any) -> str | None:
        return None if module.weight.is_contiguous() else "its weight is not contiguous"

    @property
    def weight(self) -> Tensor:
        return self.projection.weight.unflatten(0, (self.out_features, self.in1_features))  # type: ignore[no-any-return, no-untyped-call]

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        if not is_recorded() and input1.shape[:-1] != input2.shape[:-1]:
            raise RuntimeError(
                f"input1 and input2: shapes {tuple(input1.shape)} and {tuple(input2.shape)}. Allowed: equal ones, but "
                "for the last dimension."
            )
        forms = self.projection(input2).unflatten(-1, (self.out_features, self.in1_features))
        result: Tensor = (forms @ input1.unsqueeze(-1)).squeeze(-1)
        return result if self.bias is None else result + self.bias
