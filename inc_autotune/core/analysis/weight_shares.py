"""How much of a model's weights each operator has."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Protocol, runtime_checkable

from inc_autotune.core.adaptor import Adaptor

SMALLEST_SHARE = 0.01
"""Of the weights; what has less is not worth a number in a text."""

Weights = Mapping[str, Mapping[Hashable, int]]
"""Elements of each weight of an operator, by the operator's name and a key of the weight."""


@runtime_checkable
class SupportsWeights(Protocol):
    """An adaptor that knows which weights operators have."""

    def operator_weights(self, model: Any) -> Weights:
        """Elements of the weights of every operator, found or skipped, by its name and a key of the weight.

        Weights are matrices, kernels and tables: tensors of two dimensions or more, whatever their dtype. One that
        several operators read has the same key in each of them. All that the model has should be in it, so that shares
        add up to 1: what no operator reads that can be quantized belongs to one that `skipped` names.
        """


def operator_weights(adaptor: Adaptor, model: Any) -> Weights:
    """The weights of each operator; empty where the adaptor does not know them."""
    return adaptor.operator_weights(model) if isinstance(adaptor, SupportsWeights) else {}


def weight_shares(weights: Weights, forms: Mapping[str, str]) -> dict[str, float]:
    """The share of all weights, by elements, that each operator has; empty where the model has none.

    Args:
        weights: see `operator_weights`.
        forms: data type by operator name; one that is not named is fp32. A weight that several operators of one form
            read counts once, for the first of them; of two forms, once in each, as both are stored.

    Returns:
        By operator name; the sum is 1.
    """
    elements: dict[str, int] = {}
    counted: set[tuple[str, Hashable]] = set()
    for name, own in weights.items():
        new = {(forms.get(name, "fp32"), key): count for key, count in own.items()}
        elements[name] = sum(count for key, count in new.items() if key not in counted)
        counted |= new.keys()
    total = sum(elements.values())
    return {name: count / total for name, count in elements.items()} if total else {}


def skipped_operators(adaptor: Adaptor, model: Any) -> dict[str, str]:
    """`adaptor.skipped`, where each reason ends with the operator's share of the weights, if it is one to speak of."""
    shares = weight_shares(operator_weights(adaptor, model), {})
    return {name: with_share(reason, shares.get(name)) for name, reason in adaptor.skipped(model).items()}


def with_share(reason: str, share: float | None) -> str:
    """A reason that ends with a share of the weights, if it is one to speak of."""
    return reason if share is None or share < SMALLEST_SHARE else f"{reason} ({percent(share)} of the weights)"


def percent(share: float) -> str:
    """A share in percent, rounded down, so that "100 %" is all of it."""
    if 0 < share < SMALLEST_SHARE:
        return "< 1 %"
    return f"{int(100 * share + 1e-9)} %"
