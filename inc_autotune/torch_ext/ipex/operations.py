"""The operators in a summary of Intel Extension for PyTorch, and what feeds them.

A summary is the content of the JSON file that `save_qconf_summary` writes: by parent module, the operators that can be
quantized (`q_op_infos`), the others (`nonq_op_infos`), and what the module returns (`layer_output_infos`). Tensors have
numbers that hold for the whole model; ranges are kept for each parent module and tensor.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Summary = dict[str, dict[str, Any]]

MODULES = frozenset({"Linear", "Conv2d", "Conv3d"})
"""Modules with a weight, of which our calibration knows the ranges."""

PRODUCTS = frozenset({"linear", "conv2d", "conv3d", "matmul", "bmm"})
WITHOUT_WEIGHT = frozenset({"matmul", "bmm", "add"})
"""Of these, both operands are activations."""
FUNCTIONS = PRODUCTS | {"add"}
"""Functions called in a forward method, of which only the extension's observers know the ranges."""

POOLS = frozenset(
    name + dimensions
    for dimensions in ("2d", "3d")
    for name in ("max_pool", "avg_pool", "adaptive_avg_pool", "MaxPool", "AvgPool", "AdaptiveAvgPool")
)
SHAPES = frozenset({"flatten", "Flatten"})
FOLLOWERS = POOLS | SHAPES | {"add", "relu", "ReLU"}
"""Operators that only pay in int8 next to one that multiplies: where that is not quantized, they are not either."""

_CLASS = re.compile(r"<class '(?:\w+\.)*(\w+)'>")
_FUNCTION = re.compile(r"(?:method|function) '?(\w+)'?")


@dataclass(frozen=True, eq=False)
class Operation:
    """One call of an operator that can be quantized.

    Args:
        parent: key of the parent module in the summary.
        index: key of the call there.
        name: what the tuner calls the operator; the calls of one module share it.
        type: class name of a module, or name of a function.
        entry: the part of the summary that describes the call.
    """

    parent: str
    index: str
    name: str
    type: str
    entry: dict[str, Any]

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Descriptions of the tensors it reads."""
        return [each for each in self.entry["input_tensor_infos"] if each]

    @property
    def is_quantized(self) -> bool:
        """Whether any of its tensors is rounded on the way in."""
        return any(each["force_dtype"] != each["orig_dtype"] for each in self.inputs)

    @property
    def reads(self) -> tuple[str, int]:
        """Where the range of its first input is kept: the parent module and the tensor's number."""
        return self.parent, self.inputs[0]["id"]


def operations(summary: Summary) -> list[Operation]:
    """All calls in a summary, in its order."""
    found = []
    for parent, layer in summary.items():
        for index, entry in layer["q_op_infos"].items():
            kind = operator_type(entry["op_type"])
            inside = entry["fqn"] or ""
            own = f"{inside}.{kind}_{index}".lstrip(".")
            found.append(Operation(parent, index, inside if entry["op_type_is_module"] else own, kind, entry))
    return found


def operator_type(description: str) -> str:
    """`Linear` of a class, `matmul` of a function, from the text that the summary has instead of either."""
    match = _CLASS.search(description) or _FUNCTION.search(description)
    return description if match is None else match.group(1)


def followers_to_keep(summary: Summary, quantized: Collection[str]) -> set[tuple[str, str]]:
    """Which following operators stay as the extension's own recipe has them; the others go to fp32.

    One stays if an operator that multiplies and that it follows directly is quantized, and none of those is not. What
    lies between may be any operator with one input.

    None of `SHAPES` stays, nor a pooling or ReLU whose result reaches one of them: it would be quantized before and
    after, and the extension's traced models take the two ranges to be one. Their fp32 forms cost next to nothing.

    Args:
        summary: with the extension's own recipe.
        quantized: names of the operators that the configuration quantizes, additions among them.

    Returns:
        (parent, index) of each.
    """
    found = operations(summary)
    producers = dict(_producers(summary, found))
    decided: dict[tuple[str, str], bool] = {}

    def source(tensor: int) -> Operation | None:
        producer = producers.get(tensor)
        while producer is not None:
            operation, inputs = producer
            if operation is not None and (operation.type not in FOLLOWERS or len(inputs) > 1):
                return operation
            producer = producers.get(inputs[0]) if len(inputs) == 1 else None
        return None

    def stays(operation: Operation) -> bool:
        key = operation.parent, operation.index
        if key not in decided:
            sources = [found for each in operation.inputs if (found := source(each["id"])) is not None]
            # Of several inputs, another addition is the residual stream, which decides nothing here.
            several = len(operation.inputs) > 1
            verdicts = [
                stays(each) if each.type in FOLLOWERS else each.name in quantized
                for each in sources
                if not (several and each.type in FOLLOWERS)
            ]
            wanted = operation.name in quantized if operation.type in FUNCTIONS else operation.type not in SHAPES
            decided[key] = operation.is_quantized and wanted and bool(verdicts) and all(verdicts)
        return decided[key]

    kept = {(each.parent, each.index) for each in found if each.type in FOLLOWERS and stays(each)}
    return kept - _before_reshapes(found, producers)


def _before_reshapes(
    found: Iterable[Operation], producers: Mapping[int, tuple[Operation | None, tuple[int, ...]]]
) -> set[tuple[str, str]]:
    """(parent, index) of the poolings and ReLUs whose result reaches a reshape before it is multiplied or added."""
    before: set[tuple[str, str]] = set()
    seen: set[int] = set()
    pending = [tensor["id"] for each in found if each.type in SHAPES for tensor in each.inputs]
    while pending:
        tensor = pending.pop()
        if tensor in seen or tensor not in producers:
            continue
        seen.add(tensor)
        operation, inputs = producers[tensor]
        if operation is None or operation.type in FOLLOWERS - {"add"}:
            pending += inputs
        if operation is not None and operation.type in FOLLOWERS - {"add"}:
            before.add((operation.parent, operation.index))
    return before


def _producers(
    summary: Summary, found: list[Operation]
) -> Iterator[tuple[int, tuple[Operation | None, tuple[int, ...]]]]:
    """By tensor, the operator that makes it (None: one that cannot be quantized) and the tensors that one reads."""
    entries: list[tuple[Operation | None, dict[str, Any]]] = [(each, each.entry) for each in found]
    entries += [(None, entry) for layer in summary.values() for entry in dict(layer["nonq_op_infos"]).values()]
    for operation, entry in entries:
        inputs = tuple(each["id"] for each in entry["input_tensor_infos"] if each)
        for output in entry["output_tensor_infos"]:
            if output:
                yield output["id"], (operation, inputs)
