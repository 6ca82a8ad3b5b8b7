"""Carries a recipe tuned in PyTorch over to the ONNX export of the same model."""

from __future__ import annotations

import ast
import logging
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import onnx

from inc_autotune.core.errors import RecipeError
from inc_autotune.core.op_config import FP32
from inc_autotune.core.quantization import pack_steps, unpack_steps
from inc_autotune.core.result import OperatorRecipe, Recipe
from inc_autotune.graphs import STEPS, WEIGHT_FRAMEWORK
from inc_autotune.ort_ext.calibration import FRAMEWORK
from inc_autotune.ort_ext.graph import Graph
from inc_autotune.ort_ext.model import SourceModel
from inc_autotune.ort_ext.operators import Operator, after_activation, find_operators
from inc_autotune.ort_ext.operators.bounds import bounds
from inc_autotune.ort_ext.operators.rewriting import rewritten
from inc_autotune.ort_ext.target import QDQ

logger = logging.getLogger(__name__)

TORCH_FRAMEWORK = "pytorch"
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where `torch.onnx.export(dynamo=True)` notes the modules a node comes from, the outermost first, then its name."""

COUNTERPARTS = {
    "Linear": ("MatMul", "Gemm"),
    "Conv1D": ("MatMul", "Gemm"),
    "Conv1d": ("Conv",),
    "Conv2d": ("Conv",),
    "Conv3d": ("Conv",),
    "ConvTranspose1d": ("ConvTranspose",),
    "ConvTranspose2d": ("ConvTranspose",),
    "LSTM": ("LSTM",),
    "GRU": ("GRU",),
    "RNN": ("RNN",),
}
"""PyTorch modules, and the nodes they are exported as."""

LAYERED_TYPES = ("LSTM", "GRU", "RNN")
"""Modules that are exported as one node for each of their layers."""


def from_torch_recipe(recipe: Recipe, source: SourceModel) -> Recipe:
    """A recipe for the ONNX model with the types, ranges and smoothing scales that were tuned in PyTorch.

    A module's counterpart is the node that was exported from it, by the module path in the node's metadata or name, or
    by the name of its weight, of the fitting type. All paths may have the same words more in front on either side, as
    where the exported module wraps the tuned one.

    Returns:
        The recipe; its metadata lists what did not match, with the reason, and so does a warning in the log.

    Raises:
        RecipeError: nothing matches.
    """
    graph = rewritten(source, QDQ)
    operators = find_operators(graph).found
    matched: dict[str, OperatorRecipe] = {}
    not_matched: dict[str, str] = {}
    arrays, nearest = dict(recipe.arrays), []
    quantized = {module: each for module, each in recipe.operators.items() if each.config.is_quantized}
    by_module = _module_operators(quantized, source, operators)
    for module, each in quantized.items():
        names = [name for name in by_module.get(module, ()) if operators[name].type in COUNTERPARTS.get(each.type, ())]
        reason = _misfit(each, names, graph, operators, recipe.arrays)
        if reason is not None:
            not_matched[module] = reason
            continue
        for operator in map(operators.__getitem__, names):
            entry, config = _calibration(each.calibration, operator, graph), each.config
            steps = _steps(each, operator, graph, recipe.arrays)
            if steps is not None:
                entry |= {STEPS: each.calibration[STEPS], WEIGHT_FRAMEWORK: TORCH_FRAMEWORK}
                arrays[each.calibration[STEPS]] = steps
            elif config.rounding != "nearest":
                nearest.append(module)
                config = config.with_rounding("nearest")
            matched[operator.name] = replace(each, type=operator.type, config=config, calibration=entry)
    if not matched:
        raise RecipeError(
            f"recipe: it was tuned in PyTorch, and none of its {len(not_matched)} quantized modules was found in the "
            f"model. The first: {next(iter(not_matched.items()), 'none')}. Export the model it was tuned on with "
            "torch.onnx.export, which keeps module names, and do not optimize it before."
        )
    if not_matched:
        listed = "; ".join(f"{module}: {reason}" for module, reason in not_matched.items())
        logger.warning("%d of %d modules stay in fp32: %s", len(not_matched), len(not_matched) + len(matched), listed)
    if nearest:
        logger.warning(
            "weights of %d modules were rounded by second moments in PyTorch, and their nodes have weights of another "
            "form, or the recipe does not say how; they are rounded to nearest, the first is that of %r",
            len(nearest),
            nearest[0],
        )
    rest = {
        name: OperatorRecipe(each.type, FP32, "not in the recipe")
        for name, each in operators.items()
        if name not in matched
    }
    metadata = {**recipe.metadata, "tuned_in": TORCH_FRAMEWORK, "not_matched": not_matched}
    named = {value for each in matched.values() for value in each.calibration.values() if isinstance(value, str)}
    arrays = {name: array for name, array in arrays.items() if name in named}
    return Recipe(FRAMEWORK, {**matched, **rest}, arrays, metadata)


def module_paths(node: onnx.NodeProto, operator: Operator) -> tuple[str, ...]:
    """Paths of the module that a node may have been exported from."""
    paths = [operator.weight.removesuffix(".weight")] if operator.weight.endswith(".weight") else []
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            scopes = ast.literal_eval(entry.value)
            paths += scopes[-2:-1]
    if node.name.startswith("/"):
        paths.append(_path_of_name(node.name))
    return tuple(dict.fromkeys(path for path in paths if path))


def _path_of_name(name: str) -> str:
    """The module path in a name as `torch.onnx.export(dynamo=False)` gives them.

    `/encoder/layers.0/linear1/MatMul` is in `encoder.layers.0.linear1`. A Sequential stands there twice, first alone:
    `/layer1/layer1.0/conv1/Conv`.
    """
    scopes = name.split("/")[1:-1]
    return ".".join(
        scope for scope, inner in zip_longest(scopes, scopes[1:], fillvalue="") if not inner.startswith(f"{scope}.")
    )


def _module_operators(
    modules: Collection[str], source: SourceModel, operators: Collection[str]
) -> dict[str, list[str]]:
    """Names of the operators that come from each module, by what the model says of them as it was exported.

    The paths of one side may all have the same words more in front. The words under which most modules are found
    hold for all: a name at the end of a path alone, such as `conv1`, would fit many.
    """
    graph = Graph(source)
    exported = find_operators(graph).found
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name in operators:
        if name not in exported:
            continue
        for path in module_paths(graph.by_name[name], exported[name]):
            for module in modules:
                extra = _extra(path, module)
                if extra is not None:
                    names = found.setdefault(extra, {}).setdefault(module, [])
                    names += [] if name in names else [name]
    return max(found.values(), key=len, default={})


def _extra(path: str, module: str) -> tuple[str, str] | None:
    """What the path of a node and the name of a module have more in front than the other; None where they differ."""
    if path == module or path.endswith(f".{module}"):
        return path.removesuffix(module), ""
    return ("", module.removesuffix(path)) if module.endswith(f".{path}") else None


def _misfit(
    each: OperatorRecipe,
    names: list[str],
    graph: Graph,
    operators: Mapping[str, Operator],
    arrays: Mapping[str, Any],
) -> str | None:
    """Why a module cannot be carried over."""
    if each.type not in COUNTERPARTS:
        return f"{each.type} has no counterpart"
    if len(names) != 1 and not (names and each.type in LAYERED_TYPES):
        return f"{len(names)} nodes come from it" if names else "no node comes from it"
    if each.config.approach == "weight_only":
        return "weight-only modules differ between PyTorch and ONNX Runtime"
    if each.config.form.shifted:
        return "its input is shifted, which ONNX Runtime would do in a pass of its own"
    if each.type in LAYERED_TYPES and each.config.approach != "dynamic":
        return f"onnxruntime quantizes the input of an {each.type} dynamically alone"
    smoothing = each.calibration.get("smoothing")
    operator = operators[names[0]]
    features = (graph.shape(operator.weight) or (0,))[-1 if operator.transposed else 0]
    if smoothing is not None and arrays[smoothing].shape != (features,):
        return f"it reads {arrays[smoothing].size} features, the node {features}"
    return None


def _steps(each: OperatorRecipe, operator: Operator, graph: Graph, arrays: Mapping[str, Any]) -> Any:
    """The steps of a module's weight for its node, whose weight is the same matrix or kernel; None where it is not."""
    # Written as another kernel, with scales of its own; gates in another order, and several layers in one.
    is_other = each.type.startswith("ConvTranspose") or each.type in LAYERED_TYPES
    if each.config.rounding == "nearest" or STEPS not in each.calibration or is_other:
        return None
    packed, shape = arrays[each.calibration[STEPS]], graph.shape(operator.weight) or ()
    try:
        if each.type != "Conv1D":
            unpack_steps(packed, shape)
            return packed
        outputs, inputs = shape if operator.transposed else shape[::-1]
        return pack_steps(unpack_steps(packed, (inputs, outputs)).T)
    except RecipeError:
        return None


def _calibration(entry: Mapping[str, Any], operator: Operator, graph: Graph) -> dict[str, Any]:
    kept: Iterable[str] = ("input_minimum", "input_maximum", "smoothing", "reduce_range")
    result: dict[str, Any] = {key: entry[key] for key in kept if key in entry}
    if "output_minimum" in entry:
        tensor, limits = _output_range(operator, graph, (entry["output_minimum"], entry["output_maximum"]))
        # What a convolution reads may be the sum of two others, whose range stands nowhere else.
        result["outputs"] = {operator.input: [entry["input_minimum"], entry["input_maximum"]], tensor: limits}
    return result


def _output_range(operator: Operator, graph: Graph, limits: tuple[float, float]) -> tuple[str, list[float]]:
    """The tensor a convolution's range belongs to, behind the ReLU or Clip that alone reads it, and its range there."""
    tensor = after_activation(graph, operator.output)
    kept = None if tensor == operator.output else bounds(graph, graph.producers[tensor])
    low, high = (-math.inf, math.inf) if kept is None else kept
    return tensor, [min(max(limit, low), high) for limit in limits]
