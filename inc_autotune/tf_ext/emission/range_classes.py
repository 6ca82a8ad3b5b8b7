"""Equivalence classes of tensors between convolutions that are integers of one and the same range."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.tf_ext.emission.activation_grid import CONVOLVED, Grid, Range, grid_of
from inc_autotune.tf_ext.emission.range_preserving import POOLINGS, keeps_maximum, preserves_range, value_inputs
from inc_autotune.tf_ext.graph import Graph
from inc_autotune.tf_ext.target import GraphChoices

COARSEST = 10 ** (1 / 20)
"""A shared step may be this many times the step that a reader would have by itself: 1 dB more rounding noise."""

LARGEST_RELU6 = 6.0


@dataclass(frozen=True)
class RangeConstraint:
    """What the integer operators that read a tensor require of its integers.

    Args:
        range: from the smallest to the largest value that one of the operators takes.
        step: the smallest step that one of the operators would have if it quantized the tensor for itself.
        is_convolved: whether one of the operators is a convolution. A tensor that only linear operators read stays
            float, since each of these quantizes it for itself.
    """

    range: Range
    step: float
    is_convolved: bool

    def with_other(self, other: RangeConstraint) -> RangeConstraint:
        """The constraint that satisfies both."""
        return RangeConstraint(
            (min(self.range[0], other.range[0]), max(self.range[1], other.range[1])),
            min(self.step, other.step),
            self.is_convolved or other.is_convolved,
        )


@dataclass(frozen=True)
class _Class:
    """Tensors with one range.

    Args:
        tensors: names of the tensors.
        constraint: of all integer operators that read one of the tensors; None if there are none.
        ends_at_six: whether a Relu6 makes one of the tensors. The kernel computes a Relu6 by a grid that ends at 6.
    """

    tensors: frozenset[str]
    constraint: RangeConstraint | None
    ends_at_six: bool

    @property
    def is_sound(self) -> bool:
        """Whether the step is fine enough for every reader, and the grid ends at 6 if it has to."""
        if self.constraint is None:
            return True
        grid = grid_of(CONVOLVED, self.constraint.range)
        fine = grid.scale <= COARSEST * self.constraint.step
        return fine and (not self.ends_at_six or _ends_at_six(grid))

    def with_other(self, other: _Class) -> _Class:
        constraints = [constraint for constraint in (self.constraint, other.constraint) if constraint is not None]
        constraint = reduce(RangeConstraint.with_other, constraints) if constraints else None
        return _Class(self.tensors | other.tensors, constraint, self.ends_at_six or other.ends_at_six)


class RangeClasses:
    """The outputs of integer convolutions, in classes of tensors with one range.

    A max pooling, padding or concatenation that works on integers returns the range of its inputs, so its inputs and
    its output are one class. The range of a class covers the ranges that all its readers require. A node joins classes
    only if the joint range is about as fine as the range that each reader would have by itself, and if no Relu6 would
    have to end inside it. All other nodes work on float32, and every operator that reads their output quantizes it for
    itself.

    Args:
        graph: the fp32 signature.
        choices: which operators may work on integers.
        functions: activation function by tensor, for the output of every integer convolution.
        constraints: what integer operators require, by the tensor they read.
        refused: names of nodes that must work on float32.
        always_integer: tensors that are integers whatever their readers require: the outputs of depthwise convolutions,
            whose kernel has no float output.
    """

    def __init__(
        self,
        graph: Graph,
        choices: GraphChoices,
        functions: Mapping[str, str | None],
        constraints: Mapping[str, RangeConstraint],
        refused: Collection[str] = (),
        always_integer: Collection[str] = (),
    ) -> None:
        self.graph = graph
        self._functions, self._constraints = functions, constraints
        self._classes: dict[str, _Class] = {}
        self._nonnegative: set[str] = {tensor for tensor, function in functions.items() if function is not None}
        for tensor, function in functions.items():
            single = _Class(frozenset([tensor]), constraints.get(tensor), function == "Relu6")
            if single.is_sound or tensor in always_integer:
                self._classes[tensor] = single
        for node in graph.nodes:
            if node.name not in refused and preserves_range(graph, node, choices):
                self._join(node)

    def __contains__(self, tensor: str) -> bool:
        """Whether a tensor is in a class. It is integers then if `range` gives a range for it."""
        return tensor in self._classes

    def range(self, tensor: str) -> Range | None:
        """The range that the integers of a tensor have; None if the tensor is, or should be, float for every reader."""
        own_class = self._classes.get(tensor)
        if own_class is None and tensor in self._functions:
            return None  # the readers of the tensor require ranges that differ too much
        constraint = self._constraints.get(tensor) if own_class is None else own_class.constraint
        return constraint.range if constraint is not None and constraint.is_convolved else None

    def ends_at_six(self, tensor: str) -> bool:
        """Whether a Relu6 makes one of the tensors that have the range of this one, which so must end at 6 or below."""
        return tensor in self._classes and self._classes[tensor].ends_at_six

    def unsafe(self, readers: Mapping[str, Collection[str]]) -> set[str]:
        """Nodes that must work on float32, since the range of their class may not suit a reader of the float form.

        The range of a class may be required behind a max pooling, where only the largest values are left, or for a
        concatenation with tensors of much larger values. A node that reads one tensor of the class as float then gets
        values that are clipped, or rounded too coarsely.

        Args:
            readers: by tensor, names of the nodes of integer operators that read the tensor.
        """
        found: set[str] = set()
        for tensor in self._classes:
            if self.range(tensor) is not None and self._is_read_elsewhere(tensor, readers.get(tensor, ())):
                found |= self._unsafe_around(tensor)
        return found

    def _join(self, node: NodeDef) -> None:
        sources = value_inputs(node)
        if not all(tensor in self._classes for tensor in sources):
            return
        own = _Class(frozenset([node.name]), self._constraints.get(node.name), False)
        joined = reduce(_Class.with_other, _distinct(self._classes[tensor] for tensor in sources), own)
        if joined.is_sound:
            self._classes |= dict.fromkeys(joined.tensors, joined)
            if self._nonnegative.issuperset(sources):
                self._nonnegative.add(node.name)

    def _is_read_elsewhere(self, tensor: str, readers: Collection[str]) -> bool:
        """Whether a tensor is an output, or a node that is no integer operator reads it as float."""
        if tensor in self.graph.outputs:
            return True
        consumers = self.graph.consumers.get(tensor, ())
        return any(
            node.name not in self._classes and node.name not in readers and node.op != "Shape" for node in consumers
        )

    def _unsafe_around(self, tensor: str) -> set[str]:
        """The nodes to refuse so that a tensor is not in a class whose range says nothing about the tensor.

        None are refused if an operator requires a range for the tensor itself, or behind nodes that do not change the
        range. Else these are the nodes behind the tensor that change the range. Without such nodes, a tensor that a
        convolution makes loses all its readers in the class; any other tensor is the output of a node, which is
        refused if there are nodes to refuse around one of its inputs.
        """
        changing, is_constrained = self._nodes_behind(tensor)
        if is_constrained:
            return set()
        if changing:
            return changing
        if tensor in self._functions:
            return {node.name for node in self.graph.consumers.get(tensor, ()) if node.name in self._classes}
        return {tensor} if any(map(self._unsafe_around, value_inputs(self.graph.by_name[tensor]))) else set()

    def _nodes_behind(self, tensor: str) -> tuple[set[str], bool]:
        """Nodes behind a tensor that change the range, and whether an operator requires a range before such a node."""
        found: set[str] = set()
        left, seen = [tensor], {tensor}
        while left:
            current = left.pop()
            if current in self._constraints:
                return found, True
            for node in self.graph.consumers.get(current, ()):
                if node.name not in self._classes or node.name in seen:
                    continue
                seen.add(node.name)
                if self._changes_range(node, nonnegative=tensor in self._nonnegative):
                    found.add(node.name)
                else:
                    left.append(node.name)
        return found, False

    def _changes_range(self, node: NodeDef, *, nonnegative: bool) -> bool:
        if node.op in POOLINGS:
            return not (nonnegative and keeps_maximum(self.graph, node))
        return len(set(value_inputs(node))) > 1


def _distinct(classes: Iterable[_Class]) -> list[_Class]:
    return list({one.tensors: one for one in classes}.values())


def _ends_at_six(grid: Grid) -> bool:
    """Whether no integer stands for a value above 6, up to rounding."""
    return grid.maximum <= LARGEST_RELU6 + grid.scale / 2
