"""Finds the sums that end residual blocks: a convolution, plus what went around it, and a ReLU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inc_autotune.tf_ext.graph import COPIES, Graph, tensor_name
from inc_autotune.tf_ext.operators.discovery import CONVOLUTION, VOLUME, Operator
from inc_autotune.tf_ext.operators.epilogue import CONVOLUTION_FUNCTIONS

_KEEPS_BATCH = ("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D", "Relu", "Relu6", *COPIES)


@dataclass(frozen=True)
class Residual:
    """What follows a convolution and may be computed together with it: `function(convolution + addend)`.

    Args:
        operator: name of the convolution.
        addend: the tensor that is added.
        nodes: names of the sum and of the function.
        function: "Relu" or "Relu6".
    """

    operator: str
    addend: str
    nodes: tuple[str, str]
    function: str

    @property
    def output(self) -> str:
        """The tensor after the function."""
        return self.nodes[1]


def find_residuals(graph: Graph, operators: Mapping[str, Operator]) -> list[Residual]:
    """The sums behind convolutions, in the order of the graph; a sum of two convolutions stands twice.

    Both tensors have the same shape whatever the inputs are: nothing is broadcast.

    Args:
        graph: of the signature.
        operators: of that graph, by name.
    """
    maker = {each.output: each for each in operators.values() if each.may_return_integers}
    found = []
    for operator in operators.values():
        if operator.type not in (CONVOLUTION, VOLUME) or operator.epilogue.function is not None:
            continue
        total = graph.only_consumer(operator.output)
        if total is None or total.op not in ("AddV2", "Add"):
            continue
        function = graph.only_consumer(total.name)
        if function is None or function.op not in CONVOLUTION_FUNCTIONS:
            continue
        addend = next((each for each in map(tensor_name, total.input) if each != operator.output), None)
        if addend is not None and _same_shape(graph, maker, operator, addend):
            found.append(Residual(operator.name, addend, (total.name, function.name), function.op))
    return found


def _same_shape(graph: Graph, maker: Mapping[str, Operator], operator: Operator, addend: str) -> bool:
    """Whether a convolution's result and a tensor have the same known shape, and the same number of samples."""
    shape = graph.shape(addend)
    if shape is None or shape != graph.shape(operator.output) or None in shape[1:]:
        return False
    return bool(_same_batch(graph, maker, operator.input) & _same_batch(graph, maker, addend))


def _same_batch(graph: Graph, maker: Mapping[str, Operator], tensor: str) -> set[str]:
    """A tensor and those it was made of that surely have as many samples."""
    found = {tensor}
    while True:
        operator, node = maker.get(tensor), graph.producer(tensor)
        if operator is not None:
            tensor = operator.input
        elif node.op in _KEEPS_BATCH:
            tensor = tensor_name(node.input[0])
        else:
            return found
        found.add(tensor)
