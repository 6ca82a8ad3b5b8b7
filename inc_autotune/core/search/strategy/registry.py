"""Strategies by the name the user gives."""

from __future__ import annotations

from inc_autotune.core.adaptor import Adaptor
from inc_autotune.core.analysis import SupportsGradients
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.search.strategy.auto import auto
from inc_autotune.core.search.strategy.base import Strategy
from inc_autotune.core.search.strategy.basic import basic
from inc_autotune.core.search.strategy.conservative import conservative
from inc_autotune.core.search.strategy.hawq_v2 import hawq_v2
from inc_autotune.core.search.strategy.mse import mse
from inc_autotune.core.search.strategy.mse_v2 import mse_v2
from inc_autotune.core.search.strategy.sampled import bayesian, check_gaussian_process, exhaustive, random_search, tpe

STRATEGIES: dict[str, Strategy] = {
    "auto": auto,
    "basic": basic,
    "conservative": conservative,
    "mse": mse,
    "mse_v2": mse_v2,
    "hawq_v2": hawq_v2,
    "bayesian": bayesian,
    "tpe": tpe,
    "random": random_search,
    "exhaustive": exhaustive,
}

NEED_GRADIENTS = ("hawq_v2",)
"""Strategies for adaptors with `gradient_harms`."""


def check_strategy(name: str, adaptor: Adaptor) -> None:
    """Refuse a strategy that cannot be served.

    Raises:
        ArgumentError: it needs gradients, and the adaptor gives none.
        MissingDependencyError: it needs packages that are not installed.
    """
    if name == "bayesian":
        check_gaussian_process()
    if name in NEED_GRADIENTS and not isinstance(adaptor, SupportsGradients):
        allowed = ", ".join(repr(strategy) for strategy in STRATEGIES if strategy not in NEED_GRADIENTS)
        raise ArgumentError(
            f"strategy={name!r}: needs gradients, which {type(adaptor).__name__} does not offer. Allowed: {allowed}; "
            "'mse' is nearest, it measures the harm."
        )
