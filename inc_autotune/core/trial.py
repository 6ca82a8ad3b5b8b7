"""One evaluated candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from inc_autotune.core.evaluation import Verdict
from inc_autotune.core.space import Assignment


@dataclass(frozen=True)
class Trial:
    """One candidate and what its evaluation said.

    Args:
        number: counted from 0, in the order of the study.
        label: what the strategy tried, for people.
        state: `complete` with a score, `failed` with an error, or `running` in another process of this tuning run.
        score: what the evaluation returned.
        met: whether the score met the goal.
        interrupted: the evaluation raised, or its process died; a resumed run tries the same again.
        seconds: wall time of building and evaluating the candidate.
        gain: fp32 cost over candidate cost in what the objective counts (time, bytes of weights, bytes at run time),
            where measured.
        verdict: `pass`, `fail` or `undecided`, from a paired test where the evaluation gave per-sample scores.
        interval: confidence interval of the loss against fp32, in the score's unit; None for a plain number.
        samples: number of per-sample scores compared.
        stopped_early: the evaluation was ended before its last sample, since the verdict was clear.
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

    def attributes(self) -> dict[str, Any]:
        """What is stored beside number, state and score, as plain values."""
        stored = {field.name: getattr(self, field.name) for field in fields(self)}
        stored["assignment"] = self.assignment.to_dict()
        return {name: value for name, value in stored.items() if name not in ("number", "state", "score")}

    @classmethod
    def from_attributes(
        cls,
        number: int,
        state: Literal["complete", "failed", "running"],
        score: float | None,
        attributes: Mapping[str, Any],
    ) -> Trial:
        """Inverse of `attributes`; what is missing, because the trial has not ended, takes its default."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in attributes.items() if name in known}
        values["assignment"] = Assignment.from_dict(values["assignment"])
        if values.get("interval") is not None:
            values["interval"] = tuple(values["interval"])
        return cls(number=number, state=state, score=score, **values)
