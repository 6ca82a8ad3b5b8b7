"""A folder as a user's, with models and data in files, and the program run in it."""

from __future__ import annotations

import json
import logging
import os
import sys

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from inc_autotune.command_line.application import application
from inc_autotune.command_line.boundary import SETTINGS
from inc_autotune.command_line.commands.benchmark import THREAD_VARIABLES
from tests.ort.conftest import equal_times  # noqa: F401  # no test may depend on how fast a machine is
from tests.ort.small_models import conv_net, linear_chain
from tests.torch.small_models import fix_speeds

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}

EVALUATION = """
import numpy as np

expected = {}


def score(session):
    x = np.random.default_rng(0).normal(size=(8, session.get_inputs()[0].shape[1])).astype(np.float32)
    output = session.run(None, {session.get_inputs()[0].name: x})[0]
    first = expected.setdefault("first", output)
    return 1 / (1 + float(np.abs(output - first).mean()))


def worse(session):
    expected["calls"] = expected.get("calls", 0) + 1
    return 1.0 if expected["calls"] == 1 else 0.5


def broken(session):
    raise RuntimeError("no disk")


def batches():
    for _ in range(3):
        yield np.linspace(-1, 1, 128, dtype=np.float32).reshape(4, 32)


number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with `chain.onnx` (input `x`, [n, 32]), `data.npz` and the module `evaluation`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("evaluation", "network"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    onnx.save(linear_chain(), "chain.onnx")
    np.savez("data.npz", x=np.random.default_rng(1).normal(size=(24, 32)).astype(np.float32))
    (tmp_path / "evaluation.py").write_text(EVALUATION)
    return tmp_path


@pytest.fixture
def images(folder):
    """`images/<colour>/*.png`: three classes of four images, 20 pixels wide and 24 high."""
    generator = np.random.default_rng(2)
    for name, colour in COLOURS.items():
        (folder / "images" / name).mkdir(parents=True)
        for index in range(4):
            noise = generator.integers(-40, 40, (24, 20, 3))
            pixels = np.clip(np.array(colour) * 0.6 + 50 + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{index}.png")
    onnx.save(conv_net(), "net.onnx")
    return folder / "images"


@pytest.fixture
def program(monkeypatch):
    """Runs the program: its exit code, what it printed, and its errors."""
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # and put back whatever a command says
    monkeypatch.setattr(SETTINGS, "verbose", False)
    fix_speeds(monkeypatch)
    level = logging.getLogger("inc_autotune").level

    def run(*arguments):
        return CliRunner().invoke(application, [str(each) for each in arguments])

    yield run
    logging.getLogger("inc_autotune").setLevel(level)


@pytest.fixture
def as_json(program):
    """Runs a command that ends well, and reads what it printed."""

    def run(*arguments):
        result = program(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run
