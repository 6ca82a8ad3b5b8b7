"""From statistics to the ranges and smoothing scales of the operators of one configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import (
    SecondMoment,
    Statistics,
    group_scale,
    input_means,
    smoothed_range,
)
from inc_autotune.torch_ext.calibration.collect import output_of
from inc_autotune.torch_ext.calibration.moments import input_of, moment_names, weight_moments
from inc_autotune.torch_ext.calibration.operator_calibration import OperatorCalibration
from inc_autotune.torch_ext.operators import TYPES_WITHOUT_RANGE, ModelTrace, weight_matrix

Moments = Mapping[str, SecondMoment]
"""By name of the input."""


def operator_calibrations(
    configs: Mapping[str, OpConfig],
    trace: ModelTrace,
    model: nn.Module,
    statistics: Statistics,
    moments: Moments,
    integer_sums: bool = False,
) -> dict[str, OperatorCalibration]:
    """Ranges and smoothing scales of every operator that leaves fp32, as `prepare_module` needs them.

    Args:
        configs: by operator name; operators in fp32 may be left out.
        trace: the model's input groups and convolution chains.
        model: the fp32 model, batch norms folded.
        statistics: of the model.
        moments: of its inputs, for weights that are rounded by them.
        integer_sums: whether sums that convolutions read go into further sums as the integers that these read.
    """
    leaders = {name: members[0] for members in trace.groups for name in members}
    scales = _smoothing_scales(configs, trace, model, statistics)
    names = moment_names(trace)
    shifted: dict[str, dict[str, SecondMoment]] = {}
    calibrations = {}
    for name, config in configs.items():
        scale, limits, means, shift = scales.get(name), None, None, None
        seen = statistics.get(input_of(leaders.get(name, name)))
        if scale is not None and config.form.shifted and seen is not None:
            shift = seen.channel_middle
            seen = seen.shifted(shift)
        if config.approach == "static":
            assert seen is not None
            limits = smoothed_range(seen, scale, config.activation)
        if "fast_bias_correction" in config.corrections and trace.operators[name].type not in TYPES_WITHOUT_RANGE:
            assert seen is not None
            means = input_means(seen, scale, config.activation, limits)
        minimum, maximum = limits or (None, None)
        found = None
        if config.rounding == "second_moment" and name in names:
            found = weight_moments(moments, names[name], model.get_submodule(name))
        if found is not None and shift is not None:
            # By the name of the input, which others read too.
            if names[name] not in shifted:
                shifted[names[name]] = {weight: moment.shifted(shift) for weight, moment in found.items()}
            found = shifted[names[name]]
        calibrations[name] = OperatorCalibration(
            minimum, maximum, scale, moments=found or {}, input_means=means, shift=shift
        )
    if not integer_sums:
        trace = replace(trace, shared_sums=frozenset())
    return {
        name: _with_output_range(name, calibration, calibrations, configs, trace, statistics)
        for name, calibration in calibrations.items()
    }


def group_weights(model: nn.Module, names: Sequence[str]) -> list[torch.Tensor]:
    """The weights of linear operators as [out_features, in_features]."""
    return [weight_matrix(model.get_submodule(name)) for name in names]


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
            weights = group_weights(model, names)
            seen = statistics[input_of(members[0])]
            activation = (seen.shifted(seen.channel_middle) if config.form.shifted else seen).channel_absmax
            scale: torch.Tensor = group_scale(activation, weights, config.alpha, config.form)
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
    """Give a convolution the range that the output is requantized to.

    If one quantized group alone reads the output, that is the input range of the group: the second rounding then
    changes nothing. If nothing but ReLUs read the output, the range starts at zero, which makes the ReLU free.
    """
    if output_of(name) not in statistics or calibration.input_minimum is None:
        return calibration
    target = trace.output_groups.get(name)
    reader = calibrations.get(target) if target is not None else None
    if reader is not None and reader.input_minimum is not None and configs[str(target)].alpha is None:
        minimum, maximum = reader.input_minimum, reader.input_maximum
    else:
        seen = statistics[output_of(name)]
        minimum, maximum = seen.minimum, seen.maximum
        if name in trace.relu_outputs:
            minimum, maximum = 0.0, max(maximum, 0.0)
    return replace(
        calibration,
        output_minimum=minimum,
        output_maximum=maximum,
        channels_last=trace.bears_channels_last,
        hands_on_integers=name in trace.chains,
        rounds_sums=name in trace.shared_sums,
    )
