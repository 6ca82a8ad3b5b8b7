"""What the user asked for, checked before any work is done.

Imports quantization, for the names of dtypes, schemes and algorithms.
"""

from inc_autotune.core.arguments.autotune import validate_arguments

__all__ = ["validate_arguments"]
