"""One evaluated candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from inc_autotune.core.evaluation import Judgement, Verdict
from inc_autotune.core.space import Assignment


@dataclass(frozen=True)
class Trial:
    """One candidate and the outcome of its evaluation.

    Args:
        number: counted from 0, in the order of the study.
        label: what the strategy tried, for people.
        state: `complete` with a score, `failed` with an error, or `running` in another process of this tuning run.
        score: what the evaluation returned.
        met: whether the score met the goal.
        interrupted: the evaluation raised, or its process died; a resumed run tries the same again.
        seconds: wall time of building and evaluating the candidate.
        gain: fp32 cost over candidate cost in the objective (time, bytes of weights, bytes at run time); None if not
            measured.
        verdict: `pass`, `fail` or `undecided`, from a paired test if the evaluation gave per-sample scores.
        interval: confidence interval of the loss against fp32, in the score's unit; None for a plain number.
        samples: number of per-sample scores compared.
        stopped_early: the evaluation was ended before its last sample, since the verdict was clear.
        training_seconds: wall time of `train_func`, which `seconds` does not count; None where nothing was trained.
        trained_from: number of the trial whose trained weights that started from; None: the fp32 model's.
    """

    number: int
    assignment: Assignment
    label: str
    state: Literal["complete", "failed", "running"]
    score: float | None = None
    met: bool = False
    error: str | None = None
    interrupted: bool = False
    seconds: float = 0.0
    gain: float | None = None
    verdict: Verdict | None = None
    interval: tuple[float, float] | None = None
    samples: int | None = None
    stopped_early: bool = False
    training_seconds: float | None = None
    trained_from: int | None = None

    def outcome(self) -> dict[str, Any]:
        """The outcome of the evaluation as plain values: all that a restarted run needs."""
        return {name: getattr(self, name) for name in _OUTCOME}

    def judged(self, judgement: Judgement, seconds: float) -> Trial:
        """This trial with what was found in so many seconds."""
        return replace(
            self,
            state="complete",
            seconds=seconds,
            score=judgement.score,
            met=judgement.met,
            verdict=judgement.verdict,
            interval=judgement.interval,
            samples=judgement.count,
            stopped_early=judgement.stopped_early,
        )

    def ended(self, outcome: Mapping[str, Any], gain: float | None) -> Trial:
        """This trial with an `outcome` that was read back from a database."""
        values = {name: value for name, value in outcome.items() if name in _OUTCOME}
        if values.get("interval") is not None:
            values["interval"] = tuple(values["interval"])
        state: Literal["complete", "failed"] = "failed" if values.get("score") is None else "complete"
        return replace(self, state=state, gain=gain, **values)


_OUTCOME = (
    *("score", "met", "error", "interrupted", "seconds", "verdict", "interval", "samples", "stopped_early"),
    *("training_seconds", "trained_from"),
)
