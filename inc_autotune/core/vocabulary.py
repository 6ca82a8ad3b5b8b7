"""The words of arguments, framework YAML, operator rules and configurations; everything else imports them from here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

FLOAT_DTYPES = ("fp32", "bf16", "fp16")
INTEGER_DTYPES = tuple(f"{sign}int{bits}" for bits in range(8, 0, -1) for sign in ("", "u"))
INTEGER_DTYPES_TEXT = "int1 to int8, uint1 to uint8"
DTYPES = (*INTEGER_DTYPES, *FLOAT_DTYPES)
DTYPES_TEXT = f"{INTEGER_DTYPES_TEXT}, {', '.join(FLOAT_DTYPES)}"

Scheme = Literal["sym", "asym"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

WeightGranularity = Literal["per_tensor", "per_channel", "per_group_32", "per_group_64", "per_group_128"]
"""What has a scale of its own: the tensor, each output channel, or so many weights of an output channel one after
another."""
WEIGHT_GRANULARITIES: tuple[WeightGranularity, ...] = get_args(WeightGranularity)
ActivationGranularity = Literal["per_tensor", "per_token"]
"""What has a scale of its own: the tensor, or each token, which is all indices but the last one."""
ACTIVATION_GRANULARITIES: tuple[ActivationGranularity, ...] = get_args(ActivationGranularity)
GRANULARITIES: tuple[str, ...] = tuple(dict.fromkeys((*WEIGHT_GRANULARITIES, *ACTIVATION_GRANULARITIES)))
GROUP_SIZES: Mapping[str, int] = {"per_group_32": 32, "per_group_64": 64, "per_group_128": 128}
"""Weights that share a scale, by granularity."""

WeightAlgorithm = Literal["minmax", "mse"]
WEIGHT_ALGORITHMS: tuple[WeightAlgorithm, ...] = get_args(WeightAlgorithm)
Algorithm = Literal["minmax", "kl", "percentile", "mse"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
"""Calibration algorithms of activations; all but `minmax` need a histogram."""

Rounding = Literal["nearest", "second_moment"]
"""How a weight becomes integers: each to the nearest, or all by the second moment of what they are multiplied with."""
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)

WeightStatistic = Literal["largest", "norm"]
"""What a smoothing scale knows of the weights that read a channel: the largest absolute value, or the norm of all."""
WEIGHT_STATISTICS: tuple[WeightStatistic, ...] = get_args(WeightStatistic)

FormName = Literal["exponents", "norm", "shift"]
"""What a smoothing form may change beside alpha: the exponent of the weight, its statistic, a shift of channels."""
FORM_NAMES: tuple[FormName, ...] = get_args(FormName)

RequestedRounding = Literal["auto", "nearest", "second_moment"]
"""The recipe `weight_rounding`."""
REQUESTED_ROUNDINGS: tuple[RequestedRounding, ...] = get_args(RequestedRounding)

Approach = Literal["static", "dynamic", "weight_only"]
"""How one operator is quantized."""
APPROACHES: tuple[Approach, ...] = get_args(Approach)
"""In the order in which they are preferred."""

RequestedApproach = Literal["auto", "static", "dynamic", "weight_only", "qat"]
"""The argument `approach`; "qat" trains the quantized model at once."""
REQUESTED_APPROACHES: tuple[RequestedApproach, ...] = get_args(RequestedApproach)

Objective = Literal["performance", "modelsize", "footprint"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

Correction = Literal["fast_bias_correction", "weight_correction"]
"""What takes error away from an operator at no cost at run time, by the names that `recipes` has for it."""
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)

TrainedRanges = Literal["learned", "moving", "fixed"]
"""Ranges of a model in training: learned like weights, those of the data and weights of each step, or as calibrated."""
TRAINED_RANGES: tuple[TrainedRanges, ...] = get_args(TrainedRanges)

RANGE_PACE = 20.0
"""A learned range is the calibrated one times `exp(RANGE_PACE * parameter)`.

Optimizers such as Adam move every parameter by about their rate in each step. That is a percent or so of a weight, but
of a range whose logarithm is the parameter so little that short trainings never halve it, as 4 bits want.
"""

SharedCriterion = Literal["min", "mean", "max"]
"""How the losses of operators that share an alpha become one loss."""
SHARED_CRITERIA: tuple[SharedCriterion, ...] = get_args(SharedCriterion)

MOST_ALPHAS = 1001
"""Alphas in one search: from 0 to 1 in steps of 0.001."""


def listing(words: Iterable[str]) -> str:
    """`'a', 'b', 'c'`: how allowed words are shown in a message; all dtypes in short, `int1 to int8, ...`."""
    words = tuple(words)
    return {INTEGER_DTYPES: INTEGER_DTYPES_TEXT, DTYPES: DTYPES_TEXT}.get(words) or ", ".join(map(repr, words))
