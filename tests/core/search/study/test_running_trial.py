"""Trials that other processes end while this one still has them."""

import optuna
import pytest
from optuna.trial import TrialState

from inc_autotune.core.search.study.running_trial import Description, begin_trial, end_trial
from inc_autotune.core.search.study.shared_work import SharedWork
from inc_autotune.core.search.study.storage import create_study
from inc_autotune.core.search.study.workers import Worker


class Raced(optuna.storages.InMemoryStorage):
    """A storage of which another process writes an end just before this one does."""

    def __init__(self):
        super().__init__()
        self.raced = []

    def set_trial_state_values(self, trial_id, state, values=None):
        if trial_id not in self.raced:
            self.raced.append(trial_id)
            super().set_trial_state_values(trial_id, TrialState.FAIL)
        return super().set_trial_state_values(trial_id, state, values)


@pytest.fixture
def study():
    return create_study(Raced(), "raced")


def only_trial(study):
    (trial,) = study.get_trials()
    return trial


def test_what_was_written_first_stands(study):
    trial = begin_trial(study, Description({}))
    end_trial(study, trial.number, TrialState.COMPLETE, 0.5)
    assert study._storage.raced == [trial._trial_id]
    assert (only_trial(study).state, only_trial(study).values) == (TrialState.FAIL, None)
    end_trial(study, trial, TrialState.PRUNED)
    assert only_trial(study).state == TrialState.FAIL


def test_shared_work_is_done_though_others_gave_its_claim_up(study):
    worker = Worker(study)
    try:
        assert SharedWork(study, worker).once("key", lambda: 7) == 7
        assert study._storage.raced, "the claim was ended by another process"
    finally:
        worker.close()


def test_a_trial_that_others_end_at_once_is_still_this_process_own(study, monkeypatch):
    add_trial = study.add_trial

    def add_and_give_up(template):
        add_trial(template)
        end_trial(study, only_trial(study).number, TrialState.FAIL)

    monkeypatch.setattr(study, "add_trial", add_and_give_up)
    assert begin_trial(study, Description({"shown": 1})).number == 0
