"""What stands on stdout, on stderr, and which code a program ends with."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from inc_autotune.command_line import main
from inc_autotune.core.errors import TuningInterrupted

RUN = ("tune", "chain.onnx", "--data", "data.npz", "-o", "int8.onnx")


def test_what_an_evaluation_prints_is_no_result(folder, program):
    (folder / "loud.py").write_text("def score(session):\n    print('scoring')\n    return 1.0\n")
    result = program(*RUN, "--eval", "loud:score", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["met"] is True
    assert "scoring" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--goal=-1%",), "error: --goal: accuracy_criterion="),
        (("--alpha", "2"), "error: --alpha: smoothquant_args="),
        (("--strategy", "bays"), "error: --strategy: strategy='bays'"),
        (("--image-mean", "0.5"), "images (--image-size, --image-mean, ...): has no effect"),
        (("--tokenizer", "folder"), "texts (--text-column, --tokenizer, ...): has no effect"),
    ],
)
def test_messages_name_the_option(folder, program, arguments, message):
    result = program(*RUN, "--eval", "evaluation:score", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_batch_size_of_data_that_has_batches_is_refused(folder, program):
    result = program(
        *RUN[:2], "--data", "evaluation:batches", "--eval", "evaluation:score", *RUN[4:], "--batch-size", "2"
    )
    assert result.exit_code == 2
    assert "batch_size (--batch-size): has no effect" in result.stderr


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ((), "0 trials had ended, and no model is written. With --storage run.db"),
        (("--storage", "my.db"), "`inc-autotune resume sqlite:///my.db` goes on from there"),
    ],
)
def test_interrupted(folder, program, monkeypatch, storage, message):
    def interrupt(*_, **__):
        raise TuningInterrupted(None)

    monkeypatch.setattr("inc_autotune.ort_ext.autotune", interrupt)
    result = program(*RUN, "--eval", "evaluation:score", *storage)
    assert result.exit_code == 130
    assert message in result.stderr


def test_interrupted_before_there_is_a_command(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("inc_autotune.command_line.application.main", interrupt)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_what_nobody_foresaw_is_one_message_too(folder, program, monkeypatch):
    def fail(*_):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("inc_autotune.ort_ext.inspect", fail)
    result = program("inspect", "chain.onnx")
    assert result.exit_code == 1
    assert "error: RuntimeError: a fault of ours" in result.stderr
    assert "Traceback" not in result.output
    assert "Traceback" in program("--verbose", "inspect", "chain.onnx").stderr


@pytest.mark.skipif(sys.platform != "linux", reason="has no device that is always full")
def test_a_full_disk_is_one_message():
    code = "from inc_autotune.command_line import main; main()"
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", code, "doctor"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert "No space left" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", [("inspect", ""), ("tune", ""), ("benchmark", "chain.onnx", "--data", "")])
def test_an_empty_name_is_no_folder(folder, program, command):
    result = program(*command)
    assert result.exit_code == 2
    assert "is empty" in result.stderr or "is missing" in result.stderr


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("tune --strategy mse", {"mse", "mse_v2"}),
        ("tune --approach w", {"weight_only"}),
        ("quantize --objective f", {"footprint"}),
        ("tune --metric to", {"topk"}),
        ("res", {"resume"}),
    ],
)
def test_a_shell_completes_commands_and_values(words, completed):
    given = {
        "_INC_AUTOTUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"inc-autotune {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    code = "from inc_autotune.command_line import main; import sys; sys.argv[0] = 'inc-autotune'; main()"
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, **given}, capture_output=True, text=True)
    assert set(ended.stdout.split()) == completed
