"""The page: what was claimed, what was measured, and why each operator is what it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path

import inc_autotune
from inc_autotune.core.result.report import charts
from inc_autotune.core.result.report.document import document, write_page
from inc_autotune.core.result.report.figure import Chart
from inc_autotune.core.result.report.markup import figure, section, text
from inc_autotune.core.result.report.sensitivity_chart import sensitivity
from inc_autotune.core.result.report.tables import float_operators, operator_table, trial_table
from inc_autotune.core.result.report.trial_charts import accuracy_and_gain, accuracy_per_trial
from inc_autotune.core.result.report.wording import GAINS, times
from inc_autotune.core.result.tuning_result import TuningResult


def save_report(result: TuningResult, path: str | Path) -> None:
    """Write a result as one self-contained HTML page of about 5 MB, most of it the charting library.

    The page asks the network for nothing. The same result always gives the same page.

    Args:
        path: the file to write; an existing one is replaced.

    Raises:
        MissingDependencyError: plotly, the extra `report`, is not installed.
        ArgumentError: nothing can be written there.
    """
    write_page(path, partial(_page, result))


def _page(result: TuningResult, library: str) -> str:
    trial_charts = _drawable(accuracy_and_gain(result), accuracy_per_trial(result))
    by_unit, alphas = sensitivity(result), charts.alphas(result)
    smoothing, phases = charts.smoothing(result), charts.phases(result)
    body = "\n".join(
        (
            _header(result),
            _advice(result),
            _trials(result, trial_charts),
            _chart("Sensitivity per unit", by_unit, otherwise="No unit's harm was measured."),
            _chart("Alpha per layer", alphas, otherwise="No operator is smoothed."),
            '<div class="pair">',
            _chart("Smoothing plans compared", smoothing, otherwise=_uncompared(result)),
            _chart("Time spent", phases, otherwise="No time was taken."),
            "</div>",
            _operators(result),
            _notes(result),
        )
    )
    drawn = [*trial_charts, *_drawable(by_unit, alphas, smoothing, phases)]
    return document("Tuning report", body, drawn, library)


def _drawable(*found: Chart | None) -> list[Chart]:
    return [chart for chart in found if chart is not None]


def _header(result: TuningResult) -> str:
    headline, style = _headline(result)
    slower = result.speedup is not None and result.speedup < 1
    warning = text("p", "The tuned model is slower than fp32 on this machine.", "warning") + "\n" if slower else ""
    figures = "\n".join(
        f"<div>{text('dt', term)}<dd>{escape(value)}{text('small', remark)}</dd></div>"
        for term, value, remark in _key_figures(result)
    )
    weights = text("p", result.describe_weights() + ".", "lead") + "\n" if result.weight_shares else ""
    return f"""<header>
<h1>Tuning report</h1>
{text("p", headline, f"verdict {style}")}
{text("p", _lead(result), "lead")}
{weights}{warning}<dl class="figures">
{figures}
</dl>
</header>"""


def _headline(result: TuningResult) -> tuple[str, str]:
    """The verdict and its style."""
    if not result.ended:
        return "The run has not ended", "undecided"
    if result.met is None:
        return "No claim about accuracy", "none"
    headline = "Accuracy goal met" if result.met else "Accuracy goal not met"
    if result.gained is False:
        headline += f", {'but' if result.met else 'and'} {result.describe_gain()}"
    chosen = next((trial for trial in result.trials if trial.number == result.chosen), None)
    if chosen is not None and chosen.verdict == "undecided":
        return f"{headline}, within the noise of the evaluation", "undecided"
    if result.met and result.gained is False:
        return headline, "undecided"
    return headline, "met" if result.met else "unmet"


def _lead(result: TuningResult) -> str:
    if not result.ended:
        return _sentence(result.describe_progress())
    if result.met is None:
        return "Quantized without evaluation."
    lead = f"Score {result.score:.6g} against {result.baseline:.6g} in fp32; the goal is {result.goal}."
    if not result.met:
        lead += f" This is the best model found in {_count_ended(result)} trials."
    if result.evidence is not None:
        lead += f" Verdict: {result.evidence}."
    return lead


def _count_ended(result: TuningResult) -> int:
    return sum(trial.state != "running" for trial in result.trials)


def _key_figures(result: TuningResult) -> list[tuple[str, str, str]]:
    """(term, value, remark) of each key figure."""
    if not result.ended:
        return [("Trials", str(_count_ended(result)), "have ended")]
    forms = Counter(operator.form for operator in result.operators)
    largest = forms.most_common()
    figures = [
        ("Speed-up", times(result.speedup), result.timed),
        ("Smaller weights", times(result.size_ratio), "fp32 bytes over tuned bytes"),
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
        figures.insert(1, (GAINS["footprint"].term, times(result.gain), remark))
    return figures


def _advice(result: TuningResult) -> str:
    advice = result.what_to_try()
    return section("What to try, in order", "<ol>", *(text("li", each) for each in advice), "</ol>") if advice else ""


def _trials(result: TuningResult, drawn: Sequence[Chart]) -> str:
    if not result.trials:
        return section("Trials", text("p", "Nothing was evaluated.", "none"))
    figures = [section(chart.title, figure(chart), heading="h3") for chart in drawn]
    content = ['<div class="pair">', *figures, "</div>"]
    running = len(result.trials) - _count_ended(result)
    if running and result.ended:
        content.append(text("p", f"Still running in other processes when this run ended: {running}.", "quiet"))
    return section("Trials", *content, trial_table(result))


def _chart(title: str, chart: Chart | None, *, otherwise: str) -> str:
    return section(title, text("p", otherwise, "none") if chart is None else figure(chart))


def _uncompared(result: TuningResult) -> str:
    names = ", ".join(name for name, _ in result.smoothing)
    return f"Not compared: {names}." if names else "No smoothing was planned."


def _operators(result: TuningResult) -> str:
    if not result.ended:
        return section("Operators", text("p", "Known when the run has ended.", "none"))
    search = """<div class="search" hidden><label for="search">Find</label>
<input id="search" type="search" placeholder="name, type, dtype or reason" autocomplete="off">
<span id="found" class="quiet" role="status"></span></div>"""
    told = [
        result.describe_rounding(),
        result.describe_corrections() if result.corrections else None,
        result.describe_training() if result.trained or result.training_seconds else None,
    ]
    leads = [text("p", _sentence(words), "lead") for words in told if words is not None]
    return section("Operators", float_operators(result), *leads, search, operator_table(result))


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _notes(result: TuningResult) -> str:
    notes = [*result.notes, f"inc_autotune {inc_autotune.__version__}"]
    return section("Notes", "<ul>", *(text("li", note) for note in notes), "</ul>")
