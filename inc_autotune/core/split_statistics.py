"""Statistics apart from held-out samples, under the path that adaptors outside this repository import them from."""

from inc_autotune.core.quantization.split_statistics import Snapshot, SplitStatistics, Statistics

__all__ = ["Snapshot", "SplitStatistics", "Statistics"]
