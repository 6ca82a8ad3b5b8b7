"""What each operator of a model could become, found without data and without running the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis.weight_shares import operator_weights, percent, skipped_operators, weight_shares
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.text_table import text_table


@dataclass(frozen=True)
class OperatorOptions:
    """What one operator could become.

    Args:
        options: each data type and approach once, the default first, such as `int8 static`; empty where the operator
            stays in fp32.
        reason: why it cannot be quantized; None where it can.
        weight_share: share of the model's weights, by elements; None where the framework does not tell.
    """

    name: str
    type: str
    options: tuple[str, ...]
    reason: str | None
    weight_share: float | None

    @property
    def is_quantizable(self) -> bool:
        return bool(self.options)


@dataclass(frozen=True)
class Inspection:
    """The operators of a model that have a weight or could be quantized, in the model's order; `print` gives a table.

    Tuning decides what each becomes: it may leave in fp32 what is no faster in integers, costs accuracy, or never runs.
    """

    operators: tuple[OperatorOptions, ...]

    @property
    def quantizable_share(self) -> float | None:
        """Share of the model's weights that could leave fp32; None where the framework does not tell."""
        shares = [(each.weight_share, each.is_quantizable) for each in self.operators if each.weight_share is not None]
        return sum(share for share, quantizable in shares if quantizable) if shares else None

    def __str__(self) -> str:
        count = sum(each.is_quantizable for each in self.operators)
        share = self.quantizable_share
        of_weights = "" if share is None else f", {percent(share)} of the weights"
        rows = [("operator", "type", "weights", "can be", "reason")]
        for each in self.operators:
            weights = "" if each.weight_share is None else percent(each.weight_share)
            rows.append((each.name, each.type, weights, ", ".join(each.options) or "fp32", each.reason or ""))
        return "\n".join(
            [f"can be quantized: {count} of {len(self.operators)} operators{of_weights}", "", *text_table(rows)]
        )


def inspect_model(adaptor: Adaptor, model: Any) -> Inspection:
    """What each operator of a model could become.

    Args:
        adaptor: of the model's framework, which has not calibrated.
        model: the fp32 model in the form that the adaptor takes.

    Raises:
        ModelError: the model cannot be read.
    """
    shares = weight_shares(operator_weights(adaptor, model), {})
    skipped = skipped_operators(adaptor, model)
    found = {
        name: OperatorOptions(
            name,
            op_type,
            tuple(dict.fromkeys(_words(option) for option in options if option.is_quantized)),
            None,
            shares.get(name),
        )
        for (name, op_type), options in _operators(adaptor, model).items()
        if name not in skipped
    }
    for name, reason in skipped.items():
        found[name] = OperatorOptions(name, adaptor.operator_type(model, name), (), reason, shares.get(name))
    order = {name: position for position, name in enumerate(shares)}
    return Inspection(tuple(sorted(found.values(), key=lambda each: order.get(each.name, len(order)))))


def _operators(adaptor: Adaptor, model: Any) -> dict[tuple[str, str], list[OpConfig]]:
    opwise = adaptor.query_fw_capability(model)["opwise"]
    return {operator: [OpConfig.from_dict(each) for each in options] for operator, options in opwise.items()}


def _words(option: OpConfig) -> str:
    return f"{option.dtype} {option.approach}" if option.approach else option.dtype
