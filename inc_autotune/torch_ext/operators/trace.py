"""How the operators of a model hang together, found in one forward pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from inc_autotune.torch_ext.data import Batch
from inc_autotune.torch_ext.model import is_half, is_replaceable
from inc_autotune.torch_ext.operators.chains import chains, readers_of_shared_sums
from inc_autotune.torch_ext.operators.data_flow import Operation, Value, readers_through_views
from inc_autotune.torch_ext.operators.operator_calls import CallRecord, record_calls
from inc_autotune.torch_ext.operators.types import CONVOLUTION_TYPES, LINEAR_TYPES, TYPES_WITHOUT_RANGE

KEPT = "output"

_PICKING = frozenset(
    {
        *("cat", "concat", "max_pool1d", "max_pool2d", "max_pool2d_with_indices", "max_pool3d_with_indices"),
        *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
    }
)
"""Names of operations whose results are elements of their inputs."""


@dataclass(frozen=True)
class OperatorTrace:
    """One quantizable operator as it ran.

    Args:
        name: as in `named_modules`.
        type: `Linear`, `Conv2d` ...
        calls: times it was called in one forward pass.
        input_shape: of the first call.
        output_shape: of the first call.
    """

    name: str
    type: str
    calls: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelTrace:
    """What one forward pass tells about a model's quantizable operators.

    Args:
        operators: quantizable and run, in the order of their first calls.
        groups: operators that read the same tensor and so share one smoothing scale and one range; an operator that is
            called on several tensors makes one group of all operators that read these. Every operator is in exactly one
            group, and the first operator leads the group.
        batch_norms: convolution -> BatchNorm that can be folded into the convolution.
        relu_outputs: convolutions with an output, after a folded BatchNorm, that nothing but ReLUs reads.
        output_groups: convolution -> leader of the group that alone reads the output, after BatchNorm, ReLU, max
            pooling, concatenation or upsampling.
        consumers: group leader -> what else reads the group's input: module names, `aten.add` ..., `output`
            if the model returns or stores the tensor.
        skipped: operator -> why it cannot be quantized.
        ran: names of all operators and leaf modules that ran.
        bears_channels_last: whether convolutions may write channels last, see `layout.bears_channels_last`.
        last: operators with an output that no other operator depends on.
        foreign: operators with a weight that is read outside of them.
        chains: convolutions that may hand on integers -> convolutions that their outputs reach, see `chains.chains`.
        shared_sums: convolutions that read a sum of what is handed on, which goes into another sum too.
    """

    operators: dict[str, OperatorTrace]
    groups: tuple[tuple[str, ...], ...]
    batch_norms: dict[str, str]
    relu_outputs: frozenset[str]
    output_groups: dict[str, str]
    consumers: dict[str, tuple[str, ...]]
    skipped: dict[str, str]
    ran: frozenset[str] = frozenset()
    bears_channels_last: bool = False
    last: frozenset[str] = frozenset()
    foreign: frozenset[str] = frozenset()
    chains: Mapping[str, frozenset[str]] = field(default_factory=dict)
    shared_sums: frozenset[str] = frozenset()

    @property
    def fed(self) -> frozenset[str]:
        """Convolutions that others may hand on integers to."""
        return frozenset().union(*self.chains.values())


def trace_model(model: nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> ModelTrace:
    """Run `model` once and describe its quantizable operators.

    The model is left as it was: hooks are removed, buffers and inputs written by the pass are restored. It runs
    without gradients and without torch's fused attention fast path, as the quantized model will.

    Args:
        model: in evaluation mode.
        args: positional example inputs, on the model's device.
        kwargs: keyword example inputs.

    Raises:
        ModelError: a parameter is not initialized yet (lazy modules).
        Exception: whatever the model raises on these inputs.
    """
    return trace_call(model, Batch.of(args, kwargs))


def trace_call(model: nn.Module, batch: Batch) -> ModelTrace:
    """The same for a call of any module of `model`."""
    norms, record = foldable_batch_norms(model), record_calls(model, batch)
    trace = analyse(record, dict(model.named_modules()), norms)
    return replace(trace, last=frozenset(name for name in trace.operators if _is_last(name, record)))


def _is_last(name: str, record: CallRecord) -> bool:
    """Whether nothing that the operator returned reaches another operator, whatever is computed in between."""
    ends = [call.output_value for call in record.calls[name] if call.output_value is not None]
    seen = set(ends)
    while ends:
        for operation in ends.pop().readers:
            if operation.scope != name and operation.scope in record.types:
                return False
            new = [value for value in operation.outputs if value not in seen]
            seen.update(new)
            ends += new
    return True


def foldable_batch_norms(model: nn.Module) -> dict[str, int]:
    """Channels of the BatchNorms that a convolution may take in, by name; to be asked before hooks are installed."""
    return {
        name: module.num_features
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and type(module).forward is _BatchNorm.forward
        and not (module.training or module.running_mean is None or _unfit_batch_norm(module))
    }


def analyse(record: CallRecord, modules: Mapping[str, nn.Module], norms: Mapping[str, int]) -> ModelTrace:
    """What the calls of one forward pass tell.

    Args:
        record: of the pass.
        modules: by name.
        norms: see `foldable_batch_norms`.
    """
    order = [name for name in record.calls if name in record.types]
    opaque = {*record.types, *record.skipped}
    groups, roots = _input_groups(record, order, opaque)
    leaders = {name: group[0] for group in groups for name in group}
    batch_norms: dict[str, str] = {}
    relu_outputs: set[str] = set()
    output_groups: dict[str, str] = {}
    for name in order:
        output = record.only_output(name)
        if output is None or record.types[name] not in CONVOLUTION_TYPES:
            continue
        batch_norm = _foldable_batch_norm(output, record, norms, modules[name])
        if batch_norm is not None:
            batch_norms[name] = batch_norm
            output = record.only_output(batch_norm) or output
        rectified = _rectified(output, opaque)
        if rectified is not None:
            relu_outputs.add(name)
        outputs = [output] if rectified is None else rectified
        leader = _only_group(outputs[0], leaders, opaque) if len(outputs) == 1 else None
        if leader is not None:
            output_groups[name] = leader
    halves = {name for name in order if is_half(modules[name])}
    chained = chains(record, batch_norms, opaque, halves)
    return ModelTrace(
        operators={name: _operator(name, record) for name in order},
        groups=groups,
        batch_norms=batch_norms,
        relu_outputs=frozenset(relu_outputs),
        output_groups=output_groups,
        consumers={group[0]: _other_readers(group, roots[group[0]], opaque) for group in groups},
        skipped=record.skipped,
        ran=frozenset(record.calls),
        foreign=record.foreign,
        chains=chained,
        shared_sums=frozenset(readers_of_shared_sums(record, chained, opaque)),
    )


def _operator(name: str, record: CallRecord) -> OperatorTrace:
    calls = record.calls[name]
    first_input, first_output = calls[0].input_value, calls[0].output_value
    return OperatorTrace(
        name=name,
        type=record.types[name],
        calls=len(calls),
        input_shape=first_input.shape if first_input is not None else (),
        output_shape=first_output.shape if first_output is not None else (),
    )


def _input_groups(
    record: CallRecord, order: list[str], opaque: Collection[str]
) -> tuple[tuple[tuple[str, ...], ...], dict[str, list[Value]]]:
    """Groups of operators that read the same tensor in the same channel layout, and the groups' inputs by leader."""
    parent = {name: name for name in order}
    position = {name: index for index, name in enumerate(order)}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    first_reader: dict[tuple[Value, bool], str] = {}
    operator_roots: dict[str, list[Value]] = {}
    for name in order:
        kind = record.types[name]
        by_last = kind in LINEAR_TYPES
        for call in record.calls[name]:
            if call.input_value is None:
                continue
            root = _root(call.input_value, by_last, opaque)
            operator_roots.setdefault(name, []).append(root)
            if kind in TYPES_WITHOUT_RANGE:
                continue
            reader = first_reader.setdefault((root, by_last), name)
            left, right = sorted((find(reader), find(name)), key=position.__getitem__)
            parent[right] = left
    members: dict[str, list[str]] = {}
    for name in order:
        members.setdefault(find(name), []).append(name)
    roots = {
        leader: list(dict.fromkeys(root for name in group for root in operator_roots.get(name, [])))
        for leader, group in members.items()
    }
    return tuple(tuple(group) for group in members.values()), roots


def _root(value: Value, by_last: bool, opaque: Collection[str]) -> Value:
    """The tensor that `value` is a view of, as long as channels stay where they are."""
    while value.producer is not None and value.producer.is_view and value.producer.scope not in opaque:
        if value.producer.layout != "same" and not (by_last and value.producer.layout == "last"):
            break
        value = value.producer.inputs[0]
    return value


def _foldable_batch_norm(
    output: Value, record: CallRecord, norms: Mapping[str, int], convolution: nn.Module
) -> str | None:
    """Name of the BatchNorm that alone reads a convolution's output and can be folded into the convolution."""
    scopes = {operation.scope for operation in output.readers}
    name = scopes.pop() if len(scopes) == 1 else None
    if name is None or output.kept or norms.get(name) != convolution.out_channels:
        return None
    calls = record.calls.get(name, [])
    if len(calls) != 1 or calls[0].input_value is not output or calls[0].output_value is None:
        return None
    return name


def _unfit_batch_norm(module: nn.Module) -> bool:
    unusual = "forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks
    return bool(unusual) or not is_replaceable(module)


def _rectified(output: Value, opaque: Collection[str]) -> list[Value] | None:
    """Outputs of the ReLUs that read `output`; None if nothing reads `output`, or something other than ReLUs."""
    readers = [operation for _, operation in readers_through_views(output, opaque)]
    operations = [operation for operation in readers if operation is not None and operation.is_rectifier]
    if not operations or len(operations) != len(readers):
        return None
    return [value for operation in dict.fromkeys(operations) for value in operation.outputs]


def _only_group(output: Value, leaders: Mapping[str, str], opaque: Collection[str]) -> str | None:
    """The group whose operators alone read `output`, through whatever moves, picks or rectifies its elements."""
    found: set[str | None] = set()
    waiting, seen = [output], {output}
    while waiting:
        for _, operation in readers_through_views(waiting.pop(), opaque):
            scope = operation.scope if operation is not None else None
            if operation is not None and scope not in leaders and _picks(operation):
                fresh = [value for value in operation.outputs if value not in seen]
                seen.update(fresh)
                waiting += fresh
            else:
                found.add(leaders.get(scope) if scope is not None else None)
    return found.pop() if len(found) == 1 else None


def _picks(operation: Operation) -> bool:
    """Whether all that an operation returns are values that it was given, or zero, where these are negative."""
    return operation.is_rectifier or operation.name.rpartition(".")[2] in _PICKING


def _other_readers(group: tuple[str, ...], roots: list[Value], opaque: Collection[str]) -> tuple[str, ...]:
    names = [_reader_name(operation) for root in roots for _, operation in readers_through_views(root, opaque)]
    return tuple(name for name in dict.fromkeys(names) if name not in group)


def _reader_name(operation: Operation | None) -> str:
    if operation is None:
        return KEPT
    return operation.scope or operation.name
