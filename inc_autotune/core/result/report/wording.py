"""How the report names what it shows."""

from __future__ import annotations

import re
from dataclasses import dataclass

from inc_autotune.core.result.tuning_result import TuningResult
from inc_autotune.core.search.study import Trial
from inc_autotune.core.vocabulary import Objective


@dataclass(frozen=True)
class GainWords:
    """What a gain is called.

    Args:
        term: the figure's name.
        axis: what the axis of a chart shows.
        against: how it stands in a heading, after "accuracy against".
        meaning: what a gain above 1 means, and how it was measured.
    """

    term: str
    axis: str
    against: str
    meaning: str


GAINS: dict[Objective, GainWords] = {
    "performance": GainWords(
        "Speed-up",
        "speed-up over fp32",
        "measured speed",
        "Right is faster than fp32 (at 1): measured on this machine.",
    ),
    "modelsize": GainWords(
        "Smaller weights",
        "times smaller than fp32 weights",
        "size of the weights",
        "Right is smaller than fp32 (at 1): bytes of all weights.",
    ),
    "footprint": GainWords(
        "Less memory",
        "times less memory than fp32",
        "memory at run time",
        "Right needs less memory than fp32 (at 1): most bytes in use during a forward pass, weights included.",
    ),
}


def times(ratio: float | None) -> str:
    """A ratio as a factor."""
    return "not measured" if ratio is None else f"{ratio:.2f}x"


def gain_of(trial: Trial, result: TuningResult) -> float | None:
    """The trial's own measurement, or that of the returned model if it is the returned one."""
    if trial.gain is None and trial.number == result.chosen:
        return result.gain
    return trial.gain


def verdict_of(trial: Trial) -> str:
    """One word, or two, on how the trial ended."""
    if trial.state == "running":
        return "still running"
    if trial.score is None:
        return "failed"
    if trial.verdict == "undecided":
        return "undecided, met" if trial.met else "undecided, not met"
    return trial.verdict or ("pass" if trial.met else "fail")


def interval_of(trial: Trial) -> str:
    """The confidence interval of the loss, in the score's unit."""
    if trial.score is None:
        return ""
    if trial.interval is None:
        return "no interval: one number"
    low, high = trial.interval
    return f"{low:.3g} to {high:.3g}"


def samples_of(trial: Trial) -> str:
    """How many per-sample scores decided."""
    if trial.samples is None:
        return ""
    return f"{trial.samples}, stopped early" if trial.stopped_early else str(trial.samples)


def reasons_for_float(result: TuningResult) -> dict[str, list[str]]:
    """Operators in a float dtype by the kind of their reason, the most frequent first.

    The kind of a reason ends at a colon, a number or a share of the weights, after which the operator's own figures
    follow: `int8 is not faster here: 0.8x of fp32`, `harm rank 3 of 40`.
    """
    found: dict[str, list[str]] = {}
    for name, reason in result.fallbacks.items():
        kind = re.sub(r"\s+(\d|\((\d|< )).*", "", reason.split(":")[0], flags=re.DOTALL) or "no reason given"
        found.setdefault(kind, []).append(name)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))
