"""Strategies: what to try next, as a pure function of the trials so far. One strategy a file."""

from inc_autotune.core.search.strategy.base import Proposal, SearchView, Strategy
from inc_autotune.core.search.strategy.registry import STRATEGIES, check_strategy
from inc_autotune.core.search.strategy.trained import with_training
from inc_autotune.core.search.strategy.variants import untried_variant

__all__ = ["STRATEGIES", "Proposal", "SearchView", "Strategy", "check_strategy", "untried_variant", "with_training"]
