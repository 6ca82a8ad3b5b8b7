"""A storage whose database is away for a while."""

import logging
from itertools import count

import optuna
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, OperationalError, PendingRollbackError

from inc_autotune.core.errors import StorageError
from inc_autotune.core.search.study.patient_storage import PatientStorage
from inc_autotune.core.search.study.running_trial import Description, begin_trial
from inc_autotune.core.search.study.storage import create_study

URL = "postgresql://me:S3CRET@host/tuning"
LOST = OperationalError("SELECT 1", {}, Exception("server S3CRET closed the connection"))


class Failing:
    """An Optuna storage in memory, whose next calls fail: before their work is done, or after it."""

    def __init__(self):
        self.real = optuna.storages.InMemoryStorage()
        self.before, self.after = [], []

    def __getattr__(self, name):
        def call(*given, **named):
            if self.before:
                raise self.before.pop(0)
            found = getattr(self.real, name)(*given, **named)
            if self.after and name in ("create_new_trial", "set_trial_state_values", "set_study_user_attr"):
                raise self.after.pop(0)
            return found

        return call


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def failing():
    return Failing()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def patient(failing, clock):
    return PatientStorage(failing, URL, patience=60.0, clock=clock, sleep=clock.sleep)


@pytest.fixture
def study(patient):
    return create_study(patient, "run")


def wrapped(error):
    try:
        raise StorageInternalError("An exception is raised during the commit.") from error
    except StorageInternalError as found:
        return found


@pytest.mark.parametrize(
    "error",
    [LOST, wrapped(LOST), PendingRollbackError("rolled back"), ConnectionResetError("reset")],
    ids=["lost", "wrapped", "pending", "reset"],
)
def test_a_call_is_repeated_until_the_database_is_back(study, failing, patient, clock, caplog, error):
    failing.before = [error] * 5
    with caplog.at_level(logging.WARNING):
        study.set_user_attr("name", "value")
    assert study.user_attrs["name"] == "value"
    assert patient.back_since == clock.now > 0
    told = [record.getMessage() for record in caplog.records if record.name.startswith("inc_autotune")]
    assert len(told) == 2
    assert "cannot be reached" in told[0]
    assert "is back after" in told[1]
    assert "S3CRET" not in caplog.text


def test_a_database_that_stays_away_is_an_error_that_says_what_to_do(study, failing, clock):
    failing.before = [LOST] * 1000
    with pytest.raises(StorageError, match=r"failed for 6\d s: .*make the same call, and it goes on") as raised:
        study.set_user_attr("name", "value")
    assert "S3CRET" not in str(raised.value)
    assert raised.value.__cause__ is None
    after = clock.now
    with pytest.raises(StorageError):
        study.set_user_attr("name", "value")
    assert clock.now == after, "who has given up once does not wait again"


def test_what_is_wrong_with_the_call_is_no_reason_to_wait(study, failing, clock):
    failing.before = [wrapped(IntegrityError("INSERT", {}, Exception("too long")))]
    with pytest.raises(StorageError, match="too long"):
        study.set_user_attr("name", "value")
    assert clock.now == 0
    with pytest.raises(KeyError):
        study._storage.get_trial(17)


def test_an_interrupted_wait_is_the_last_one(failing):
    def interrupt(seconds):
        raise KeyboardInterrupt

    patient = PatientStorage(failing, URL, sleep=interrupt)
    study = create_study(patient, "run")
    failing.before = [LOST] * 10
    with pytest.raises(KeyboardInterrupt):
        study.set_user_attr("name", "value")
    with pytest.raises(StorageError):
        study.set_user_attr("name", "value")


@pytest.mark.parametrize("lost", [1, 3])
def test_a_trial_whose_answer_was_lost_is_begun_once(study, failing, lost):
    failing.after = [LOST] * lost
    trial = begin_trial(study, Description({"label": "first"}))
    assert [found.number for found in study.get_trials()] == [trial.number]
    failing.after = [LOST]
    study.tell(trial.number, 0.5, skip_if_finished=True)
    assert [(found.state, found.value) for found in study.get_trials()] == [(TrialState.COMPLETE, 0.5)]


def test_a_trial_that_another_has_ended_meanwhile_is_not_taken_for_ours(study, failing):
    trial = begin_trial(study, Description({"label": "first"}))
    failing.real.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    failing.before = [LOST]
    with pytest.raises(UpdateFinishedTrialError):
        study._storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.5])


def test_every_method_of_a_storage_passes(study):
    numbers = count()

    def objective(trial):
        trial.suggest_float("x", 0, 1)
        trial.report(0.5, 1)
        trial.set_user_attr("name", 1)
        return next(numbers)

    study.set_user_attr("name", 1)
    study.optimize(objective, n_trials=3)
    assert study.best_value == 2
    assert optuna.get_all_study_summaries(study._storage)[0].n_trials == 3
