"""From tuned models to deployable ones, in memory and on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.tf_ext.measurement.kernel_trial import KERNELS, kernel_support
from inc_autotune.tf_ext.model.check import all_nodes
from inc_autotune.tf_ext.model.paths import check_path
from inc_autotune.tf_ext.model.saved_model import EXTRA, write_saved_model
from inc_autotune.tf_ext.model.signatures import SignatureModel
from inc_autotune.tf_ext.tuned_model import TunedModel

RECIPE_FILE = "recipe.yaml"

LARGEST_REDUCED = 64
"""No weight of 7 bits is larger."""


def convert(tuned: TunedModel) -> SignatureModel:
    """The quantized model as a callable with the signatures of the fp32 one.

    Args:
        tuned: what `autotune` or `apply_recipe` returned.

    Raises:
        ArgumentError: `tuned` is no tuned model.
    """
    if not isinstance(tuned, TunedModel):
        raise ArgumentError(f"tuned: a {type(tuned).__name__}. Allowed: what autotune() or apply_recipe() returned.")
    return SignatureModel(tuned.model, recipe=tuned.recipe)


def save(model: SignatureModel | TunedModel, directory: str | Path) -> None:
    """Write a plain SavedModel, which `tf.saved_model.load` reads where this library is not installed.

    Signature names, names, dtypes and dynamic dimensions of inputs and outputs are those of the fp32 model. The
    directory appears in one step when all is written. The recipe is written to `assets.extra/recipe.yaml`.

    Args:
        model: what `convert`, `autotune` or `apply_recipe` returned.
        directory: where to; an empty one, or one that `save` wrote, is replaced.

    Raises:
        ArgumentError: `model` is none of these, the directory holds something else, or nothing can be written there.
    """
    if not isinstance(model, SignatureModel | TunedModel):
        raise ArgumentError(
            f"model: a {type(model).__name__}. Allowed: what convert(), autotune() or apply_recipe() returned."
        )
    check_path(directory, "directory")
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
        ModelError: this TensorFlow has no working kernel for one of its operators, or sums saturate on this processor.
    """
    if not tf.saved_model.contains_saved_model(str(directory)):
        raise ArgumentError(f"directory={str(directory)!r}: is no SavedModel. Allowed: a directory that save() wrote.")
    loaded = tf.saved_model.load(str(directory))
    problem = _problem(loaded)
    if problem is not None:
        recipe = Path(directory) / EXTRA / RECIPE_FILE
        hint = f", or apply the recipe {str(recipe)!r} to it here" if recipe.is_file() else ""
        raise ModelError(f"directory={str(directory)!r}: {problem}. Tune the fp32 model on this machine{hint}.")
    return loaded


def _problem(loaded: Any) -> str | None:
    """Why a loaded model does not run here, or not right."""
    support = kernel_support()
    used = {node.op for each in loaded.signatures.values() for node in all_nodes(each.graph.as_graph_def())}
    missing = sorted(used & set(support.missing))
    if missing:
        return f"this TensorFlow has no working {', '.join(missing)}, which the model uses"
    weights = [each for each in getattr(loaded, "weights", ()) if each.dtype == tf.int8]
    if support.reduce_range and used & set(KERNELS) and any(np.abs(each).max() > LARGEST_REDUCED for each in weights):
        return "products of its 8-bit weights saturate on this processor, which has no VNNI"
    return None
