"""How the operators of a student round, as plain values that a `.keras` file can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from inc_autotune.core.op_config import OpConfig

Role = Literal["kernel", "depthwise_kernel", "pointwise_kernel", "embeddings"]
"""The variable of a layer that is an operator's weight, by its attribute."""

Layout = Literal["inputs_first", "features_first"]
"""Of a weight as a matrix: [inputs, features], or [features, inputs] as in tables and in some EinsumDense layers."""


@dataclass(frozen=True)
class ActivationForm:
    """The integers of an activation, and the range of real values that they begin with.

    Args:
        quant_min: smallest integer.
        quant_max: largest integer.
        scheme: "asym", with a zero point, or "sym".
        minimum: smallest value, at most 0.
        maximum: largest value, at least 0.
        is_fixed: whether the range must stay, such as one that ends at the 6 of a Relu6.
    """

    quant_min: int
    quant_max: int
    scheme: str
    minimum: float
    maximum: float
    is_fixed: bool = False


@dataclass(frozen=True)
class OperatorForm:
    """An operator of a layer.

    Args:
        layer: position of the layer in the model, see `layers_of`.
        layer_class: name of its class, which a rebuilt model is checked against.
        role: which of its variables the operator multiplies by.
        layout: of the weight.
        features: how many features the weight has.
        type: of the operator, in the graph.
        config: how it is quantized.
        reduce_range: whether its weight has one bit less.
        activation: position of the form of what it reads; None where that is not rounded.
        smoothed_shape: sizes of the last axes of its input, which its smoothing scale has too; None where it has none.
        output_range: smallest and largest value of its output, of a depthwise convolution.
        names: of the operators in the graph: several where the layer is called several times.
    """

    layer: int
    layer_class: str
    role: Role
    layout: Layout
    features: int
    type: str
    config: OpConfig
    reduce_range: bool
    activation: int | None
    smoothed_shape: tuple[int, ...] | None = None
    output_range: tuple[float, float] | None = None
    names: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        listed = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        return {**listed, "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OperatorForm:
        """Inverse of `to_dict`."""
        given: dict[str, Any] = {}
        for key, value in values.items():
            given[key] = tuple(value) if isinstance(value, list) else value
        given["config"] = OpConfig.from_dict(values["config"])
        return cls(**given)


def activation_dict(form: ActivationForm) -> dict[str, Any]:
    """Plain values for JSON."""
    return asdict(form)
