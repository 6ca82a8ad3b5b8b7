"""Strategies by the name the user gives."""

from __future__ import annotations

from inc_autotune.core.strategy.auto import auto
from inc_autotune.core.strategy.base import Strategy
from inc_autotune.core.strategy.basic import basic
from inc_autotune.core.strategy.conservative import conservative
from inc_autotune.core.strategy.mse import mse
from inc_autotune.core.strategy.mse_v2 import mse_v2
from inc_autotune.core.strategy.sampled import bayesian, exhaustive, random_search, tpe

STRATEGIES: dict[str, Strategy] = {
    "auto": auto,
    "basic": basic,
    "conservative": conservative,
    "mse": mse,
    "mse_v2": mse_v2,
    "bayesian": bayesian,
    "tpe": tpe,
    "random": random_search,
    "exhaustive": exhaustive,
}
