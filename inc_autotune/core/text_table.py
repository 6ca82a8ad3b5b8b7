"""Tables and lists for a terminal or a log."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of left-aligned columns, with a rule under the first row, which is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def numbered(texts: Sequence[str]) -> list[str]:
    """Lines of a list that counts from 1."""
    return [f"{number}. {text}" for number, text in enumerate(texts, start=1)]
