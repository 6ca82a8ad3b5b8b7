"""The tables of trials and of operators."""

from __future__ import annotations

from inc_autotune.core.result.operator_outcome import optional_columns
from inc_autotune.core.result.report.markup import table, text
from inc_autotune.core.result.report.wording import (
    GAINS,
    gain_of,
    interval_of,
    reasons_for_float,
    samples_of,
    times,
    verdict_of,
)
from inc_autotune.core.result.tuning_result import TuningResult

NAMED_OPERATORS = 12
"""How many operators of one reason are named; the table of all operators has the rest."""


def trial_table(result: TuningResult) -> str:
    """Every trial of the run."""
    sampled = any(trial.samples is not None for trial in result.trials)
    # What was tried comes early: the last columns may lie outside the window.
    header = (
        "#",
        "what was tried",
        "score",
        "verdict",
        "interval of the loss",
        *(("samples",) if sampled else ()),
        GAINS[result.objective].term.lower(),
        "kept in float",
        "seconds",
    )
    rows = [
        (
            f"{trial.number + 1}" + (" (returned)" if trial.number == result.chosen else ""),
            trial.label + ("" if trial.error is None else f": {trial.error}"),
            "" if trial.score is None else f"{trial.score:.6g}",
            verdict_of(trial),
            interval_of(trial),
            *((samples_of(trial),) if sampled else ()),
            "" if (gain := gain_of(trial, result)) is None else times(gain),
            str(len(trial.assignment.fallback_units)),
            "" if trial.state == "running" else f"{trial.seconds:.1f}",
        )
        for trial in result.trials
    ]
    return table("trials", "Every trial", header, rows)


def operator_table(result: TuningResult) -> str:
    """Every operator with its form and the reason for it."""
    optional = optional_columns(result.operators)
    header = ("operator", "type", "dtype", "approach", "alpha", *optional, "reason")
    rows = [
        (
            operator.name,
            operator.type,
            operator.dtype + (" (simulated)" if operator.simulated else ""),
            operator.approach or "",
            operator.alpha_text,
            *cells,
            operator.reason,
        )
        for operator, *cells in zip(result.operators, *optional.values(), strict=True)
    ]
    return table("operators", "Every operator of a quantizable type", header, rows)


def float_operators(result: TuningResult) -> str:
    """Why operators stay in a float dtype, one line a reason."""
    reasons = reasons_for_float(result)
    if not reasons:
        return text("p", "None stays in a float dtype.", "lead")
    rows = []
    for reason, names in reasons.items():
        more = len(names) - NAMED_OPERATORS
        named = ", ".join(names[:NAMED_OPERATORS]) + (f" and {more} more" if more > 0 else "")
        rows.append((reason, str(len(names)), named))
    count = sum(map(len, reasons.values()))
    lead = text("p", f"In a float dtype: {count} of {len(result.operators)}.", "lead")
    header = ("reason", "operators", "which")
    return lead + "\n" + table("float-reasons", "Operators in a float dtype, by reason", header, rows)
