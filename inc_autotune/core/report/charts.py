"""The charts of a report, as plain Plotly figures.

A colour that starts with `--` is a CSS variable of the page, so that charts follow its light and dark themes.
Operators stand at numbered positions and their names are tick labels: a name is never a category, which Plotly
would merge with an equal shortened one or read as a number or a date.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inc_autotune.core.history import Trial
from inc_autotune.core.result import TuningResult

MAXIMUM_BARS = 40
"""How many units the sensitivity chart shows; its table has them all."""

MAXIMUM_NAMED_TICKS = 40
"""Up to how many operators the alpha chart names on its axis; above, it counts them."""

_FLOAT_COLOUR = "--orange"
_INTEGER_COLOURS = ("--blue", "--green", "--purple")


@dataclass(frozen=True)
class Chart:
    """One figure.

    Args:
        key: id of its element.
        title: heading.
        caption: what there is to see, in words.
        traces: Plotly traces.
        layout: Plotly layout.
        rows: the charted data as a table, header first; empty where another table of the page has it.
    """

    key: str
    title: str
    caption: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    rows: tuple[tuple[str, ...], ...] = ()


def trial_speedup(trial: Trial, result: TuningResult) -> float | None:
    """The trial's own measurement, or that of the returned model if it is the returned one."""
    if trial.speedup is None and trial.number == result.chosen:
        return result.speedup
    return trial.speedup


def accuracy_and_speed(result: TuningResult) -> Chart | None:
    """Score against measured speed-up, of the trials whose speed was measured; None where none was."""
    points = [(trial, trial_speedup(trial, result)) for trial in _complete(result)]
    measured = [(trial, speedup) for trial, speedup in points if speedup is not None]
    if not measured:
        return None
    marks = [(trial, speedup, trial.score or 0.0) for trial, speedup in measured]
    traces = _trial_traces(marks, result, "speed-up %{x:.2f}x, score %{y:.6g}")
    if result.baseline is not None:
        traces.insert(0, _markers("fp32 model", [(1.0, result.baseline)], "--muted", "diamond", ["fp32 model"]))
        traces[0]["hovertemplate"] = "%{customdata}<br>score %{y:.6g}<extra></extra>"
    layout = _layout("speed-up over fp32", "score", lines=_goal_lines(result, baseline=False), legend=True)
    layout["yaxis"]["range"] = _score_range(result, [score for _, _, score in marks])
    return Chart(
        key="accuracy-speed",
        title="Accuracy against measured speed",
        caption="Right is faster than fp32 (at 1), on this machine, eager. "
        + _goal_caption(result)
        + f" Measured: {len(measured)} of {len(points)} scored trials.",
        traces=traces,
        layout=layout,
    )


def accuracy_per_trial(result: TuningResult) -> Chart | None:
    """Score by trial number; None where every scored trial stands in the chart against speed, or none is scored."""
    complete = _complete(result)
    if all(trial_speedup(trial, result) is not None for trial in complete):
        return None
    marks = [(trial, float(trial.number + 1), trial.score or 0.0) for trial in complete]
    numbers = [x for _, x, _ in marks]
    failed = len(result.trials) - len(complete)
    layout = _layout("trial", "score", lines=_goal_lines(result, baseline=True), legend=True)
    layout["yaxis"]["range"] = _score_range(result, [score for _, _, score in marks])
    first, last = min(numbers), max(numbers)
    layout["xaxis"] |= {
        "range": [first - 0.6, last + 0.6],
        "dtick": max(1, math.ceil((last - first) / 12)),
        "tick0": first,
    }
    return Chart(
        key="accuracy-trial",
        title="Accuracy per trial",
        caption=_goal_caption(result) + (f" Failed, without a score: {failed}." if failed else ""),
        traces=_trial_traces(marks, result, "score %{y:.6g}"),
        layout=layout,
    )


def sensitivity(result: TuningResult) -> Chart | None:
    """Harm by unit, the most harmful on top; None where no unit was ranked."""
    measured = [(harm.unit, harm.error) for harm in result.harms if harm.error is not None]
    shown = [(unit, error) for unit, error in measured if _on_log_axis(error)][:MAXIMUM_BARS]
    if not shown:
        return None
    form_of = {each.name: each.dtype + (f" {each.approach}" if each.approach else "") for each in result.operators}
    places = range(len(shown))
    integers = sorted({form for form in form_of.values() if " " in form})
    traces = []
    for form in dict.fromkeys(form_of.get(unit, "") for unit, _ in shown):
        colour = _INTEGER_COLOURS[integers.index(form) % 3] if form in integers else _FLOAT_COLOUR
        bars = [place for place in places if form_of.get(shown[place][0], "") == form]
        traces.append(
            _bars(
                form or "not listed",
                [shown[place][1] for place in bars],
                bars,
                colour,
                [shown[place][0] for place in bars],
                "output error %{x:.2e}",
            )
        )
    count = f"The {len(shown)} most harmful" if len(shown) < len(result.harms) else f"All {len(shown)}"
    return Chart(
        key="sensitivity",
        title="Sensitivity per unit",
        caption="Relative squared error of the model's output with this unit alone quantized, on held-out calibration "
        f"samples: a longer bar is more harm, each grid line ten times the one before. {count} of "
        f"{len(result.harms)} ranked units; the colour is the form each has in the tuned model.",
        traces=traces,
        layout=_bar_layout("output error", [unit for unit, _ in shown], [error for _, error in shown], legend=True),
        rows=(
            ("unit", "output error", "form in the tuned model"),
            *(
                (harm.unit, "not measured" if harm.error is None else f"{harm.error:.3e}", form_of.get(harm.unit, ""))
                for harm in result.harms
            ),
        ),
    )


def alphas(result: TuningResult) -> Chart | None:
    """SmoothQuant alpha of each quantized operator, in the model's order; None where nothing is smoothed."""
    quantized = [each for each in result.operators if each.approach is not None]
    smoothed = [(place, each) for place, each in enumerate(quantized, start=1) if each.alpha is not None]
    if not smoothed:
        return None
    trace = _markers(
        "alpha",
        [(float(place), each.alpha or 0.0) for place, each in smoothed],
        "--blue",
        "circle",
        [each.name for _, each in smoothed],
    )
    trace["hovertemplate"] = "%{customdata}<br>alpha %{y:.3g}<extra></extra>"
    named = len(quantized) <= MAXIMUM_NAMED_TICKS
    layout = _layout("" if named else "quantized operators, counted in the model's order", "alpha")
    layout["yaxis"] |= {"range": [-0.05, 1.05], "dtick": 0.25}
    layout["xaxis"]["range"] = [0.5 - 0.01 * len(quantized), len(quantized) + 0.5 + 0.01 * len(quantized)]
    if named:
        layout["xaxis"] |= _names([each.name for each in quantized], start=1) | {"tickangle": -90}
        layout["height"] = 440
    return Chart(
        key="alpha",
        title="Alpha per layer",
        caption="SmoothQuant alpha of each quantized operator in the model's order: 0 leaves the difficulty in the "
        f"activation, 1 moves all of it into the weight. Smoothed: {len(smoothed)} of {len(quantized)}; "
        "a gap is an operator that is not. The operator table has these values too.",
        traces=[trace],
        layout=layout,
    )


def smoothing(result: TuningResult) -> Chart | None:
    """Output error of each smoothing plan; None where fewer than two were measured."""
    plans = [(name, error) for name, error in result.smoothing if error is not None and _on_log_axis(error)]
    if len(plans) < 2:
        return None
    names = [name for name, _ in plans]
    errors = [error for _, error in plans]
    trace = _bars("plan", errors, range(len(plans)), "--blue", names, "output error %{x:.2e}")
    return Chart(
        key="smoothing",
        title="Smoothing plans compared",
        caption="Relative squared error of the model's output with everything quantized, on held-out calibration "
        f"samples: shorter is better, each grid line ten times the one before. Tried first: {names[0]}.",
        traces=[trace | _bar_text([f"{error:.1e}" for error in errors])],
        layout=_bar_layout("output error", names, errors),
        rows=(
            ("plan", "output error"),
            *((name, "not measured" if error is None else f"{error:.3e}") for name, error in result.smoothing),
        ),
    )


def phases(result: TuningResult) -> Chart | None:
    """Wall seconds of each phase; None where no time was taken."""
    spent = sorted(result.phases.items(), key=lambda phase: -phase[1])
    if not spent or spent[0][1] <= 0:
        return None
    names, seconds = [name for name, _ in spent], [each for _, each in spent]
    trace = _bars("phase", seconds, range(len(spent)), "--blue", names, "%{x:.2f} s")
    layout = _bar_layout("seconds", names, seconds, log=False)
    return Chart(
        key="phases",
        title="Time spent",
        caption=f"Wall time of each phase of this run, {_seconds(sum(seconds))} in all. "
        "Evaluation is the time in your own evaluation function.",
        traces=[trace | _bar_text([_seconds(each) for each in seconds])],
        layout=layout,
        rows=(("phase", "seconds"), *((name, f"{each:.2f}") for name, each in spent)),
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 100 else f"{seconds:.1f} s"


def _complete(result: TuningResult) -> list[Trial]:
    return [trial for trial in result.trials if trial.score is not None]


def _score_range(result: TuningResult, scores: Sequence[float]) -> list[float]:
    """Every score, the goal and fp32, with room around them."""
    values = [*scores, *(value for value in (result.baseline, result.target) if value is not None)]
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.01 * abs(high) or 1.0
    return [low - room, high + room]


def _goal_caption(result: TuningResult) -> str:
    return f"Goal: score {result.goal}." if result.goal else "There was no goal."


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


def _trial_traces(
    marks: Sequence[tuple[Trial, float, float]], result: TuningResult, hover: str
) -> list[dict[str, Any]]:
    """Trials that met the goal, those that did not, and a ring around the one that was returned."""
    traces = []
    for name, met, colour, symbol in (("goal met", True, "--green", "circle"), ("not met", False, "--orange", "x")):
        chosen = [(trial, x, y) for trial, x, y in marks if trial.met == met]
        if chosen:
            labels = [f"trial {trial.number + 1}: {trial.label}" for trial, _, _ in chosen]
            traces.append(_markers(name, [(x, y) for _, x, y in chosen], colour, symbol, labels))
            traces[-1]["hovertemplate"] = "%{customdata}<br>" + hover + "<extra></extra>"
    returned = [(x, y) for trial, x, y in marks if trial.number == result.chosen]
    if returned:
        traces.append(_markers("returned model", returned, "--ink", "circle-open", [""]))
        traces[-1]["marker"] |= {"size": 18, "line": {"width": 1.5}}
        traces[-1]["hoverinfo"] = "skip"
    return traces


def _markers(
    name: str, points: Sequence[tuple[float, float]], colour: str, symbol: str, labels: Sequence[str]
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "customdata": [html.escape(label, quote=False) for label in labels],
        "marker": {"color": colour, "symbol": symbol, "size": 9},
    }


def _bars(
    name: str, lengths: Sequence[float], places: Sequence[int], colour: str, labels: Sequence[str], hover: str
) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": list(lengths),
        "y": list(places),
        "width": 0.7,
        "customdata": [html.escape(label, quote=False) for label in labels],
        "hovertemplate": "%{customdata}<br>" + hover + "<extra></extra>",
        "marker": {"color": colour},
    }


def _bar_text(texts: Sequence[str]) -> dict[str, Any]:
    return {"text": list(texts), "textposition": "outside", "textangle": 0, "cliponaxis": False}


def _layout(
    x_title: str, y_title: str, *, lines: Sequence[dict[str, Any]] = (), legend: bool = False
) -> dict[str, Any]:
    axis = {"gridcolor": "--line", "linecolor": "--line", "zeroline": False, "automargin": True}
    return {
        "height": 360,
        "margin": {"l": 8, "r": 16, "t": 8, "b": 8, "autoexpand": True},
        "paper_bgcolor": "--page",
        "plot_bgcolor": "--page",
        "font": {"color": "--ink", "family": "system-ui, sans-serif", "size": 13},
        "hoverlabel": {"bgcolor": "--panel", "bordercolor": "--line", "font": {"color": "--ink"}, "align": "left"},
        "xaxis": {**axis, "title": {"text": x_title, "standoff": 12}},
        "yaxis": {**axis, "title": {"text": y_title, "standoff": 12}},
        "shapes": list(lines),
        "showlegend": legend,
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
    }


def _bar_layout(
    title: str, names: Sequence[str], lengths: Sequence[float], *, log: bool = True, legend: bool = False
) -> dict[str, Any]:
    """Horizontal bars, the first on top, each as high as its name needs."""
    layout = _layout(title, "", legend=legend)
    layout["height"] = 110 + 24 * len(names)
    layout["barmode"] = "overlay"
    layout["yaxis"] |= _names(names) | {"range": [len(names) - 0.4, -0.6], "showgrid": False, "fixedrange": True}
    layout["xaxis"]["fixedrange"] = True
    if log:
        low, high = math.floor(math.log10(min(lengths)) - 0.05), math.log10(max(lengths))
        # Room for the figure behind the longest bar.
        layout["xaxis"] |= {
            "type": "log",
            "range": [low, max(math.ceil(high), high + 0.15 * (high - low))],
            "dtick": 1,
            "exponentformat": "power",
        }
    else:
        layout["xaxis"]["range"] = [0, 1.15 * max(lengths)]
    return layout


def _names(names: Sequence[str], start: int = 0) -> dict[str, Any]:
    """Numbered positions with names as labels."""
    return {
        "tickmode": "array",
        "tickvals": list(range(start, start + len(names))),
        "ticktext": [html.escape(_shortened(name), quote=False) for name in names],
    }


def _shortened(name: str, length: int = 34) -> str:
    """The end of a long name: there operators of one model differ."""
    return name if len(name) <= length else "…" + name[1 - length :]


def _on_log_axis(value: float) -> bool:
    return math.isfinite(value) and value > 0
