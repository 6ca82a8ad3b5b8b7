"""The user's model, read once, whatever it was given as."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from inc_autotune.core.arguments import reading_argument, shown
from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ArgumentError, ModelError, did_you_mean
from inc_autotune.graphs import reading_model
from inc_autotune.tf_ext.graph import GraphModel, SignatureGraph
from inc_autotune.tf_ext.model.freezing import frozen
from inc_autotune.tf_ext.model.frozen_graph_def import graph_def_signature, read_graph_def
from inc_autotune.tf_ext.model.keras_model import KERAS_SUFFIXES, exported, is_keras_model, read_keras_file, traced
from inc_autotune.tf_ext.model.session_loading import SessionSignatures, signatures_by_session
from inc_autotune.tf_ext.model.signatures import SignatureModel
from inc_autotune.tf_ext.model.structure_check import check_saved_model

VALID = "Does TensorFlow run it as it is?"
"""What to do where a model cannot be understood."""

DEFAULT_SIGNATURE = "serving_default"

ALLOWED_MODELS = (
    "the directory of a SavedModel or what tf.saved_model.load returned, a Keras 3 model or its .keras file, a "
    "tf.Module whose __call__ is a tf.function, a ConcreteFunction, or a frozen GraphDef or its .pb file"
)

Signatures = str | Sequence[str] | Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class SourceModel(GraphModel):
    """The user's fp32 model.

    Args:
        path: its folder or file; None where it was given in memory.
    """

    path: Path | None


def load_source(model: Any, signatures: Signatures | None = None) -> SourceModel:
    """Read and check a model; it is not changed.

    Args:
        model: see `ALLOWED_MODELS`. A Keras model or function becomes the signature "serving_default".
        signatures: names of those of a SavedModel to read. None: all. For a GraphDef, a dict
            `{"serving_default": {"inputs": ["x:0"], "outputs": ["y:0"]}}`, where names of signature inputs and outputs
            may be given too: `{"inputs": {"image": "x:0"}, ...}`. None: placeholders, and what no operator reads.

    Raises:
        ArgumentError: it is none of these, there is no such file, or a signature is missing.
        ModelError: it cannot be read, or cannot be quantized as it is.
    """
    with reading_argument("signatures", signatures):
        _check_signatures(signatures)
    if isinstance(model, SignatureModel):
        raise ModelError("model: is quantized already: it is what convert() returned. Give the fp32 model.")
    with reading_model(VALID):
        path = Path(model) if isinstance(model, str | PathLike) else None
        if path is not None:
            model = _read(path)
        untunable = getattr(type(model), "untunable", None)
        if untunable is not None:
            raise ModelError(f"model: {untunable}.")
        if isinstance(model, SessionSignatures):
            graphs = _session_signatures(model, signatures)
        elif isinstance(model, GraphDef):
            graphs = _graph_def_signatures(model, signatures)
        else:
            if isinstance(signatures, Mapping):
                raise ArgumentError(
                    f"signatures={shown(signatures)}: a dict is for a GraphDef. Allowed: names, or None."
                )
            graphs = _function_signatures(model, signatures)
        return SourceModel(_without_aliases(_with_shared_weights(graphs)), path)


def _check_signatures(signatures: object) -> None:
    names = [signatures] if isinstance(signatures, str) else signatures
    is_list = isinstance(names, Sequence | Mapping) and all(isinstance(each, str) for each in names)
    if names is not None and not is_list:
        raise ArgumentError(
            f"signatures={shown(signatures)}. Allowed: None, a name or a list of names; of a GraphDef a dict "
            "{'serving_default': {'inputs': ['x:0'], 'outputs': ['y:0']}}."
        )


def _read(path: Path) -> Any:
    """What a path leads to: a loaded SavedModel, a Keras model or a GraphDef."""
    if not path.exists():
        raise ArgumentError(f"model={str(path)!r}: no such file or directory. Allowed: {ALLOWED_MODELS}.")
    if path.is_file():
        if path.suffix in KERAS_SUFFIXES:
            return read_keras_file(path)
        if path.name in ("saved_model.pb", "saved_model.pbtxt"):
            raise ArgumentError(f"model={str(path)!r}: part of a SavedModel. Give its directory: {str(path.parent)!r}.")
        if path.suffix == ".pb":
            return read_graph_def(path)
        raise ModelError(f"model={str(path)!r}: is no model of TensorFlow. Allowed: {ALLOWED_MODELS}.")
    if not tf.saved_model.contains_saved_model(str(path)):
        inside = sorted(each.parent.name for each in path.glob("*/saved_model.pb*"))
        hint = f" Did you mean {str(path / inside[-1])!r}?" if inside else ""
        raise ModelError(f"model={str(path)!r}: is no SavedModel: it has no saved_model.pb.{hint}")
    check_saved_model(path)
    try:
        return tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises about everything on damaged or unusual files
        try:
            return signatures_by_session(path)
        except Exception:
            raise ModelError(
                f"model={str(path)!r}: TensorFlow cannot load this SavedModel ({type(error).__name__}: {error}), nor "
                "can the loader of TensorFlow 1. If it needs tags, load it with tf.saved_model.load(directory, "
                "tags=[...]); if it needs operators or classes of your own, import them and load it again. "
                "In both cases give the object."
            ) from error


def _session_signatures(model: SessionSignatures, signatures: Signatures | None) -> dict[str, SignatureGraph]:
    if isinstance(signatures, Mapping):
        raise ArgumentError(f"signatures={shown(signatures)}: a dict is for a GraphDef. Allowed: names, or None.")
    found = {}
    for name in _wanted(model, signatures):
        each = model[name]
        graph = graph_def_signature(name, each.graph_def, each.inputs, each.outputs)
        found[name] = replace(graph, ordered=False)
    return found


def _graph_def_signatures(graph_def: GraphDef, signatures: Signatures | None) -> dict[str, SignatureGraph]:
    if signatures is None:
        signatures = {DEFAULT_SIGNATURE: {}}
    elif isinstance(signatures, str):
        signatures = {signatures: {}}
    if not isinstance(signatures, Mapping):
        raise ArgumentError(
            f"signatures={shown(signatures)}: a GraphDef has none. Allowed: None, or a dict "
            "{'serving_default': {'inputs': ['x:0'], 'outputs': ['y:0']}}."
        )
    for name, each in signatures.items():
        if not isinstance(each, Mapping):
            raise ArgumentError(f"signatures[{name!r}]={shown(each)}. Allowed: a dict with 'inputs' and 'outputs'.")
        unknown = [key for key in each if key not in ("inputs", "outputs")]
        if unknown:
            raise ArgumentError(f"signatures[{name!r}]: unknown key {unknown[0]!r}. Allowed: 'inputs' and 'outputs'.")
    return {
        name: graph_def_signature(name, graph_def, each.get("inputs"), each.get("outputs"))
        for name, each in signatures.items()
    }


def _function_signatures(model: Any, signatures: str | Sequence[str] | None) -> dict[str, SignatureGraph]:
    owner = holder = model
    if is_keras_model(model):
        function = traced(model)
        owner = exported(model) if function is None else function
        holder = owner if function is None else model
    found, ordered = _functions(owner)
    graphs = {name: frozen(name, found[name], ordered=ordered, owner=holder) for name in _wanted(found, signatures)}
    return {name: _in_known_order(graph, owner) for name, graph in graphs.items()}


def _wanted(found: Mapping[str, object], signatures: str | Sequence[str] | None) -> list[str]:
    """Names of the signatures to read, the default one first."""
    wanted = list(found) if signatures is None else [signatures] if isinstance(signatures, str) else list(signatures)
    if not wanted:
        raise ArgumentError("signatures=[]: names none. Give at least one, or None for all.")
    for name in wanted:
        if name not in found:
            raise ArgumentError(
                f"signatures: the model has no signature {name!r}. It has: {', '.join(map(repr, found))}."
                f"{did_you_mean(name, found)}"
            )
    return sorted(wanted, key=lambda name: name != DEFAULT_SIGNATURE)


def _functions(owner: Any) -> tuple[dict[str, Any], bool]:
    """ConcreteFunctions by signature, and whether the order of their inputs means something."""
    saved = getattr(owner, "signatures", None)
    if isinstance(saved, Mapping) and saved:
        return {name: each for name, each in saved.items() if not name.startswith("__saved_model")}, False
    is_function = isinstance(owner, tf.types.experimental.Callable) or not callable(owner)
    function = _concrete(owner if is_function else owner.__call__)
    if function is not None:
        return {DEFAULT_SIGNATURE: function}, True
    if isinstance(saved, Mapping):
        raise ModelError(
            "model: this SavedModel has no signature and no __call__. Write it with "
            "tf.saved_model.save(module, directory, signatures={'serving_default': function})."
        )
    kind = type(owner).__name__
    raise ArgumentError(f"model: a {kind}, which is not a model of TensorFlow. Allowed: {ALLOWED_MODELS}.")


def _concrete(function: Any) -> Any | None:
    """The one trace of a function; None where it is no function of TensorFlow."""
    if isinstance(function, tf.types.experimental.ConcreteFunction):
        return function
    if not isinstance(function, tf.types.experimental.GenericFunction):
        return None
    restored: Sequence[Any] = getattr(function, "concrete_functions", ())
    if len(restored) == 1:
        return restored[0]
    try:
        return function.get_concrete_function()
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"model: a function without an input_signature ({error}). Give the ConcreteFunction: "
            "function.get_concrete_function(tf.TensorSpec([None, 16], tf.float32, name='x'))."
        ) from error


def _in_known_order(graph: SignatureGraph, owner: Any) -> SignatureGraph:
    """The signature with its inputs in the order that the SavedModel's own function takes them, where it has one."""
    by_name = {each.name: each for each in graph.inputs}
    for endpoint in ("serve", "__call__"):
        functions: Sequence[Any] = getattr(getattr(owner, endpoint, None), "concrete_functions", ())
        for function in functions:
            positional = function.structured_input_signature[0]
            if any(isinstance(each, Mapping) for each in positional):
                continue
            names = [spec.name for spec in tf.nest.flatten(positional) if isinstance(spec, tf.TensorSpec)]
            if sorted(names) == sorted(by_name):
                return replace(graph, inputs=tuple(by_name[name] for name in names), ordered=True)
    return graph


def _with_shared_weights(graphs: Mapping[str, SignatureGraph]) -> dict[str, SignatureGraph]:
    """The signatures with one array for equal weights."""
    arrays: dict[tuple[str, tuple[int, ...], bytes], Array] = {}

    def shared(array: Array) -> Array:
        digest = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()
        return arrays.setdefault((str(array.dtype), array.shape, digest), array)

    return {
        name: replace(graph, weights={key: shared(array) for key, array in graph.weights.items()})
        for name, graph in graphs.items()
    }


def _without_aliases(graphs: Mapping[str, SignatureGraph]) -> dict[str, SignatureGraph]:
    """The signatures that differ in more than their name."""
    result: dict[str, SignatureGraph] = {}
    for name, graph in graphs.items():
        same = next((key for key, each in result.items() if _is_same(each, graph)), None)
        if same is None:
            result[name] = graph
        else:
            result[same] = replace(result[same], aliases=(*result[same].aliases, name))
    return result


def _is_same(one: SignatureGraph, other: SignatureGraph) -> bool:
    weights = [{name: id(array) for name, array in each.weights.items()} for each in (one, other)]
    ends = [(each.inputs, each.outputs) for each in (one, other)]
    tables = [{name: id(table.holder) for name, table in each.tables.items()} for each in (one, other)]
    return (
        tables[0] == tables[1]
        and weights[0] == weights[1]
        and ends[0] == ends[1]
        and bool(one.graph_def == other.graph_def)
    )
