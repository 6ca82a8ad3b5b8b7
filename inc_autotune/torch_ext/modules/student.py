"""Prepared models that are trained: their ranges learn too, and what they hold is arrays by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inc_autotune.core.errors import TrainingError
from inc_autotune.core.files import Arrays
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.quantization import integer_type, weight_parameters
from inc_autotune.core.result import Recipe
from inc_autotune.core.vocabulary import TrainedRanges
from inc_autotune.torch_ext.calibration import (
    OperatorCalibration,
    calibration_entries,
    calibrations_from_recipe,
    without_ranges,
)
from inc_autotune.torch_ext.modules.availability import zero_point_parts
from inc_autotune.torch_ext.modules.fake_quantized import FakeQuantized
from inc_autotune.torch_ext.modules.prepared import PreparedInteger, PreparedOperator
from inc_autotune.torch_ext.modules.trained_ranges import RANGE_TRAININGS, UINT8
from inc_autotune.torch_ext.operators import TABLE_TYPES

GRID = "grid"
"""Name of an operator's array of the smallest and largest integers of its weight and its input."""


def make_student(model: nn.Module, ranges: TrainedRanges) -> nn.Module:
    """Let the ranges of a prepared model be trained with it, in place; in training mode from then on.

    Args:
        model: prepared, with tensors of its own.
        ranges: how its ranges are trained. Those of tables and recurrent layers, and those found at run time, are not.
    """
    training = RANGE_TRAININGS[ranges]
    shared: dict[Any, Any] = {}
    for module in model.modules():
        if training is not None and isinstance(module, FakeQuantized) and module.operator_name not in TABLE_TYPES:
            training.prepare(module, shared)
            module.range_training = training
    return model.train()


@torch.no_grad()
def settle(model: nn.Module) -> nn.Module:
    """Fix the ranges that training came to, in place; what lies in the memory of another model is not written to."""
    found = [each for each in model.modules() if isinstance(each, FakeQuantized) and each.range_training is not None]
    settled = [_settled(module) for module in found]
    for module, tensors in zip(found, settled, strict=True):
        assert module.range_training is not None
        for name in list(module.range_training.names(module)):
            delattr(module, name)
        for name, tensor in tensors.items():
            module._buffers[name] = tensor
        module.range_training, module.followed = None, ()
    return model


def is_student(model: nn.Module) -> bool:
    """Whether ranges of a model are trained with it."""
    return any(isinstance(each, FakeQuantized) and each.range_training is not None for each in model.modules())


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile` and wrappers for parallel training."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


@torch.no_grad()
def model_arrays(model: nn.Module) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, tuple[str, ...]]]:
    """What a prepared model holds as training leaves it.

    Returns:
        Copies of its tensors by name, parameters of several names once, and `GRID` of each operator; and the names by
        operator.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    operators: dict[str, tuple[str, ...]] = {}
    known: dict[int, str] = {}
    for path, module in model.named_modules():
        names = []
        for own, tensor in _tensors(module):
            name = _joined(path, own)
            if own in module._parameters:  # others are never tied
                name = known.setdefault(id(tensor), name)
            names.append(name)
            if name not in arrays:
                arrays[name] = _array(tensor)
        if isinstance(module, PreparedInteger):
            arrays[_joined(path, GRID)] = _grid(module)
        if isinstance(module, PreparedOperator):
            operators[path] = tuple(names)
    return arrays, operators


@torch.no_grad()
def load_arrays(model: nn.Module, arrays: Arrays) -> nn.Module:
    """Give a prepared model what `model_arrays` found in one of another configuration, in place.

    Ranges are taken where the operator has the same integers in both; elsewhere the weight's is found anew.
    """
    for path, module in model.named_modules():
        grid = arrays.get(_joined(path, GRID))
        is_other = isinstance(module, PreparedInteger) and (grid is None or (grid != _grid(module)).any())
        for table in (module._parameters, module._buffers):
            if is_other and table is module._buffers:
                continue
            for own, tensor in table.items():
                array = arrays.get(_joined(path, own))
                if tensor is not None and array is not None and tuple(tensor.shape) == array.shape:
                    tensor.copy_(torch.from_numpy(np.asarray(array)))
        if is_other and isinstance(module, FakeQuantized):
            _find_grid(module)
    return model


def trained_calibrations(
    calibrations: Mapping[str, OperatorCalibration], configs: Mapping[str, OpConfig], arrays: Arrays
) -> dict[str, OperatorCalibration]:
    """Calibrations with the ranges that training left, for a recipe.

    Args:
        calibrations: as they were before.
        configs: of the same operators.
        arrays: see `model_arrays`.
    """
    return {name: _trained_calibration(name, each, configs[name], arrays) for name, each in calibrations.items()}


def _trained_calibration(
    name: str, calibration: OperatorCalibration, config: OpConfig, arrays: Arrays
) -> OperatorCalibration:
    if not config.is_quantized or _joined(name, GRID) not in arrays:
        return calibration
    # What rounded the weight before training says nothing of the weight now.
    calibration = replace(calibration, steps=None, moments={})
    own = {key: arrays[path] for key in _RANGES if (path := _joined(name, key)) in arrays}
    if "weight_scale" not in own:  # a recurrent layer, of several weights
        grids: dict[str, Any] = {f"weight_{part}": _of_weights(name, part, arrays) for part in ("scale", "zero_point")}
        recurrent: OperatorCalibration = replace(calibration, **grids)
        return recurrent
    changes: dict[str, Any] = {key: torch.from_numpy(own[key].copy()) for key in ("weight_scale", "weight_zero_point")}
    low, high = arrays[_joined(name, GRID)][2:]
    for end, bounds in (("input", (low, high)), ("output", UINT8)):
        if f"{end}_scale" in own and getattr(calibration, f"{end}_minimum") is not None:
            scale, zero_point = float(own[f"{end}_scale"]), int(own[f"{end}_zero_point"])
            limits = ((float(bound) - zero_point) * scale for bound in bounds)
            changes |= zip((f"{end}_minimum", f"{end}_maximum"), limits, strict=True)
    changed: OperatorCalibration = replace(calibration, **changes)
    return changed


def _of_weights(name: str, part: str, arrays: Arrays) -> Tensor:
    """An array of each weight of a recurrent layer, one after another as `OperatorCalibration` has them."""
    prefix, ending = _joined(name, "weight_"), f"_{part}"
    found = sorted(key for key in arrays if key.startswith(prefix) and key.endswith(ending))
    return torch.from_numpy(np.concatenate([np.ravel(arrays[key]) for key in found]))


def trained_recipe(student: nn.Module, recipe: Recipe) -> Recipe:
    """A recipe with the ranges that a student has learned."""
    arrays, _ = model_arrays(student)
    quantized = {name: each for name, each in recipe.operators.items() if each.config.is_quantized}
    calibrations = calibrations_from_recipe(quantized, recipe.arrays)
    configs = {name: each.config for name, each in quantized.items()}
    entries, shared = calibration_entries(trained_calibrations(calibrations, configs, arrays))
    operators = {
        name: replace(each, calibration={**without_ranges(each.calibration), **entries.get(name, {})})
        for name, each in recipe.operators.items()
    }
    metadata = {**recipe.metadata, "trained": sorted(quantized)}
    return replace(recipe, operators=operators, arrays=shared, metadata=metadata)


def trained_model(student: nn.Module, returned: object) -> nn.Module:
    """The model that `train_func` trained: what it returned, if that is a model, without wrappers, else the student.

    Raises:
        TrainingError: it is not of the student's class, or not in float32.
    """
    trained = unwrapped(returned if isinstance(returned, nn.Module) else student)
    if type(trained) is not type(student):
        raise TrainingError(
            f"train_func returned a {type(trained).__name__}. Allowed: None, the {type(student).__name__} that it was "
            "given, or a trained copy of it."
        )
    for name, each in trained.named_parameters():
        if each.is_floating_point() and each.dtype != torch.float32:
            raise TrainingError(
                f"train_func changed the dtype of {name!r} to {each.dtype}. Leave weights in float32; autocast "
                "computes in half precision without changing them."
            )
    return trained


_RANGES = tuple(f"{part}_{value}" for part in ("weight", "input", "output") for value in ("scale", "zero_point"))


def trained_operators(arrays: Arrays) -> list[str]:
    """Names of the operators with integer weights in the model that arrays are of."""
    return [name.removesuffix(GRID).removesuffix(".") for name in arrays if name == GRID or name.endswith(f".{GRID}")]


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and persistent buffers of a module by itself, as training leaves them."""
    settled, skipped = {}, set(module._non_persistent_buffers_set)
    if isinstance(module, FakeQuantized) and module.range_training is not None:
        settled, skipped = _settled(module), skipped | set(module.range_training.names(module))
    for table in (module._parameters, module._buffers):
        for name, tensor in table.items():
            if tensor is not None and name not in skipped:
                yield name, settled.get(name, tensor)


def _settled(module: FakeQuantized) -> dict[str, Tensor]:
    assert module.range_training is not None
    return {name: tensor.detach() for name, tensor in module.range_training.settled(module).items()}


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    plain = tensor.detach().cpu()
    if plain.dtype == torch.bfloat16:  # which NumPy does not have
        plain = plain.view(torch.int16)
    return np.array(plain.numpy())


def _grid(module: PreparedInteger) -> np.ndarray[Any, Any]:
    activation = module.config.activation
    kind = None if activation.is_float else integer_type(activation.dtype)
    limits = (0, 0) if kind is None else (kind.minimum, kind.maximum)
    return np.array([module.weight_minimum, module.weight_maximum, *limits], np.int64)


def _find_grid(module: FakeQuantized) -> None:
    """The grid of a weight that was given to an operator."""
    kind = integer_type(module.config.weight.dtype)
    is_reduced = module.weight_maximum - module.weight_minimum < kind.maximum - kind.minimum - 1
    parameters = weight_parameters(
        module.weight_rows(module.smoothed_weight()),
        module.config.weight,
        axis=module.weight_output_axis,
        reduce_range=is_reduced,
        zero_point_parts=zero_point_parts(module.operator_name, module.config),
    )
    module.weight_scale.copy_(parameters.scale)
    module.weight_zero_point.copy_(parameters.zero_point)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
