"""Models of PyTorch in OpenVINO, for the benchmark of speed: fp32, ours, and what NNCF makes of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

os.environ.setdefault("CI", "true")  # else the import of OpenVINO tells its makers of it
import openvino

from benchmarks import rungs
from inc_autotune import torch_ext

Call = Callable[..., Tensor]


def _named(inputs: Any) -> dict[str, Tensor]:
    return inputs if isinstance(inputs, dict) else {"x": inputs}


def _any_size(model: nn.Module, inputs: Any) -> openvino.Model:
    """The fp32 model, converted as OpenVINO documents it."""
    converted = openvino.convert_model(model, example_input=inputs)
    sizes = {port: [-1] * len(port.partial_shape) for port in converted.inputs}
    if not isinstance(inputs, dict):
        sizes = {port: [-1, *inputs.shape[1:]] for port in converted.inputs}
    converted.reshape(sizes)
    return converted


def _compiled(model: Any, inputs: Any, threads: int, fixed: bool, **settings: str) -> Call:
    """A model of OpenVINO, for one size of inputs where it is fixed, as a function of torch tensors."""
    core, given = openvino.Core(), _named(inputs)
    model = core.read_model(model) if isinstance(model, Path) else model.clone()
    if fixed:
        model.reshape({port: list(each.shape) for port, each in zip(model.inputs, given.values(), strict=True)})
    few = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    request = core.compile_model(model, "CPU", few | settings).create_infer_request()

    def call(*args: Tensor, **kwargs: Tensor) -> Tensor:
        values = [each.numpy() for each in (*args, *kwargs.values())]
        return torch.from_numpy(request.infer(values, share_inputs=True)[0].copy())

    return call


def fp32(model: nn.Module, inputs: Any, threads: int, hint: str | None = "f32") -> Call:
    """With the hint None, OpenVINO chooses: bfloat16 where the processor has it."""
    settings = {} if hint is None else {"INFERENCE_PRECISION_HINT": hint}
    return _compiled(_any_size(model, inputs), inputs, threads, True, **settings)


def converted(quantized: nn.Module, inputs: Any, threads: int, *, fixed: bool) -> Call:
    """A converted model of ours; its file is for any size."""
    with tempfile.TemporaryDirectory() as folder:
        file = torch_ext.convert_to_openvino(quantized, inputs, Path(folder, "m.xml"))
        print(file)
        return _compiled(file.path, inputs, threads, fixed)


def nncf(model: nn.Module, calibration: Sequence[Any], inputs: Any, python: str, threads: int) -> Call:
    """What NNCF makes of the fp32 model, with the calibration samples of ours."""
    batches = [_named(batch) for batch in calibration]
    named = {name: torch.cat([batch[name] for batch in batches]).numpy() for name in _named(inputs)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "fp32.xml")
        openvino.save_model(_any_size(model, inputs), file, compress_to_fp16=False)
        few = {name: each[:1] for name, each in named.items()}
        is_transformer = isinstance(inputs, dict)
        rungs.peer_outputs(python, file, named, few, is_transformer=is_transformer, threads=threads, save=Path(folder))
        return _compiled(Path(folder, "int8.xml"), inputs, threads, True)
