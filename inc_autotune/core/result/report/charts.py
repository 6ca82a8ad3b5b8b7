"""The charts of smoothing and of time."""

from __future__ import annotations

from inc_autotune.core.result.report.figure import (
    Chart,
    bar_layout,
    bar_text,
    bars,
    layout_of,
    markers,
    on_log_axis,
    tick_names,
)
from inc_autotune.core.result.tuning_result import TuningResult

MAXIMUM_NAMED_TICKS = 40
"""With more operators than this the axis of the alpha chart has their numbers instead of their names."""


def alphas(result: TuningResult) -> Chart | None:
    """SmoothQuant alpha of each quantized operator, in the model's order; None where nothing is smoothed."""
    quantized = [operator for operator in result.operators if operator.approach is not None]
    smoothed = [(place, operator) for place, operator in enumerate(quantized, start=1) if operator.alpha is not None]
    if not smoothed:
        return None
    trace = markers(
        "alpha",
        [(float(place), operator.alpha or 0.0) for place, operator in smoothed],
        "--blue",
        "circle",
        [operator.name for _, operator in smoothed],
        "alpha %{y:.3g}",
    )
    named = len(quantized) <= MAXIMUM_NAMED_TICKS
    layout = layout_of("" if named else "quantized operators, counted in the model's order", "alpha")
    layout["yaxis"] |= {"range": [-0.05, 1.05], "dtick": 0.25}
    layout["xaxis"]["range"] = [0.5 - 0.01 * len(quantized), len(quantized) + 0.5 + 0.01 * len(quantized)]
    if named:
        layout["xaxis"] |= tick_names([operator.name for operator in quantized], start=1) | {"tickangle": -90}
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
    plans = [(name, error) for name, error in result.smoothing if error is not None and on_log_axis(error)]
    if len(plans) < 2:
        return None
    names = [name for name, _ in plans]
    errors = [error for _, error in plans]
    trace = bars("plan", errors, range(len(plans)), "--blue", names, "output error %{x:.2e}")
    return Chart(
        key="smoothing",
        title="Smoothing plans compared",
        caption="Relative squared error of the model's output with everything quantized, on held-out calibration "
        f"samples: shorter is better, each grid line ten times the one before. Tried first: {names[0]}.",
        traces=[trace | bar_text([f"{error:.1e}" for error in errors])],
        layout=bar_layout("output error", names, errors),
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
    names, times = [name for name, _ in spent], [seconds for _, seconds in spent]
    trace = bars("phase", times, range(len(spent)), "--blue", names, "%{x:.2f} s")
    layout = bar_layout("seconds", names, times, log=False)
    return Chart(
        key="phases",
        title="Time spent",
        caption=f"Wall time of each phase of this run, {_seconds(sum(times))} in all. "
        "Evaluation is the time in your own evaluation function.",
        traces=[trace | bar_text([_seconds(seconds) for seconds in times])],
        layout=layout,
        rows=(("phase", "seconds"), *((name, f"{seconds:.2f}") for name, seconds in spent)),
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 100 else f"{seconds:.1f} s"
