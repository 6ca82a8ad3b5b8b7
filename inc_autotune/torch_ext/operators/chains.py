"""Convolutions whose outputs reach other convolutions through operations that can wait, or work on integers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from inc_autotune.torch_ext.operators.data_flow import Operation, Value, readers_through_views
from inc_autotune.torch_ext.operators.operator_calls import CallRecord
from inc_autotune.torch_ext.operators.types import CONVOLUTION_TYPES

_WAITING = frozenset(
    {
        *("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max"),
        *("silu", "hardswish", "hardsigmoid", "leaky_relu", "elu", "mish", "sigmoid", "tanh", "gelu", "softplus"),
        *("add", "mul", "div", "cat", "concat", "max_pool1d", "max_pool2d", "max_pool2d_with_indices"),
        *("upsample_nearest1d", "upsample_nearest2d"),
    }
)
"""Names of the operations, beside views, that a deferred tensor may put off; more than it does put off would do."""


def chains(
    record: CallRecord, batch_norms: Mapping[str, str], opaque: Collection[str], halves: Collection[str] = ()
) -> dict[str, frozenset[str]]:
    """Convolutions that may hand on integers, each with the convolutions that its output reaches.

    A convolution hands them on where some other convolution reads what becomes of its output, and none of that is kept:
    what a model returns or stores has to be a plain tensor. Nor may it write in place to what others see through views.

    Args:
        record: of one forward pass.
        batch_norms: those that will be folded, by convolution.
        opaque: names of modules that are read as a whole.
        halves: names of convolutions in half precision: what waits for the next one is float32.
    """
    found = {}
    for name, kind in record.types.items():
        if kind not in CONVOLUTION_TYPES or name in halves:
            continue
        outputs = [call.output_value for call in record.calls.get(batch_norms.get(name, name), [])]
        reached = _reached([value for value in outputs if value is not None], record.types, opaque)
        if reached and None not in outputs:
            found[name] = frozenset(reached)
    return found


def readers_of_shared_sums(
    record: CallRecord, chained: Mapping[str, Collection[str]], opaque: Collection[str]
) -> set[str]:
    """Convolutions that read a sum which goes into another sum too, as in a net of residual blocks.

    Args:
        record: of one forward pass.
        chained: see `chains`.
        opaque: names of modules that are read as a whole.
    """
    fed = {reader for readers in chained.values() for reader in readers}
    inputs = {name: [call.input_value for call in record.calls.get(name, [])] for name in fed}
    return {
        name
        for name, values in inputs.items()
        if any(value is not None and _is_shared_sum(value, opaque) for value in values)
    }


def _is_shared_sum(value: Value, opaque: Collection[str]) -> bool:
    """Whether a value is a sum of two tensors, perhaps rectified, that another sum is made of."""
    source, readers = value, readers_through_views(value, opaque)
    is_shared = any(operation is not None and _adds(operation) for _, operation in readers)
    while source.producer is not None and source.producer.scope not in opaque and source.producer.is_rectifier:
        source = source.producer.inputs[0]
    return is_shared and source.producer is not None and _adds(source.producer)


def _adds(operation: Operation) -> bool:
    return _name(operation).rstrip("_") == "add" and len(operation.inputs) > 1


def _reached(outputs: list[Value], types: Mapping[str, str], opaque: Collection[str]) -> set[str]:
    """Convolutions that read what becomes of some values; none if any of that is kept or written through views."""
    readers: set[str] = set()
    waiting, seen = list(outputs), set(outputs)
    while waiting:
        value = waiting.pop()
        if value.kept:
            return set()
        for operation in value.readers:
            if operation.scope in opaque:
                if types.get(str(operation.scope)) in CONVOLUTION_TYPES:
                    readers.add(str(operation.scope))
                continue
            if not _may_wait(operation):
                continue
            if _writes(operation) and _has_views(value):
                return set()
            fresh = [output for output in operation.outputs if output not in seen]
            seen.update(fresh)
            waiting += fresh
    return readers


def _name(operation: Operation) -> str:
    return operation.name.rpartition(".")[2]


def _may_wait(operation: Operation) -> bool:
    return operation.is_view or _name(operation).rstrip("_") in _WAITING or _writes(operation)


def _writes(operation: Operation) -> bool:
    name = _name(operation)
    return name.endswith("_") or name.startswith("in-place write") or name == "copy_"


def _has_views(value: Value) -> bool:
    return any(operation.is_view for operation in _neighbours(value))


def _neighbours(value: Value) -> Iterator[Operation]:
    if value.producer is not None:
        yield value.producer
    yield from value.readers
