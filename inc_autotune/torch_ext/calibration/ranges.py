"""From statistics to the ranges and smoothing scales of each operator of one configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization.smoothquant import group_weight_absmax, smoothed_range, smoothing_scale
from inc_autotune.torch_ext.calibration.collect import Statistics
from inc_autotune.torch_ext.calibration.operator_calibration import OperatorCalibration
from inc_autotune.torch_ext.operators.trace import ModelTrace

REDUCED = "reduce_range"
"""Where a recipe says whether an operator's weight has 7 bits instead of 8, since kernels saturated with 8."""


def linear_weight(module: nn.Module) -> torch.Tensor:
    """The weight as [out_features, in_features]; transformers' Conv1D keeps it transposed."""
    weight = module.get_parameter("weight").detach()
    return weight.t() if type(module).__name__ == "Conv1D" else weight


def operator_calibrations(
    configs: Mapping[str, OpConfig], trace: ModelTrace, model: nn.Module, statistics: Statistics
) -> dict[str, OperatorCalibration]:
    """What `prepare_module` needs of the calibration, for every quantized operator.

    Args:
        configs: by operator name; operators in fp32 may be left out.
        trace: the model's input groups and convolution chains.
        model: the fp32 model, batch norms folded.
        statistics: collected on it.
    """
    leaders = {name: members[0] for members in trace.groups for name in members}
    scales = _smoothing_scales(configs, trace, model, statistics)
    calibrations = {}
    for name, config in configs.items():
        if config.approach != "static":
            calibrations[name] = OperatorCalibration(None, None, scales.get(name))
            continue
        minimum, maximum = smoothed_range(statistics.inputs[leaders[name]], scales.get(name), config.activation)
        calibrations[name] = OperatorCalibration(minimum, maximum, scales.get(name))
    return {
        name: _with_output_range(name, calibration, calibrations, configs, trace, statistics)
        for name, calibration in calibrations.items()
    }


def _smoothing_scales(
    configs: Mapping[str, OpConfig], trace: ModelTrace, model: nn.Module, statistics: Statistics
) -> dict[str, torch.Tensor]:
    """One scale for all operators that read the same tensor and are configured alike."""
    scales: dict[str, torch.Tensor] = {}
    for members in trace.groups:
        alike: dict[OpConfig, list[str]] = {}
        for name in members:
            config = configs.get(name)
            if config is not None and config.is_quantized and config.alpha is not None:
                alike.setdefault(config, []).append(name)
        for config, names in alike.items():
            assert config.alpha is not None
            weights = [linear_weight(model.get_submodule(name)) for name in names]
            activation = statistics.inputs[members[0]].channel_absmax
            scale: torch.Tensor = smoothing_scale(activation, group_weight_absmax(weights), config.alpha)
            scales |= dict.fromkeys(names, scale)
    return scales


def _with_output_range(
    name: str,
    calibration: OperatorCalibration,
    calibrations: Mapping[str, OperatorCalibration],
    configs: Mapping[str, OpConfig],
    trace: ModelTrace,
    statistics: Statistics,
) -> OperatorCalibration:
    """Give a convolution the range its output is requantized to.

    Where one quantized group is the output's only reader, that group's input range: the second rounding then
    changes nothing. Where only a ReLU reads it, the range starts at zero, which makes the ReLU free.
    """
    if name not in statistics.outputs or calibration.input_minimum is None:
        return calibration
    target = trace.output_groups.get(name)
    reader = calibrations.get(target) if target is not None else None
    if reader is not None and reader.input_minimum is not None and configs[str(target)].alpha is None:
        minimum, maximum = reader.input_minimum, reader.input_maximum
    else:
        minimum, maximum = float(statistics.outputs[name].minimum), float(statistics.outputs[name].maximum)
        if name in trace.relu_outputs:
            minimum, maximum = 0.0, max(maximum, 0.0)
    return OperatorCalibration(
        calibration.input_minimum, calibration.input_maximum, calibration.smoothing, minimum, maximum
    )


def calibration_to_recipe(
    name: str, calibration: OperatorCalibration, arrays: dict[str, Any]
) -> dict[str, float | str]:
    """Plain values of one operator; a smoothing scale goes to `arrays` and is named, once for each tensor."""
    fields = ("input_minimum", "input_maximum", "output_minimum", "output_maximum")
    entry: dict[str, float | str] = {
        key: float(getattr(calibration, key)) for key in fields if getattr(calibration, key) is not None
    }
    if calibration.smoothing is not None:
        value = calibration.smoothing.numpy()
        key = next((key for key, array in arrays.items() if array is value or _same(array, value)), f"{name}.smoothing")
        arrays[key] = value
        entry["smoothing"] = key
    return entry


def calibration_from_recipe(entry: Mapping[str, Any], arrays: Mapping[str, Any]) -> OperatorCalibration:
    """Inverse of `calibration_to_recipe`."""
    smoothing = entry.get("smoothing")
    return OperatorCalibration(
        entry.get("input_minimum"),
        entry.get("input_maximum"),
        None if smoothing is None else torch.from_numpy(arrays[smoothing].copy()),
        entry.get("output_minimum"),
        entry.get("output_maximum"),
    )


def _same(left: Any, right: Any) -> bool:
    return bool(left.shape == right.shape and (left == right).all())
