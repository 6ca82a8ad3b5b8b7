"""Draws tuning.svg: the phases of a tuning run, and a search that the default strategy really makes.

python docs/images/tuning.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path

from inc_autotune.core.analysis.sensitivity import UnitHarm
from inc_autotune.core.analysis.smoothing_plan import OFF
from inc_autotune.core.arguments.autotune import AccuracyCriterion
from inc_autotune.core.evaluation.goal import Goal
from inc_autotune.core.op_config import FP32, OpConfig, TensorConfig
from inc_autotune.core.search.strategy import STRATEGIES, SearchView
from inc_autotune.core.search.study.trial import Trial
from inc_autotune.core.space.units import TuningSpace, Unit

UNITS = 24
BAD = (0, 1, 2, 3, 5)
"""Places in the ranking of the units that must not be quantized: one harmless unit stands before the last."""

WIDTH, MARGIN, CELL, ROW = 900, 24, 15, 21
PHASES = (
    ("calibrate", "one pass: ranges,", "128 rows a group"),
    ("search alphas", "on these rows, no", "forward pass"),
    ("compare outputs", "off, best global,", "layer-wise"),
    ("everything int8", "first evaluation", "after fp32"),
    ("rank units", "by output error,", "no evaluation"),
)
STYLE = """
:root { --page: #ffffff; --ink: #1f2328; --muted: #59636e; --line: #c4cbd2; --int8: #cfe0f3; --fallen: #d9822b;
  --met: #23803c; --missed: #b3323a; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --ink: #e3e6e8; --muted: #a3adb7; --line: #4a525a;
  --int8: #2c4a6b; --fallen: #e59a4f; --met: #5fbf7a; --missed: #f0777f; } }
text { font-family: system-ui, sans-serif; font-size: 13px; fill: var(--ink); }
.page { fill: var(--page); } .muted { fill: var(--muted); } .title { font-weight: 600; }
.box, .arrow { fill: none; stroke: var(--line); stroke-width: 1.5; } .head { fill: var(--line); }
.int8 { fill: var(--int8); } .fallen { fill: var(--fallen); }
.bad.int8 { fill: var(--ink); } .bad.fallen { fill: #1f2328; }
.met { fill: var(--met); } .missed { fill: var(--missed); }
"""


def searched() -> list[Trial]:
    """Every trial of the default strategy with time left, on units of which five break the goal."""
    int8 = OpConfig(TensorConfig("int8", "sym"), TensorConfig("uint8", "asym"), "static")
    names = [f"u{place}" for place in range(UNITS)]
    goal = Goal(1.0, AccuracyCriterion(relative=0.01))
    view = SearchView(
        space=TuningSpace(tuple(Unit(name, ((name, "Linear"),), (int8, FP32)) for name in names)),
        trials=(),
        goal=goal,
        plans=(OFF,),
        sampling_sizes=(100,),
        rank=lambda assignment: [UnitHarm(name, None) for name in names],
        thorough=True,
    )
    trials: list[Trial] = []
    while (proposal := STRATEGIES["auto"](replace(view, trials=tuple(trials)))) is not None:
        quantized = {name for name, config in proposal.assignment.configs if config.is_quantized}
        score = 1.0 - 0.05 * sum(f"u{place}" in quantized for place in BAD)
        trials.append(Trial(len(trials), proposal.assignment, proposal.label, "complete", score, goal.met(score)))
    return trials


def drawn(trials: list[Trial]) -> Iterator[str]:
    """The elements of the picture."""
    rows = 218
    height = rows + ROW * len(trials) + 44
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    yield "<title>How a tuning run goes, and the trials of one search</title>"
    yield f"<style>{STYLE}</style>"
    yield f'<rect class="page" width="{WIDTH}" height="{height}" rx="10"/>'
    yield from boxes()
    yield text(MARGIN, rows - 58, "Then units fall back, the most harmful first, until the goal is met", "title")
    caption = (
        "One row is one evaluation. Columns are units, by rank; a dot is a unit that breaks the goal when quantized."
    )
    yield text(MARGIN, rows - 38, caption, "muted")
    left = MARGIN + 110
    first_success = next(trial.number for trial in trials if trial.met)
    for trial in trials:
        top, fallbacks = rows + ROW * trial.number, trial.assignment.fallback_units
        yield text(MARGIN, top, step_of(trial), "muted")
        for place in range(UNITS):
            style = "fallen" if f"u{place}" in fallbacks else "int8"
            x, y = left + place * (CELL + 2), top - 12
            yield f'<rect class="{style}" x="{x}" y="{y}" width="{CELL}" height="{CELL}"/>'
            if place in BAD:
                yield f'<circle class="bad {style}" cx="{x + CELL / 2}" cy="{y + CELL / 2}" r="2.5"/>'
        right = left + UNITS * (CELL + 2) + 14
        verdict = "met" if trial.met else "missed"
        yield text(right, top, verdict, verdict)
        ends = "; tuning_time=0 ends here" if trial.number == first_success else ""
        yield text(right + 62, top, f"{len(fallbacks)} fall back{ends}", "muted")
    bottom = height - 34
    yield f'<rect class="int8" x="{left}" y="{bottom}" width="{CELL}" height="{CELL}"/>'
    yield text(left + CELL + 6, bottom + 12, "int8")
    yield f'<rect class="fallen" x="{left + 76}" y="{bottom}" width="{CELL}" height="{CELL}"/>'
    yield text(left + 76 + CELL + 6, bottom + 12, "fp32, bf16 or dynamic")
    yield "</svg>"


def step_of(trial: Trial) -> str:
    """Which part of the search a trial belongs to."""
    count = len(trial.assignment.fallback_units)
    if count == 0:
        return "everything int8"
    if "again" in trial.label:
        return "put back"
    return "double" if count & (count - 1) == 0 else "bisect"


def boxes() -> Iterator[str]:
    """The phases before the search."""
    width, gap, top = 150, 24, 24
    for index, (title, *lines) in enumerate(PHASES):
        x = MARGIN + index * (width + gap)
        yield f'<rect class="box" x="{x}" y="{top}" width="{width}" height="84" rx="8"/>'
        yield text(x + 10, top + 24, title, "title")
        for line, words in enumerate(lines):
            yield text(x + 10, top + 46 + 18 * line, words, "muted")
        if index:
            y = top + 42
            yield f'<path class="arrow" d="M{x - gap + 2} {y}h{gap - 9}"/>'
            yield f'<path class="head" d="M{x - 8} {y - 4}l6 4l-6 4z"/>'


def text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x}" y="{y}"' + (f' class="{style}"' if style else "") + f">{escape(words)}</text>"


def main() -> None:
    Path(__file__).with_suffix(".svg").write_text("\n".join(drawn(searched())) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
