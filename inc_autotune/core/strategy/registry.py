"""Strategies by the name the user gives."""

from __future__ import annotations

from inc_autotune.core.strategy.auto import auto
from inc_autotune.core.strategy.base import Strategy

STRATEGIES: dict[str, Strategy] = {"auto": auto}
