"""Statistics of activations under the path that adaptors outside this repository import them from."""

from inc_autotune.core.quantization import ActivationStatistics

__all__ = ["ActivationStatistics"]
