"""One tuning run by several workers: processes of this machine, or of a cluster of Ray.

Imports the core; each verb that it is given brings its framework.
"""

from inc_autotune.distributed.api import autotune
from inc_autotune.distributed.cluster import RayWorkers
from inc_autotune.distributed.team import Helpers, lead

__all__ = ["Helpers", "RayWorkers", "autotune", "lead"]
