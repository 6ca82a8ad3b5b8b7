"""The charts of trials: score against what was gained, and score by number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from inc_autotune.core.result.report.figure import Chart, layout_of, markers
from inc_autotune.core.result.report.wording import GAINS, gain_of, verdict_of
from inc_autotune.core.result.tuning_result import TuningResult
from inc_autotune.core.search.study import Trial

Mark = tuple[Trial, float, float]
"""A trial with its x and its score."""


def accuracy_and_gain(result: TuningResult) -> Chart | None:
    """Score against the gain in what the objective counts, of the trials with a measured one; None where none has."""
    points = [(trial, gain_of(trial, result)) for trial in _complete(result)]
    marks = [(trial, gain, trial.score or 0.0) for trial, gain in points if gain is not None]
    if not marks:
        return None
    words = GAINS[result.objective]
    traces = _trial_traces(marks, result, words.axis + " %{x:.2f}, score %{y:.6g}")
    if result.baseline is not None:
        fp32 = markers("fp32 model", [(1.0, result.baseline)], "--muted", "diamond", ["fp32 model"], "score %{y:.6g}")
        traces.insert(0, fp32)
    layout = layout_of(words.axis, "score", lines=_goal_lines(result, baseline=False), legend=True)
    layout["yaxis"]["range"] = _score_range(result, marks)
    return Chart(
        key="accuracy-gain",
        title=f"Accuracy against {words.against}",
        caption=f"{words.meaning} {_goal_caption(result, marks)} "
        f"Measured: {len(marks)} of {len(points)} scored trials.",
        traces=traces,
        layout=layout,
    )


def accuracy_per_trial(result: TuningResult) -> Chart | None:
    """Score by trial number; None if no trial is scored, or the chart against gain shows every scored trial."""
    complete = _complete(result)
    if all(gain_of(trial, result) is not None for trial in complete):
        return None
    marks = [(trial, float(trial.number + 1), trial.score or 0.0) for trial in complete]
    numbers = [x for _, x, _ in marks]
    failed = sum(trial.state == "failed" for trial in result.trials)
    layout = layout_of("trial", "score", lines=_goal_lines(result, baseline=True), legend=True)
    layout["yaxis"]["range"] = _score_range(result, marks)
    first, last = min(numbers), max(numbers)
    layout["xaxis"] |= {
        "range": [first - 0.6, last + 0.6],
        "dtick": max(1, math.ceil((last - first) / 12)),
        "tick0": first,
    }
    return Chart(
        key="accuracy-trial",
        title="Accuracy per trial",
        caption=_goal_caption(result, marks) + (f" Failed, without a score: {failed}." if failed else ""),
        traces=_trial_traces(marks, result, "score %{y:.6g}"),
        layout=layout,
    )


def _complete(result: TuningResult) -> list[Trial]:
    return [trial for trial in result.trials if trial.score is not None]


def _trial_traces(marks: Sequence[Mark], result: TuningResult, hover: str) -> list[dict[str, Any]]:
    """Trials that met the goal, trials that did not, and a ring around the returned trial."""
    traces = []
    for name, met, colour, symbol in (("goal met", True, "--green", "circle"), ("not met", False, "--orange", "x")):
        chosen = [mark for mark in marks if mark[0].met == met]
        if chosen:
            labels = [f"trial {trial.number + 1}: {trial.label}, {verdict_of(trial)}" for trial, _, _ in chosen]
            trace = markers(name, [(x, y) for _, x, y in chosen], colour, symbol, labels, hover)
            traces.append(trace | _error_bars(chosen, result, colour))
    returned = [(x, y) for trial, x, y in marks if trial.number == result.chosen]
    if returned:
        trace = markers("returned model", returned, "--ink", "circle-open", [""], "")
        trace["marker"] |= {"size": 18, "line": {"width": 1.5}}
        # The mark inside the ring answers the pointer.
        traces.append(trace | {"hoverinfo": "skip", "hovertemplate": None})
    return traces


def _error_bars(marks: Sequence[Mark], result: TuningResult, colour: str) -> dict[str, Any]:
    """Error bars: the intervals of the losses, turned into intervals of the scores; empty if no trial has one."""
    if all(trial.interval is None for trial, _, _ in marks):
        return {}
    ends = [_score_interval(trial, result) for trial, _, _ in marks]
    return {
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [high - score for (_, high), (_, _, score) in zip(ends, marks, strict=True)],
            "arrayminus": [score - low for (low, _), (_, _, score) in zip(ends, marks, strict=True)],
            "color": colour,
            "thickness": 1.2,
            "width": 4,
        }
    }


def _score_interval(trial: Trial, result: TuningResult) -> tuple[float, float]:
    """The scores that the interval of the loss allows; the score itself where no interval is known."""
    score = trial.score or 0.0
    if trial.interval is None or result.baseline is None:
        return score, score
    low, high = trial.interval
    # The direction is read from the goal's text, `>= 0.9` or `<= 1.1`: a goal that equals the baseline has none.
    worse = 1.0 if (result.goal or "").startswith("<=") else -1.0
    ends = sorted((result.baseline + worse * low, result.baseline + worse * high))
    return min(ends[0], score), max(ends[1], score)


def _score_range(result: TuningResult, marks: Sequence[Mark]) -> list[float]:
    """Every score with its interval, the goal and fp32, with room around them."""
    values = [end for trial, _, _ in marks for end in _score_interval(trial, result)]
    values += [value for value in (result.baseline, result.target) if value is not None]
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.01 * abs(high) or 1.0
    return [low - room, high + room]


def _goal_caption(result: TuningResult, marks: Sequence[Mark]) -> str:
    goal = f"Goal: score {result.goal}." if result.goal else "There was no goal."
    if any(trial.interval is not None for trial, _, _ in marks):
        return f"{goal} A bar is the confidence interval of the loss against fp32, sample by sample."
    return goal


def _goal_lines(result: TuningResult, *, baseline: bool) -> list[dict[str, Any]]:
    """Horizontal lines, named in the legend: labels in the plot would overlap where fp32 and goal are close."""
    lines = [("goal", result.target, "--red", "dash")]
    if baseline:
        lines.append(("fp32 model", result.baseline, "--muted", "dot"))
    return [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": height,
            "y1": height,
            "layer": "below",
            "name": name,
            "showlegend": True,
            "line": {"color": colour, "dash": dash, "width": 1.5},
        }
        for name, height, colour, dash in lines
        if height is not None
    ]
