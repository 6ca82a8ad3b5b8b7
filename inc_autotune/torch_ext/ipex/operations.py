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
"""Modules with a weight; this library calibrates their ranges."""

PRODUCTS = frozenset({"linear", "conv2d", "conv3d", "matmul", "bmm"})
WITHOUT_WEIGHT = frozenset({"matmul", "bmm", "add"})
"""Functions whose operands are both activations."""
FUNCTIONS = PRODUCTS | {"add"}
"""Functions called in a forward method; only the extension's observers know their ranges."""

POOLS = frozenset(
    name + dimensions
    for dimensions in ("2d", "3d")
    for name in ("max_pool", "avg_pool", "adaptive_avg_pool", "MaxPool", "AvgPool", "AdaptiveAvgPool")
)
SHAPES = frozenset({"flatten", "Flatten"})
FOLLOWERS = POOLS | SHAPES | {"add", "relu", "ReLU"}
"""Operators that gain by int8 only next to a product: they stay in fp32 if the product does."""

_CLASS = re.compile(r"<class '(?:\w+\.)*(\w+)'>")
_FUNCTION = re.compile(r"(?:method|function) '?(\w+)'?")


@dataclass(frozen=True, eq=False)
class Operation:
    """One call of an operator that can be quantized.

    Args:
        parent: key of the parent module in the summary.
        index: key of the call among those of the parent module.
        name: the tuner's name for the operator, shared by all calls of one module.
        type: class name of a module, or name of a function.
        entry: the entry of the summary that describes the call.
    """

    parent: str
    index: str
    name: str
    type: str
    entry: dict[str, Any]

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Descriptions of the tensors that the call reads."""
        return [tensor for tensor in self.entry["input_tensor_infos"] if tensor]

    @property
    def is_quantized(self) -> bool:
        """Whether an input is quantized."""
        return any(tensor["force_dtype"] != tensor["orig_dtype"] for tensor in self.inputs)

    @property
    def reads(self) -> tuple[str, int]:
        """Place of the range of the first input: the parent module and the number of the tensor."""
        return self.parent, self.inputs[0]["id"]


def operations(summary: Summary) -> list[Operation]:
    """All calls in a summary, in the order of the summary."""
    found = []
    for parent, layer in summary.items():
        for index, entry in layer["q_op_infos"].items():
            kind = operator_type(entry["op_type"])
            inside = entry["fqn"] or ""
            own = f"{inside}.{kind}_{index}".lstrip(".")
            found.append(Operation(parent, index, inside if entry["op_type_is_module"] else own, kind, entry))
    return found


def operator_type(description: str) -> str:
    """The operator type in the description of a summary: `Linear` for a class, `matmul` for a function."""
    match = _CLASS.search(description) or _FUNCTION.search(description)
    return description if match is None else match.group(1)


def followers_to_keep(summary: Summary, quantized: Collection[str]) -> set[tuple[str, str]]:
    """Which `FOLLOWERS` stay as the extension's own recipe has them; the others go to fp32.

    A follower stays if it directly follows at least one product, and all these products are quantized. Operators with
    one input may lie in between.

    No operator of `SHAPES` stays, and no pooling or ReLU whose result reaches one of them: that operator would be
    quantized before and after the reshape, and the extension's traced models take the two ranges for the same. The fp32
    forms of these operators cost next to nothing.

    Args:
        summary: with the extension's own recipe.
        quantized: names of the operators that the configuration quantizes, including additions.

    Returns:
        (parent, index) of the followers that stay.
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
            sources = [found for tensor in operation.inputs if (found := source(tensor["id"])) is not None]
            # If there are several inputs, an addition among the sources is the residual stream and decides nothing.
            several = len(operation.inputs) > 1
            verdicts = [
                stays(maker) if maker.type in FOLLOWERS else maker.name in quantized
                for maker in sources
                if not (several and maker.type in FOLLOWERS)
            ]
            wanted = operation.name in quantized if operation.type in FUNCTIONS else operation.type not in SHAPES
            decided[key] = operation.is_quantized and wanted and bool(verdicts) and all(verdicts)
        return decided[key]

    kept = {(call.parent, call.index) for call in found if call.type in FOLLOWERS and stays(call)}
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
    """By tensor: the call that makes it (None if the operator cannot be quantized), and the tensors of that call."""
    entries: list[tuple[Operation | None, dict[str, Any]]] = [(operation, operation.entry) for operation in found]
    entries += [(None, entry) for layer in summary.values() for entry in dict(layer["nonq_op_infos"]).values()]
    for operation, entry in entries:
        inputs = tuple(tensor["id"] for tensor in entry["input_tensor_infos"] if tensor)
        for output in entry["output_tensor_infos"]:
            if output:
                yield output["id"], (operation, inputs)
