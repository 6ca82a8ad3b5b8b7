"""What became of one operator, and what tables say of it, alike in print and on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inc_autotune.core.analysis import percent
from inc_autotune.core.vocabulary import Correction, Rounding


@dataclass(frozen=True)
class OperatorOutcome:
    """One operator of the tuned model.

    Args:
        dtype: `int8`, `int4`, `bf16`, `fp32` ...
        approach: `static`, `dynamic`, `weight_only`; None in a float dtype.
        alpha: SmoothQuant alpha; None where not smoothed.
        reason: why it has this form.
        simulated: computed in fp32 with the values of the integer type: no kernel exists, no speed is gained.
        weight_share: share of the model's weights, by elements, that the operator has; one that several operators of
            one form read counts for the first of them. None where the adaptor does not know.
        corrections: what was done to its bias and weight after rounding, by the names of recipes.
        rounding: how its weight is rounded, `nearest` or `second_moment`.
        rounding_reason: why it is rounded to nearest, where others are rounded by second moments.
        trained: whether `train_func` changed its weight, bias or ranges.
        smoothing_form: how its smoothing scale is made of alpha where that is not SmoothQuant's way, in words.
    """

    name: str
    type: str
    dtype: str
    approach: str | None
    alpha: float | None
    reason: str
    simulated: bool = False
    weight_share: float | None = None
    corrections: tuple[Correction, ...] = ()
    rounding: Rounding = "nearest"
    trained: bool = False
    smoothing_form: str = ""
    rounding_reason: str | None = None

    @property
    def form(self) -> str:
        """The data type, and whether it is simulated."""
        return self.dtype + (" simulated" if self.simulated else "")

    @property
    def rounded(self) -> str:
        """How its weight is rounded, in words; empty in a float dtype."""
        return "" if self.approach is None else self.rounding.replace("_", " ")

    @property
    def alpha_text(self) -> str:
        """Its alpha with three digits; empty where it is not smoothed."""
        return "" if self.alpha is None else f"{self.alpha:.3g}"


@dataclass(frozen=True)
class _Column:
    """A column of tables that is left out where it says nothing.

    Args:
        tells: whether it says something of an operator.
        cell: what.
    """

    tells: Callable[[OperatorOutcome], bool]
    cell: Callable[[OperatorOutcome], str]


_OPTIONAL = {
    "smoothing form": _Column(lambda operator: bool(operator.smoothing_form), lambda operator: operator.smoothing_form),
    "weights": _Column(
        lambda operator: operator.weight_share is not None,
        lambda operator: percent(operator.weight_share) if operator.weight_share else "",
    ),
    "rounding": _Column(lambda operator: operator.rounding == "second_moment", lambda operator: operator.rounded),
    "corrections": _Column(
        lambda operator: bool(operator.corrections), lambda operator: ", ".join(operator.corrections)
    ),
    "trained": _Column(lambda operator: operator.trained, lambda operator: "yes" if operator.trained else ""),
}


def optional_columns(
    operators: Sequence[OperatorOutcome], names: Sequence[str] = tuple(_OPTIONAL)
) -> dict[str, list[str]]:
    """Cells by column, of the columns of these names that say something of an operator."""
    columns = {name: _OPTIONAL[name] for name in names}
    return {
        name: [column.cell(operator) for operator in operators]
        for name, column in columns.items()
        if any(map(column.tells, operators))
    }
