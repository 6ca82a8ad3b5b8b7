"""What the graphs of a model say: operators, who is decided with whom, and what has to be calibrated."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property, partial

from inc_autotune.core.errors import ArgumentError, did_you_mean
from inc_autotune.graphs import MomentRows, WatchedTensor, moment_name, moment_names, shared_weights
from inc_autotune.tf_ext.calibration.moments import moment_rows
from inc_autotune.tf_ext.calibration.ranges import weight_of
from inc_autotune.tf_ext.graph import CONDITION, Body, Graph, GraphModel, bodies_of, with_unique_names
from inc_autotune.tf_ext.operators import (
    DEPTHWISE,
    DEPTHWISE_REASON,
    LOOKUP,
    Operator,
    depthwise_neighbours,
    find_operators,
    find_weights,
    kernel_weight,
)


class Analysis:
    """The signatures of a model that are quantized, and their operators under names that are unique over all of them.

    Args:
        model: in fp32.
        signatures: names of those to quantize; None: the first one.
        skipped: operators to leave in fp32 whatever they are, with the reason: "first" and "last", in the order of the
            graph.

    Attributes:
        graphs: by name of the signature.
        bodies: functions that the nodes of a graph call and that are quantized too, by the graph; those of functions
            as well.
        operators: those that can be quantized, by name, in the order of the graphs.
        skipped: (type, reason) by name of those that cannot.
        graph_of: the graph of each operator.
        weights: elements by a key of the weight, by name of each operator, found or skipped, that reads weights.

    Raises:
        ArgumentError: there is no signature of such a name.
    """

    def __init__(
        self, model: GraphModel, signatures: Sequence[str] | None = None, skipped: Mapping[str, str] | None = None
    ) -> None:
        self.model = model
        chosen = list(model.signatures)[:1] if signatures is None else list(dict.fromkeys(signatures))
        for name in chosen:
            if name not in model.signatures:
                known = ", ".join(map(repr, model.signatures))
                raise ArgumentError(
                    f"signatures={list(signatures or ())!r}: the model has no signature {name!r}. It has: {known}."
                    f"{did_you_mean(name, model.signatures)}"
                )
        renamed = with_unique_names(model.signatures)
        self.graphs: Mapping[str, Graph] = {name: Graph(renamed[name]) for name in chosen}
        self.operators: dict[str, Operator] = {}
        self.skipped: dict[str, tuple[str, str]] = {}
        self.graph_of: dict[str, Graph] = {}
        self.weights: dict[str, Mapping[Hashable, int]] = {}
        self._neighbours: dict[str, tuple[str, ...]] = {}
        self.bodies: dict[Graph, Sequence[Body]] = {}
        for graph in self.graphs.values():
            self._add(graph, skipped or {})

    def _add(self, signature: Graph, unwanted: Mapping[str, str]) -> None:
        graphs = list(self._with_bodies(signature))
        by_graph = {graph: find_operators(graph) for graph in graphs}
        found = {name: each for operators in by_graph.values() for name, each in operators.found.items()}
        skipped = {name: each for operators in by_graph.values() for name, each in operators.skipped.items()}
        neighbours = {
            name: others
            for graph, operators in by_graph.items()
            for name, others in depthwise_neighbours(graph, operators.found).items()
        }
        names = [name for name, each in found.items() if each.type != LOOKUP]
        ends = {"first": names[0], "last": names[-1]} if names else {}
        reasons = {ends[end]: reason for end, reason in unwanted.items() if end in ends}
        for name, each in found.items():
            if each.type == DEPTHWISE and (
                name not in neighbours or any(other in reasons for other in neighbours[name])
            ):
                reasons.setdefault(name, DEPTHWISE_REASON)
        self.skipped |= skipped
        nodes = {each.node.name: name for name, each in found.items()}
        for graph in graphs:
            callers = {body.caller for body in self.bodies[graph]}
            weights = find_weights(graph, {*nodes, *skipped}, callers)
            self.skipped |= weights.others
            self.weights |= {nodes.get(name, name): own for name, own in weights.by_operator.items()}
        self.skipped |= {name: (found[name].type, reason) for name, reason in reasons.items()}
        for graph, operators in by_graph.items():
            for name, each in operators.found.items():
                if name not in reasons:
                    self.operators[name] = each
                    self.graph_of[name] = graph
        self._neighbours |= {name: others for name, others in neighbours.items() if name in self.operators}

    def _with_bodies(self, graph: Graph) -> Iterator[Graph]:
        """A graph and the functions that are called in it, in the order in which they run."""
        yield graph
        self.bodies[graph] = list(bodies_of(graph))
        for body in self.bodies[graph]:
            if body.key != CONDITION:
                yield from self._with_bodies(body.graph)
            else:
                self.bodies[body.graph] = []

    def graphs_in(self, signature: str) -> list[Graph]:
        """The graph of a signature, and those of the functions in it."""
        found = [self.graphs[signature]]
        for graph in found:  # grows meanwhile
            found += [body.graph for body in self.bodies[graph]]
        return found

    def operators_of(self, graph: Graph) -> dict[str, Operator]:
        """The operators of one of the graphs, by name."""
        return {name: each for name, each in self.operators.items() if self.graph_of[name] is graph}

    def inputs(self, name: str) -> int:
        """How many values each feature of a linear operator is a sum of."""
        return int(kernel_weight(self.graph_of[name], self.operators[name]).shape[0])

    @cached_property
    def shared_weights(self) -> frozenset[str]:
        """Names of the operators whose weight others with another input read too."""
        products = [each for each in self.operators.values() if each.type != LOOKUP]
        return shared_weights(products, partial(weight_of, self.graph_of))

    @cached_property
    def moment_names(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Names of second moments by operator, of those whose weight can be rounded by them."""
        products: dict[str, list[tuple[Hashable, str]]] = {}
        for name, rows in self._moment_rows.items():
            operator = self.operators[name]
            kind = None if operator.is_linear else (operator.type, rows.groups)
            weight = self.graph_of[name].origin(operator.weight), operator.transposed, kind
            products[name] = [(weight, moment_name(operator.input, rows))]
        return moment_names(products)

    @cached_property
    def _moment_rows(self) -> Mapping[str, MomentRows]:
        """How the inputs of operators become rows that their weights multiply, of those where they do.

        Of tensors in the functions of loops rows are all that is seen, no patches.
        """
        signatures = set(self.graphs.values())
        found = {
            name: moment_rows(self.graph_of[name], operator)
            for name, operator in self.operators.items()
            if operator.is_linear or self.graph_of[name] in signatures
        }
        return {name: rows for name, rows in found.items() if rows is not None}

    @property
    def groups(self) -> list[list[str]]:
        """Names of operators that are decided together: those that read one tensor, and a depthwise convolution with
        the convolutions around it."""
        leader: dict[str, str] = {}
        by_input: dict[tuple[str, bool], str] = {}
        for name, each in self.operators.items():
            leader[name] = by_input.setdefault((each.input, each.is_linear), name)
        for name, others in self._neighbours.items():
            joined = {leader[each] for each in (name, *others)}
            first = min(joined, key=list(self.operators).index)
            leader = {each: first if its in joined else its for each, its in leader.items()}
        groups: dict[str, list[str]] = {}
        for name, its in leader.items():
            groups.setdefault(its, []).append(name)
        return list(groups.values())

    def watched(self, signature: str, *, histogram: bool) -> list[WatchedTensor]:
        """The inputs of all operators of a signature, and the outputs of its depthwise convolutions."""
        graphs = set(self.graphs_in(signature))
        found: dict[str, WatchedTensor] = {}
        rows: dict[str, dict[MomentRows, None]] = {}
        for name, each_rows in self._moment_rows.items():
            rows.setdefault(self.operators[name].input, {})[each_rows] = None
        for name, each in self.operators.items():
            if self.graph_of[name] not in graphs or each.type == LOOKUP:
                continue
            found[each.input] = WatchedTensor(each.input, True, histogram, moments=tuple(rows.get(each.input, ())))
            if each.type == DEPTHWISE:
                found.setdefault(each.output, WatchedTensor(each.output, False, histogram))
        return list(found.values())
