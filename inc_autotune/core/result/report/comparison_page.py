"""The page of a comparison: where along the model accuracy is lost, and what to try."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import inc_autotune
from inc_autotune.core.analysis import OperatorError
from inc_autotune.core.result.comparison import HEADER, Comparison, operator_row
from inc_autotune.core.result.report.charts import MAXIMUM_NAMED_TICKS
from inc_autotune.core.result.report.document import document, write_page
from inc_autotune.core.result.report.figure import Chart, layout_of, markers, tick_names
from inc_autotune.core.result.report.markup import figure, section, table, text

HISTOGRAMS = 5
"""Of the worst operators."""


def save_comparison(comparison: Comparison, path: str | Path) -> None:
    """Write a comparison as one self-contained HTML page of about 5 MB, most of it the charting library.

    The page asks the network for nothing. The same comparison always gives the same page.

    Args:
        path: the file to write; an existing one is replaced.

    Raises:
        MissingDependencyError: plotly, the extra `report`, is not installed.
        ArgumentError: nothing can be written there.
    """
    write_page(path, partial(_page, comparison))


def _page(comparison: Comparison, library: str) -> str:
    curve = _curve(comparison.operators)
    histograms = [
        _histogram(f"histogram{place}", each)
        for place, each in enumerate(comparison.worst[:HISTOGRAMS])
        if each.histogram is not None
    ]
    body = "\n".join(
        (
            _header(comparison),
            section("What to try, in order", "<ol>", *(text("li", each) for each in comparison.what_to_try()), "</ol>"),
            section("Along the model", figure(curve) if curve else text("p", "Nothing could be drawn.", "none")),
            section(
                f"Values of the worst {len(histograms)}",
                *(
                    ['<div class="pair">', *(section(each.title, figure(each), heading="h3") for each in histograms)]
                    if histograms
                    else [text("p", "No operator is quantized.", "none"), "<div>"]
                ),
                "</div>",
            ),
            section("Operators", table("operators", "Every operator", HEADER, _rows(comparison))),
            _notes(comparison),
        )
    )
    return document("Comparison", body, [*([curve] if curve else []), *histograms], library)


def _rows(comparison: Comparison) -> list[tuple[str, ...]]:
    return [operator_row(each) for each in comparison.operators]


def _header(comparison: Comparison) -> str:
    output = comparison.output
    headline = "Compared with fp32" if output is None else f"{output.sqnr:.1f} dB at the output"
    quantized = sum(each.is_quantized for each in comparison.operators)
    worst = comparison.worst[:1]
    figures = [
        ("Quantized operators", str(quantized), f"of {comparison.count} compared"),
        ("Samples", str(comparison.samples), "that were compared"),
        *(("Worst operator", f"{_ratio(each):.1f} dB", each.name) for each in worst if math.isfinite(_ratio(each))),
    ]
    listed = "\n".join(
        f"<div>{text('dt', term)}<dd>{escape(value)}{text('small', remark)}</dd></div>"
        for term, value, remark in figures
    )
    lead = (
        "Decibels of the fp32 model's values over what the quantized model's differ from them: 20 dB are a tenth of "
        "the amplitude, 40 dB a hundredth."
    )
    return f"""<header>
<h1>Comparison with fp32</h1>
{text("p", headline, "verdict none")}
{text("p", lead, "lead")}
<dl class="figures">
{listed}
</dl>
</header>"""


def _ratio(error: OperatorError) -> float:
    return error.sqnr if error.alone is None else error.alone


def _curve(operators: Sequence[OperatorError]) -> Chart | None:
    """Decibels along the model; None where no operator has a finite ratio."""
    so_far = [(place, each.sqnr) for place, each in enumerate(operators, start=1) if math.isfinite(each.sqnr)]
    alone = [
        (place, each.alone)
        for place, each in enumerate(operators, start=1)
        if each.alone is not None and math.isfinite(each.alone)
    ]
    if not so_far:
        return None
    traces = []
    for name, points, colour, symbol in (
        ("everything before it quantized", so_far, "--blue", "circle"),
        ("it alone", alone, "--orange", "diamond"),
    ):
        if points:
            labels = [operators[place - 1].name for place, _ in points]
            located = [(float(place), ratio) for place, ratio in points]
            trace = markers(name, located, colour, symbol, labels, f"{name} %{{y:.1f}} dB")
            if points is so_far:
                trace |= {"mode": "lines+markers", "line": {"color": colour, "width": 1.5}}
            traces.append(trace)
    named = len(operators) <= MAXIMUM_NAMED_TICKS
    layout = layout_of("" if named else "operators, counted in the model's order", "dB", legend=bool(alone))
    if named:
        layout["xaxis"] |= tick_names([each.name for each in operators], start=1) | {"tickangle": -90}
        layout["height"] = 460
    worse = "A step down is where accuracy is lost."
    return Chart(
        key="curve",
        title="Along the model",
        caption="Signal-to-noise ratio of each operator's output in the model's order, higher is better, with all "
        f"before it quantized{' and with the fp32 input, which shows what it adds itself' if alone else ''}. {worse} "
        "The operator table has these values too.",
        traces=traces,
        layout=layout,
    )


def _histogram(key: str, error: OperatorError) -> Chart:
    found = error.histogram
    assert found is not None
    traces: list[dict[str, Any]] = []
    for name, counts, colour, dash in (
        ("fp32", found.fp32, "--blue", "solid"),
        ("quantized", found.quantized, "--orange", "dot"),
    ):
        total = max(sum(counts), 1)
        shares = [100 * count / total for count in counts]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                # Each share holds from one edge to the next.
                "x": list(found.edges),
                "y": [*shares, shares[-1]],
                "line": {"color": colour, "width": 1.5, "shape": "hv", "dash": dash},
                "hovertemplate": f"{name}: %{{y:.2f}} % from %{{x:.3g}} on<extra></extra>",
            }
        )
    layout = layout_of("value", "% of the values", legend=True)
    layout["yaxis"] |= {"rangemode": "tozero"}
    channels = ", ".join(
        f"{channel} ({ratio:.1f} dB)" for channel, ratio in error.worst_channels if math.isfinite(ratio)
    )
    caption = f"{error.type}, {error.form}, {_ratio(error):.1f} dB{' alone' if error.alone is not None else ''}."
    return Chart(
        key=key,
        title=error.name,
        caption=caption + (f" Worst channels: {channels}." if channels else ""),
        traces=traces,
        layout=layout,
    )


def _notes(comparison: Comparison) -> str:
    notes = [*comparison.notes, f"inc_autotune {inc_autotune.__version__}"]
    return section("Notes", "<ul>", *(text("li", note) for note in notes), "</ul>")
