"""Units sorted into few families, for strategies that decide many units at once."""

from __future__ import annotations

from inc_autotune.core.space import Assignment, TuningSpace, Unit


def families(space: TuningSpace, assignment: Assignment) -> dict[str, tuple[str, ...]]:
    """Names of the quantized units of each family there is: `conv`, `linear` and `other`, in this order."""
    found: dict[str, list[str]] = {"conv": [], "linear": [], "other": []}
    for unit in space.units:
        if assignment.by_unit[unit.name].is_quantized:
            found[_family(unit)].append(unit.name)
    return {family: tuple(names) for family, names in found.items() if names}


def _family(unit: Unit) -> str:
    """By the first operator's type; the frameworks' names for the same thing differ."""
    op_type = unit.operators[0][1].lower()
    # transformers' Conv1D is a linear layer with a transposed weight; torch's Conv1d is a convolution.
    if unit.operators[0][1] == "Conv1D" or any(word in op_type for word in ("linear", "dense", "matmul", "gemm")):
        return "linear"
    return "conv" if "conv" in op_type else "other"
