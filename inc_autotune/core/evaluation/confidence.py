"""Confidence intervals for the mean of paired differences, at a fixed size and while samples still arrive.

Differences come in two kinds, and each needs its own treatment:

- Dense: most samples differ a little (similarities, losses). Student's t interval.
- Bounded: scores with two values (right or wrong), or scores most of which stay exactly the same. A few samples carry
  all information, so the normal approximation fails: it calls ten equal answers a proof of equality. At a fixed size
  the score interval for matched pairs (Tango 1998).

While samples arrive there is a third concern: differences that are dense and small so far may be followed by a few
samples on which the model fails, and no statistic of the first samples can know that. So the upper end of the interval
always comes from betting (Waudby-Smith and Ramdas 2024), which is valid at every size, for every distribution between
two bounds. The t interval may only raise the lower end, by which a model is rejected earlier.

Sources:
    Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design,
    Statistics in Medicine 17, 1998.
    Waudby-Smith, Ramdas, Estimating means of bounded random variables by betting, JRSS B 86, 2024.
    Jennison, Turnbull, Interim analyses: the repeated confidence interval approach, JRSS B 51, 1989.
    Cochran, Sampling Techniques, 3rd edition, 1977, section 2.15 (skewness).
    Abramowitz, Stegun, Handbook of Mathematical Functions, 26.7.3 to 26.7.5 (Student's t).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
Interval = tuple[float, float]

FIRST_LOOK = 32
LOOK_GROWTH = 1.5
# The share of alpha for early stops. The final interval, which gets the rest, becomes 5 % wider.
EARLY_SHARE = 0.2
_SKEWNESS_FACTOR = 100
# Bets as shares of the largest bet, at which the capital could become 0.
_BETS = np.append(np.geomspace(0.01, 0.9, 15), 0.99)
# Half of the capital is on the largest bet, which wins if hardly anything differs: 25 % fewer samples to a pass then.
_CAPITAL = np.append(np.full(15, 0.5 / 15), 0.5)


def look_sizes(total: int) -> tuple[int, ...]:
    """The sizes at which an evaluation of `total` samples may stop early: 32, and 1.5 times the size before."""
    sizes, size = [], float(FIRST_LOOK)
    while size < total:
        sizes.append(int(size))
        size *= LOOK_GROWTH
    return tuple(sizes)


def score_range(reference: Samples, candidate: Samples) -> float | None:
    """The largest possible difference if differences are bounded in the sense above; None if they are dense.

    Args:
        reference: fp32 scores, shape [n]
        candidate: scores of the same samples, shape [n]
    """
    values = np.unique(np.concatenate([reference, candidate]))
    if len(values) == 1:
        return abs(float(values[0])) or 1.0
    changed = np.count_nonzero(reference != candidate)
    return float(values[-1] - values[0]) if len(values) == 2 or 2 * changed <= len(candidate) else None


def largest_difference(reference: Samples, candidate: Samples) -> float:
    """The largest difference that is possible in samples that are still to come.

    This is the range of all known scores and zero: a sample may fail altogether, even if fp32 scores none badly.

    Args:
        reference: fp32 scores of all samples, shape [n]
        candidate: scores of the first samples, shape [m], m <= n
    """
    return float(np.ptp(np.concatenate([[0.0], reference, candidate]))) or 1.0


def final_interval(differences: Samples, bound: float | None, alpha: float) -> Interval:
    """Interval of the mean difference for a size fixed beforehand.

    Args:
        differences: shape [n], n >= 2
        bound: what `score_range` gave
        alpha: two-sided error rate, split evenly
    """
    if bound is None:
        return mean_interval(differences, alpha)
    losses = float(np.sum(differences[differences > 0])) / bound
    gains = -float(np.sum(differences[differences < 0])) / bound
    low, high = matched_pairs_interval(losses, gains, len(differences), alpha)
    return low * bound, high * bound


def look_interval(differences: Samples, bound: float, alpha: float, looks: int, *, dense: bool) -> Interval:
    """Interval of the mean difference that may be computed at each of `looks` sizes.

    With probability `alpha` at most, any of these intervals misses the true mean. Both ends come from betting (Ville's
    inequality). If differences are dense, betting uses half of the error rate of the lower end; the other half goes to
    the lower end of the t interval, an equal part at every look, and the higher of the two lower ends counts.

    Args:
        differences: shape [n], n >= 2, positive is worse
        bound: what `largest_difference` gave
        alpha: error rate, split evenly between the two ends
        looks: number of sizes
        dense: whether `score_range` gave None
    """
    shares = differences / bound
    low, high = betting_lower(shares, alpha / (4 if dense else 2)), betting_upper(shares, alpha / 2)
    low, high = low * bound, high * bound
    if dense and _nearly_normal(differences):
        low = max(low, mean_interval(differences, alpha / (2 * looks))[0])
    return low, high


def mean_interval(differences: Samples, alpha: float) -> Interval:
    """Student's t interval of a mean."""
    mean = float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    width = student_t_quantile(1 - alpha / 2, len(differences) - 1) * error
    return mean - width, mean + width


def _nearly_normal(differences: Samples) -> bool:
    """Whether a t interval may be trusted far out in its tails: n >= 100 * skewness ** 2.

    Cochran's rule asks for 25 at the 5 % level. The levels of single looks are far smaller; with 100, simulated
    lognormal losses (sigma 0.25 to 1.5) stop wrongly in at most 1.2 % of the runs, with 25 in up to 6 %.
    """
    centered = differences - np.mean(differences)
    variance = float(np.mean(centered**2))
    skewness = float(np.mean(centered**3)) / variance**1.5 if variance > 0 else 0.0
    return len(differences) >= _SKEWNESS_FACTOR * skewness**2


def matched_pairs_interval(losses: float, gains: float, count: int, alpha: float) -> Interval:
    """Tango's score interval of (losses - gains) / count, in [-1, 1].

    Args:
        losses: pairs that got worse. May be fractional: a pair that got worse by a third of the range counts a third,
            which overstates the variance and so widens the interval.
        gains: pairs that got better
        count: all pairs
    """
    quantile = NormalDist().inv_cdf(1 - alpha / 2)
    return -_tango_upper(gains, losses, count, quantile), _tango_upper(losses, gains, count, quantile)


def _tango_upper(losses: float, gains: float, count: int, quantile: float) -> float:
    def excluded(difference: float) -> bool:
        # The probability of a gain, estimated under the hypothesis that the true difference is `difference`.
        linear = (2 * count - losses + gains) * difference - losses - gains
        constant = -gains * difference * (1 - difference)
        gain = (math.sqrt(max(linear**2 - 8 * count * constant, 0.0)) - linear) / (4 * count)
        variance = count * max(2 * gain + difference * (1 - difference), 0.0)
        return count * difference - (losses - gains) > quantile * math.sqrt(variance)

    return _first(excluded, (losses - gains) / count, 1.0)


def betting_interval(differences: Samples, alpha: float) -> Interval:
    """Interval of the mean of differences in [-1, 1], valid at every size at once.

    Bets against the true mean have no expected gain: their capital, averaged over several sizes of bet, ever exceeds
    1 / error with probability `error` at most. The interval holds the means against which the capital has not.
    """
    return betting_lower(differences, alpha / 2), betting_upper(differences, alpha / 2)


def betting_lower(differences: Samples, error: float) -> float:
    """The lower end of `betting_interval`, with its own error rate."""
    return -betting_upper(-differences, error)


def betting_upper(differences: Samples, error: float) -> float:
    """The upper end of `betting_interval`, with its own error rate."""
    values, counts = np.unique(differences, return_counts=True)
    threshold = -math.log(error)

    def excluded(mean: float) -> bool:
        gains = np.log1p(_BETS[:, None] * (mean - values) / max(1 - mean, 1e-12)) @ counts
        return bool(np.logaddexp.reduce(np.log(_CAPITAL) + gains) > threshold)

    return _first(excluded, float(np.mean(differences)), 1.0, precision=1e-6)


def _first(holds: Callable[[float], bool], low: float, high: float, precision: float = 1e-12) -> float:
    """The smallest number for which a monotone condition, false at `low`, is true; `high` if there is none.

    The answer may be too high by `precision`, and is never too low.
    """
    while high - low > precision:
        middle = (low + high) / 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def student_t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution, for probability in [0.5, 1) and degrees >= 1; relative error below 1e-6."""
    normal = NormalDist().inv_cdf(probability)
    if degrees < 200:
        # The angle whose tangent is t / sqrt(degrees) lies in [0, pi / 2).
        angle = _first(lambda angle: _t_within(angle, degrees) > 2 * probability - 1, 0.0, math.pi / 2)
        return math.sqrt(degrees) * math.tan(angle)
    square = normal**2
    first = (square + 1) / 4
    second = ((5 * square + 16) * square + 3) / 96
    third = (((3 * square + 19) * square + 17) * square - 15) / 384
    return normal * (1 + first / degrees + second / degrees**2 + third / degrees**3)


def _t_within(angle: float, degrees: int) -> float:
    """P(|T| < sqrt(degrees) * tan(angle))."""
    cosine, odd = math.cos(angle), degrees % 2
    term = cosine if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for power in range(3 if odd else 2, degrees - 1, 2):
        term *= (power - 1) / power * cosine**2
        total += term
    inside = math.sin(angle) * total
    return 2 / math.pi * (angle + inside) if odd else inside


def representative(reference: Any, prefix: int) -> bool:
    """Whether the first `prefix` reference scores look like a random draw from all of them.

    Data sorted by class, length or difficulty fails this test if the scores show the order: then the first samples say
    nothing about the rest. The limit is two standard errors of a draw without replacement; a false alarm only delays a
    stop.
    """
    total = len(reference)
    error = float(np.std(reference)) * math.sqrt((total - prefix) / (prefix * max(total - 1, 1)))
    gap = abs(float(np.mean(reference[:prefix]) - np.mean(reference)))
    return gap <= 2 * error + 1e-12 * max(1.0, abs(float(np.mean(reference))))
