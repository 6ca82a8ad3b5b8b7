"""The verb that tells where a quantized model loses accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from inc_autotune.core.analysis import OperatorError, operator_errors
from inc_autotune.core.arguments import DATA_NAMES, takes_foreign_names
from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.result import Comparison
from inc_autotune.graphs import ComparedTensors, Feed, GraphPair, WeightCache, compared_operator
from inc_autotune.tf_ext.calibration import Analysis, QuantizationPlan, with_tensors
from inc_autotune.tf_ext.data import data_by_signature
from inc_autotune.tf_ext.data.feeds import feeds
from inc_autotune.tf_ext.emission import IntegerChains, build_signature, place_smoothing
from inc_autotune.tf_ext.graph import Graph, GraphModel, SignatureGraph, tensor_name
from inc_autotune.tf_ext.measurement import Subgraph
from inc_autotune.tf_ext.model import SignatureModel, Signatures, load_source
from inc_autotune.tf_ext.operators import LOOKUP, Operator, find_operators
from inc_autotune.tf_ext.tuned_model import TunedModel, plan_of_recipe


@takes_foreign_names(DATA_NAMES)
def compare(
    model: Any,
    quantized: TunedModel | SignatureModel,
    data: Any,
    *,
    signatures: Signatures | None = None,
    samples: int = 32,
) -> Comparison:
    """How far each operator of a quantized model is from that of the fp32 model: where accuracy is lost.

    Both models run on the same data, batch after batch, with the tensors behind operators among their outputs; sums
    are kept, not values. Rows of padding are left out where the model has an input `attention_mask`.

    Args:
        model: the fp32 model that was tuned, see `autotune`. It is not changed.
        quantized: what `autotune`, `apply_recipe` or `convert` returned.
        data: as `calib_dataset` of `autotune`; better other samples than those that calibrated.
        signatures: see `autotune`; the same as there.
        samples: how many are compared, of each signature.

    Returns:
        Errors by operator, behind the bias and activation that are computed with it; `print` gives a table,
        `save_report` a page, `to_dataframe` a table of pandas. What an operator adds alone is not known of one that is
        only compared behind a residual sum. Operators inside loops and branches are not compared.

    Raises:
        ArgumentError: `quantized` is no tuned model.
        ModelError, RecipeError: `model` is no fp32 model, or not the one that was quantized.
        DataError: the data does not fit the model.
    """
    recipe = getattr(quantized, "recipe", None)
    if not isinstance(quantized, TunedModel | SignatureModel) or recipe is None:
        raise ArgumentError(
            f"quantized: a {type(quantized).__name__}. Allowed: what autotune(), apply_recipe() or convert() returned. "
            "Of a SavedModel, apply its recipe: apply_recipe(model, 'assets.extra/recipe.yaml')."
        )
    source = load_source(model, signatures)
    tuned = quantized if isinstance(quantized, TunedModel) else TunedModel(source, recipe)
    analysis = Analysis(source, list(source.signatures))
    plan = plan_of_recipe(analysis, recipe)
    errors: list[OperatorError] = []
    notes: list[str] = []
    total = 0
    for name, own in data_by_signature(data, source).items():
        pair, missed = _pair(analysis, plan, name, tuned.model.signatures[name])
        counted: list[int] = []
        items = _counted(feeds(own, source.signatures[name], samples, argument="data"), counted)
        recorder = operator_errors(pair, items)
        errors += recorder.errors()
        notes += [f"not compared, since it is part of another operator or of a loop: {each}" for each in missed]
        notes += [f"not compared, since it has another shape or is no number: {each}" for each in recorder.missed]
        total += sum(counted)
    return Comparison(tuple(errors), total, tuple(notes))


def _counted(items: Any, sizes: list[int]) -> Any:
    for feed in items:
        sizes.append(feed.size)
        yield feed


def _pair(
    analysis: Analysis, plan: QuantizationPlan, signature: str, quantized: SignatureGraph
) -> tuple[GraphPair, list[str]]:
    """Both graphs of a signature, and the operators that have no tensor in common."""
    graph = analysis.graphs[signature]
    operators = analysis.operators_of(graph)
    residuals = IntegerChains(graph, operators, plan).residuals
    divisors = place_smoothing(graph, operators, plan).operators
    theirs = {node.name for node in quantized.graph_def.node}
    inside = {node.name for node in graph.nodes}
    points = []
    missed = [name for name, each in analysis.operators.items() if each.node.name not in inside]
    for name, operator in operators.items():
        candidates = [operator.output, *([residuals[name].output] if name in residuals else [])]
        tensor = next((tensor_name(each) for each in candidates if each.split(":")[0] in theirs), None)
        if tensor is None:
            missed.append(name)
            continue
        config = plan.configs.get(name)
        described = compared_operator(name, operator.type, config, plan.calibration(name), -1)
        reads = None if operator.type == LOOKUP else tensor_name(operator.input)
        points.append(ComparedTensors(described, reads, tensor, divisors.get(name)))
    fp32 = analysis.model.signatures[signature]
    outputs = [tensor_name(each.tensor) for each in fp32.outputs]
    own = {tensor_name(each.tensor): each.name for each in fp32.outputs}
    alone = _single_operators(graph, operators, plan, points)
    return GraphPair(points, _runner(fp32, own), _runner(quantized, own), outputs, alone), missed


def _single_operators(
    graph: Graph, operators: Mapping[str, Operator], plan: QuantizationPlan, points: Sequence[ComparedTensors]
) -> Callable[[str, Array], Array | None]:
    """What runs single operators, quantized as the plan says, on inputs that the fp32 graph has."""
    by_name = {each.operator.name: each for each in points}
    weights = WeightCache()
    made: dict[tuple[str, tuple[int, ...]], SignatureModel] = {}

    def alone(name: str, value: Array) -> Array | None:
        point, operator = by_name[name], operators[name]
        if name not in plan.configs or point.output != tensor_name(operator.output):
            return None
        part = Subgraph(graph, [operator])
        if part.read != {part.source}:  # it reads what is computed elsewhere, such as the shape of its result
            return None
        if (name, value.shape) not in made:
            fp32 = Graph(part.signature({part.source: value}))
            integer = build_signature(fp32, find_operators(fp32).found, plan, weights)
            made[name, value.shape] = SignatureModel(GraphModel({integer.name: integer}))
        (found,) = made[name, value.shape].default(tf.constant(value)).values()
        output: Array = found.numpy()
        return output if point.divisor is None else np.asarray(output / point.divisor, output.dtype)

    return alone


def _runner(signature: SignatureGraph, own: Mapping[str, str]) -> Callable[[Feed, Sequence[str]], Mapping[str, Array]]:
    """What runs a signature, with tensors inside it among its outputs; its own have the names of the fp32 graph."""
    made: dict[tuple[str, ...], Any] = {}

    def run(feed: Feed, wanted: Sequence[str]) -> Mapping[str, Array]:
        inner = tuple(name for name in wanted if name not in own)
        if inner not in made:
            made[inner] = with_tensors(signature, inner)
        found = made[inner](**feed.inputs)
        values = {name: found[f"inside {name}"].numpy() for name in inner}
        return values | {name: found[own[name]].numpy() for name in wanted if name in own}

    return run
