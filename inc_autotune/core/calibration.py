"""Statistics under the path that adaptors outside this repository import them from."""

from inc_autotune.core.quantization.statistics import ActivationStatistics

__all__ = ["ActivationStatistics"]
