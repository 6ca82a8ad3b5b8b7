"""Reports of runs that ended or did not, and runs that go on."""

from __future__ import annotations

import json
import os
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import optuna
import pytest

from inc_autotune import ort_ext
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, random_model
from tests.command_line.conftest import EVALUATION

INTERRUPTIBLE = """

def until_broken(session):
    expected["calls"] = expected.get("calls", 0) + 1
    if expected["calls"] == 3 and Path("broken").exists():
        raise KeyboardInterrupt
    return 1.0 if expected["calls"] in (1, 4) or not Path("broken").exists() else 0.5


def together(session):
    if not Path("first").exists():
        Path("first").touch()
        return 1.0
    if os.getpid() != int(Path("leader").read_text()):
        Path("helper").touch()
    deadline = time.monotonic() + 60
    while not Path("helper").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return 0.5
"""
COMMAND = ("tune", "chain.onnx", "--data", "data.npz", "-o", "int8.onnx", "--storage", "sqlite:///run.db")


@pytest.fixture
def interrupted(folder, program):
    """A run of two trials, the second of which was interrupted."""
    (folder / "evaluation.py").write_text(
        f"import os\nimport time\nfrom pathlib import Path\n{EVALUATION}{INTERRUPTIBLE}"
    )
    (folder / "broken").touch()
    result = program(*COMMAND, "--eval", "evaluation:until_broken")
    assert result.exit_code == 130, result.output
    (folder / "broken").unlink()
    return folder


def test_a_run_goes_on_with_what_it_was_started_with(interrupted, program, as_json):
    so_far = as_json("report", "run.db")
    assert (so_far["ended"], so_far["met"], so_far["workers"]) == (False, False, [])
    assert [(each["state"], each["interrupted"]) for each in so_far["trials"]] == [
        ("complete", False),
        ("failed", True),
    ]
    assert program("report", "run.db", "-o", "page.html").stdout.splitlines()[1].startswith("Not ended: 2 trials")
    assert "The run has not ended" in Path("page.html").read_text()
    found = as_json("resume", "run.db")
    assert found["met"] is True
    assert found["evaluations"] == 1
    assert len(found["trials"]) == 3
    assert ort_ext.load("int8.onnx").recipe.operators["fc1"].config.dtype
    ended = as_json("report", "sqlite:///run.db")
    assert {name: ended[name] for name in found if name in ended} == {
        name: value for name, value in found.items() if name not in ("output", "report")
    }
    again = as_json("resume", "run.db", "-o", "again.onnx")
    assert (again["evaluations"], again["chosen"]) == (0, found["chosen"])
    assert Path("again.onnx").exists()


def test_a_printed_result_makes_the_same_page(folder, program):
    pytest.importorskip("plotly")
    result = program(*COMMAND, "--eval", "evaluation:score", "--report", "first.html", "--json")
    Path("result.json").write_text(result.stdout)
    shown = program("report", "result.json", "-o", "second.html")
    assert shown.exit_code == 0, shown.output
    assert Path("first.html").read_text() == Path("second.html").read_text()
    document = json.loads(result.stdout)
    assert "password" not in Path("run.db").read_bytes().decode("latin-1")
    for broken in ({"format": 7}, {"trials": [1]}, {"score": "high"}, {"operators": [{}]}):
        Path("result.json").write_text(json.dumps({**document, **broken}))
        shown = program("report", "result.json")
        assert shown.exit_code == 2
        assert "tune --json" in shown.stderr


def test_workers_take_part_in_a_run_that_has_begun(interrupted, as_json):
    (interrupted / "int8.onnx").unlink(missing_ok=True)
    found = as_json("workers", "run.db", "-n", "1")
    assert (found["met"], found["evaluations"], found["output"]) == (True, 1, None)
    assert not (interrupted / "int8.onnx").exists()


def test_workers_start_a_run_from_a_file(interrupted, program):
    (interrupted / "leader").write_text(str(os.getpid()))
    printed = program(*COMMAND[:-1], "sqlite:///new.db", "--eval", "evaluation:together", "--print-config")
    Path("run.yaml").write_text(printed.stdout)
    result = program("workers", "--config", "run.yaml", "-n", "2", "--shards", "--json")
    assert result.exit_code == 3, result.output
    assert not [note for note in json.loads(result.stdout)["notes"] if note.startswith("worker")]
    assert Path("helper").exists()
    assert Path("int8.onnx").exists()


BAD_WORKERS = {
    "no run": ((), "STORAGE or --config: give one"),
    "two runs": (("run.db", "--config", "run.yaml"), "STORAGE or --config: give one"),
    "no storage in the file": (("--config", "run.yaml"), "names no `storage`"),
    "no such file": (("gone.db",), "there is no such file"),
    "no such run": (("run.db", "--study", "autotune"), "the storage has no such run"),
    "none": (("run.db", "-n", "0"), "greater than or equal"),
}


@pytest.mark.parametrize(("given", "message"), BAD_WORKERS.values(), ids=BAD_WORKERS)
def test_bad_usage_of_workers(folder, program, given, message):
    run_of_python(folder / "run.db")
    Path("run.yaml").write_text("model: chain.onnx\n")
    result = program("workers", *given)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_cluster_without_ray_names_the_extra(folder, program):
    if find_spec("ray") is not None:  # as with the extra `test` on Linux
        pytest.skip("Ray is installed")
    assert "inc-autotune[ray]" in program("workers", "run.db", "--ray", "auto").stderr


def test_a_changed_model_is_no_run_to_go_on_with(interrupted, program):
    np.savez("data.npz", x=np.random.default_rng(7).normal(size=(24, 32)).astype(np.float32))
    result = program("resume", "run.db")
    assert result.exit_code == 2
    assert "Changed: model or calibration data" in result.stderr
    (interrupted / "chain.onnx").unlink()
    assert "MODEL 'chain.onnx': there is no such file" in program("resume", "run.db").stderr
    assert "runs" not in program("report", "run.db").stderr  # and no second run was begun


def another_database(path):
    connection = sqlite3.connect(path)
    connection.execute("create table invoices (number integer)")
    connection.commit()
    connection.close()


def studies_of_others(path):
    study = optuna.create_study(storage=f"sqlite:///{path}", study_name="learning rates")
    study.optimize(lambda trial: 1.0, n_trials=1)


def run_of_python(path, seed=0):
    arguments = validate_arguments(
        strategies=["auto"], backends=["default"], progress=False, storage=f"sqlite:///{path}", seed=seed
    )
    data = [np.ones((4, 16), np.float32)]
    tune(NumpyAdaptor(), random_model(), data, lambda model: 1.0, arguments)


def several_runs(path):
    run_of_python(path)
    run_of_python(path, seed=1)


STORAGES = {
    "nothing": (lambda path: None, "there is no such file", "there is no such file"),
    "text": (lambda path: path.write_text("{"), "cannot be read as JSON", "is no database of SQLite"),
    "a list": (lambda path: path.write_text("[]"), "holds no tuning result", "is no database of SQLite"),
    "a folder": (lambda path: path.mkdir(), "there is no such file", "there is no such file"),
    "another program's": (another_database, "holds no studies of Optuna", "holds no studies of Optuna"),
    "other studies": (studies_of_others, "of another program: 'learning rates'", "holds no tuning run"),
    "started in Python": (run_of_python, None, "was not started by `inc-autotune tune`"),
    "several": (several_runs, "holds several runs. Name one of 'autotune-", "holds several runs"),
}


@pytest.mark.parametrize(("make", "of_report", "of_resume"), STORAGES.values(), ids=STORAGES)
def test_what_is_no_run_is_named_and_left_alone(folder, program, make, of_report, of_resume):
    make(folder / "run.db")
    before = (folder / "run.db").read_bytes() if (folder / "run.db").is_file() else None
    for command, message in (("report", of_report), ("resume", of_resume)):
        result = program(command, "run.db")
        if message is None:
            assert result.exit_code == 0, result.output
        else:
            assert result.exit_code == 2
            assert message in result.stderr
            assert "Traceback" not in result.output
    assert before == ((folder / "run.db").read_bytes() if (folder / "run.db").is_file() else None)


def test_servers_that_do_not_answer_and_missing_files_by_url(folder, program):
    for url in ("postgresql://user:secret@localhost:1/tuning", "sqlite:///gone.db", "nonsense://x"):
        result = program("report", url)
        assert result.exit_code == 2
        assert "storage=" in result.stderr
        assert "secret" not in result.output
    assert not Path("gone.db").exists()
