"""How quantized graphs are written: their form by backend, and the switches that the user sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from inc_autotune.core.arguments import shown
from inc_autotune.core.errors import ArgumentError

GraphForm: TypeAlias = Literal["kernels", "qdq"]

KERNEL_FORM: Final = "kernels"
"""With the integer operators of stock TensorFlow."""

QDQ_FORM: Final = "qdq"
"""With float operators between QuantizeV2 and Dequantize, which other runtimes replace by integer operators."""

FORMS: Mapping[str, GraphForm] = {"default": KERNEL_FORM, "itex": QDQ_FORM}
"""Form of the graph by backend."""

SWITCHES = {
    "first_conv_or_matmul_quantization": "first",
    "last_conv_or_matmul_quantization": "last",
    "scale_propagation_max_pooling": "propagate_max_pooling",
    "scale_propagation_concat": "propagate_concat",
    "residual_add_fusion": "fuse_residual",
}
"""Recipes that are True or False, True by default, and what they decide."""


@dataclass(frozen=True)
class GraphChoices:
    """How quantized graphs are written, apart from types and ranges.

    Args:
        form: of the graph.
        folding: whether smoothing scales are folded into the operators before, if the result is exact.
        propagate_max_pooling: whether a max pooling between integer convolutions stays in integers.
        propagate_concat: whether all inputs of a concatenation between integer convolutions share one scale, so that
            it stays in integers.
        fuse_residual: whether a convolution computes the sum behind it too, in integers.
    """

    form: GraphForm = KERNEL_FORM
    folding: bool = True
    propagate_max_pooling: bool = True
    propagate_concat: bool = True
    fuse_residual: bool = True


_ENDS = ("first", "last")
"""What switches decide of operators, not of the graph."""


def choices_of(switches: Mapping[str, bool], *, form: GraphForm = KERNEL_FORM, folding: bool = True) -> GraphChoices:
    """The choices that the user's switches make, as `read_switches` gives them; the rest as for `GraphChoices`."""
    chains = {decided: value for decided, value in switches.items() if decided not in _ENDS}
    return GraphChoices(form=form, folding=folding, **chains)


def skipped_ends(switches: Mapping[str, bool]) -> dict[str, str]:
    """The ends of the model, "first" and "last", that the user's switches keep in fp32, each with the reason."""
    return {end: f"recipes: {name} is False" for name, end in SWITCHES.items() if end in _ENDS and not switches[end]}


def read_switches(recipes: Mapping[str, Any]) -> dict[str, bool]:
    """The switches among the user's recipes, by what they decide.

    Raises:
        ArgumentError: a switch is no bool.
    """
    given = {}
    for name, decided in SWITCHES.items():
        value = recipes.get(name, True)
        if not isinstance(value, bool):
            raise ArgumentError(f"recipes[{name!r}]={shown(value)}. Allowed: True or False.")
        given[decided] = value
    return given
