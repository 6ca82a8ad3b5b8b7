"""What Inductor does with products of `linear` in its graphs: what stands behind a product becomes its part.

An activation between two products, with the rounding for the second one, so that it reads integers; and the sum with a
residual and its layer normalization. Elsewhere graphs stay as they are, as all graphs without such products do.
"""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inc_autotune.torch_ext.target.linear import Product

logger = logging.getLogger(__name__)

_BEFORE = ("x", "multiplier", "offset", "zero_point", "packed", "weight_sum", "scale", "bias")
_BEHIND = Product._fields[len(_BEFORE) :]
_FOLLOWING = "following_"
"""How the names of what the second product is given begin."""


class _Fusion(NamedTuple):
    pattern: Any
    is_possible: Callable[[Any], bool]
    fuse: Callable[..., None]
    """Of a match, and of all that the pattern names."""


@cache
def register_fusions() -> None:
    """Add ours to what Inductor looks for in its graphs."""
    try:
        from torch._inductor.fx_passes.post_grad import pass_patterns
        from torch._inductor.pattern_matcher import register_graph_pattern

        # One after another: what a pass has put into a graph, only the next one sees.
        for stage, fusions in zip(pass_patterns, (_normalizations(), _activations(), _integers()), strict=False):
            for pattern, is_possible, fuse in fusions:
                register_graph_pattern(pattern, extra_check=is_possible, pass_dict=stage)(fuse)
    except Exception as error:  # names and signatures there are torch's own affair
        logger.warning("compiled products stay apart from what follows them: %s: %s", type(error).__name__, error)


def _replace(fused: Callable[..., Tensor], match: Any, **found: Any) -> None:
    names = list(found)
    match.replace_by_example(lambda *values: fused(**dict(zip(names, values, strict=True))), list(found.values()))


def _call(product: Product) -> Tensor:
    result: Tensor = torch.ops.inc_autotune.integer_linear(*product)
    return result


def _function(name: str, *arguments: Any, **options: Any) -> Any:
    """A pattern: a call of an operator of aten, by name and overload."""
    from torch._inductor.pattern_matcher import CallFunction

    packet, _, overload = name.partition(".")
    return CallFunction(getattr(getattr(torch.ops.aten, packet), overload or "default"), *arguments, **options)


def _product(users: Any, *behind: Any, before: tuple[Any, ...] = ()) -> Any:
    """A pattern: a product, what is behind it, and how many read it."""
    from torch._inductor.pattern_matcher import CallFunction, KeywordArg

    given = before or tuple(map(KeywordArg, _BEFORE))
    return CallFunction(torch.ops.inc_autotune.integer_linear.default, *given, *behind, _users=users)


def _activations() -> Iterator[_Fusion]:
    """Activations as Inductor writes them, from one product to another."""
    from torch._inductor.pattern_matcher import KeywordArg

    nothing = tuple(Product._field_defaults[name] for name in _BEHIND)
    y = _product(2, *nothing)
    half, erf = _function("mul.Tensor", y, 0.5), _function("erf", _function("mul.Tensor", y, math.sqrt(0.5)))
    gelu = _function("mul.Tensor", half, _function("add.Tensor", erf, 1))
    y = _product(4, *nothing)
    cube = _function("mul.Tensor", _function("mul.Tensor", y, y), y)
    inner = _function("add.Tensor", y, _function("mul.Tensor", cube, 0.044715))
    tanh = _function("tanh", _function("mul.Tensor", inner, math.sqrt(2 / math.pi)))
    gelu_tanh = _function("mul.Tensor", _function("mul.Tensor", y, 0.5), _function("add.Tensor", tanh, 1))
    relu = _function("relu", _product(1, *nothing))
    for name, pattern in (("gelu", gelu), ("gelu_tanh", gelu_tanh), ("relu", relu)):
        given = tuple(KeywordArg(_FOLLOWING + each) for each in Product._fields[1:])
        yield _Fusion(_second(pattern, given), _is_read_rounded, partial(_replace, partial(_rounded, name)))


def _second(first: Any, given: tuple[Any, ...]) -> Any:
    from torch._inductor.pattern_matcher import CallFunction

    return CallFunction(torch.ops.inc_autotune.integer_linear.default, first, *given)


def _is_read_rounded(match: Any) -> bool:
    """Whether the second product rounds its input, and can read rows of so many bytes."""
    return match.kwargs[_FOLLOWING + "multiplier"] is not None and _shape(match.kwargs["scale"])[0] % 4 == 0


def _rounded(activation: str, **found: Any) -> Tensor:
    """Two products, with integers between them."""
    following = {name.removeprefix(_FOLLOWING): found.pop(name) for name in list(found) if name.startswith(_FOLLOWING)}
    rounding = following.pop("multiplier"), following.pop("offset")
    integers = _call(Product(**found, activation=activation, next_multiplier=rounding[0], next_offset=rounding[1]))
    return _call(Product(x=integers, multiplier=None, offset=None, **following))


def _normalizations() -> Iterator[_Fusion]:
    """The layer normalization of the sum of a product and a residual, as Inductor writes it."""
    from torch._inductor.pattern_matcher import CallFunction, KeywordArg

    defaults = [Product._field_defaults[name] for name in _BEHIND[1:]]
    for product_first in (True, False):
        terms = [_product(1, KeywordArg("activation"), *defaults), KeywordArg("residual")]
        y = _function("add.Tensor", *(terms if product_first else reversed(terms)), _users=2)
        both = _function("var_mean.correction", y, KeywordArg("axes"), correction=0, keepdim=True, _users=2)
        variance, mean = CallFunction(operator.getitem, both, 0), CallFunction(operator.getitem, both, 1)
        factor = _function("rsqrt", _function("add.Tensor", variance, KeywordArg("epsilon")))
        normal = _function("mul.Tensor", _function("sub.Tensor", y, mean), factor)
        scaled = _function("mul.Tensor", normal, KeywordArg("norm_weight"))
        yield _Fusion(
            _function("add.Tensor", scaled, KeywordArg("norm_bias")), _is_over_columns, partial(_replace, _normalized)
        )


def _is_over_columns(match: Any) -> bool:
    """Whether the normalization is over the product's columns alone, and nothing is broadcast to other shapes."""
    found = match.kwargs
    shape = (*_shape(found["x"])[:-1], *_shape(found["scale"]))
    expected = {"residual": shape, "norm_weight": shape[-1:], "norm_bias": shape[-1:]}
    return found["axes"] == [len(shape) - 1] and all(
        _are_equal(_shape(found[name]), each) for name, each in expected.items()
    )


def _normalized(axes: Any, **found: Any) -> Tensor:
    return _call(Product(**found))


def _integers() -> Iterator[_Fusion]:
    """Products that normalize, and whose readers round what they read alike, as query, key and value do."""
    from torch._inductor.pattern_matcher import MULTIPLE, KeywordArg

    given = tuple(map(KeywordArg, Product._fields))
    pattern = _product(MULTIPLE, before=given)
    yield _Fusion(pattern, lambda match: bool(_readers(match.output_node())), _hand_on_integers)


def _readers(node: Any) -> list[Any]:
    """The products that round a normalized one's output as the first of them does."""
    product = Product(*node.args)
    readers = [
        each for each in node.users if each.target is node.target and each.args[0] is node and each.args[1] is not None
    ]
    is_ready = product.norm_weight is not None and product.next_multiplier is None
    if not is_ready or not readers or _shape(product.scale)[0] % 4:
        return []
    rounding = readers[0].args[1:3]
    if any(each.all_input_nodes for each in rounding):  # else it is an input, a constant or filled with one
        return []
    return [each for each in readers if all(map(_hold_the_same, each.args[1:3], rounding))]


def _hold_the_same(one: Any, other: Any) -> bool:
    """Whether two nodes without inputs are the same, or constants with the same numbers."""
    if one is other or one.op != other.op or one.op == "placeholder":
        return one is other
    if one.op != "get_attr":
        return (one.target, one.args, one.kwargs) == (other.target, other.args, other.kwargs)
    values = [operator.attrgetter(each.target)(each.graph.owning_module) for each in (one, other)]
    return torch.equal(*values)


def _hand_on_integers(match: Any, **found: Any) -> None:
    node = match.output_node()
    readers, graph, output = _readers(node), node.graph, node.meta["val"]
    with graph.inserting_before(node):
        # Copies, since readers' constants may come later in the graph.
        rounding = [each if each.op == "placeholder" else graph.node_copy(each) for each in readers[0].args[1:3]]
        arguments = Product(*node.args)._replace(next_multiplier=rounding[0], next_offset=rounding[1])
        both = graph.call_function(torch.ops.inc_autotune.integer_linear_and_integers.default, tuple(arguments))
        both.meta.update(_described(node), val=(output, output.new_empty(output.shape, dtype=torch.uint8)))
        parts = [graph.call_function(operator.getitem, (both, index)) for index in (0, 1)]
    for part, value in zip(parts, both.meta["val"], strict=True):
        part.meta.update(_described(node), val=value)
    for each in readers:
        each.args = (parts[1], None, None, *each.args[3:])
        each.meta = _described(each)
    node.replace_all_uses_with(parts[0])
    graph.erase_node(node)


def _described(node: Any) -> dict[str, Any]:
    """What is known of a node, but for the arguments that it was traced with, to whose strides torch holds new ones."""
    return {name: value for name, value in node.meta.items() if name != "eager_input_vals"}


def _shape(node: Any) -> tuple[Any, ...]:
    value = getattr(node, "meta", {}).get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _are_equal(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two shapes are known to be the same, for all sizes that a graph is for."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return len(one) == len(other) and all(statically_known_true(a == b) for a, b in zip(one, other, strict=True))
