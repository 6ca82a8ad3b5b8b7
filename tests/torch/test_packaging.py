"""Packages of AOTInductor: compiled once, run without this library."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from inc_autotune import torch_ext
from inc_autotune.core.errors import ArgumentError, MissingDependencyError, ModelError
from inc_autotune.torch_ext.modules import convert_module
from tests.torch.module_examples import integer_config, linear

RUN = """
import sys, torch
from torch._inductor import aoti_load_package
inputs = torch.load(sys.argv[2])
run = aoti_load_package(sys.argv[1])
torch.save([run(x) for x in inputs], sys.argv[3])
assert not [name for name in sys.modules if name.startswith("inc_autotune")]
"""


@pytest.fixture(scope="module")
def quantized():
    torch.manual_seed(0)
    first = convert_module(linear(integer_config(), smoothed=True).prepared())
    return nn.Sequential(first).eval()


def test_a_package_runs_without_this_library(quantized, tmp_path):
    example = linear(integer_config()).x
    # The compiled wrapper need not be fast here.
    with torch._inductor.config.patch({"aot_inductor.compile_wrapper_opt_level": "O0"}):
        package = torch_ext.compile_to_package(quantized, example, tmp_path / "net.pt2")
    assert (package.integer_kernels, package.integer_operators) == (1, 1)
    assert "1 calls of integer kernels" in str(package)
    inputs = [example, example[:1], example[:3, :9].contiguous()]
    torch.save(inputs, tmp_path / "inputs.pt")
    arguments = [str(package.path), str(tmp_path / "inputs.pt"), str(tmp_path / "outputs.pt")]
    subprocess.run([sys.executable, "-c", RUN, *arguments], check=True, cwd=tmp_path)
    with torch.no_grad():
        for x, y in zip(inputs, torch.load(tmp_path / "outputs.pt"), strict=True):
            expected = quantized(x)
            assert (y - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"quantized": nn.Linear(96, 8).eval()}, "a Linear. Allowed: what convert"),
        ({"quantized": linear(integer_config()).prepared()}, r"is a tuned model. Pass convert\(tuned\)"),
        ({"path": "net.so"}, r"a package is called \*.pt2"),
        ({"path": "missing/net.pt2"}, "does not exist. Make it first"),
        ({"dynamic_shapes": "batch"}, "dynamic_shapes='batch'. Allowed: 'auto'"),
    ],
    ids=["plain", "tuned", "suffix", "folder", "shapes"],
)
def test_bad_arguments(quantized, arguments, words, tmp_path):
    given = {"quantized": quantized, "path": "net.pt2", **arguments}
    with pytest.raises(ArgumentError, match=words):
        torch_ext.compile_to_package(
            given.pop("quantized"), torch.ones(2, 96), tmp_path / str(given.pop("path")), **given
        )


def test_what_is_missing_or_fails_is_said(quantized, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"cannot be compiled to a package(.|\n)*torch.jit.trace"):
        torch_ext.compile_to_package(quantized, torch.ones(2, 7), tmp_path / "net.pt2")
    assert not (tmp_path / "net.pt2").exists()

    def none() -> str:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    with pytest.raises(MissingDependencyError, match="needs a C\\+\\+ compiler"):
        torch_ext.compile_to_package(quantized, torch.ones(2, 96), tmp_path / "net.pt2")
