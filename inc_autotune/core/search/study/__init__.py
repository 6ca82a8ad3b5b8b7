"""Trials in an Optuna study, found again after a crash and shared by several processes.

Imports the goal and the verdicts of evaluation, and space.
"""

from inc_autotune.core.search.study.code_fingerprint import (
    Fingerprint,
    assigned,
    callable_fingerprint,
    called_in,
    methods,
)
from inc_autotune.core.search.study.history import History
from inc_autotune.core.search.study.quiet import quiet_optuna
from inc_autotune.core.search.study.shared_work import SharedWork
from inc_autotune.core.search.study.storage import STORAGE_FORMAT, StudyKey, check_storage
from inc_autotune.core.search.study.storage_url import local_file, shown_url
from inc_autotune.core.search.study.stored_run import StoredRun, WorkerProcess, choose_run, read_runs
from inc_autotune.core.search.study.trained_weights import TrainedWeights, WeightsStore, joined
from inc_autotune.core.search.study.trial import Trial
from inc_autotune.core.search.study.workers import POLL_SECONDS

__all__ = [
    "POLL_SECONDS",
    "STORAGE_FORMAT",
    "Fingerprint",
    "History",
    "SharedWork",
    "StoredRun",
    "StudyKey",
    "TrainedWeights",
    "Trial",
    "WeightsStore",
    "WorkerProcess",
    "assigned",
    "callable_fingerprint",
    "called_in",
    "check_storage",
    "choose_run",
    "joined",
    "local_file",
    "methods",
    "quiet_optuna",
    "read_runs",
    "shown_url",
]
