"""One configuration of the tuner as a summary that `load_qconf_summary` of Intel Extension for PyTorch reads."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from inc_autotune.core.errors import QuantizationError
from inc_autotune.torch_ext.ipex.operations import (
    FOLLOWERS,
    MODULES,
    POOLS,
    PRODUCTS,
    Operation,
    Summary,
    followers_to_keep,
    operations,
)

ACTIVATION = "torch.quint8"
WEIGHT = "torch.qint8"

Place = tuple[str, int]
"""Where a summary keeps a range: parent module and number of the tensor."""


@dataclass(frozen=True)
class ModuleNumbers:
    """How one module is quantized, in the numbers of the summary.

    Args:
        scale: of the input, after smoothing.
        zero_point: of the input, 0 to 255.
        weight_scale: one per output channel, or one for all.
        smoothing: one factor per input channel, by which the input is divided and the weight multiplied; None: no
            smoothing.
    """

    scale: float
    zero_point: int
    weight_scale: tuple[float, ...]
    smoothing: tuple[float, ...] | None = None


def configured(summary: Summary, modules: Mapping[str, ModuleNumbers], functions: Collection[str]) -> Summary:
    """The summary of one configuration.

    Args:
        summary: the extension's own, with everything quantized that the extension would quantize; not changed.
        modules: the numbers of the modules to be quantized, by module name.
        functions: names of the functions to be quantized; their ranges in `summary` stay.

    Raises:
        QuantizationError: several modules read the same tensor in the same parent module with different ranges, and
            one of them is no Linear: the extension has no place for these ranges.
    """
    result = copy.deepcopy(summary)
    kept = followers_to_keep(summary, {*modules, *functions})
    readers: dict[Place, list[Operation]] = {}
    for operation in operations(result):
        if operation.type in MODULES and operation.name in modules:
            readers.setdefault(operation.reads, []).append(operation)
        elif operation.type in PRODUCTS and operation.name in functions:
            continue
        elif (operation.parent, operation.index) not in kept:
            _leave_in_fp32(operation)
    fixed = _pooled(operations(result), kept)
    for place, members in readers.items():
        _write_weights(members, modules)
        if _differ(members, modules):
            _write_by_member(result, place, members, modules)
        elif place not in fixed:
            first = modules[members[0].name]
            _write_range(_tensors(result, place), [first.scale], [first.zero_point])
        for member in members:
            member.inputs[0]["inf_dtype"] = member.inputs[0]["force_dtype"] = ACTIVATION
    return result


def smoothable(summary: Summary) -> set[str]:
    """Names of the Linear modules that the extension can smooth.

    It cannot save smoothing scales for a tensor that the parent module also returns.
    """
    returned = {
        (parent, tensor["id"]) for parent, layer in summary.items() for tensor in layer["layer_output_infos"] if tensor
    }
    # The extension does not see the input of a module that is called with keyword arguments.
    calls = [operation for operation in operations(summary) if operation.type == "Linear" and operation.inputs]
    return {call.name for call in calls} - {call.name for call in calls if call.reads in returned}


def _leave_in_fp32(operation: Operation) -> None:
    for tensor in operation.inputs:
        tensor["inf_dtype"] = tensor["force_dtype"] = tensor["orig_dtype"]
    for tensor in (*operation.entry["weight_tensor_infos"], *operation.entry["output_tensor_infos"]):
        if tensor:
            tensor["inf_dtype"] = tensor["orig_dtype"]


def _pooled(found: Iterable[Operation], kept: Collection[tuple[str, str]]) -> set[Place]:
    """Outputs of int8 poolings, which must have the range of the input."""
    return {
        (operation.parent, output["id"])
        for operation in found
        if operation.type in POOLS and (operation.parent, operation.index) in kept
        for output in operation.entry["output_tensor_infos"]
        if output
    }


def _write_weights(members: Iterable[Operation], modules: Mapping[str, ModuleNumbers]) -> None:
    for member in members:
        tensor, scale = member.entry["weight_tensor_infos"][0], modules[member.name].weight_scale
        tensor["inf_dtype"] = WEIGHT
        tensor["scale"], tensor["zero_point"] = list(scale), [0] * len(scale)


def _differ(members: Iterable[Operation], modules: Mapping[str, ModuleNumbers]) -> bool:
    """Whether the readers of one tensor need separate ranges, as the readers of a smoothed tensor always do."""
    readers = [modules[member.name] for member in members]
    if any(reader.smoothing is not None for reader in readers):
        return True
    return len({(reader.scale, reader.zero_point) for reader in readers}) > 1


def _write_by_member(
    summary: Summary, place: Place, members: list[Operation], modules: Mapping[str, ModuleNumbers]
) -> None:
    """Write a range and smoothing scales for each Linear; other calls that read or make the tensor leave it in fp32.

    Raises:
        QuantizationError: see `configured`.
    """
    others = [member for member in members if member.type != "Linear"]
    if others:
        raise QuantizationError(
            f"{', '.join(member.name for member in members)}: read one tensor in different configurations. "
            "backend='ipex' keeps one range for it: give them the same rules, or leave one in fp32."
        )
    _take_from_others(summary, place, members)
    by_key = {f"{member.index}_0": modules[member.name] for member in members}
    scales = {key: [numbers.scale] for key, numbers in by_key.items()}
    zero_points = {key: [numbers.zero_point] for key, numbers in by_key.items()}
    features = max(len(numbers.smoothing or (1.0,)) for numbers in by_key.values())
    factors = {key: list(numbers.smoothing or (1.0,) * features) for key, numbers in by_key.items()}
    for member in members:
        tensor, weight = member.inputs[0], member.entry["weight_tensor_infos"][0]
        tensor["scale"], tensor["zero_point"] = scales, zero_points
        tensor["smooth_quant_scaling_factor"] = {key: [1 / factor for factor in row] for key, row in factors.items()}
        weight["smooth_quant_scaling_factor"] = factors[f"{member.index}_0"]


def _take_from_others(summary: Summary, place: Place, members: Iterable[Operation]) -> None:
    """Remove the shared range of a tensor, and leave the tensor in fp32 wherever other calls than `members` use it."""
    own_entries = {id(member.entry) for member in members}
    for operation in operations(summary):
        if operation.parent != place[0] or id(operation.entry) in own_entries:
            continue
        makes = any(output and output["id"] == place[1] for output in operation.entry["output_tensor_infos"])
        if makes and operation.type in FOLLOWERS:
            _leave_in_fp32(operation)
        for tensor in operation.inputs:
            if tensor["id"] == place[1]:
                tensor["inf_dtype"] = tensor["force_dtype"] = tensor["orig_dtype"]
    for tensor in _tensors(summary, place):
        for key in ("scale", "zero_point"):
            tensor.pop(key, None)


def _write_range(tensors: Iterable[dict[str, Any]], scale: list[float], zero_point: list[int]) -> None:
    for tensor in tensors:
        tensor["scale"], tensor["zero_point"] = scale, zero_point


def _tensors(summary: Summary, place: Place) -> list[dict[str, Any]]:
    """All descriptions of a tensor in its parent module."""
    layer = summary[place[0]]
    found = [*layer["layer_output_infos"]]
    for entry in layer["q_op_infos"].values():
        found += [*entry["input_tensor_infos"], *entry["output_tensor_infos"]]
    return [tensor for tensor in found if tensor and tensor["id"] == place[1]]
