"""Which TensorFlow this works with."""

from __future__ import annotations

import re

from inc_autotune.core.errors import MissingDependencyError

OLDEST = (2, 16)
"""The first TensorFlow with Keras 3."""

TESTED = "2.21"


def check_version(installed: str) -> None:
    """Refuse a TensorFlow that is too old.

    Args:
        installed: `tf.__version__`.

    Raises:
        MissingDependencyError: it is older than `OLDEST`.
    """
    match = re.match(r"(\d+)\.(\d+)", installed)
    if match is None or (int(match[1]), int(match[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise MissingDependencyError(
            f"TensorFlow {installed} is installed, but {oldest} or newer is needed; {TESTED} is tested. "
            "Run: pip install --upgrade 'inc-autotune[tf]'"
        )
