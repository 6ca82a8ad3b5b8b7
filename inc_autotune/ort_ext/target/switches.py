"""Recipes of Intel Neural Compressor: switches for the whole graph, beside the configurations of operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import onnx
from pydantic import BeforeValidator, ValidationError

from inc_autotune.core.arguments import CORE_RECIPES, ArgumentModel, CheckError, argument_error, first_error
from inc_autotune.core.arguments import checks as check
from inc_autotune.core.errors import did_you_mean
from inc_autotune.ort_ext.target.forms import GraphForm

OPTIMIZATION_LEVELS = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_LAYOUT", "ENABLE_ALL")

OPERATOR_TYPES = "a list of ONNX operator types such as ['Conv', 'Add']"

_switch = BeforeValidator(check.boolean)
_switch_or_none = BeforeValidator(check.optional(check.boolean))


def _operator_types(value: object) -> tuple[str, ...]:
    if value is None or (isinstance(value, list | tuple) and not value):
        return ()
    types = check.one_or_many(check.text, OPERATOR_TYPES)(value)
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    for op_type in types:
        if op_type not in known:
            raise CheckError(f"unknown operator type {op_type!r}", OPERATOR_TYPES, did_you_mean(op_type, known))
    return types


def _level(value: object) -> str:
    allowed = f"{', '.join(map(repr, OPTIMIZATION_LEVELS))}, or None"
    name = value.upper().removeprefix("ORT_") if isinstance(value, str) else value
    return check.choice(OPTIMIZATION_LEVELS, allowed, "level")(name)


def _either(asked: bool | None, own: bool) -> bool:
    return own if asked is None else asked


class GraphRecipes(ArgumentModel):
    """The argument `recipes` without those of the core. None: the backend decides.

    Args:
        first_conv_or_matmul_quantization: whether the first Conv, MatMul or Gemm with a constant weight may leave fp32.
        last_conv_or_matmul_quantization: whether the last one may.
        pre_post_process_quantization: whether nodes before all Conv, MatMul and Gemm, or behind all of them, may.
        gemm_to_matmul: whether a quantized Gemm becomes a MatMul and an addition; else it stays one Gemm.
        graph_optimization_level: of the sessions.
        add_qdq_pair_to_weight: whether weights are stored in float32, with a QuantizeLinear before the
            DequantizeLinear.
        dedicated_qdq_pair: whether each node that reads a quantized activation has a QuantizeLinear and a
            DequantizeLinear of its own.
        integer_activations: whether Sigmoid, and Mul of two tensors, are computed in integers between convolutions: the
            two of a SiLU, a gate.
        optypes_to_exclude_output_quant: operator types whose outputs stay in float, beside those whose outputs the
            backend leaves in float.
    """

    allowed: ClassVar[str] = (
        "'first_conv_or_matmul_quantization', 'last_conv_or_matmul_quantization', 'pre_post_process_quantization', "
        "'gemm_to_matmul', 'add_qdq_pair_to_weight', 'dedicated_qdq_pair', 'integer_activations' (True or False), "
        f"'optypes_to_exclude_output_quant' ({OPERATOR_TYPES}), "
        f"'graph_optimization_level' ({', '.join(map(repr, OPTIMIZATION_LEVELS))})"
    )

    first_conv_or_matmul_quantization: Annotated[bool, _switch] = True
    last_conv_or_matmul_quantization: Annotated[bool, _switch] = True
    pre_post_process_quantization: Annotated[bool, _switch] = True
    gemm_to_matmul: Annotated[bool | None, _switch_or_none] = None
    graph_optimization_level: Annotated[str | None, BeforeValidator(check.optional(_level))] = None
    add_qdq_pair_to_weight: Annotated[bool | None, _switch_or_none] = None
    dedicated_qdq_pair: Annotated[bool | None, _switch_or_none] = None
    integer_activations: Annotated[bool, _switch] = False
    optypes_to_exclude_output_quant: Annotated[tuple[str, ...], BeforeValidator(_operator_types)] = ()

    @property
    def needs_pairs(self) -> bool:
        """Whether a switch is set that only has an effect on pairs of QuantizeLinear and DequantizeLinear."""
        return bool(self.add_qdq_pair_to_weight or self.dedicated_qdq_pair)

    def applied(self, form: GraphForm) -> GraphForm:
        """A form with the switches that the user set."""
        return replace(
            form,
            float_outputs=form.float_outputs | set(self.optypes_to_exclude_output_quant),
            backbone_only=not self.pre_post_process_quantization,
            gemm_to_matmul=_either(self.gemm_to_matmul, form.gemm_to_matmul),
            weight_pairs=_either(self.add_qdq_pair_to_weight, form.weight_pairs),
            dedicated_pairs=_either(self.dedicated_qdq_pair, form.dedicated_pairs),
        )

    def to_dict(self) -> dict[str, Any]:
        """The switches that differ from the defaults, as plain values."""
        return self.model_dump(mode="json", exclude_defaults=True)


NO_RECIPES = GraphRecipes()
RECIPE_NAMES = tuple(GraphRecipes.model_fields)


def read_recipes(recipes: Mapping[str, Any]) -> GraphRecipes:
    """The switches for the graph in the argument `recipes`.

    Raises:
        ArgumentError: a name is unknown, or a value is not allowed.
    """
    given = {name: value for name, value in recipes.items() if name not in CORE_RECIPES}
    try:
        return GraphRecipes.model_validate(given)
    except ValidationError as error:
        path, problem = first_error(error)
        raise argument_error("recipes", given, path, problem) from None
