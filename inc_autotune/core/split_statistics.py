"""Statistics without held-out samples under the path that adaptors outside this repository import them from."""

from inc_autotune.core.quantization import Snapshot, SplitStatistics, Statistics

__all__ = ["Snapshot", "SplitStatistics", "Statistics"]
