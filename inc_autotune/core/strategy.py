"""The strategies under the path that adaptors outside this repository import them from."""

from inc_autotune.core.search.strategy import STRATEGIES, Proposal, SearchView, Strategy, check_strategy

__all__ = ["STRATEGIES", "Proposal", "SearchView", "Strategy", "check_strategy"]
