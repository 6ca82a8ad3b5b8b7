"""What the charts share: marks, bars, axes and layouts, as plain Plotly values.

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


def markers(
    name: str, points: Sequence[tuple[float, float]], colour: str, symbol: str, labels: Sequence[str], hover: str
) -> dict[str, Any]:
    """Marks at (x, y); pointed at, each shows its label above `hover`, a Plotly template."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "customdata": [html.escape(label, quote=False) for label in labels],
        "hovertemplate": f"%{{customdata}}<br>{hover}<extra></extra>",
        "marker": {"color": colour, "symbol": symbol, "size": 9},
    }


def bars(
    name: str, lengths: Sequence[float], places: Sequence[int], colour: str, labels: Sequence[str], hover: str
) -> dict[str, Any]:
    """Horizontal bars at numbered places."""
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": list(lengths),
        "y": list(places),
        "width": 0.7,
        "customdata": [html.escape(label, quote=False) for label in labels],
        "hovertemplate": f"%{{customdata}}<br>{hover}<extra></extra>",
        "marker": {"color": colour},
    }


def bar_text(texts: Sequence[str]) -> dict[str, Any]:
    """Figures behind the ends of bars."""
    return {"text": list(texts), "textposition": "outside", "textangle": 0, "cliponaxis": False}


def layout_of(
    x_title: str, y_title: str, *, lines: Sequence[dict[str, Any]] = (), legend: bool = False
) -> dict[str, Any]:
    """A layout in the page's colours."""
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


def bar_layout(
    title: str, names: Sequence[str], lengths: Sequence[float], *, log: bool = True, legend: bool = False
) -> dict[str, Any]:
    """Horizontal bars, the first on top, each as high as its name needs.

    Args:
        lengths: everything that is drawn along the axis; positive where it is logarithmic.
    """
    layout = layout_of(title, "", legend=legend)
    layout["height"] = 110 + 24 * len(names)
    layout["barmode"] = "overlay"
    layout["yaxis"] |= tick_names(names) | {"range": [len(names) - 0.4, -0.6], "showgrid": False, "fixedrange": True}
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


def tick_names(names: Sequence[str], start: int = 0) -> dict[str, Any]:
    """Numbered positions with names as labels."""
    return {
        "tickmode": "array",
        "tickvals": list(range(start, start + len(names))),
        "ticktext": [html.escape(_shortened(name), quote=False) for name in names],
    }


def on_log_axis(value: float | None) -> bool:
    """Whether a logarithmic axis can show the value."""
    return value is not None and math.isfinite(value) and value > 0


def _shortened(name: str, length: int = 34) -> str:
    """The end of a long name: there operators of one model differ."""
    return name if len(name) <= length else "…" + name[1 - length :]
