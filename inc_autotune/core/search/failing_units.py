"""Which units make a candidate fail, found by bisection: no evaluation is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Failure = Callable[[Sequence[str]], str | None]
"""Why the candidate with these units quantized, and the others in fp32, fails; None if it works."""


def failing_units(units: Sequence[str], failure: Failure, known: str) -> dict[str, str]:
    """The units that a candidate works without.

    Units join those that work, a half at a time, and a half that fails is split; so k failing ones of n cost about
    k log2(n) candidates, and a unit that fails only beside another is found like one that fails alone.

    Args:
        units: that are quantized in a candidate that fails.
        failure: builds and runs a candidate.
        known: why the candidate with all of them fails.

    Returns:
        The error by unit, the candidate with all others works; empty if even fp32 fails in this way, or every unit
        does: then no unit is to blame.
    """
    if failure(()) is not None:
        return {}
    working: list[str] = []
    failing: dict[str, str] = {}

    def join(joining: Sequence[str], known: str | None) -> None:
        error = failure([*working, *joining]) if known is None else known
        if error is None:
            working.extend(joining)
        elif len(joining) == 1:
            failing[joining[0]] = error
        else:
            middle, before = len(joining) // 2, len(failing)
            join(joining[:middle], None)
            # If the first half works, the whole is what was found to fail above.
            join(joining[middle:], error if len(failing) == before else None)

    join(units, known)
    return failing if working else {}
