"""Which tensors stay integers between convolutions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.tf_ext.calibration.plan import QuantizationPlan
from inc_autotune.tf_ext.emission.activation_grid import Range, grid_of
from inc_autotune.tf_ext.emission.range_classes import Demand, RangeClasses
from inc_autotune.tf_ext.graph.graph import Graph
from inc_autotune.tf_ext.operators.discovery import CONVOLUTION, DEPTHWISE, Operator
from inc_autotune.tf_ext.operators.residual import Residual, find_residuals


class IntegerChains:
    """Between integer convolutions, max poolings, paddings and concatenations work on integers too.

    They do where all their readers want about the same range, see `RangeClasses`. The sum that ends a residual block is
    computed with its convolution where convolutions read both the addend and the result as unsigned integers: kernels
    are far less exact with signed ones.

    Args:
        graph: the fp32 signature.
        operators: of that graph, by name.
        plan: which of them are integer.

    Attributes:
        residuals: sums that are computed with a convolution, by its name.
    """

    def __init__(self, graph: Graph, operators: Mapping[str, Operator], plan: QuantizationPlan) -> None:
        self.graph, self.plan = graph, plan
        self._integer = [each for each in operators.values() if plan.is_integer(each.name)]
        self._depthwise = {each.output: each.name for each in self._integer if each.type == DEPTHWISE}
        self.residuals, self._classes = self._settled(operators)

    def wanted_range(self, tensor: str) -> Range | None:
        """The range that readers want the integers of a tensor to have; None where they take real numbers: no integer
        convolution reads it, or they do not agree."""
        return self._classes.range(tensor)

    def handed_on(self, operator: Operator) -> Range | None:
        """The range of the integers that an integer convolution hands on, of the sum where it computes that too; None
        where it returns real numbers."""
        residual = self.residuals.get(operator.name)
        return self._made_range(operator.output if residual is None else residual.output)

    def reads_signed(self, operator: Operator) -> bool:
        """Whether the integers that an integer operator reads have a sign."""
        config, calibration = self.plan.configs[operator.name], self.plan.calibration(operator.name)
        # What is smoothed is quantized by itself.
        made = None if calibration.smoothing is not None else self._made_range(operator.input)
        if made is not None:
            return not _is_unsigned(made)
        assert calibration.range is not None
        return grid_of(config.activation, calibration.range).is_signed

    def contains(self, node: NodeDef) -> bool:
        """Whether a max pooling, padding or concatenation works on integers."""
        return self.makes_integers(node.name)

    def makes_integers(self, tensor: str) -> bool:
        """Whether integers of a tensor come out of integer operators, without having been real numbers."""
        return tensor in self._classes and self.wanted_range(tensor) is not None

    def _made_range(self, tensor: str) -> Range | None:
        """The range of the integers that come out of an integer operator; None where it returns real numbers."""
        found = self.wanted_range(tensor) if tensor in self._classes else None
        if found is None and tensor in self._depthwise:
            return self.plan.calibration(self._depthwise[tensor]).output_range
        return found

    def _settled(self, operators: Mapping[str, Operator]) -> tuple[dict[str, Residual], RangeClasses]:
        """All sums that may be, without those whose addend or result turns out not to be read as unsigned integers;
        and the ranges that follow, which hold what others read as real numbers."""
        integer = {each.name for each in self._integer if each.type == CONVOLUTION}
        left: dict[str, Residual] = {}
        for each in find_residuals(self.graph, operators) if self.plan.choices.fuse_residual else ():
            if each.operator in integer:
                left.setdefault(each.output, each)
        readers, demands = _read(self._integer, self.plan)
        convolutions = [each for each in self._integer if not each.is_linear]
        lasting = {each.output for each in convolutions if each.type == DEPTHWISE}
        refused: set[str] = set()
        while True:
            functions = {each.output: each.function for each in convolutions}
            functions |= {output: each.function for output, each in left.items()}
            classes = RangeClasses(self.graph, self.plan.choices, functions, demands, refused, lasting)
            fit = {
                output: each
                for output, each in left.items()
                if _is_unsigned(classes.range(each.addend)) and _is_unsigned(classes.range(output))
            }
            unsafe = classes.unsafe(readers)
            if len(fit) == len(left) and not unsafe:
                return {each.operator: each for each in fit.values()}, classes
            left = fit
            refused |= unsafe


def _read(operators: Iterable[Operator], plan: QuantizationPlan) -> tuple[dict[str, set[str]], dict[str, Demand]]:
    """Nodes of the integer operators that read each tensor, and what they ask for; who is smoothed reads another."""
    readers: dict[str, set[str]] = {}
    demands: dict[str, Demand] = {}
    for operator in operators:
        calibration = plan.calibration(operator.name)
        if calibration.range is None or calibration.smoothing is not None:
            continue
        readers.setdefault(operator.input, set()).add(operator.node.name)
        step = grid_of(plan.configs[operator.name].activation, calibration.range).scale
        demand = Demand(calibration.range, step, not operator.is_linear)
        known = demands.get(operator.input)
        demands[operator.input] = demand if known is None else known.with_other(demand)
    return readers, demands


def _is_unsigned(limits: Range | None) -> bool:
    return limits is not None and limits[0] >= 0
