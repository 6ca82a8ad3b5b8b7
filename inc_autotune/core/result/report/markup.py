"""Pieces of HTML, with every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from inc_autotune.core.result.report.figure import Chart
from inc_autotune.core.result.report.wording import GAINS

_NUMBERS = {
    *("alpha", "score", "seconds", "kept in float", "operators", "output error", "weights alone", "activations alone"),
    *("dB so far", "dB alone", "cosine", "saturated"),
    *(words.term.lower() for words in GAINS.values()),
}
_COLUMN_STYLES = {
    "number": _NUMBERS,
    "name": {"operator", "unit"},
    "wide": {"reason", "what was tried", "form in the tuned model", "which"},
}
"""CSS class by the names of columns; `word` for all others."""


def text(name: str, content: str, style: str = "") -> str:
    """An element that holds a text and nothing else."""
    attribute = f' class="{style}"' if style else ""
    return f"<{name}{attribute}>{escape(content)}</{name}>"


def section(title: str, *content: str, heading: str = "h2") -> str:
    """A section with a heading; `content` is HTML."""
    return "\n".join(("<section>", text(heading, title), *content, "</section>"))


def figure(chart: Chart) -> str:
    """The place where the script draws a chart, with the caption and, if the chart has rows, the data as a table."""
    details = ""
    if chart.rows:
        rows = table(f"{chart.key}-table", chart.title, chart.rows[0], chart.rows[1:])
        details = f"\n<details><summary>As a table</summary>\n{rows}\n</details>"
    return f"""<figure>
<figcaption id="{chart.key}-caption">{escape(chart.caption)}</figcaption>
<div id="{chart.key}" role="img" aria-labelledby="{chart.key}-caption"></div>{details}
</figure>"""


def table(key: str, caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls by itself; the first cell of a row is the row's header."""
    styles = [_column_style(name) for name in header]
    heads = "".join(
        f'<th scope="col" class="{style}">{escape(name)}</th>' for style, name in zip(styles, header, strict=True)
    )
    lines = [
        f'<tr><th scope="row" class="{styles[0]}">{escape(row[0])}</th>'
        + "".join(text("td", cell, style) for style, cell in zip(styles[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    ]
    body = "\n".join(lines)
    return f"""<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">
<table id="{key}"><caption>{escape(caption)}</caption>
<thead><tr>{heads}</tr></thead>
<tbody>
{body}
</tbody></table></div>"""


def _column_style(name: str) -> str:
    return next((style for style, names in _COLUMN_STYLES.items() if name in names), "word")
