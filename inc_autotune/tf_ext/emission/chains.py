"""Which tensors stay integers between convolutions: max poolings, paddings, concatenations and residual sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.tf_ext.calibration import QuantizationPlan
from inc_autotune.tf_ext.emission.activation_grid import CONVOLVED, Range, grid_of
from inc_autotune.tf_ext.emission.range_classes import RangeClasses, RangeConstraint
from inc_autotune.tf_ext.graph import Graph
from inc_autotune.tf_ext.operators import CONVOLUTION, DEPTHWISE, VOLUME, Operator, Residual, find_residuals


class IntegerChains:
    """The tensors of a signature that are integers without a float form in between.

    Max poolings, paddings and concatenations between integer convolutions work on integers if all operators that read
    their output require about the same range, see `RangeClasses`. The sum at the end of a residual block is fused with
    a convolution if convolutions read both the addend and the result as unsigned integers: kernels are far less exact
    with signed ones.

    Args:
        graph: the fp32 signature.
        operators: of that graph, by name.
        plan: says which operators are integer.

    Attributes:
        residuals: the fused sums, by the name of the convolution that computes the sum.
    """

    def __init__(self, graph: Graph, operators: Mapping[str, Operator], plan: QuantizationPlan) -> None:
        self.graph, self.plan = graph, plan
        self._integer = [operator for operator in operators.values() if plan.is_integer(operator.name)]
        self._depthwise = {operator.output: operator.name for operator in self._integer if operator.type == DEPTHWISE}
        self.residuals, self._classes = self._fused(operators)

    def required_range(self, tensor: str) -> Range | None:
        """The range that the integers of a tensor must have for the operators that read the tensor.

        Returns:
            None if the tensor is read as float: no integer convolution reads it, or its readers require ranges that
            differ too much.
        """
        return self._classes.range(tensor)

    def output_range(self, operator: Operator) -> Range | None:
        """The range of the integers that an integer convolution returns, or of the sum that is fused with it.

        Returns:
            None if the convolution returns float32.
        """
        residual = self.residuals.get(operator.name)
        return self.integer_range(operator.output if residual is None else residual.output)

    def reads_signed(self, operator: Operator) -> bool:
        """Whether the integers that an integer operator reads have a sign."""
        if self.plan.is_dynamic(operator.name):
            return False
        config, calibration = self.plan.configs[operator.name], self.plan.calibration(operator.name)
        # A smoothed operator quantizes its smoothed input by itself, whatever integers there are of the input.
        limits = None if calibration.smoothing is not None else self.integer_range(operator.input)
        if limits is not None:
            return not _is_unsigned(limits)
        assert calibration.range is not None
        return grid_of(config.activation if operator.is_linear else CONVOLVED, calibration.range).is_signed

    def contains(self, node: NodeDef) -> bool:
        """Whether a max pooling, padding or concatenation works on integers."""
        return self.makes_integers(node.name)

    def makes_integers(self, tensor: str) -> bool:
        """Whether a tensor is the integer output of an integer operator, without a float form in between."""
        return tensor in self._classes and self.required_range(tensor) is not None

    def integer_range(self, tensor: str) -> Range | None:
        """The range of a tensor that an integer operator returns as integers; None for a float tensor."""
        found = self.required_range(tensor) if tensor in self._classes else None
        if found is None and tensor in self._depthwise:
            return self.plan.calibration(self._depthwise[tensor]).output_range
        return found

    def ends_at_six(self, tensor: str) -> bool:
        """Whether the range of a tensor must end at 6 or below, see `RangeClasses`."""
        return self._classes.ends_at_six(tensor)

    def _fused(self, operators: Mapping[str, Operator]) -> tuple[dict[str, Residual], RangeClasses]:
        """The residual sums that are fused, by convolution, and the range classes of the signature with these sums.

        It begins with all sums, and takes away every sum whose addend or result is not read as unsigned integers, until
        nothing changes: ranges depend on the fused sums. On the way nodes are refused, see `RangeClasses.unsafe`.
        """
        convolutions = [operator for operator in self._integer if operator.may_return_integers]
        fusable = {operator.name for operator in convolutions if operator.type in (CONVOLUTION, VOLUME)}
        sums: dict[str, Residual] = {}
        for residual in find_residuals(self.graph, operators) if self.plan.choices.fuse_residual else ():
            if residual.operator in fusable:
                sums.setdefault(residual.output, residual)
        readers, constraints = _constraints(self._integer, self.plan)
        always_integer = {operator.output for operator in convolutions if operator.type == DEPTHWISE}
        refused: set[str] = set()
        while True:
            functions = {operator.output: operator.function for operator in convolutions}
            functions |= {output: residual.function for output, residual in sums.items()}
            classes = RangeClasses(self.graph, self.plan.choices, functions, constraints, refused, always_integer)
            unsigned = {
                output: residual
                for output, residual in sums.items()
                if _is_unsigned(classes.range(residual.addend)) and _is_unsigned(classes.range(output))
            }
            unsafe = classes.unsafe(readers)
            if len(unsigned) == len(sums) and not unsafe:
                return {residual.operator: residual for residual in unsigned.values()}, classes
            sums = unsigned
            refused |= unsafe


def _constraints(
    operators: Iterable[Operator], plan: QuantizationPlan
) -> tuple[dict[str, set[str]], dict[str, RangeConstraint]]:
    """By tensor: the nodes of integer operators that read it, and the range that these operators require.

    Smoothed operators read a divided copy of the tensor and are left out.
    """
    readers: dict[str, set[str]] = {}
    constraints: dict[str, RangeConstraint] = {}
    for operator in operators:
        calibration = plan.calibration(operator.name)
        if calibration.range is None or calibration.smoothing is not None:
            continue
        readers.setdefault(operator.input, set()).add(operator.node.name)
        # Integers that are handed on have no zero point, so none is missed.
        activation = plan.configs[operator.name].activation if operator.is_linear else CONVOLVED
        step = grid_of(activation, calibration.range).scale
        constraint = RangeConstraint(calibration.range, step, not operator.is_linear)
        known = constraints.get(operator.input)
        constraints[operator.input] = constraint if known is None else known.with_other(constraint)
    return readers, constraints


def _is_unsigned(limits: Range | None) -> bool:
    return limits is not None and limits[0] >= 0
