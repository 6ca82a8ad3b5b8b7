"""The frame of a page: everything that it needs is part of it, and the network is asked for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from inc_autotune.core.arguments import check_file
from inc_autotune.core.files import write_file
from inc_autotune.core.optional import require
from inc_autotune.core.result.report.figure import Chart

# The page may load nothing at all: scripts and styles are part of it.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def write_page(path: str | Path, page: Callable[[str], str]) -> None:
    """Write a page with charts.

    Args:
        path: the file to write; an existing one is replaced.
        page: makes the page of the charting library's text.

    Raises:
        MissingDependencyError: plotly, the extra `report`, is not installed.
        ArgumentError: nothing can be written there.
    """
    require("plotly", extra="report")
    file = check_file(path)
    from plotly.offline import get_plotlyjs

    write_file(file, page(get_plotlyjs()).encode())


def document(title: str, body: str, drawn: Sequence[Chart], library: str) -> str:
    """A whole page.

    Args:
        title: of the window.
        body: HTML, with a place for each chart.
        drawn: the charts.
        library: the charting library.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{_packaged("report.css")}</style>
</head>
<body>
<main>
{body}
</main>
<script>{library}</script>
<script type="application/json" id="charts">{_chart_data(drawn)}</script>
<script>
{_packaged("report.js")}</script>
</body>
</html>
"""


def _packaged(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _chart_data(drawn: Sequence[Chart]) -> str:
    figures = {chart.key: {"data": chart.traces, "layout": chart.layout} for chart in drawn}
    # A name may contain "</script>"; in JSON the escape means the same and ends nothing.
    return json.dumps(figures, allow_nan=False).replace("<", "\\u003c")
