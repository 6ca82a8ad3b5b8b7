"""Where a quantized model loses accuracy: the error of each operator, and what to try."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inc_autotune.core.analysis import OperatorError
from inc_autotune.core.optional import require
from inc_autotune.core.plain_values import finite
from inc_autotune.core.text_table import numbered, text_table

DROP_DB = 6.0
"""By so much an operator has to lower the curve to be named as a culprit."""

SATURATED = 1e-3
"""A larger share of values outside the calibrated range is worth a remark."""

TOO_WIDE = 4.0
"""A calibrated range so many times wider than what was seen wastes steps."""

MOST_NAMED = 3


@dataclass(frozen=True)
class Comparison:
    """Two models beside each other; `print` gives a table, `save_report` a page.

    Args:
        operators: in the model's order; the model's own outputs last, with the type `output`.
        samples: that were compared.
        notes: remarks, such as operators that could not be compared.
    """

    operators: tuple[OperatorError, ...]
    samples: int
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Operators that were compared, without the model's own outputs."""
        return sum(each.type != "output" for each in self.operators)

    @property
    def worst(self) -> tuple[OperatorError, ...]:
        """Quantized operators, the one that adds most error first.

        Where the error that each adds alone is known, it decides; else the ratio at its output.
        """
        quantized = [each for each in self.operators if each.is_quantized]
        if any(each.alone is not None for each in quantized):
            return tuple(sorted(quantized, key=lambda each: each.sqnr if each.alone is None else each.alone))
        return tuple(sorted(quantized, key=lambda each: each.sqnr))

    @property
    def output(self) -> OperatorError | None:
        """The worst of the model's own outputs."""
        return min((each for each in self.operators if each.type == "output"), key=lambda each: each.sqnr, default=None)

    def what_to_try(self) -> tuple[str, ...]:
        """What may help, in the order in which to try it, with the arguments of `autotune`."""
        return (*self._ranges(), *self._single_operators(), *self._channels(), *self._otherwise())

    def _ranges(self) -> list[str]:
        saturated = sorted(
            (each for each in self.operators if (each.saturated or 0) > SATURATED),
            key=lambda each: -(each.saturated or 0),
        )
        found = []
        if saturated:
            found.append(
                f"calibrate on more, or on other data: {len(saturated)} inputs leave their "
                f"range, most of {saturated[0].name} ({100 * (saturated[0].saturated or 0):.2g} % of its values). "
                "sampling_sizes=[500], with data like this"
            )
        wide = [each for each in self.worst[:MOST_NAMED] if _is_too_wide(each)]
        if wide:
            found.append(
                f"cut off rare values: the calibrated range of {_names(wide)} is more than {TOO_WIDE:g} times as "
                "wide as what occurs here. op_name_dict={%r: {'activation': {'algorithm': ['percentile', 'mse']}}}"
                % wide[0].name
            )
        return found

    def _single_operators(self) -> list[str]:
        culprits = self._culprits()[:MOST_NAMED]
        if not culprits:
            return []
        rules = ", ".join(f"{each.name!r}: {{'weight': {{'dtype': ['fp32']}}}}" for each in culprits)
        return [
            f"leave out what loses most: {_names(culprits)}, more than {DROP_DB:g} dB below "
            f"{'the middle of all' if culprits[0].alone is not None else 'all before'}. op_name_dict={{{rules}}}, or a "
            "rule with {'activation': {'quant_mode': ['dynamic']}}"
        ]

    def _culprits(self) -> list[OperatorError]:
        """Operators that add far more error than others, the worst first."""
        quantized = [each for each in self.operators if each.is_quantized]
        alone = sorted(each.alone for each in quantized if each.alone is not None)
        if alone:
            usual = alone[len(alone) // 2]
            return [each for each in self.worst if each.alone is not None and each.alone < usual - DROP_DB]
        lowest = math.inf
        found: list[tuple[float, OperatorError]] = []
        for each in quantized:
            if math.isfinite(lowest) and each.sqnr < lowest - DROP_DB:
                found.append((each.sqnr - lowest, each))
            lowest = min(lowest, each.sqnr)
        return [each for _, each in sorted(found, key=lambda pair: pair[0])]

    def _channels(self) -> list[str]:
        uneven = [
            each
            for each in self.worst[:MOST_NAMED]
            if each.worst_channels and each.sqnr - each.worst_channels[0][1] > 3 * DROP_DB
        ]
        if not uneven:
            return []
        return [
            f"smooth, or give channels scales of their own: single channels of {_names(uneven)} are far worse than the "
            "others. smoothquant_args={'alpha': 'auto'}, and {'weight': {'granularity': ['per_channel']}}"
        ]

    def _otherwise(self) -> list[str]:
        return [
            "let the search decide: autotune with eval_func, tuning_time and accuracy_criterion leaves out as little "
            "as the goal needs"
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON; what is infinite or not a number is None."""
        plain: dict[str, Any] = finite({**asdict(self), "what_to_try": self.what_to_try()})
        return plain

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_dataframe(self) -> Any:
        """A `pandas.DataFrame` with a row for each operator.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        require("pandas", extra="dataframe")
        import pandas

        rows = [
            {
                "operator": each.name,
                "type": each.type,
                "form": each.form,
                "sqnr": each.sqnr,
                "cosine": each.cosine,
                "alone": each.alone,
                **_limits("observed", each.observed),
                **_limits("calibrated", each.calibrated),
                "saturated": each.saturated,
                "worst_channel": each.worst_channels[0][0] if each.worst_channels else None,
                "worst_channel_sqnr": each.worst_channels[0][1] if each.worst_channels else None,
            }
            for each in self.operators
        ]
        return pandas.DataFrame(rows)

    def save_report(self, path: str | Path) -> None:
        """Write the comparison as one HTML page with charts that works offline.

        Args:
            path: the file to write, about 5 MB; an existing one is replaced.

        Raises:
            MissingDependencyError: plotly, the extra `report`, is not installed.
            ArgumentError: nothing can be written there.
        """
        # Not at the top: the report's modules import this one.
        from inc_autotune.core.result.report import save_comparison

        save_comparison(self, path)

    def __str__(self) -> str:
        output = self.output
        last = "" if output is None else f", {output.sqnr:.1f} dB at the output"
        lines = [f"{self.count} operators compared on {self.samples} samples{last}", ""]
        lines += text_table([HEADER, *(operator_row(each) for each in self.operators)])
        lines += ["", "what to try, in order:", *numbered(self.what_to_try())]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


HEADER = (
    "operator",
    "type",
    "form",
    "dB so far",
    "dB alone",
    "cosine",
    "saturated",
    "seen",
    "calibrated",
    "worst channels",
)


def operator_row(error: OperatorError) -> tuple[str, ...]:
    """One operator as the cells under `HEADER`."""
    return (
        error.name,
        error.type,
        error.form,
        _ratio(error.sqnr),
        "" if error.alone is None else _ratio(error.alone),
        f"{error.cosine:.5f}",
        "" if error.saturated is None else f"{100 * error.saturated:.2g} %",
        _range(error.observed),
        _range(error.calibrated),
        ", ".join(f"{channel}: {_ratio(ratio)}" for channel, ratio in error.worst_channels[:MOST_NAMED]),
    )


def _ratio(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "equal" if value > 0 else "lost"


def _range(limits: tuple[float, float] | None) -> str:
    return "" if limits is None else f"{limits[0]:.3g} to {limits[1]:.3g}"


def _limits(name: str, limits: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = (None, None) if limits is None else limits
    return {f"{name}_minimum": low, f"{name}_maximum": high}


def _is_too_wide(error: OperatorError) -> bool:
    if error.observed is None or error.calibrated is None:
        return False
    seen, known = (limits[1] - limits[0] for limits in (error.observed, error.calibrated))
    return seen > 0 and known > TOO_WIDE * seen


def _names(operators: Sequence[OperatorError]) -> str:
    return ", ".join(each.name for each in operators)
