"""One run by several workers."""

from __future__ import annotations

import os
import socket

import numpy as np
import pytest

from inc_autotune import distributed
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.search.study import read_runs
from inc_autotune.distributed.cluster import connect
from tests.distributed.small_runs import autotune

WITHOUT_RAY = "RAY IS NOT INSTALLED: workers on a cluster are not tested. pip install ray"


@pytest.fixture
def run(tmp_path):
    """Tunes, and says which worker evaluated."""
    (tmp_path / "leader").write_text(str(os.getpid()))

    def call(kind="all well", **given):
        tuned = distributed.autotune(autotune, str(tmp_path), kind, progress=False, **given)
        lines = (tmp_path / "evaluations").read_text().split()
        return tuned.tuning_result, lines[::2]

    return call


@pytest.fixture(scope="module")
def cluster():
    """A local cluster of Ray, that the tests share."""
    ray = pytest.importorskip("ray", reason=WITHOUT_RAY)
    connect(ray, "local", 2)
    yield "local"
    ray.shutdown()


def notes_of(result):
    return [note for note in result.notes if note.startswith("worker")]


def test_processes_of_this_machine_share_the_trials(run, tmp_path):
    storage = f"sqlite:///{tmp_path}/run.db"
    result, who = run(workers=2, storage=storage)
    assert (result.met, notes_of(result)) == (True, [])
    assert set(who) == {"leader", "helper"}
    # The result knows nothing of a trial that the helper began when the leader had come to its end.
    (stored,) = read_runs(storage)
    assert len(who) == len(stored.trials) + 1


def is_whole(result, who, note):
    """Whether one trial of a helper was lost, and done by the leader, and nothing was done twice."""
    (told,) = notes_of(result)
    assert told.startswith(note)
    assert result.met is True
    assert who.count("helper") == 1
    assert sum(trial.interrupted for trial in result.trials) == 1
    digests = [trial.assignment.digest for trial in result.trials if not trial.interrupted]
    return len(set(digests)) == len(digests)


def test_a_worker_that_is_killed_loses_its_trial_alone(run):
    assert is_whole(*run("killed", workers=2), "worker 2 ended early: exit code -9")


def test_so_does_a_task_of_a_ray_cluster_whose_evaluation_raises(run, cluster):
    found = run("raises", workers=2, ray=cluster)
    assert is_whole(*found, "worker 2 ended early: EvaluationError: eval_func raised RuntimeError in trial")


@pytest.mark.parametrize("on_cluster", [False, True], ids=["processes", "tasks of Ray"])
@pytest.mark.filterwarnings("ignore:the tuned model is not faster")
def test_workers_calibrate_on_parts_of_the_data(tmp_path, request, on_cluster):
    ray = request.getfixturevalue("cluster") if on_cluster else None
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from inc_autotune import ort_ext
    from tests.ort.small_models import linear_chain

    onnx.save(linear_chain(), tmp_path / "chain.onnx")
    data = [np.random.default_rng(seed).normal(size=(4, 32)).astype(np.float32) for seed in range(6)]
    given = {"progress": False, "smoothquant_args": {"alpha": 0.5}}
    alone = ort_ext.autotune(tmp_path / "chain.onnx", data, **given).tuning_result
    together = distributed.autotune(
        ort_ext.autotune, tmp_path / "chain.onnx", data, workers=2, shards=True, ray=ray, **given
    ).tuning_result
    assert notes_of(together) == []
    assert together.recipe.operators == alone.recipe.operators


def test_a_framework_that_cannot_merge_says_so(run):
    with pytest.raises(ArgumentError, match="shards=True"):
        run(workers=2, shards=True)


def test_a_cluster_that_does_not_answer_is_an_error_at_once(run):
    pytest.importorskip("ray", reason=WITHOUT_RAY)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for address, message in ((f"localhost:{port}", "does not answer"), ("moon", "is no address")):
        with pytest.raises(ArgumentError, match=f"ray='{address}'.*{message}"):
            run(workers=2, ray=address)


def test_what_cannot_be_sent_and_bad_numbers_are_errors_at_once(tmp_path):
    with pytest.raises(ArgumentError, match=r"workers=2: the call cannot be sent.*ray='local'"):
        distributed.autotune(autotune, str(tmp_path), lambda model: 1.0, workers=2)
    for workers in (0, -1, True, "2", 1.5):
        with pytest.raises(ArgumentError, match="workers="):
            distributed.autotune(autotune, str(tmp_path), "x", workers=workers)
    with pytest.raises(ArgumentError, match="ray=3"):
        distributed.autotune(autotune, str(tmp_path), "x", ray=3)
