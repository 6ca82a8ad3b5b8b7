"""A README.md for the folder of a quantized model: what it is, what was measured, how it is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from inc_autotune.core.files import read_bytes
from inc_autotune.core.result.recipe import Recipe
from inc_autotune.core.result.tuning_result import TuningResult

CARD = "README.md"
LARGEST_CARD = 2**24

MARK = "<!-- written by inc_autotune -->"
"""Tells a card that may be written anew from a README.md of somebody else."""

TAGS = ("int8", "quantized", "inc-autotune")


def model_card(
    recipe: Recipe,
    result: TuningResult | None,
    *,
    title: str,
    usage: str,
    library: str,
    base_model: str | None = None,
    tags: Sequence[str] = (),
) -> str:
    """The text of a model card, with metadata that model hubs read.

    Args:
        recipe: of the model; its scores stand in for those of a result.
        result: what tuning measured; None for a model that was loaded or built from a recipe.
        title: the first heading.
        usage: a program that loads the model.
        library: the hub's name of what loads it.
        base_model: the hub's name of the fp32 model.
        tags: more of them.
    """
    about = {"library_name": library, "tags": [*TAGS, *tags], **({"base_model": base_model} if base_model else {})}
    rows = _rows(recipe, result)
    measured = _table(rows) if rows else "Nothing was evaluated: no claim is made about its accuracy."
    lines = [
        f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n{MARK}",
        f"# {title}",
        "Quantized with inc_autotune." + (f" {result.describe_weights()}." if result is not None else ""),
        f"## Measured\n\n{measured}",
        *_remarks(recipe, result),
        f"## Use\n\n```python\n{usage.strip()}\n```",
        f"## What became of its operators\n\n{_operators(recipe)}\n\n`recipe.yaml` has each of them.",
    ]
    return "\n\n".join(lines) + "\n"


def may_write_card(folder: Path) -> bool:
    """Whether a folder has no README.md, or one from here."""
    card = folder / CARD
    return not card.exists() or MARK.encode() in read_bytes(card, LARGEST_CARD)


def _rows(recipe: Recipe, result: TuningResult | None) -> list[tuple[str, str, str]]:
    """What is known, of fp32 and of the quantized model."""
    baseline, score, met = (recipe.metadata.get(key) for key in ("baseline", "score", "met"))
    rows = []
    if isinstance(baseline, int | float) and isinstance(score, int | float):
        rows.append(("score", f"{baseline:.6g}", f"{score:.6g}"))
        goal = "" if result is None or result.goal is None else f": {result.goal}"
        rows.append(("goal", "", f"{'met' if met else 'not met'}{goal}"))
    if result is not None and result.size_ratio is not None:
        rows.append(("relative size of the weights", "1", f"{1 / result.size_ratio:.3f}"))
    if result is not None and result.speedup is not None:
        rows.append((f"relative speed: {result.timed}, on the machine that tuned it", "1", f"{result.speedup:.2f}"))
    return rows


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    return "\n".join(["| | fp32 | this model |", "|---|--:|--:|", *(f"| {' | '.join(row)} |" for row in rows)])


def _remarks(recipe: Recipe, result: TuningResult | None) -> list[str]:
    """What a reader of the table has to know."""
    if result is None:
        return ["Size and speed are not known here: the model was loaded, or built from a recipe."]
    remarks = [*([f"verdict: {result.evidence}"] if result.evidence else []), *result.notes]
    return ["\n".join(f"- {each}" for each in remarks)] if remarks else []


def _operators(recipe: Recipe) -> str:
    counts = Counter((each.type, each.config.dtype, each.config.approach or "") for each in recipe.operators.values())
    rows = [
        f"| {type_} | {f'{dtype} {approach}'.strip()} | {count} |"
        for (type_, dtype, approach), count in sorted(counts.items())
    ]
    return "\n".join(["| type | form | operators |", "|---|---|--:|", *rows])
