"""The chart of harm by unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inc_autotune.core.analysis import UnitHarm
from inc_autotune.core.result.report.figure import Chart, bar_layout, bars, markers, on_log_axis
from inc_autotune.core.result.tuning_result import TuningResult

MAXIMUM_BARS = 40
"""How many units the chart shows; the table below the chart has all units."""

_FP32_COLOUR = "--orange"
_OTHER_FLOAT_COLOUR = "--gold"
_INTEGER_COLOURS = ("--blue", "--green", "--purple")


def sensitivity(result: TuningResult) -> Chart | None:
    """Harm by unit, the most harmful on top; None if no unit was ranked.

    Where the errors of weights alone and activations alone are known, marks show them.
    """
    shown = [harm for harm in result.harms if on_log_axis(harm.error)][:MAXIMUM_BARS]
    if not shown:
        return None
    forms = {each.name: each.dtype + (f" {each.approach}" if each.approach else "") for each in result.operators}
    halves = _half_traces(shown)
    lengths = [harm.error or 0.0 for harm in shown] + [length for trace in halves for length in trace["x"]]
    count = f"The {len(shown)} most harmful" if len(shown) < len(result.harms) else f"All {len(shown)}"
    caption = (
        "Relative squared error of the model's output with this unit alone quantized, on held-out calibration "
        f"samples: a longer bar is more harm, each grid line ten times the one before. {count} of "
        f"{len(result.harms)} ranked units; the colour is the form each has in the tuned model."
    )
    if any(harm.estimated for harm in shown):
        caption += " Pale bars are estimates from gradients, not measured."
    if halves:
        caption += " Marks show the error with only the unit's weights, or only its activations, rounded."
    return Chart(
        key="sensitivity",
        title="Sensitivity per unit",
        caption=caption,
        traces=[*_bar_traces(shown, forms), *halves],
        layout=bar_layout("output error", [harm.unit for harm in shown], lengths, legend=True),
        rows=_rows(result.harms, forms),
    )


def _bar_traces(shown: Sequence[UnitHarm], forms: dict[str, str]) -> list[dict[str, Any]]:
    """One trace a form, estimates apart."""
    integers = sorted({form for form in forms.values() if " " in form})
    kinds = [(forms.get(harm.unit, ""), harm.estimated) for harm in shown]
    traces = []
    for form, estimated in dict.fromkeys(kinds):
        places = [place for place, kind in enumerate(kinds) if kind == (form, estimated)]
        trace = bars(
            (form or "not listed") + (", estimated" if estimated else ""),
            [shown[place].error or 0.0 for place in places],
            places,
            _colour(form, integers),
            [shown[place].unit for place in places],
            ("estimated" if estimated else "output") + " error %{x:.2e}",
        )
        if estimated:
            trace["opacity"] = 0.45
        traces.append(trace)
    return traces


def _colour(form: str, integers: Sequence[str]) -> str:
    if form in integers:
        return _INTEGER_COLOURS[integers.index(form) % len(_INTEGER_COLOURS)]
    return _FP32_COLOUR if form == "fp32" else _OTHER_FLOAT_COLOUR


def _half_traces(shown: Sequence[UnitHarm]) -> list[dict[str, Any]]:
    """Marks of what weights and activations do alone."""
    traces = []
    for name, symbol, errors in (
        ("weights alone", "diamond", [harm.weight_error for harm in shown]),
        ("activations alone", "circle", [harm.activation_error for harm in shown]),
    ):
        places = [place for place, error in enumerate(errors) if on_log_axis(error)]
        if places:
            points = [(errors[place] or 0.0, float(place)) for place in places]
            labels = [shown[place].unit for place in places]
            trace = markers(name, points, "--page", symbol, labels, f"{name} %{{x:.2e}}")
            trace["marker"]["line"] = {"color": "--ink", "width": 1.5}
            traces.append(trace)
    return traces


def _rows(harms: Sequence[UnitHarm], forms: dict[str, str]) -> tuple[tuple[str, ...], ...]:
    halves = any(harm.weight_error is not None or harm.activation_error is not None for harm in harms)
    header = ("unit", "output error", *(("weights alone", "activations alone") if halves else ()))
    return (
        (*header, "form in the tuned model"),
        *(
            (
                harm.unit,
                _figure(harm.error, "not measured") + (" (estimated)" if harm.estimated else ""),
                *((_figure(harm.weight_error), _figure(harm.activation_error)) if halves else ()),
                forms.get(harm.unit, ""),
            )
            for harm in harms
        ),
    )


def _figure(error: float | None, otherwise: str = "") -> str:
    return otherwise if error is None else f"{error:.3e}"
