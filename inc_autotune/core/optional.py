"""Optional dependencies."""

from __future__ import annotations

from importlib.util import find_spec

from inc_autotune.core.errors import MissingDependencyError


def require(package: str, *, extra: str) -> None:
    """Make sure an optional package can be imported, without importing it.

    Raises:
        MissingDependencyError: it is not installed; the message names the pip extra.
    """
    if find_spec(package) is None:
        raise MissingDependencyError(
            f"{package} is not installed, and this needs it. Run: pip install 'inc-autotune[{extra}]'"
        )
