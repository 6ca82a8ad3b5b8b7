"""Optuna without its own words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import optuna

from inc_autotune.core.ignored_warnings import ignored_warnings
from inc_autotune.core.shared_switch import SharedSwitch


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with ignored_warnings(optuna.exceptions.ExperimentalWarning):
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


_QUIET_OPTUNA = SharedSwitch(_quiet_optuna)


def quiet_optuna() -> AbstractContextManager[None]:
    """Optuna logs each trial to stderr, and warns of samplers and proxies; the tuner reports in its own words."""
    return _QUIET_OPTUNA
