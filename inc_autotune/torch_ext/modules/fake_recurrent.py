"""LSTM, GRU and RNN in fp32 that behave as their integer forms will."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import (
    QuantizationParameters,
    dequantize,
    integer_type,
    quantize,
    weight_parameters,
)
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.modules.availability import multiplies_integers
from inc_autotune.torch_ext.modules.operator_ranges import known_grids
from inc_autotune.torch_ext.modules.prepared import PreparedInteger, adopt, describe
from inc_autotune.torch_ext.modules.rounding import fake_quantized_input, straight_through
from inc_autotune.torch_ext.modules.weight_rounding import round_recurrent_weights
from inc_autotune.torch_ext.operators import RecurrentCall, eager_steps, run_layers


class FakeQuantizedRecurrent(PreparedInteger):
    """Mixin of every prepared recurrent layer: parameters of the fp32 module, a range for each weight as buffers.

    Dynamic: the input of every layer is rounded in its own range, the hidden state in that of every step. The
    parameters are trainable; gradients pass rounding straight through.
    """

    def forward(self, input: Any, hx: Any = None) -> Any:
        return self._computed(input, hx, rounds_weights=True, rounds_activations=True)

    def half_rounded(self, rounds_weight: bool, input: Any, hx: Any = None) -> Any:
        return self._computed(input, hx, rounds_weights=rounds_weight, rounds_activations=not rounds_weight)

    def _computed(self, given: Any, hx: Any, *, rounds_weights: bool, rounds_activations: bool) -> Any:
        tensors = self.float_tensors()
        if rounds_weights:
            tensors |= {name: self.fake_weight(name) for name in self.operator.weights(self)}
        if self.config.activation.is_float or not rounds_activations:
            return self.operator.compute(self, given, tensors, hx)

        def product(name: str, rows: Tensor) -> Tensor:
            weight = tensors[f"weight_{name}"]
            assert weight is not None
            return F.linear(fake_quantized_input(rows, self.config, None, None), weight, tensors.get(f"bias_{name}"))

        call = RecurrentCall.of(self, given, hx, torch.float32)
        return call.results(*run_layers(self, call, product, eager_steps(self, call, product)))

    def float_tensors(self) -> dict[str, Tensor | None]:
        """Weights and biases in float32, by the parameters' names."""
        tensors = self.operator.tensors(self)
        return {name: None if tensor is None else tensor.float() for name, tensor in tensors.items()}

    def fake_weight(self, name: str) -> Tensor:
        """A weight with the values of its integers, by the parameter's name."""
        weight, parameters = self.get_parameter(name).float(), self.weight_parameters(name)
        axis = self.weight_axis(name)
        with torch.no_grad():
            rounded = dequantize(quantize(weight, parameters, axis), parameters, axis)
        return straight_through(weight, rounded)

    @torch.no_grad()
    def integer_weight(self, name: str) -> Tensor:
        """The integers of a weight, int8 or uint8."""
        dtype = torch.int8 if integer_type(self.config.weight.dtype).signed else torch.uint8
        integers: Tensor = quantize(self.get_parameter(name), self.weight_parameters(name), self.weight_axis(name))
        return integers.to(dtype)

    def weight_parameters(self, name: str) -> QuantizationParameters:
        """Scale and zero point of a weight, and the limits of its integers."""
        scale, zero_point = self.get_buffer(f"{name}_scale"), self.get_buffer(f"{name}_zero_point")
        return QuantizationParameters(scale, zero_point, self.weight_minimum, self.weight_maximum)

    def weight_axis(self, name: str) -> int | None:
        """The axis along which the scales of a weight differ; None for one scale."""
        return 0 if self.get_buffer(f"{name}_scale").dim() else None

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {describe(self.config)}"


class FakeQuantizedLSTM(FakeQuantizedRecurrent, nn.LSTM):
    """See `FakeQuantizedRecurrent`."""


class FakeQuantizedGRU(FakeQuantizedRecurrent, nn.GRU):
    """See `FakeQuantizedRecurrent`."""


class FakeQuantizedRNN(FakeQuantizedRecurrent, nn.RNN):
    """See `FakeQuantizedRecurrent`."""


_FORMS: Mapping[str, type[FakeQuantizedRecurrent]] = {
    "LSTM": FakeQuantizedLSTM,
    "GRU": FakeQuantizedGRU,
    "RNN": FakeQuantizedRNN,
}


def prepare_fake_recurrent(
    module: nn.Module, operator_name: str, config: OpConfig, calibration: OperatorCalibration, reduce_range: bool
) -> FakeQuantizedRecurrent:
    """The fake-quantized form of an fp32 recurrent layer, sharing its parameters.

    Raises:
        ArgumentError: the config is static, or the calibration is of other weights.
    """
    if config.approach == "static":
        raise ArgumentError(
            f"config: static {operator_name}: the hidden state has another range at every step, and calibration sees "
            "none of them. Allowed: dynamic or weight_only."
        )
    prepared = adopt(module, _FORMS[operator_name], operator_name, config)
    prepared._init_flat_weights()  # type: ignore[operator]  # a list of its own, not the module's
    grids = {
        name: weight_parameters(
            prepared.get_parameter(name).detach(),
            config.weight,
            axis=prepared.operator.output_axis,
            reduce_range=reduce_range and multiplies_integers(operator_name, config),
        )
        for name in sorted(prepared.operator.weights(prepared))
    }
    for name, parameters in known_grids(prepared, grids, calibration).items():
        prepared.weight_minimum, prepared.weight_maximum = parameters.quant_min, parameters.quant_max
        prepared.register_buffer(f"{name}_scale", parameters.scale)
        prepared.register_buffer(f"{name}_zero_point", parameters.zero_point)
    if config.rounding == "second_moment":
        round_recurrent_weights(prepared, calibration.moments, calibration.steps)
    return prepared
