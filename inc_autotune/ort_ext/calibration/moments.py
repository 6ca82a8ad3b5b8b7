"""What operators multiply with their weights, for weights that are rounded by second moments."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from inc_autotune.graphs import MomentRows, Patches, Rows, moment_name, moment_names
from inc_autotune.ort_ext.graph import LINEAR_TYPES, Graph, attributes
from inc_autotune.ort_ext.operators import Operator, Phases, find_phases, recurrent_products


def moment_rows(graph: Graph, operator: Operator) -> MomentRows | None:
    """How the input of an operator becomes rows that its weight, as it is written, multiplies.

    None where its weight is rounded to nearest, a stack of matrices or a table, and for a recurrence, whose weights
    multiply other tensors too.
    """
    if operator.is_linear:
        return Rows()
    if operator.layout == "left":
        return Rows(-2)
    if operator.type not in ("Conv", "ConvTranspose"):
        return None
    node = graph.by_name[operator.name]
    if operator.type == "ConvTranspose":
        phases = find_phases(graph, node)
        assert isinstance(phases, Phases)
        pads = tuple(zip(phases.before, phases.after, strict=True))
        return Patches(phases.taps, (1,) * len(phases.taps), phases.dilations, pads, phases.group)
    given, kernel = attributes(node), (graph.shape(operator.weight) or ())[2:]
    rank = len(kernel)
    ones = [1] * rank
    around = given.get("pads", [0] * (2 * rank))
    automatic = given.get("auto_pad", b"NOTSET")
    same = {b"SAME_UPPER": "same_upper", b"SAME_LOWER": "same_lower"}.get(automatic)
    return Patches(
        kernel,
        tuple(given.get("strides", ones)),
        tuple(given.get("dilations", ones)),
        same or tuple(zip(around[:rank], around[rank:], strict=True)),  # type: ignore[arg-type]
        given.get("group", 1),
    )


def rows_by_operator(graph: Graph, operators: Mapping[str, Operator]) -> dict[str, MomentRows]:
    """How the inputs of operators become rows, of those that have one weight which a moment can round."""
    found = {name: moment_rows(graph, operator) for name, operator in operators.items()}
    return {name: rows for name, rows in found.items() if rows is not None}


def operator_moments(
    graph: Graph, operators: Mapping[str, Operator], factors: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[Sequence[str]]]:
    """Names of second moments by operator, of those whose weights can be rounded by them, see `moment_names`.

    Args:
        graph: of the fp32 model.
        operators: of that graph.
        factors: what recurrences multiply, see `HiddenStates`.
    """
    products: dict[str, list[tuple[Hashable, str]]] = {}
    for name, rows in rows_by_operator(graph, operators).items():
        operator = operators[name]
        kind = operator.transposed if operator.type in LINEAR_TYPES else (operator.type, rows.groups)
        products[name] = [((graph.origin(operator.weight), kind), moment_name(operator.input, rows))]
    for name, tensors in factors.items():
        of_node = recurrent_products(graph, graph.by_name[name])
        products[name] = [
            ((graph.origin(each.weight), each.place, each.start), moment_name(tensor, Rows()))
            for each, tensor in zip(of_node, tensors, strict=True)
        ]
    return moment_names(products)
