"""The programs of the RFC, as they stand in examples/, through the extension."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from inc_autotune import torch_ext
from tests.ipex.extension import ipex

EXAMPLES = Path(__file__).parents[2] / "examples"
ALIAS = "ipex = SimpleNamespace(quantization=torch_ext)"


def run(name: str, convert) -> dict[str, object]:
    """The variables of an example in which `ipex.quantization` has our autotune for the extension."""
    program = (EXAMPLES / name).read_text(encoding="utf-8")
    assert program.count(ALIAS) == 1
    autotune = partial(torch_ext.autotune, backend="ipex", progress=False)
    variables = {"ipex": SimpleNamespace(quantization=SimpleNamespace(autotune=autotune, convert=convert))}
    exec(compile(program.replace(ALIAS, ""), name, "exec"), variables)
    return variables


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Nothing may be left in the working directory."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


def test_proposal_1():
    variables = run("rfc_proposal_1.py", torch_ext.convert)
    tuned, evaluate = variables["int8_tuned_model"], variables["eval_func"]
    assert tuned.tuning_result.met
    assert evaluate(ipex.convert(tuned)) == tuned.tuning_result.score


@pytest.mark.parametrize("convert", [torch_ext.convert, ipex.convert])
def test_proposal_3(convert):
    variables = run("rfc_proposal_3.py", convert)
    result = variables["tuned_model"].tuning_result
    assert result.met
    assert variables["eval_func"](variables["traced_model"]) >= 0.98 * result.baseline
    assert isinstance(variables["traced_model"], torch.jit.ScriptModule)
    assert variables["y"].shape == (32, 10)
