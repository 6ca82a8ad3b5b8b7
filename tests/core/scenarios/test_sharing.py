"""Processes that share a tuning run, and runs that are killed."""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import optuna
import pytest

from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.op_config import OpConfig, TensorConfig
from inc_autotune.core.progress import Phases
from inc_autotune.core.search.options import offered_options
from inc_autotune.core.search.ranking import Ranking
from inc_autotune.core.search.study.history import History
from inc_autotune.core.search.study.process import this_process
from inc_autotune.core.search.study.shared_work import SharedWork, claim
from inc_autotune.core.search.study.storage import StudyKey, open_study
from inc_autotune.core.search.study.text_attributes import read_text, write_text
from inc_autotune.core.search.study.trial import Trial
from inc_autotune.core.search.study.workers import Worker
from inc_autotune.core.space.units import Assignment, build_space
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, random_model
from tests.postgresql import free_port, is_listening

PROGRAM = """
import json, os, signal, sys, time, warnings
import numpy as np
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.search.study.trial import Trial
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, random_model

warnings.simplefilter("ignore")
directory, who, storage, *numbers = sys.argv[1:]
die_at, tuning_time, seconds = map(float, numbers)
BAD = {"dense3", "dense7", "dense8", "dense11", "dense14"}
calls = 0

def evaluate(model):
    global calls
    calls += 1
    if calls == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
    quantized = sorted(layer.name for layer in model.layers if layer.transform.__name__ != "identity")
    time.sleep(seconds)
    with open(f"{directory}/evaluations", "a") as log:
        log.write(json.dumps([who, quantized]) + "\\n")
    return 1.0 - 0.05 * len(BAD & set(quantized)) - 1e-5 * len(quantized)

generator = np.random.default_rng(1)
data = [generator.normal(size=(8, 8)).astype(np.float32) for _ in range(4)]
arguments = validate_arguments(
    strategies=["auto"], backends=["default"], progress=False, storage=storage,
    tuning_time=tuning_time,
)
tuned = tune(NumpyAdaptor(), random_model(16, 8), data, evaluate, arguments)
result = tuned.result
outputs = tuned.model(np.concatenate(data))
print(json.dumps([result.score, sorted(result.fallbacks), len(result.trials), float(outputs.sum())]))
"""


def start(directory, who="first", *, die_at=0, tuning_time=0.0, seconds=0.0, storage=None):
    given = [
        str(directory),
        who,
        storage or f"sqlite:///{directory}/run.db",
        str(die_at),
        str(tuning_time),
        str(seconds),
    ]
    command = [sys.executable, "-c", PROGRAM, *given]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(process):
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return json.loads(output)


def evaluations(directory):
    """(process, names of the quantized layers) of each evaluation that ended."""
    lines = (directory / "evaluations").read_text().splitlines()
    return [(who, tuple(quantized)) for who, quantized in map(json.loads, lines)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The outcome of one process that nobody disturbs."""
    return outcome(start(tmp_path_factory.mktemp("undisturbed")))


@pytest.mark.parametrize("tuning_time", [0.0, 1000.0])
def test_two_processes_share_the_trials_and_end_with_the_same_answer(tmp_path, tuning_time):
    processes = [start(tmp_path, who, tuning_time=tuning_time, seconds=0.3) for who in ("first", "second")]
    first, second = map(outcome, processes)
    assert first[0] == second[0]
    assert first[1] == second[1]
    assert first[3] == second[3]
    done = evaluations(tmp_path)
    assert max(Counter(quantized for _, quantized in done).values()) == 1
    assert {who for who, _ in done} == {"first", "second"}
    assert sum(quantized == () for _, quantized in done) == 1


def test_two_processes_find_what_one_finds(tmp_path):
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
    alone = outcome(start(tmp_path / "alone", tuning_time=1000.0))
    processes = [start(tmp_path / "together", who, tuning_time=1000.0, seconds=0.1) for who in ("first", "second")]
    together, _ = map(outcome, processes)
    assert together[1] == alone[1]


@pytest.mark.parametrize("die_at", [1, 2, 4])
def test_a_killed_run_goes_on_without_repeating_a_finished_evaluation(tmp_path, die_at, undisturbed):
    killed = start(tmp_path, die_at=die_at)
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    resumed = outcome(start(tmp_path, "resumed"))
    done = evaluations(tmp_path)
    assert max(Counter(quantized for _, quantized in done).values()) == 1
    assert sum(who == "first" for who, _ in done) == die_at - 1
    assert resumed[1] == undisturbed[1]


def test_the_other_process_takes_over_when_one_is_killed(tmp_path, undisturbed):
    killed, survivor = start(tmp_path, die_at=2, seconds=0.3), start(tmp_path, "survivor", seconds=0.3)
    killed.communicate(timeout=120)
    fallbacks = outcome(survivor)[1]
    assert fallbacks == undisturbed[1]


def storage_of(path):
    return f"sqlite:///{path / 'run.db'}"


def run(path, model=None, **given):
    given = {"storage": storage_of(path), **given}
    arguments = validate_arguments(strategies=["auto"], backends=["default"], progress=False, **given)
    data = [np.random.default_rng(1).normal(size=(32, 16)).astype(np.float32)]
    return tune(NumpyAdaptor(), model or random_model(), data, lambda model: 1.0, arguments).result


def test_a_changed_argument_starts_a_new_study_and_says_so(tmp_path, caplog):
    first = run(tmp_path)
    assert not any("new study" in note for note in first.notes)
    assert run(tmp_path).evaluations == 0
    caplog.clear()
    changed = run(tmp_path, seed=3, accuracy_criterion={"relative": 0.02})
    assert changed.evaluations == 2
    (note,) = [note for note in changed.notes if "new study" in note]
    assert note.endswith("differs in: accuracy_criterion, seed")
    assert note in caplog.text


def test_a_changed_model_starts_a_new_study_and_says_so(tmp_path):
    run(tmp_path)
    changed = run(tmp_path, random_model(seed=5))
    assert changed.evaluations == 2
    assert any("differs in: model or calibration data" in note for note in changed.notes)


SERVER = """
import sys, optuna
storage = optuna.storages.RDBStorage(f"sqlite:///{sys.argv[1]}/run.db")
optuna.storages.run_grpc_proxy_server(storage, host="localhost", port=int(sys.argv[2]))
"""


def test_trials_behind_optunas_grpc_proxy_are_found_again(tmp_path):
    pytest.importorskip("grpc", reason="grpcio is not installed")
    port = free_port()
    server = subprocess.Popen([sys.executable, "-W", "ignore", "-c", SERVER, str(tmp_path), str(port)])
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run.db").exists() or not is_listening(port):
            assert time.monotonic() < deadline, "the proxy did not start"
            time.sleep(0.1)
        assert [run(tmp_path, storage=f"grpc://localhost:{port}").evaluations for _ in range(2)] == [2, 0]
    finally:
        server.kill()
        server.wait()


def test_a_proxy_that_is_not_there_is_an_error_at_once(tmp_path):
    pytest.importorskip("grpc", reason="grpcio is not installed")
    for address in ("grpc://localhost", "grpc://localhost:1"):
        with pytest.raises(ArgumentError, match=f"storage='{address}': cannot be opened"):
            run(tmp_path, storage=address)


def test_a_run_that_goes_on_says_so(tmp_path):
    assert not any("went on" in note for note in run(tmp_path).notes)
    (note,) = [note for note in run(tmp_path).notes if "went on" in note]
    assert note.startswith("storage: went on with 1 trials of study 'autotune-")


def test_what_does_not_change_a_score_keeps_the_study(tmp_path):
    run(tmp_path)
    assert run(tmp_path, max_trials=1, tuning_time=100.0).evaluations == 0


@pytest.fixture
def study(tmp_path):
    return open_study(storage_of(tmp_path), StudyKey("test", {"part": 1}), higher_is_better=True).study


@pytest.mark.parametrize("length", [0, 1, 32_768, 100_000])
def test_texts_of_any_length_survive(study, length):
    write_text(study, "text", "x" * length)
    assert read_text(study.user_attrs, "text") == "x" * length
    assert read_text(study.user_attrs, "other") is None


def test_of_two_workers_one_gets_a_key(study):
    first, second = Worker(study), Worker(study)
    mine = claim(study, first, "key")
    assert mine is not None
    assert claim(study, second, "key") is None
    assert claim(study, second, "other key") is not None
    first.close()
    assert claim(study, second, "key") is not None
    second.close()


def test_a_silent_worker_counts_as_dead(study):
    now = [0.0]
    silent = Worker(study, heartbeat_interval=1e6)
    watching = Worker(study, heartbeat_timeout=10.0, clock=lambda: now[0])
    assert watching.is_alive(silent.id)
    now[0] = 9.0
    assert watching.is_alive(silent.id)
    now[0] = 11.0
    assert not watching.is_alive(silent.id)
    assert watching.count_alive() == 1
    silent._write_heartbeat(2)
    assert watching.is_alive(silent.id)
    for worker in (silent, watching):
        worker.close()


def test_nobody_is_silent_for_longer_than_the_storage_has_been_back(study):
    now, back = [0.0], [float("-inf")]
    silent = Worker(study, heartbeat_interval=1e6)
    watching = Worker(study, heartbeat_timeout=10.0, clock=lambda: now[0], back_since=lambda: back[0])
    assert watching.is_alive(silent.id)
    now[0], back[0] = 100.0, 95.0
    assert watching.is_alive(silent.id)
    now[0] = 106.0
    assert not watching.is_alive(silent.id)
    for worker in (silent, watching):
        worker.close()


def test_a_beating_worker_stays_alive(study):
    beating = Worker(study, heartbeat_interval=0.01)
    before = study.user_attrs[f"worker {beating.id}"]["heartbeat"]
    deadline = time.monotonic() + 30
    while study.user_attrs[f"worker {beating.id}"]["heartbeat"] < before + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert study.user_attrs[f"worker {beating.id}"]["heartbeat"] >= before + 2
    beating.close()


def register(study, name, heartbeat, since, **process):
    """What a worker of another process would have written."""
    entry = {"process": asdict(replace(this_process(), **process)), "heartbeat": heartbeat, "time": since}
    study.set_user_attr(f"worker {name}", entry)


def test_a_worker_that_had_the_number_of_this_process_is_dead(study):
    register(study, "restarted", 7, time.monotonic())
    watching = Worker(study)
    assert not watching.is_alive("restarted")
    assert watching.index == 0
    watching.close()


@pytest.mark.skipif(not this_process().kernel, reason="the system does not tell containers apart")
def test_of_a_container_on_this_machine_the_age_of_a_heartbeat_counts(study, caplog):
    now = [100.0]
    container = {"namespace": "pid:[1]"}
    register(study, "killed", 7, 80.0, **container)
    register(study, "silent", 7, 92.0, **container)
    watching = Worker(study, clock=lambda: now[0])
    assert not watching.is_alive("killed")
    assert watching.is_alive("silent")
    assert f"process {this_process().number} on {this_process().host} shares this tuning run" in caplog.text
    now[0] = 106.0
    register(study, "silent", 8, 105.0, **container)
    assert watching.is_alive("silent")
    now[0] = 121.0
    assert not watching.is_alive("silent")
    assert caplog.text.count("shares this tuning run") == 1
    watching.close()


def test_what_fails_may_be_tried_by_another(study):
    first, second = Worker(study), Worker(study)

    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        SharedWork(study, first).once("key", fail)
    assert SharedWork(study, second).once("key", lambda: 3) == 3
    assert SharedWork(study, first).once("key", fail) == 3
    for worker in (first, second):
        worker.close()


def test_what_is_not_worth_keeping_is_not_found_again(study):
    worker = Worker(study)
    assert SharedWork(study, worker).once("key", lambda: 3, keep=lambda: False) == 3
    assert SharedWork(study, worker).get("key") is None
    worker.close()


def test_memory_keeps_values_too():
    work = SharedWork(optuna.create_study(), None)
    assert [work.once("key", lambda value=value: value) for value in (1, 2)] == [1, 1]


class SlowAdaptor(NumpyAdaptor):
    """Takes its time over every candidate, and counts them."""

    candidates = 0

    def quantize(self, tune_cfg, model, dataloader, q_func=None):
        type(self).candidates += 1
        time.sleep(0.1)
        return super().quantize(tune_cfg, model, dataloader, q_func)


def test_two_workers_split_a_ranking_and_agree_on_it(study):
    model, ranked = random_model(12), {}

    def rank(worker):
        adaptor = SlowAdaptor()
        size = adaptor.calibrate(model, [np.random.default_rng(1).normal(size=(32, 16)).astype(np.float32)], (32,))
        space = build_space(offered_options(adaptor, model))
        phases = Phases(show=False, limit=0)
        ranking = Ranking(adaptor, model, space, phases, SharedWork(study, worker))
        ranked[worker.id] = ranking.rank(space.default(size))

    workers = [Worker(study), Worker(study)]
    threads = [threading.Thread(target=rank, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = ranked.values()
    assert first == second
    assert len(first) == 12
    assert SlowAdaptor.candidates <= 12 + 3
    for worker in workers:
        worker.close()


KEY = StudyKey("test", {"part": 1})
ASSIGNMENT = Assignment((("unit", OpConfig(TensorConfig("int8"), TensorConfig("uint8"), "static")),), 100)
ENDED = Trial(
    0, ASSIGNMENT, "everything", "complete", 0.5, True, seconds=2.0, gain=1.5, verdict="pass", interval=(0.0, 0.1)
)


def histories(path):
    return tuple(History(storage_of(path), KEY, higher_is_better=True) for _ in range(2))


def test_an_evaluation_that_ended_survives_whatever_comes_before_the_trials_end(tmp_path):
    """Killed while the candidate is timed, or while the trial is ended: the evaluation is never repeated."""
    first, second = histories(tmp_path)
    first.record(first.begin(ASSIGNMENT, "everything"), ENDED)
    assert [trial.state for trial in second.trials()] == ["running"]
    first.close()
    assert second.trials() == (replace(ENDED, gain=None),)
    assert second.begin(ASSIGNMENT, "everything") is None
    second.close()


def test_what_is_recorded_is_read_as_it_was(tmp_path):
    first, second = histories(tmp_path)
    failed = replace(ENDED, number=1, state="failed", score=None, met=False, error="no room", gain=None)
    for trial in (ENDED, failed):
        reserved = first.begin(replace(ASSIGNMENT, sampling_size=trial.number + 1), "everything")
        assert first.finish(reserved, trial) == trial
    for history in (first, second):
        assert [replace(trial, assignment=ASSIGNMENT) for trial in history.trials()] == [ENDED, failed]
        history.close()


def test_a_trial_that_others_gave_up_is_recorded_all_the_same(tmp_path):
    first, second = histories(tmp_path)
    reserved = first.begin(ASSIGNMENT, "everything")
    second.study.tell(reserved.number, state=optuna.trial.TrialState.FAIL)
    ended = first.finish(reserved, ENDED)
    assert [(trial.number, trial.state) for trial in second.trials()] == [(0, "failed"), (1, "complete")]
    assert second.trials()[0].interrupted
    assert second.trials()[1] == ended == replace(ENDED, number=1)
    for history in (first, second):
        history.close()


def test_a_trial_that_another_worker_has_just_finished_is_not_begun_again(tmp_path):
    first, second = histories(tmp_path)
    reserved = first.begin(ASSIGNMENT, "everything")
    assert second.begin(ASSIGNMENT, "everything") is None
    first.finish(reserved, ENDED)
    assert second.begin(ASSIGNMENT, "everything") is None
    assert [trial.score for trial in second.trials()] == [0.5]
    first.close()
    second.close()
