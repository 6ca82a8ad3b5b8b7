"""Which tensors stay integers between convolutions."""

from __future__ import annotations

from collections.abc import Mapping

from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.tf_ext.graph import Graph, data_inputs
from inc_autotune.tf_ext.operators import CONVOLUTION, DEPTHWISE, Operator
from inc_autotune.tf_ext.plan import GraphChoices, QuantizationPlan
from inc_autotune.tf_ext.residual import Residual, find_residuals

DEPTHWISE_REASON = "integer depthwise convolutions are not faster, except between other integer convolutions"

Range = tuple[float, float]


class IntegerChains:
    """Between integer convolutions, max poolings, paddings and concatenations work on integers too.

    A max pooling or padding keeps the range of its input. All inputs of a concatenation get the range of its output.
    The sum that ends a residual block is computed with its convolution where convolutions read both the addend and the
    result as unsigned integers: kernels are far less exact with signed ones.

    Args:
        graph: the fp32 signature.
        operators: of that graph, by name.
        plan: which of them are integer.

    Attributes:
        residuals: sums that are computed with a convolution, by its name.
    """

    def __init__(self, graph: Graph, operators: Mapping[str, Operator], plan: QuantizationPlan) -> None:
        self.graph, self.plan = graph, plan
        integer = [each for each in operators.values() if not each.is_linear and plan.is_integer(each.name)]
        self._by_node = {each.node.name: each for each in integer}
        self._convolved = {each.output for each in integer}
        self.residuals = self._find_residuals(operators)

    def wanted_range(self, tensor: str) -> Range | None:
        """The range that readers want the integers of a tensor to have; None where no integer operator reads it."""
        if tensor not in self._wanted:
            self._wanted[tensor] = self._find_wanted(tensor)
        return self._wanted[tensor]

    def contains(self, node: NodeDef) -> bool:
        """Whether a max pooling, padding or concatenation works on integers."""
        return self._reads_integers(node) and self.wanted_range(node.name) is not None

    def makes_integers(self, tensor: str) -> bool:
        """Whether integers of a tensor come out of integer operators, without having been real numbers."""
        made = tensor in self._made or self._reads_integers(self.graph.producer(tensor))
        return made and self.wanted_range(tensor) is not None

    def _find_residuals(self, operators: Mapping[str, Operator]) -> dict[str, Residual]:
        """All that may be, without those whose addend or result turns out not to be read as unsigned integers."""
        integer = {each.name for each in self._by_node.values() if each.type == CONVOLUTION}
        left: dict[str, Residual] = {}
        for each in find_residuals(self.graph, operators) if self.plan.choices.fuse_residual else ():
            if each.operator in integer:
                left.setdefault(each.output, each)
        while True:
            self._made = self._convolved | left.keys()
            self._wanted: dict[str, Range | None] = {}
            fit = {
                output: each
                for output, each in left.items()
                if self._is_read_unsigned(each.addend) and self._is_read_unsigned(output)
            }
            if len(fit) == len(left):
                return {each.operator: each for each in fit.values()}
            left = fit

    def _is_read_unsigned(self, tensor: str) -> bool:
        wanted = self.wanted_range(tensor)
        return wanted is not None and wanted[0] >= 0

    def _find_wanted(self, tensor: str) -> Range | None:
        for node in self.graph.consumers.get(tensor, ()):
            if node.name in self._by_node:
                return self.plan.calibration(self._by_node[node.name].name).range
            wanted = self.wanted_range(node.name) if self._reads_integers(node) else None
            if wanted is not None:
                return wanted
        return None

    def _reads_integers(self, node: NodeDef) -> bool:
        """Whether a node picks values, and all of them come from integer convolutions."""
        left = [node]
        while left:
            each = left.pop()
            if not _picks(self.graph, each, self.plan.choices):
                return False
            left += [self.graph.producer(tensor) for tensor in _picked(each) if tensor not in self._made]
        return True


def depthwise_neighbours(graph: Graph, operators: Mapping[str, Operator]) -> Mapping[str, tuple[str, ...]]:
    """Of each depthwise convolution between convolutions the names of these; others are left out."""
    by_output = {each.output: each for each in operators.values() if not each.is_linear}
    by_node = {each.node.name: each for each in operators.values() if each.type == CONVOLUTION}
    found: dict[str, tuple[str, ...]] = {}
    for operator in operators.values():
        before = by_output.get(operator.input)
        if operator.type != DEPTHWISE or before is None or (before.type == DEPTHWISE and before.name not in found):
            continue
        readers = graph.consumers.get(operator.output, ())
        if readers and operator.output not in graph.outputs and all(each.name in by_node for each in readers):
            found[operator.name] = (before.name, *(by_node[each.name].name for each in readers))
    return found


def _picks(graph: Graph, node: NodeDef, choices: GraphChoices) -> bool:
    """Whether a node's output consists of values of its inputs, and of zeros, which are integers of every range."""
    if node.op == "MaxPool":
        return choices.propagate_max_pooling and node.attr["data_format"].s in (b"", b"NHWC")
    if node.op == "ConcatV2":
        return choices.propagate_concat and graph.constant_node(list(data_inputs(node))[-1]) is not None
    return str(node.op) == "Pad"


def _picked(node: NodeDef) -> list[str]:
    """What a node picks its values of."""
    tensors = list(data_inputs(node))
    return tensors if node.op == "MaxPool" else tensors[:-1]
