"""From tuned models to deployable ones, in memory and on disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from inc_autotune.core.arguments import takes_foreign_names
from inc_autotune.core.arrays import Array
from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.core.files import locked
from inc_autotune.graphs import reading_model
from inc_autotune.tf_ext.emission import GROUPED_KERNEL, GROUPS, route_of_node
from inc_autotune.tf_ext.graph import COPIES, Graph, SignatureGraph, bodies_of
from inc_autotune.tf_ext.measurement import KERNELS, KernelSupport, kernel_support
from inc_autotune.tf_ext.model import (
    EXTRA,
    SignatureModel,
    all_nodes,
    check_path,
    check_saved_model,
    with_constants,
    write_saved_model,
)
from inc_autotune.tf_ext.preparation import tuned_student
from inc_autotune.tf_ext.training import Student
from inc_autotune.tf_ext.tuned_model import TunedModel

logger = logging.getLogger(__name__)

RECIPE_FILE = "recipe.yaml"

LARGEST_REDUCED = 64
"""No weight of 7 bits is larger."""


def convert(tuned: TunedModel | Student) -> SignatureModel:
    """The quantized model as a callable with the signatures of the fp32 one.

    Args:
        tuned: what `autotune` or `apply_recipe` returned, or what `prepare` returned, trained.

    Raises:
        ArgumentError: `tuned` is no tuned model.
        ModelError: a weight of what was trained is NaN or infinite.
    """
    if isinstance(tuned, Student):
        tuned = tuned_student(tuned)
    if not isinstance(tuned, TunedModel):
        raise ArgumentError(
            f"tuned: a {type(tuned).__name__}. Allowed: what autotune(), apply_recipe() or prepare() returned."
        )
    return SignatureModel(tuned.model, recipe=tuned.recipe)


@takes_foreign_names({"folder": "directory", "path": "directory"})
def save(model: SignatureModel | TunedModel | Student, directory: str | Path) -> None:
    """Write a plain SavedModel, which `tf.saved_model.load` reads where this library is not installed.

    Signature names, names, dtypes and dynamic dimensions of inputs and outputs are those of the fp32 model. The
    directory appears in one step when all is written. The recipe is written to `assets.extra/recipe.yaml`.

    Args:
        model: what `convert`, `autotune` or `apply_recipe` returned, or what `prepare` returned, trained.
        directory: where to; an empty one, or one that `save` wrote, is replaced.

    Raises:
        ArgumentError: `model` is none of these, the directory holds something else, or nothing can be written there.
    """
    if not isinstance(model, SignatureModel | TunedModel | Student):
        raise ArgumentError(
            f"model: a {type(model).__name__}. Allowed: what convert(), autotune(), apply_recipe() or prepare() "
            "returned."
        )
    check_path(directory, "directory")
    if isinstance(model, Student):
        model = convert(model)
    extra = {} if model.recipe is None else {RECIPE_FILE: model.recipe.to_yaml().encode()}
    write_saved_model(convert(model) if isinstance(model, TunedModel) else model, directory, extra)


def load(directory: str | Path) -> Any:
    """Load a SavedModel that `save` wrote, after trying out the integer kernels it needs on this machine.

    Args:
        directory: of the SavedModel.

    Returns:
        What `tf.saved_model.load` returns.

    Raises:
        ArgumentError: there is no SavedModel.
        ModelError: TensorFlow cannot read it, has no working kernel for one of its operators, or sums saturate on this
            processor. Weights that are only less exact here are logged as a warning.
    """
    directory = check_path(directory, "directory")
    with locked(next(each for each in directory.parents if each.is_dir()), shared=True):
        loaded = _loaded(directory)
    with reading_model("Was it changed since save() wrote it? Save it again."):
        _check_kernels(directory, loaded)
    return loaded


def _check_kernels(directory: Path, loaded: Any) -> None:
    """Refuse a loaded model that this machine does not compute as it should be, and warn of one less exact."""
    support = kernel_support()
    nodes = [node for each in loaded.signatures.values() for node in all_nodes(each.graph.as_graph_def())]
    used = {node.op for node in nodes} | {GROUPED_KERNEL for node in nodes if GROUPS in node.attr}
    missing = sorted(used & set(support.missing))
    recipe = directory / EXTRA / RECIPE_FILE
    remedy = "Tune the fp32 model on this machine"
    if recipe.is_file():
        remedy += f", or apply the recipe {str(recipe)!r} to it here"
    if missing:
        raise ModelError(
            f"directory={str(directory)!r}: this TensorFlow has no working {', '.join(missing)}, which the model uses. "
            f"{remedy}."
        )
    saturating, halved = _beyond_seven_bits(loaded, support) if used & set(KERNELS) else ([], [])
    if saturating:
        raise ModelError(
            f"directory={str(directory)!r}: products of its 8-bit weights saturate on this processor, which has no "
            f"VNNI, in {_first(saturating)}. {remedy}."
        )
    if halved:
        logger.warning(
            "%s: this processor without VNNI halves 8-bit weights in %s, which is less exact than 7 bits. %s.",
            directory,
            _first(halved),
            remedy,
        )


def _loaded(directory: Path) -> Any:
    if not tf.saved_model.contains_saved_model(str(directory)):
        raise ArgumentError(f"directory={str(directory)!r}: is no SavedModel. Allowed: a directory that save() wrote.")
    check_saved_model(directory)
    try:
        return tf.saved_model.load(str(directory))
    except Exception as error:  # files that are damaged make TensorFlow raise anything
        raise ModelError(
            f"directory={str(directory)!r}: TensorFlow cannot read it: {type(error).__name__}: {error}. Save the model "
            "again."
        ) from error


def _beyond_seven_bits(loaded: Any, support: KernelSupport) -> tuple[list[str], list[str]]:
    """Names of the nodes of a loaded model whose weights saturate here, and of those whose odd weights are halved."""
    saturating: dict[str, None] = {}
    halved: dict[str, None] = {}
    for function in loaded.signatures.values() if support.reduced else ():
        frozen = with_constants(function).graph.as_graph_def()
        for node, weight in _integer_weights(Graph(SignatureGraph("", frozen, {}, (), (), False, {}))):
            route = route_of_node(node, weight.shape)
            if route in support.saturating and np.abs(weight.astype(np.int16)).max() > LARGEST_REDUCED:
                saturating[_inner(node.name)] = None
            elif route in support.halving and (weight % 2).any():
                halved[_inner(node.name)] = None
    return list(saturating), list(halved)


def _integer_weights(graph: Graph) -> Iterator[tuple[NodeDef, Array]]:
    """Integer operators of a graph with constants, and of the functions in it, and their weights."""
    for node in graph.nodes:
        if node.op in KERNELS:
            behind = graph.producer(node.input[1])
            while behind.op in ("Bitcast", *COPIES):
                behind = graph.producer(behind.input[0])
            weight = graph.constant(behind.name)
            assert weight is not None
            yield node, weight
    for body in bodies_of(graph):
        yield from _integer_weights(body.graph)


def _inner(name: str) -> str:
    """A node's name inside the function that a signature calls."""
    return name.removeprefix("Stateful").removeprefix("PartitionedCall/")


def _first(names: Sequence[str]) -> str:
    return repr(names[0]) + (f" and {len(names) - 1} more operators" if len(names) > 1 else "")
