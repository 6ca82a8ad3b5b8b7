"""Tensors between convolutions that are integers of one and the same range."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.tf_ext.emission.activation_grid import CONVOLVED, Grid, Range, grid_of
from inc_autotune.tf_ext.emission.selection import keeps_largest, picked, picks
from inc_autotune.tf_ext.graph.graph import Graph
from inc_autotune.tf_ext.target.choices import GraphChoices

COARSEST = 10 ** (1 / 20)
"""Times the step that a reader would have by itself, which adds 1 dB to the noise of its rounding."""

LARGEST_RELU6 = 6.0


@dataclass(frozen=True)
class Demand:
    """What the integer operators that read a tensor ask for.

    Args:
        range: holds the values that each of them takes.
        step: of the integers that they would read if nobody else did.
        is_convolved: whether one of them is a convolution: others alone rather read real numbers.
    """

    range: Range
    step: float
    is_convolved: bool

    def with_other(self, other: Demand) -> Demand:
        """What both ask for."""
        return Demand(
            (min(self.range[0], other.range[0]), max(self.range[1], other.range[1])),
            min(self.step, other.step),
            self.is_convolved or other.is_convolved,
        )


@dataclass(frozen=True)
class _Class:
    """Tensors with one range.

    Args:
        tensors: their names.
        demand: of all who read one of them; None where nobody does.
        ends_at_six: whether one of them is made by a Relu6, which the kernel computes by ending its integers there.
    """

    tensors: frozenset[str]
    demand: Demand | None
    ends_at_six: bool

    @property
    def is_sound(self) -> bool:
        """Whether the integers are fine enough for every reader, and end where they have to."""
        if self.demand is None:
            return True
        grid = grid_of(CONVOLVED, self.demand.range)
        fine = grid.scale <= COARSEST * self.demand.step
        return fine and (not self.ends_at_six or _ends_at_six(grid))

    def with_other(self, other: _Class) -> _Class:
        demands = [each for each in (self.demand, other.demand) if each is not None]
        demand = reduce(Demand.with_other, demands) if demands else None
        return _Class(self.tensors | other.tensors, demand, self.ends_at_six or other.ends_at_six)


class RangeClasses:
    """Max poolings, paddings and concatenations hand on the range of what they read: all of it is one class.

    A class has the range that holds what all its readers take. An operator joins classes only where that range is
    about as fine as the one each reader would have by itself, and where no Relu6 has to end in the middle of it. All
    others work on real numbers: each of their readers quantizes for itself.

    Args:
        graph: the fp32 signature.
        choices: which operators may hand on integers.
        functions: activation function by each tensor that an integer convolution makes.
        demands: of integer operators, by the tensor they read.
        refused: nodes that work on real numbers whatever they read.
        lasting: tensors that are integers whatever their readers want: a depthwise convolution has no other result.
    """

    def __init__(
        self,
        graph: Graph,
        choices: GraphChoices,
        functions: Mapping[str, str | None],
        demands: Mapping[str, Demand],
        refused: Collection[str] = (),
        lasting: Collection[str] = (),
    ) -> None:
        self.graph = graph
        self._functions, self._demands = functions, demands
        self._classes: dict[str, _Class] = {}
        self._nonnegative: set[str] = {tensor for tensor, function in functions.items() if function is not None}
        for tensor, function in functions.items():
            one = _Class(frozenset([tensor]), demands.get(tensor), function == "Relu6")
            if one.is_sound or tensor in lasting:
                self._classes[tensor] = one
        for node in graph.nodes:
            if node.name not in refused and picks(graph, node, choices):
                self._join(node)

    def __contains__(self, tensor: str) -> bool:
        """Whether a tensor is in a class: if its range is wanted, it is made of integers."""
        return tensor in self._classes

    def range(self, tensor: str) -> Range | None:
        """The range of the integers of a tensor; None where it is, or should be, real numbers for every reader."""
        one = self._classes.get(tensor)
        if one is None and tensor in self._functions:
            return None  # its readers do not agree
        demand = self._demands.get(tensor) if one is None else one.demand
        return demand.range if demand is not None and demand.is_convolved else None

    def unsafe(self, readers: Mapping[str, Collection[str]]) -> set[str]:
        """Nodes that must work on real numbers, since their class may not suit what somebody reads as real numbers.

        The range of a class may come from behind a max pooling, where only the largest values are left, or from tensors
        that are concatenated with this one and are much larger.

        Args:
            readers: by tensor, names of integer operators' nodes that read it.
        """
        found: set[str] = set()
        for tensor in self._classes:
            if self.range(tensor) is not None and self._is_read_elsewhere(tensor, readers.get(tensor, ())):
                found |= self._unsafe_around(tensor)
        return found

    def _join(self, node: NodeDef) -> None:
        sources = picked(node)
        if not all(tensor in self._classes for tensor in sources):
            return
        own = _Class(frozenset([node.name]), self._demands.get(node.name), False)
        joined = reduce(_Class.with_other, _distinct(self._classes[tensor] for tensor in sources), own)
        if joined.is_sound:
            self._classes |= dict.fromkeys(joined.tensors, joined)
            if self._nonnegative.issuperset(sources):
                self._nonnegative.add(node.name)

    def _is_read_elsewhere(self, tensor: str, readers: Collection[str]) -> bool:
        """Whether somebody reads real numbers of a tensor."""
        if tensor in self.graph.outputs:
            return True
        consumers = self.graph.consumers.get(tensor, ())
        return any(
            each.name not in self._classes and each.name not in readers and each.op != "Shape" for each in consumers
        )

    def _unsafe_around(self, tensor: str) -> set[str]:
        """The nodes to blame where no demand is known to be about the range of a tensor; none where one is."""
        nodes, is_known = self._searched(tensor)
        if is_known:
            return set()
        if nodes:
            return nodes
        if tensor in self._functions:
            return {each.name for each in self.graph.consumers.get(tensor, ()) if each.name in self._classes}
        return {tensor} if any(map(self._unsafe_around, picked(self.graph.by_name[tensor]))) else set()

    def _searched(self, tensor: str) -> tuple[set[str], bool]:
        """Nodes behind a tensor whose output has another range, and whether there is a demand before these."""
        found: set[str] = set()
        left, seen = [tensor], {tensor}
        while left:
            each = left.pop()
            if each in self._demands:
                return found, True
            for node in self.graph.consumers.get(each, ()):
                if node.name not in self._classes or node.name in seen:
                    continue
                seen.add(node.name)
                if self._changes_range(node, nonnegative=tensor in self._nonnegative):
                    found.add(node.name)
                else:
                    left.append(node.name)
        return found, False

    def _changes_range(self, node: NodeDef, *, nonnegative: bool) -> bool:
        if node.op == "MaxPool":
            return not (nonnegative and keeps_largest(self.graph, node))
        return len(set(picked(node))) > 1


def _distinct(classes: Iterable[_Class]) -> list[_Class]:
    return list({each.tensors: each for each in classes}.values())


def _ends_at_six(grid: Grid) -> bool:
    """Whether no integer stands for more than six, but for rounding."""
    return grid.maximum <= LARGEST_RELU6 + grid.scale / 2
