"""What calibration of a module found, as arrays by name and plain values, for processes that need not calibrate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inc_autotune.core.arrays import Array
from inc_autotune.core.data import Calibration, HeldOut, Packed, UnportableError, calibration_state
from inc_autotune.torch_ext.calibration.observed import Observed
from inc_autotune.torch_ext.data import Batch, comparable_outputs, model_device
from inc_autotune.torch_ext.operators import ModelTrace, OperatorTrace


def pack_calibration(
    calibration: Calibration[Batch], observed: Observed
) -> tuple[Mapping[str, Array], Mapping[str, Any]]:
    """What a pass found, as arrays by name, and as plain values that refer to them.

    Raises:
        UnportableError: an input is an object that no file holds, such as a key-value cache.
    """
    tensors = _PackedTensors()
    values = {
        "calibration": calibration_state.pack_calibration(
            calibration, tensors.packed, partial(_pack_batch, tensors), tensors.add
        ),
        "traces": [[number, _pack_trace(trace)] for number, trace in observed.traces],
        "shows errors": observed.shows_errors,
        "steps": [_pack_batch(tensors, each) for each in observed.steps],
        "firsts": [_pack_batch(tensors, each) for each in observed.firsts],
        "notes": list(observed.notes),
        "is kept": observed.is_kept,
    }
    return tensors.packed.arrays, {**values, "tensors": tensors.described}


def unpack_calibration(
    arrays: Mapping[str, Array], values: Mapping[str, Any], model: nn.Module
) -> tuple[Calibration[Batch], Observed]:
    """Inverse of `pack_calibration`, for the same model."""
    tensors = _UnpackedTensors(arrays, values["tensors"], model_device(model))
    unpack_batch = partial(_unpack_batch, tensors)
    held_out: HeldOut[Batch] = HeldOut(partial(comparable_outputs, model))
    calibration = calibration_state.unpack_calibration(
        values["calibration"], arrays, held_out, unpack_batch, tensors.__getitem__, tensors.on_device
    )
    observed = Observed(
        [(int(number), _unpack_trace(trace)) for number, trace in values["traces"]],
        bool(values["shows errors"]),
        list(map(unpack_batch, values["steps"])),
        list(map(unpack_batch, values["firsts"])),
        values["notes"],
        bool(values["is kept"]),
    )
    return calibration, observed


class _PackedTensors:
    """Tensors as bytes, each once, so that inputs which are one tensor stay one."""

    def __init__(self) -> None:
        self.packed = Packed()
        self.described: list[dict[str, Any]] = []
        self._places: dict[int, tuple[Tensor, int]] = {}

    def add(self, tensor: Tensor) -> int:
        """Take in a tensor; returns its number.

        Raises:
            UnportableError: it is none of plain numbers in a dense layout.
        """
        if id(tensor) in self._places:
            return self._places[id(tensor)][1]
        if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized:
            raise UnportableError(f"a {type(tensor).__name__} of {tensor.dtype} and layout {tensor.layout}")
        # In the order in which the elements lie, which kernels may depend on.
        axes = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
        ordered = tensor.detach().cpu().permute(axes).contiguous()
        number = len(self.described)
        self.described.append(
            {
                "bytes": self.packed.add(ordered.reshape(-1).view(torch.uint8).numpy()),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(ordered.shape),
                "axes": axes,
                "is on cpu": tensor.device.type == "cpu",
            }
        )
        self._places[id(tensor)] = tensor, number
        return number


class _UnpackedTensors:
    """Tensors by their number, each made once."""

    def __init__(
        self, arrays: Mapping[str, Array], described: Sequence[Mapping[str, Any]], device: torch.device
    ) -> None:
        self._arrays, self._described, self._device = arrays, described, device
        self._made: dict[int, Tensor] = {}

    def __getitem__(self, number: int) -> Tensor:
        if number not in self._made:
            about = self._described[number]
            values = torch.from_numpy(self._arrays[about["bytes"]]).view(getattr(torch, about["dtype"]))
            tensor = values.reshape(about["shape"]).permute(np.argsort(about["axes"]).tolist())
            self._made[number] = tensor if about["is on cpu"] else tensor.to(self._device)
        return self._made[number]

    def on_device(self, array: Array) -> Tensor:
        """An array of statistics as a tensor."""
        return torch.from_numpy(array).to(self._device)


def _pack_batch(tensors: _PackedTensors, batch: Batch) -> dict[str, Any]:
    args, kwargs = _pack(tensors, list(batch.args)), _pack(tensors, batch.kwargs)
    return {"args": args, "kwargs": kwargs, "size": batch.size, "module": batch.module}


def _unpack_batch(tensors: _UnpackedTensors, values: Mapping[str, Any]) -> Batch:
    args, kwargs = _unpack(tensors, values["args"]), _unpack(tensors, values["kwargs"])
    return Batch(tuple(args), kwargs, int(values["size"]), str(values["module"]))


def _pack(tensors: _PackedTensors, value: Any) -> Any:
    """An input of a model as plain values; containers other than lists become a dict of their kind and content."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        return {"tensor": tensors.add(value)}
    if type(value) is list:
        return [_pack(tensors, each) for each in value]
    if type(value) is tuple:
        return {"tuple": [_pack(tensors, each) for each in value]}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: _pack(tensors, each) for key, each in value.items()}}
    raise UnportableError(f"an input of {type(value)}")


def _unpack(tensors: _UnpackedTensors, value: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(tensors, each) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_unpack(tensors, each) for each in content)
    return {key: _unpack(tensors, each) for key, each in content.items()}


def _pack_trace(trace: ModelTrace) -> dict[str, Any]:
    values = {field.name: _plain(getattr(trace, field.name)) for field in fields(trace)}
    return {**values, "operators": [asdict(each) for each in trace.operators.values()]}


def _plain(value: Any) -> Any:
    """Names in containers, as JSON holds them."""
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return list(map(list, value)) if isinstance(value, tuple) and value and isinstance(value[0], tuple) else value


def _unpack_trace(values: Mapping[str, Any]) -> ModelTrace:
    shapes = ("input_shape", "output_shape")
    operators = [OperatorTrace(**{**each, **{key: tuple(each[key]) for key in shapes}}) for each in values["operators"]]
    sets = ("relu_outputs", "ran", "last", "foreign", "shared_sums")
    return ModelTrace(
        **{
            **values,
            **{name: frozenset(values[name]) for name in sets},
            "operators": {each.name: each for each in operators},
            "groups": tuple(map(tuple, values["groups"])),
            "consumers": {name: tuple(each) for name, each in values["consumers"].items()},
            "chains": {name: frozenset(each) for name, each in values["chains"].items()},
        }
    )
