"""From an fp32 module to its prepared form, and from that to its deployable form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import pack_steps
from inc_autotune.core.vocabulary import Rounding
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.modules.availability import (
    is_table_like_a_product,
    is_weight_only_product,
    simulation_reason,
)
from inc_autotune.torch_ext.modules.convolution import QuantizedConvolution
from inc_autotune.torch_ext.modules.embedding import QuantizedEmbedding, QuantizedEmbeddingBag
from inc_autotune.torch_ext.modules.fake_operators import prepare_fake_quantized
from inc_autotune.torch_ext.modules.fake_quantized import FakeQuantized
from inc_autotune.torch_ext.modules.fake_recurrent import FakeQuantizedRecurrent, prepare_fake_recurrent
from inc_autotune.torch_ext.modules.linear import QuantizedLinear
from inc_autotune.torch_ext.modules.low_precision import (
    LowPrecisionPrepared,
    convert_low_precision,
    is_low_precision,
    prepare_low_precision,
)
from inc_autotune.torch_ext.modules.prepared import PreparedOperator, hand_over
from inc_autotune.torch_ext.modules.recurrent import QuantizedRecurrent
from inc_autotune.torch_ext.modules.simulated import SimulatedOperator
from inc_autotune.torch_ext.modules.state import QuantizedOperator
from inc_autotune.torch_ext.modules.transposed_convolution import QuantizedTransposedConvolution
from inc_autotune.torch_ext.modules.weight_only import WeightOnlyLinear
from inc_autotune.torch_ext.modules.weight_only_embedding import WeightOnlyEmbedding
from inc_autotune.torch_ext.modules.weight_rounding import integers_by_moment
from inc_autotune.torch_ext.operators import LINEAR_TYPES, RECURRENT_TYPES, TABLE_TYPES, operator_type


def prepare_module(
    module: nn.Module, config: OpConfig, calibration: OperatorCalibration, *, reduce_range: bool = False
) -> nn.Module:
    """The form of an operator in the tuned model: float arithmetic, numbers of the integer form.

    It shares the parameters of `module` under their names, is an instance of its class with all that the user's layer
    has, and can be fine-tuned: gradients pass rounding straight through. Its output equals that of
    `convert_module(prepared)` up to float32 rounding.

    Args:
        module: an operator that `operator_type` knows; it stays as it is.
        config: integer, bf16 or fp16.
        calibration: ranges and smoothing.
        reduce_range: a 7-bit weight if int8 kernels are used, where these would saturate (`saturation`).

    Raises:
        ModelError: `module` is not an operator that can be quantized.
        ArgumentError: `config` or `calibration` does not fit the operator.
    """
    name = operator_type(module)
    if name is None:
        raise ModelError(
            f"module {type(module).__name__}: cannot be quantized. It must be a Linear, convolution, Embedding, "
            "EmbeddingBag, LSTM, GRU, RNN or transformers Conv1D with float parameters and the forward method of its "
            "class; leave it in fp32."
        )
    if is_low_precision(config):
        return prepare_low_precision(module, name, config)
    if not config.is_quantized:
        raise ArgumentError(
            f"config: weight dtype {config.dtype!r}: nothing to prepare. Allowed: an integer dtype, 'bf16' or 'fp16'; "
            "an operator that stays in fp32 is left as it is."
        )
    granularity = config.activation.granularity
    by_token = config.activation.is_per_token and name in LINEAR_TYPES and config.approach == "dynamic"
    if granularity not in (None, "per_tensor") and not by_token:
        raise ArgumentError(
            f"config: activation granularity {granularity!r}: not supported by {name}, {config.approach}. Allowed: "
            "'per_tensor', and 'per_token' for dynamic linear operators; smoothing scales the channels of an "
            "activation one by one."
        )
    if name in RECURRENT_TYPES:
        return prepare_fake_recurrent(module, name, config, calibration, reduce_range)
    return prepare_fake_quantized(module, name, config, calibration, reduce_range)


@torch.no_grad()
def rounding_steps(
    modules: Sequence[nn.Module],
    configs: Sequence[OpConfig],
    calibrations: Sequence[OperatorCalibration],
    *,
    reduce_range: bool,
) -> list[npt.NDArray[np.uint8]]:
    """How far the integers of operators' weights are from the nearest ones, packed for a recipe.

    Args:
        modules, configs, calibrations, reduce_range: as for `prepare_module`. Several are linear, have one moment, one
            smoothing scale and the same integers.
    """

    def prepared(index: int, rounding: Rounding) -> nn.Module:
        calibration, config = replace(calibrations[index], input_means=None), configs[index].with_corrections(())
        return prepare_module(modules[index], config.with_rounding(rounding), calibration, reduce_range=reduce_range)

    nearest = [prepared(index, "nearest") for index in range(len(modules))]
    products = [each for each in nearest if isinstance(each, FakeQuantized)]
    if products:
        rounded = integers_by_moment(products, calibrations[0].moments["weight"])
        differences = [each - of.integer_weight() for each, of in zip(rounded, products, strict=True)]
        return [pack_steps(each.to(torch.int16).contiguous().numpy()) for each in differences]
    return [
        pack_steps((_integers(prepared(index, "second_moment")) - _integers(form)).contiguous().numpy())
        for index, form in enumerate(nearest)
    ]


def _integers(form: nn.Module) -> Tensor:
    """Of all weights of a recurrent layer."""
    assert isinstance(form, FakeQuantizedRecurrent)
    names = sorted(form.operator.weights(form))
    return torch.cat([form.integer_weight(name).flatten() for name in names]).to(torch.int16)


@torch.no_grad()
def convert_module(prepared: nn.Module) -> nn.Module:
    """The deployable form of a prepared operator: integer kernels where they exist, else simulated.

    It is an instance of the user's class, too, with its methods, attributes, buffers, parameters and children; forward
    hooks and the training flag of `prepared` are carried over. `prepared` stays as it is.

    Raises:
        ModelError: `prepared` does not come from `prepare_module`, or the user's layer has an attribute of a name that
            the deployable form needs.
    """
    converted: QuantizedOperator
    if isinstance(prepared, LowPrecisionPrepared):
        converted = convert_low_precision(prepared)
    elif isinstance(prepared, FakeQuantizedRecurrent):
        converted = _convert_recurrent(prepared)
    elif isinstance(prepared, FakeQuantized):
        converted = _convert_fake_quantized(prepared)
    else:
        raise ModelError(f"module {type(prepared).__name__}: not prepared. Pass what prepare_module returned.")
    converted.layer_dtype = prepared.layer_dtype
    hand_over(prepared, converted)
    return converted


def is_prepared(module: nn.Module) -> bool:
    """Whether a module comes from `prepare_module`."""
    return isinstance(module, PreparedOperator)


def is_quantized(module: nn.Module) -> bool:
    """Whether a module comes from `convert_module`; it then has `config` and `simulated`."""
    return isinstance(module, QuantizedOperator)


def _convert_fake_quantized(prepared: FakeQuantized) -> QuantizedOperator:
    name, config, weight = prepared.operator_name, prepared.config, prepared.integer_weight()
    scale, zero_point = prepared.weight_scale.clone(), prepared.weight_zero_point.clone()
    bias = None if name in TABLE_TYPES else _copy(prepared.corrected_bias())
    smoothing, shift = _copy(prepared.smoothing), _copy(prepared.input_shift)
    input_scale, input_zero_point = _copy(prepared.input_scale), _copy(prepared.input_zero_point)
    if simulation_reason(name, config) is not None:
        weight, scale, zero_point = prepared.weight_from_rows(weight), *map(prepared.beside_weight, (scale, zero_point))
        return SimulatedOperator(
            *(name, config, prepared, weight, scale, zero_point, bias, smoothing, input_scale, input_zero_point),
            input_shift=shift,
        )
    if is_table_like_a_product(name, config):
        scale, zero_point = (_beside_rows(each, len(prepared.weight)) for each in (scale, zero_point))
        matrix = prepared.weight_from_rows(weight)
        return WeightOnlyEmbedding(config, prepared, matrix, scale, zero_point, smoothing)
    if name in TABLE_TYPES:
        table = QuantizedEmbeddingBag if name == "EmbeddingBag" else QuantizedEmbedding
        return table(config, prepared, weight, scale, zero_point)
    if is_weight_only_product(name, config):
        return _convert_weight_only(prepared, weight, scale, zero_point, bias)
    if name in ("Linear", "Conv1D"):
        rows = weight.t().contiguous() if name == "Conv1D" else weight
        return QuantizedLinear(config, rows, scale, bias, smoothing, input_scale, input_zero_point, shift)
    assert input_scale is not None
    assert input_zero_point is not None
    assert prepared.output_scale is not None
    form = QuantizedTransposedConvolution if name.startswith("ConvTranspose") else QuantizedConvolution
    return form(
        config,
        prepared,
        weight,
        scale,
        bias,
        input_scale,
        input_zero_point,
        prepared.output_scale.clone(),
        prepared.output_zero_point.clone(),
        channels_last=prepared.bears_channels_last,
        hands_on_integers=prepared.hands_on_integers,
        rounds_sums=prepared.rounds_sums,
    )


def _convert_weight_only(
    prepared: FakeQuantized, weight: Tensor, scale: Tensor, zero_point: Tensor, bias: Tensor | None
) -> WeightOnlyLinear:
    matrix = prepared.weight_matrix(prepared.weight_from_rows(weight))
    scale, zero_point = (_beside_rows(each, matrix.shape[0]) for each in (scale, zero_point))
    smoothing, shift = _copy(prepared.smoothing), _copy(prepared.input_shift)
    return WeightOnlyLinear(prepared.config, matrix, scale, zero_point, bias, smoothing, shift)


def _beside_rows(values: Tensor, rows: int) -> Tensor:
    """One value, one for each row or one for each of their groups, as [rows, groups]."""
    return (values if values.dim() else values.expand(rows)).reshape(rows, -1)


def _convert_recurrent(prepared: FakeQuantizedRecurrent) -> QuantizedOperator:
    name, config = prepared.operator_name, prepared.config
    is_simulated = simulation_reason(name, config) is not None
    products: dict[str, QuantizedOperator] = {}
    for weight_name in prepared.operator.weights(prepared):
        product = weight_name.removeprefix("weight_")
        weight, parameters = prepared.integer_weight(weight_name), prepared.weight_parameters(weight_name)
        scale, zero_point = parameters.scale.clone(), parameters.zero_point.clone()
        bias = _copy(prepared.float_tensors().get(f"bias_{product}"))
        if config.approach == "dynamic" and not is_simulated:
            products[product] = QuantizedLinear(config, weight, scale, bias)
            continue
        if scale.dim():
            scale, zero_point = scale.unsqueeze(1), zero_point.unsqueeze(1)
        sizes = SimpleNamespace(out_features=weight.shape[0], in_features=weight.shape[1])
        products[product] = SimulatedOperator("Linear", config, sizes, weight, scale, zero_point, bias)
    return QuantizedRecurrent(name, config, prepared, products, is_simulated)


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()
