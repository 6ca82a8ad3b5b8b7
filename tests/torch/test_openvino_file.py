"""Files of OpenVINO: the same integers, multiplied by another runtime."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inc_autotune import torch_ext
from inc_autotune.core import optional
from inc_autotune.core.errors import ArgumentError, MissingDependencyError, ModelError
from tests.torch.module_examples import EXAMPLES, EveryKind, embedding, integer_config, linear
from tests.torch.small_models import bert, error, id_batches, image_batches, padded, small_cnn, tune

RUN = """
import sys, numpy, openvino
run = openvino.Core().compile_model(sys.argv[1], "CPU")
inputs = numpy.load(sys.argv[2])
numpy.savez(sys.argv[3], **{name: run(inputs[name])[0] for name in inputs.files})
assert not {"torch", "inc_autotune"} & {*sys.modules}
"""
AUTO = torch.export.Dim.AUTO
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def openvino() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CI", "true")  # else the import of OpenVINO tells its makers of it
        # torch has read it. OpenVINO has some operators for the processor itself alone.
        patch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        yield pytest.importorskip("openvino")


def answers(openvino: Any, file: Path, *inputs: Tensor) -> list[Tensor]:
    found = openvino.Core().compile_model(file, "CPU", EXACT)([each.numpy() for each in inputs])
    return [torch.from_numpy(value.copy()) for value in found.values()]


def shapes(openvino: Any, file: Path) -> list[str]:
    return [str(port.partial_shape) for port in openvino.Core().read_model(file).inputs]


@pytest.mark.parametrize(
    "name",
    [
        *("linear shifted", "linear sym", "linear dynamic smoothed", "linear int4 in groups, shifted", "linear int4"),
        *("Conv1D", "Conv2d", "Conv3d", "ConvTranspose2d grouped", "ConvTranspose3d", "linear bf16"),
        *("Embedding", "Embedding uint4", "EmbeddingBag int4", "linear weight only"),
    ],
)
def test_every_operator_computes_the_same(openvino, name, tmp_path):
    example = EXAMPLES[name]()
    quantized = nn.Sequential(example.quantized(reduce_range=True)).eval()
    written = torch_ext.convert_to_openvino(quantized, example.x, tmp_path / "net.xml")
    (y,) = answers(openvino, written.path, example.x)
    with torch.no_grad():
        expected, fp32 = quantized(example.x), example.module(example.x)
    # Convolutions of torch write bytes, and weight-only products are bfloat16 ones.
    assert error(y.float(), expected.float()) < 4e-4
    assert error(y.float(), fp32) < 1.2 * error(expected.float(), fp32) + 1e-4
    is_static = type(quantized[0]).__name__ not in ("SimulatedOperator",) and example.config.approach == "static"
    expects_integers = is_static and "int4" not in name and "bf16" not in name
    assert (written.integer_kernels, written.integer_operators) == ((1, 1) if expects_integers else (0, 0))


def test_a_network_of_every_kind(openvino, tmp_path):
    net, ids = EveryKind(reduce_range=True).eval(), torch.arange(42).reshape(6, 7)
    written = torch_ext.convert_to_openvino(net, ids, tmp_path / "net.xml")
    # wide, narrow, integer; one-dimensional, plain, reflected, three-dimensional and transposed convolution
    assert (written.integer_kernels, written.integer_operators) == (8, 8)
    assert str(written) == f"{written.path}: 8 calls of integer kernels, of 8 operators"
    assert shapes(openvino, written.path) == ["[?,?]"]
    # Without the bytes that torch's convolutions write.
    exported = torch.export.export(net, (ids,), dynamic_shapes={"ids": {0: AUTO, 1: AUTO}}, strict=False).module()
    for inputs in (ids, ids[:1], ids[:4, :5]):
        with torch.no_grad():
            expected = exported(inputs)
        found = answers(openvino, written.path, inputs)
        assert [error(*pair) < 1e-3 for pair in zip(found, expected, strict=True)] == [True, True]


def test_convolutional_net_without_this_library_and_torch(openvino, tmp_path):
    model, batches = small_cnn(), image_batches()
    quantized = torch_ext.convert(tune(model, batches))
    written = torch_ext.convert_to_openvino(quantized, batches[0], tmp_path / "net.xml")
    assert written.integer_kernels == written.integer_operators > 1
    weights = sum(each.numel() * 4 for each in model.parameters())
    assert written.path.with_suffix(".bin").stat().st_size < 0.5 * weights
    np.savez(tmp_path / "inputs.npz", whole=batches[1].numpy(), one=batches[1][:1].numpy())
    arguments = [str(written.path), str(tmp_path / "inputs.npz"), str(tmp_path / "outputs.npz")]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONWARNINGS")}
    subprocess.run([sys.executable, "-c", RUN, *arguments], check=True, cwd=tmp_path, env=environment)
    outputs = np.load(tmp_path / "outputs.npz")
    with torch.no_grad():
        expected = quantized(batches[1])
    for name, count in {"whole": 4, "one": 1}.items():
        assert error(torch.from_numpy(outputs[name]), expected[:count]) < 2e-3


def test_transformer_with_smoothing_and_keyword_inputs(openvino, tmp_path):
    model, batches = bert(), [padded(ids) for ids in id_batches()]
    recipes = {"smooth_quant": True, "weight_rounding": "nearest"}
    quantized = torch_ext.convert(tune(model, batches, smoothquant_args={"alpha": 0.5}, recipes=recipes))
    written = torch_ext.convert_to_openvino(quantized, batches[0], tmp_path / "net.xml")
    assert written.integer_kernels == written.integer_operators >= 6
    for batch in (batches[1], {name: value[:2, :7] for name, value in batches[2].items()}):
        with torch.no_grad():
            expected = quantized(**batch)[0]
        found = answers(openvino, written.path, *batch.values())
        assert error(found[0], expected) < 1e-3


def test_shapes_of_the_example_alone(openvino, tmp_path):
    quantized = nn.Sequential(linear(integer_config()).quantized(reduce_range=True)).eval()
    one, dynamic = torch.ones(1, 5, 96), {"input": {1: AUTO}}
    for given, expected in {None: "[1,5,96]", "auto": "[1,?,96]"}.items():
        written = torch_ext.convert_to_openvino(quantized, one, tmp_path / "net.xml", dynamic_shapes=given)
        assert shapes(openvino, written.path) == [expected]
    written = torch_ext.convert_to_openvino(quantized, one, tmp_path / "net.xml", dynamic_shapes=dynamic)
    assert shapes(openvino, written.path) == ["[1,?,96]"]


def test_nothing_else_is_touched(openvino, tmp_path, caplog):
    quantized, ids = nn.Sequential(embedding().quantized()).eval(), torch.arange(6).reshape(2, 3)
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    before = {name: value.clone() for name, value in quantized.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = torch_ext.convert_to_openvino(quantized, ids, tmp_path / "net.xml")
    assert not [each for each in caplog.records if each.levelno >= logging.INFO]
    assert (logging.getLogger().handlers, logging.getLogger().level) == (handlers, level)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    assert all(torch.equal(value, before[name]) for name, value in quantized.state_dict().items())
    assert str(written) == f"{written.path}: 0 calls of integer kernels, of 0 operators"
    # Dynamic Linears that are exported afterwards round their inputs again.
    dynamic = nn.Sequential(linear(integer_config(approach="dynamic")).quantized(reduce_range=True)).eval()
    torch_ext.convert_to_openvino(dynamic, torch.ones(2, 96), tmp_path / "net.xml")
    assert "choose_qparams" in str(torch.export.export(dynamic, (torch.ones(2, 96),), strict=False).graph)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"quantized": nn.Linear(96, 8).eval()}, "a Linear. Allowed: what convert"),
        ({"quantized": linear(integer_config()).prepared()}, r"is a tuned model. Pass convert\(tuned\)"),
        ({"path": "net.onnx"}, r"a file of OpenVINO is called \*.xml"),
        ({"path": "missing/net.xml"}, "does not exist. Make it first"),
        ({"dynamic_shapes": "batch"}, "dynamic_shapes='batch'. Allowed: 'auto'"),
    ],
    ids=["plain", "tuned", "suffix", "folder", "shapes"],
)
def test_bad_arguments(arguments, words, tmp_path):
    quantized = nn.Sequential(linear(integer_config()).quantized(reduce_range=True)).eval()
    given = {"quantized": quantized, "path": "net.xml", **arguments}
    with pytest.raises(ArgumentError, match=words):
        torch_ext.convert_to_openvino(
            given.pop("quantized"), torch.ones(2, 96), tmp_path / str(given.pop("path")), **given
        )


class Sampled(nn.Sequential):
    """OpenVINO does not know one of its operations."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(super().forward(x))


def test_what_cannot_be_converted_is_said(openvino, tmp_path):
    quantized = linear(integer_config()).quantized(reduce_range=True)
    with pytest.raises(ModelError, match=r"cannot be converted to OpenVINO(.|\n)*torch.export.export"):
        torch_ext.convert_to_openvino(nn.Sequential(quantized).eval(), torch.ones(2, 7), tmp_path / "net.xml")
    with pytest.raises(ModelError, match=r"cannot be converted to OpenVINO(.|\n)*bessel_j0"):
        torch_ext.convert_to_openvino(Sampled(quantized).eval(), torch.ones(2, 96), tmp_path / "net.xml")
    assert not list(tmp_path.iterdir())


def test_without_openvino_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    quantized = nn.Sequential(linear(integer_config()).quantized(reduce_range=True)).eval()
    with pytest.raises(MissingDependencyError, match=r"inc-autotune\[openvino\]"):
        torch_ext.convert_to_openvino(quantized, torch.ones(2, 96), tmp_path / "net.xml")
