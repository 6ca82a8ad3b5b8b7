"""The verb that tells where a quantized model loses accuracy."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from inc_autotune.core.analysis import operator_errors
from inc_autotune.core.arguments import DATA_NAMES, takes_foreign_names
from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ArgumentError, RecipeError
from inc_autotune.core.result import Comparison, check_framework, check_operators
from inc_autotune.graphs import ComparedTensors, Feed, GraphPair, compared_operator
from inc_autotune.ort_ext.calibration import FRAMEWORK, plan_from_recipe, run_fp32
from inc_autotune.ort_ext.data.feeds import feeds
from inc_autotune.ort_ext.emission import place_smoothing
from inc_autotune.ort_ext.graph import Graph, GraphModel, part_between
from inc_autotune.ort_ext.model import SourceModel, load_source, make_session
from inc_autotune.ort_ext.operators import Operator, after_activation, find_operators
from inc_autotune.ort_ext.operators.rewriting import rewritten
from inc_autotune.ort_ext.persistence import load
from inc_autotune.ort_ext.tuned_model import TunedModel


@takes_foreign_names(DATA_NAMES)
def compare(model: Any, quantized: TunedModel | str | Path, data: Any, *, samples: int = 32) -> Comparison:
    """How far each operator of a quantized model is from that of the fp32 model: where accuracy is lost.

    Both models run on the CPU on the same data, batch after batch, with the tensors behind operators among their
    outputs; sums are kept, not values. Rows of padding are left out where the model has an input `attention_mask`.

    Args:
        model: the fp32 model that was tuned, see `autotune`. It is not changed.
        quantized: what `autotune`, `apply_recipe` or `load` returned, or a file that `save` wrote.
        data: batches, as `calib_dataloader` of `autotune`; better others than those that calibrated.
        samples: how many are compared.

    Returns:
        Errors by operator, at the ReLU or Clip behind it where there is one; `print` gives a table, `save_report` a
        page, `to_dataframe` a table of pandas. What an operator adds alone is not known of recurrent ones.

    Raises:
        ArgumentError: `quantized` is no tuned model.
        ModelError, RecipeError: `model` is no fp32 model, or not the one that was quantized.
        DataError: the data does not fit the model.
    """
    tuned = load(quantized) if isinstance(quantized, str | PathLike) else quantized
    if not isinstance(tuned, TunedModel):
        raise ArgumentError(
            f"quantized: a {type(tuned).__name__}. Allowed: what autotune(), apply_recipe() or load() returned, or a "
            "file that save() wrote."
        )
    source = load_source(model)
    pair, missed = _pair(source, tuned)
    counted: list[int] = []

    def count(feed: Feed) -> Feed:
        counted.append(feed.size)
        return feed

    recorder = operator_errors(pair, map(count, feeds(data, source.inputs, samples, argument="data")))
    notes = [f"not compared, since the quantized graph has no tensor of its own for it: {name}" for name in missed]
    notes += [f"not compared, since its output has another shape or is no number: {name}" for name in recorder.missed]
    return Comparison(recorder.errors(), sum(counted), tuple(notes))


def _pair(source: SourceModel, tuned: TunedModel) -> tuple[GraphPair, list[str]]:
    """Both graphs, and the operators that have no tensor in common.

    Raises:
        RecipeError: the model is not the one that was quantized.
    """
    recipe = tuned.recipe
    check_framework(recipe, FRAMEWORK)
    form = tuned.settings.form(tuned.saved_form or tuned.settings.usual_form("CPUExecutionProvider").name)
    graph = rewritten(source, form)
    operators = find_operators(graph, joins_bias=form.joins_bias).found
    changed = {name: each for name, each in recipe.operators.items() if each.config.is_quantized}
    check_operators(changed, {name: each.type for name, each in operators.items()})
    plan = plan_from_recipe(changed, recipe.arrays)
    placement = place_smoothing(graph, operators, plan)
    quantized = tuned.model(form.name)
    theirs = {name for node in quantized.proto.graph.node for name in node.output}
    points, missed = [], []
    for name, operator in operators.items():
        if name not in recipe.operators:
            continue
        tensor = next((each for each in _tensors_behind(graph, operator) if each in theirs), None)
        if tensor is None:
            missed.append(name)
            continue
        config = plan.configs.get(name)
        described = compared_operator(name, operator.type, config, plan.calibration(name), _channel_axis(operator))
        reads = None if operator.type == "Gather" else operator.input
        points.append(ComparedTensors(described, reads, tensor, placement.operator_divisors.get(name)))
    if not points:
        raise RecipeError("model: it has no operator in common with the quantized model.")
    inner = list(dict.fromkeys([each.output for each in points]))
    inputs = [each.input for each in points if each.input is not None]
    outputs = [output.name for output in source.proto.graph.output]
    return (
        GraphPair(
            points,
            _runner(graph.model, list(dict.fromkeys([*inner, *inputs])), "fp32"),
            _runner(quantized, inner, "quantized"),
            outputs,
            _single_operators(quantized, points, set(placement.multiplied)),
        ),
        missed,
    )


def _single_operators(
    quantized: GraphModel, points: Sequence[ComparedTensors], multiplied: Container[str]
) -> Callable[[str, Array], Array | None]:
    """What runs single operators of the quantized graph on inputs that the fp32 graph has.

    Args:
        quantized: the graph.
        points: of the operators.
        multiplied: names of those whose input is divided by a smoothing scale behind the tensor that they read; where
            others are smoothed, what makes the tensor divides it.
    """
    by_name = {each.operator.name: each for each in points}
    sessions: dict[str, onnxruntime.InferenceSession | None] = {}

    def alone(name: str, value: Array) -> Array | None:
        point = by_name[name]
        if not point.operator.form.startswith(("int", "uint")):
            return None
        if name not in sessions:
            assert point.input is not None
            part = part_between(quantized, point.input, point.output)
            sessions[name] = None if part is None else make_session(part)
        session = sessions[name]
        if session is None:
            return None
        scale = point.operator.smoothing
        if scale is not None and name not in multiplied:
            value = np.asarray(value / scale, value.dtype)
        output: Array = session.run([point.output], {session.get_inputs()[0].name: value})[0]
        return output

    return alone


def _tensors_behind(graph: Graph, operator: Operator) -> list[str]:
    """Where the operator can be compared: behind its ReLU, which an integer operator computes too, or at its output."""
    return list(dict.fromkeys((after_activation(graph, operator.output), operator.output)))


def _channel_axis(operator: Operator) -> int | None:
    if operator.type in ("Conv", "ConvTranspose"):
        return 1
    return None if operator.layout == "left" else -1


def _runner(model: GraphModel, tensors: Sequence[str], what: str) -> Any:
    """What runs a graph, with tensors inside it among its outputs."""
    session: onnxruntime.InferenceSession = make_session(model, extra_outputs=tensors)

    def run(feed: Feed, wanted: Sequence[str]) -> Mapping[str, Array]:
        given = {name: feed.inputs[name] for name in wanted if name in feed.inputs}
        asked = [name for name in wanted if name not in given]
        values = run_fp32(session, feed, "data", names=asked) if asked else []
        return {**given, **dict(zip(asked, values, strict=True))}

    return run
