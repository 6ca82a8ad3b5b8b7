"""Smoothing scales, of the largest activations and of what is known of the weights that read them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import array_api_compat

from inc_autotune.core.arrays import AnyNamespaceArray
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import SMOOTHQUANT, SmoothingForm

SMALLEST_SCALE = 1e-5
LARGEST_SCALE = 1e5

_MAGNITUDE_LIMIT = 1e15  # keeps act ** alpha / weight ** beta within float32


def smoothing_scale(
    activation_absmax: AnyNamespaceArray, weight: AnyNamespaceArray, alpha: float, beta: float | None = None
) -> AnyNamespaceArray:
    """Per-channel SmoothQuant scale: s = act ** alpha / weight ** beta.

    The activation is divided by `s`, the weight's input channel multiplied by it, so the fp32 product is unchanged.
    Alpha 0 does not mean "off": it scales every weight channel to a largest value of 1, all difficulty going to the
    activation, as alpha 1 scales every activation channel to 1. Not smoothing is a scale of ones. A constant factor of
    all channels changes nothing either, since the scales of activation and weight follow it.

    Args:
        activation_absmax: largest |x| per input channel over the calibration data, shape [in_features].
        weight: largest |w| per input channel over every consumer, or another statistic of it, shape [in_features].
        alpha: in [0, 1]; how much of the activation's difficulty moves into the weight.
        beta: in [0, 1]; how far the weight's channels are evened out. None: `1 - alpha`, as SmoothQuant has it.

    Returns:
        Positive scale, shape [in_features], same dtype as `activation_absmax` (float32 if that is a half
        precision), within [1e-5, 1e5]; 1 for a channel that is all zero in the activation or in the weight.

    Raises:
        ArgumentError: `alpha` or `beta` is outside [0, 1].

    Source: Xiao et al., SmoothQuant, ICML 2023, eq. 4.
    """
    check_exponent("alpha", alpha)
    if beta is not None:
        check_exponent("beta", beta)
    alpha = float(alpha)  # a numpy scalar would promote the result
    beta = 1 - alpha if beta is None else float(beta)
    xp = array_api_compat.array_namespace(activation_absmax, weight)
    dtype = activation_absmax.dtype if activation_absmax.dtype == xp.float64 else xp.float32
    activation = xp.astype(activation_absmax, dtype, copy=False)
    weight = xp.astype(weight, dtype, copy=False)
    dead = (activation <= 0) | (weight <= 0)
    activation = xp.clip(activation, 1 / _MAGNITUDE_LIMIT, _MAGNITUDE_LIMIT)
    weight = xp.clip(weight, 1 / _MAGNITUDE_LIMIT, _MAGNITUDE_LIMIT)
    scale = xp.clip(activation**alpha / weight**beta, SMALLEST_SCALE, LARGEST_SCALE)
    return xp.where(dead, xp.ones_like(scale), scale)


def check_exponent(argument: str, value: object) -> None:
    """Refuse what cannot be an exponent of a smoothing scale.

    Args:
        argument: name, for the message.
        value: of it.

    Raises:
        ArgumentError: it is no number in [0, 1].
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise ArgumentError(f"{argument}={value!r}: not an exponent of smoothing.\nAllowed: a number from 0 to 1.")


def group_scale(
    activation_absmax: AnyNamespaceArray,
    weights: Sequence[AnyNamespaceArray],
    alpha: float,
    form: SmoothingForm = SMOOTHQUANT,
) -> AnyNamespaceArray:
    """The scale of an activation that several operators read.

    Args:
        activation_absmax: largest |x| per input channel, of a shifted form after the shift; [in_features].
        weights: of these operators, [out_features, in_features].
        alpha: see `smoothing_scale`.
        form: which statistic of the weights, and with which exponent.
    """
    statistic = group_weight_norm(weights) if form.weight == "norm" else group_weight_absmax(weights)
    return smoothing_scale(activation_absmax, statistic, alpha, form.beta)


def group_weight_absmax(weights: Sequence[AnyNamespaceArray]) -> AnyNamespaceArray:
    """Largest |w| per input channel over all weights of a group, float32 [in_features]."""
    xp = array_api_compat.array_namespace(*weights)
    result = None
    for weight in weights:
        # Without |weight| as a temporary: the largest of both signs.
        absmax = xp.maximum(xp.max(weight, axis=0), -xp.min(weight, axis=0))
        result = absmax if result is None else xp.maximum(result, absmax)
    return xp.astype(result, xp.float32, copy=False)


def group_weight_norm(weights: Sequence[AnyNamespaceArray]) -> AnyNamespaceArray:
    """Root of the sum of squares per input channel over all weights of a group, float32 [in_features]."""
    xp = array_api_compat.array_namespace(*weights)
    squares = [xp.sum(each * each, axis=0) for each in (xp.astype(each, xp.float32, copy=False) for each in weights)]
    return xp.sqrt(sum(squares[1:], squares[0]))
