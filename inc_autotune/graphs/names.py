"""Names that nothing in a graph has yet."""

from __future__ import annotations


def reserved(name: str, taken: set[str]) -> str:
    """A name that is not taken, and is from then on: `name`, with underscores appended where it has to be another."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name
