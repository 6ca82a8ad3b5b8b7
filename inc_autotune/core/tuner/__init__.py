"""The tuning run: what is prepared before the first trial, the loop over trials, and the result.

Imports everything else in the core; run stands below preparation, then come loop, ending and tuning.
"""

from inc_autotune.core.tuner.ending import Tuned
from inc_autotune.core.tuner.tuning import tune

__all__ = ["Tuned", "tune"]
