"""The capability under the path that adaptors outside this repository import it from."""

from inc_autotune.core.space import Capability, load_capability

__all__ = ["Capability", "load_capability"]
