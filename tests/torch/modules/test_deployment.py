"""Quantized operators can be traced, frozen, saved, exported and compiled."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn

from inc_autotune.core.quantization.affine import signal_to_noise_db
from inc_autotune.torch_ext.target import saturation
from inc_autotune.torch_ext.target.linear import can_run
from tests.torch.module_examples import EXAMPLES, EveryKind, convolution, integer_config, linear

FRESH_PROCESS = """
import sys
import torch
model = torch.jit.load(sys.argv[1])
for inputs, expected in torch.load(sys.argv[2]):
    for value, reference in zip(model(inputs), expected):
        assert torch.equal(value, reference), (value - reference).abs().max()
assert "inc_autotune" not in sys.modules
"""


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return EveryKind().eval()


def ids(batch: int, sequence: int) -> Tensor:
    return torch.randint(0, 50, (batch, sequence), generator=torch.Generator().manual_seed(0))


def traced(module: nn.Module, *inputs: Tensor) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        return torch.jit.freeze(torch.jit.trace(module, inputs))


def test_traced_and_frozen_in_a_fresh_process(model, tmp_path):
    traced(model, ids(2, 7)).save(tmp_path / "model.pt")
    cases = [(inputs, model(inputs)) for inputs in (ids(2, 7), ids(1, 4), ids(3, 11))]
    torch.save(cases, tmp_path / "cases.pt")
    arguments = [sys.executable, "-c", FRESH_PROCESS, str(tmp_path / "model.pt"), str(tmp_path / "cases.pt")]
    result = subprocess.run(arguments, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_traces_by_itself_after_a_copy(name):
    example = EXAMPLES[name]()
    file = io.BytesIO()
    torch.save(example.quantized(), file)
    file.seek(0)
    quantized = torch.load(file, weights_only=False)
    frozen = traced(quantized, example.x)
    larger = torch.cat([example.x, example.x])
    assert torch.equal(frozen(example.x), quantized(example.x))
    assert torch.equal(frozen(larger), quantized(larger))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", ["linear smoothed", "linear dynamic", "Conv2d", "Conv2d int4", "Embedding"])
def test_prepared_traces(name):
    example = EXAMPLES[name]()
    prepared = example.prepared()
    frozen = torch.jit.freeze(torch.jit.trace(prepared.eval(), example.x))
    assert torch.equal(frozen(example.x), prepared(example.x))


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_dynamic_batch_and_sequence(model, strict):
    batch, sequence = torch.export.Dim("batch", max=64), torch.export.Dim("sequence", min=2, max=128)
    program = torch.export.export(model, (ids(2, 7),), dynamic_shapes=({0: batch, 1: sequence},), strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for inputs in (ids(2, 7), ids(3, 11)):
        expected, actual = model(inputs), loaded(inputs)
        assert signal_to_noise_db(expected[0], actual[0]) >= 70
        # The exported convolutions do not round their outputs to uint8.
        assert signal_to_noise_db(expected[1], actual[1]) >= 20


def test_exporting_and_tracing_leave_the_module_usable():
    example = linear(integer_config())
    quantized = example.quantized()
    expected = quantized(example.x)
    torch.export.export(quantized, (example.x,))
    assert torch.equal(traced(quantized, example.x)(example.x), expected)
    torch.export.export(quantized, (example.x,))
    assert torch.equal(quantized(example.x), expected)


@pytest.fixture
def freezing():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._inductor.config.patch(freezing=True):
        yield


@pytest.mark.usefixtures("freezing")
def test_compiled_linears_become_integer_kernels():
    reduced = saturation.compiled_linear_saturates()
    first = linear(integer_config(), smoothed=True)
    rest = (linear(integer_config(approach=approach)) for approach in ("static", "dynamic"))
    static, dynamic = (example.quantized(reduced) for example in rest)
    widen = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 96), nn.ReLU())
    layers = [first.quantized(reduced), widen, static, widen, dynamic]
    model = nn.Sequential(*layers).eval()
    actual = torch.compile(model, fullgraph=True)(first.x)
    assert signal_to_noise_db(model(first.x), actual) >= 50
    torch._dynamo.reset()
    exports = torch.compile(lambda x: x + 1 if torch.compiler.is_exporting() else x, backend="eager")
    takes_ours = can_run() and not exports(torch.zeros(1))  # torch 2.8 says so always
    by_onednn = 1 if takes_ours else 3  # ours is for static ranges
    assert torch._dynamo.utils.counters["inductor"]["qlinear_weight_prepack_matcher_count"] == by_onednn


def test_compiled_for_training_or_export_a_linear_has_torchs_operators_alone():
    example = linear(integer_config(), smoothed=True)
    quantized = example.quantized(saturation.compiled_linear_saturates())
    with torch.enable_grad():
        torch._dynamo.reset()
        actual = torch.compile(quantized, backend="eager", fullgraph=True)(example.x.clone().requires_grad_())
    assert signal_to_noise_db(quantized(example.x), actual) >= 60
    names = {str(node.target) for node in torch.export.export(quantized, (example.x,)).graph.nodes}
    assert not any("inc_autotune" in each for each in names)


@pytest.mark.usefixtures("freezing")
def test_compiled_convolution_becomes_an_integer_kernel():
    example = convolution(2, padding=1)
    reduced = saturation.convolution_saturates(2, depthwise=False)
    quantized = example.quantized(reduced)
    model = nn.Sequential(quantized, nn.ReLU()).eval()
    actual = torch.compile(model, fullgraph=True)(example.x)
    assert signal_to_noise_db(torch.relu(example.module(example.x)), actual) >= 38
    assert torch._dynamo.utils.counters["inductor"]["qconv_weight_prepack_matcher_count"] == 1
