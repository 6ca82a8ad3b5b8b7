"""Errors of the command line, and the exit codes that scripts read."""

from __future__ import annotations

from inc_autotune.core.errors import AutotuneError

MET = 0
"""The goal was met, or none was asked for."""
FAILED = 1
"""The work began and could not be ended, as where an evaluation raises."""
BAD_USAGE = 2
"""An option, a file or a model is not what it should be."""
NOT_MET = 3
"""The goal was not met; the best model found is written all the same."""
INTERRUPTED = 130


class UsageError(AutotuneError, ValueError):
    """An option or a file of a command is not what it should be."""


class WritingError(AutotuneError, RuntimeError):
    """What was found could not be written."""
