"""The page: what was claimed, what was measured, and why each operator is what it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

import inc_autotune
from inc_autotune.core.optional import require
from inc_autotune.core.result.report import charts
from inc_autotune.core.result.report.assets import SCRIPT, STYLE
from inc_autotune.core.result.report.figure import Chart
from inc_autotune.core.result.report.sensitivity_chart import sensitivity
from inc_autotune.core.result.report.trial_charts import accuracy_and_gain, accuracy_per_trial
from inc_autotune.core.result.report.wording import (
    GAINS,
    gain_of,
    interval_of,
    reasons_for_float,
    samples_of,
    verdict_of,
)
from inc_autotune.core.result.tuning_result import TuningResult

# The page may load nothing at all: scripts and styles are part of it.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

_GAIN_TERMS = {words.term.lower() for words in GAINS.values()}
_ERRORS = {"output error", "weights alone", "activations alone"}
_NUMBERS = {"alpha", "score", "seconds", "kept in float", "operators", *_GAIN_TERMS, *_ERRORS}
_NAMES = {"operator", "unit"}
_WIDE = {"reason", "what was tried", "form in the tuned model", "which"}

_NAMED_OPERATORS = 12
"""How many operators of one reason are named; the table of all operators has the rest."""


def save_report(result: TuningResult, path: str | Path) -> None:
    """Write a result as one self-contained HTML page of about 5 MB, most of it the charting library.

    The page asks the network for nothing. The same result always gives the same page.

    Args:
        path: the file to write; an existing one is replaced.

    Raises:
        MissingDependencyError: plotly, the extra `report`, is not installed.
        OSError: the file cannot be written.
    """
    require("plotly", extra="report")
    from plotly.offline import get_plotlyjs

    Path(path).write_text(_page(result, get_plotlyjs()), encoding="utf-8")


def _page(result: TuningResult, library: str) -> str:
    drawn: list[Chart] = []
    body = "\n".join(
        (
            _header(result),
            _trials(result, drawn),
            _section("Sensitivity per unit", sensitivity(result), drawn, "No unit's harm was measured."),
            _section("Alpha per layer", charts.alphas(result), drawn, "No operator is smoothed."),
            '<div class="pair">',
            _section("Smoothing plans compared", charts.smoothing(result), drawn, _uncompared(result)),
            _section("Time spent", charts.phases(result), drawn, "No time was taken."),
            "</div>",
            _operators(result),
            _notes(result),
        )
    )
    figures = {chart.key: {"data": chart.traces, "layout": chart.layout} for chart in drawn}
    # A name may contain "</script>"; in JSON the escape means the same and ends nothing.
    data = json.dumps(figures, allow_nan=False).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tuning report</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
<script>{library}</script>
<script type="application/json" id="charts">{data}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _header(result: TuningResult) -> str:
    verdict, kind = _verdict(result)
    if result.met is None:
        lead = "Quantized without evaluation."
    else:
        lead = f"Score {result.score:.6g} against {result.baseline:.6g} in fp32; the goal is {result.goal}."
        if not result.met:
            lead += f" This is the best model found in {_count_ended(result)} trials."
        if result.evidence is not None:
            lead += f" Verdict: {result.evidence}."
    slower = result.speedup is not None and result.speedup < 1
    warning = '<p class="warning">The tuned model is slower than fp32 on this machine.</p>\n' if slower else ""
    figures = "\n".join(
        f"<div><dt>{escape(term)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
        for term, value, remark in _figures(result)
    )
    return f"""<header>
<h1>Tuning report</h1>
<p class="verdict {kind}">{verdict}</p>
<p class="lead">{escape(lead)}</p>
{warning}<dl class="figures">
{figures}
</dl>
</header>"""


def _verdict(result: TuningResult) -> tuple[str, str]:
    """The headline and its style."""
    if result.met is None:
        return "No claim about accuracy", "none"
    headline = "Accuracy goal met" if result.met else "Accuracy goal not met"
    chosen = next((trial for trial in result.trials if trial.number == result.chosen), None)
    if chosen is not None and chosen.verdict == "undecided":
        return f"{headline}, within the noise of the evaluation", "undecided"
    return headline, "met" if result.met else "unmet"


def _count_ended(result: TuningResult) -> int:
    return sum(trial.state != "running" for trial in result.trials)


def _figures(result: TuningResult) -> list[tuple[str, str, str]]:
    """(term, value, remark) of each key figure."""
    forms = Counter(each.dtype + (" simulated" if each.simulated else "") for each in result.operators)
    largest = forms.most_common()
    figures = [
        ("Speed-up", _times(result.speedup), result.timed),
        ("Smaller weights", _times(result.size_ratio), "fp32 bytes over tuned bytes"),
        (
            "Operators",
            f"{largest[0][1]} {largest[0][0]}" if largest else "none",
            ", ".join(f"{count} {form}" for form, count in largest[1:]),
        ),
        ("Evaluations", str(result.evaluations), "calls in this run, baseline included"),
        ("Samples", str(result.sampling_size), "used for calibration"),
    ]
    if result.objective == "footprint":
        remark = "most bytes in use during a forward pass, fp32 over tuned"
        figures.insert(1, (GAINS["footprint"].term, _times(result.gain), remark))
    return figures


def _times(ratio: float | None) -> str:
    return "not measured" if ratio is None else f"{ratio:.2f}x"


def _trials(result: TuningResult, drawn: list[Chart]) -> str:
    if not result.trials:
        return '<section>\n<h2>Trials</h2>\n<p class="none">Nothing was evaluated.</p>\n</section>'
    parts = ["<section>", "<h2>Trials</h2>", '<div class="pair">']
    for chart in (accuracy_and_gain(result), accuracy_per_trial(result)):
        if chart is not None:
            drawn.append(chart)
            parts += ["<section>", f"<h3>{escape(chart.title)}</h3>", _figure(chart), "</section>"]
    parts.append("</div>")
    running = len(result.trials) - _count_ended(result)
    if running:
        parts.append(f'<p class="quiet">Still running in other processes when this run ended: {running}.</p>')
    return "\n".join((*parts, _trial_table(result), "</section>"))


def _trial_table(result: TuningResult) -> str:
    sampled = any(trial.samples is not None for trial in result.trials)
    gain = GAINS[result.objective].term.lower()
    # The labels stand where they are seen without scrolling: the other columns may be wider than the window.
    header = (
        "#",
        "what was tried",
        "score",
        "verdict",
        "interval of the loss",
        *(("samples",) if sampled else ()),
        gain,
    )
    rows = [
        (
            f"{trial.number + 1}" + (" (returned)" if trial.number == result.chosen else ""),
            trial.label + ("" if trial.error is None else f": {trial.error}"),
            "" if trial.score is None else f"{trial.score:.6g}",
            verdict_of(trial),
            interval_of(trial),
            *((samples_of(trial),) if sampled else ()),
            "" if (gained := gain_of(trial, result)) is None else _times(gained),
            str(len(trial.assignment.fallback_units)),
            "" if trial.state == "running" else f"{trial.seconds:.1f}",
        )
        for trial in result.trials
    ]
    return _table("trials", "Every trial", (*header, "kept in float", "seconds"), rows)


def _section(title: str, chart: Chart | None, drawn: list[Chart], otherwise: str) -> str:
    if chart is None:
        return f'<section>\n<h2>{escape(title)}</h2>\n<p class="none">{escape(otherwise)}</p>\n</section>'
    drawn.append(chart)
    return f"<section>\n<h2>{escape(title)}</h2>\n{_figure(chart)}\n</section>"


def _figure(chart: Chart) -> str:
    table = ""
    if chart.rows:
        rows = _table(f"{chart.key}-table", chart.title, chart.rows[0], chart.rows[1:])
        table = f"\n<details><summary>As a table</summary>\n{rows}\n</details>"
    return f"""<figure>
<figcaption id="{chart.key}-caption">{escape(chart.caption)}</figcaption>
<div id="{chart.key}" role="img" aria-labelledby="{chart.key}-caption"></div>{table}
</figure>"""


def _uncompared(result: TuningResult) -> str:
    names = ", ".join(name for name, _ in result.smoothing)
    return f"Not compared: {names}." if names else "No smoothing was planned."


def _operators(result: TuningResult) -> str:
    header = ("operator", "type", "dtype", "approach", "alpha", "reason")
    rows = [
        (
            each.name,
            each.type,
            each.dtype + (" (simulated)" if each.simulated else ""),
            each.approach or "",
            "" if each.alpha is None else f"{each.alpha:.3g}",
            each.reason,
        )
        for each in result.operators
    ]
    return f"""<section>
<h2>Operators</h2>
{_float_operators(result)}
<div class="search" hidden><label for="search">Find</label>
<input id="search" type="search" placeholder="name, type, dtype or reason" autocomplete="off">
<span id="found" class="quiet" role="status"></span></div>
{_table("operators", "Every operator of a quantizable type", header, rows)}
</section>"""


def _float_operators(result: TuningResult) -> str:
    """Why operators stay in a float dtype, one line a reason."""
    reasons = reasons_for_float(result)
    if not reasons:
        return '<p class="lead">None stays in a float dtype.</p>'
    rows = []
    for reason, names in reasons.items():
        named = ", ".join(names[:_NAMED_OPERATORS])
        more = len(names) - _NAMED_OPERATORS
        rows.append((reason, str(len(names)), named + (f" and {more} more" if more > 0 else "")))
    table = _table("float-reasons", "Operators in a float dtype, by reason", ("reason", "operators", "which"), rows)
    count = sum(map(len, reasons.values()))
    return f'<p class="lead">In a float dtype: {count} of {len(result.operators)}.</p>\n{table}'


def _notes(result: TuningResult) -> str:
    notes = [*result.notes, f"inc_autotune {inc_autotune.__version__}"]
    items = "\n".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section>\n<h2>Notes</h2>\n<ul>\n{items}\n</ul>\n</section>"


def _table(key: str, caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls by itself; the first cell of a row is its header."""

    def style(column: int) -> str:
        name = header[column]
        styles = {"number": _NUMBERS, "name": _NAMES, "wide": _WIDE}
        return next((style for style, names in styles.items() if name in names), "word")

    heads = "".join(f'<th scope="col" class="{style(index)}">{escape(name)}</th>' for index, name in enumerate(header))
    lines = [
        f'<tr><th scope="row" class="{style(0)}">{escape(row[0])}</th>'
        + "".join(f'<td class="{style(index)}">{escape(cell)}</td>' for index, cell in enumerate(row[1:], start=1))
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
