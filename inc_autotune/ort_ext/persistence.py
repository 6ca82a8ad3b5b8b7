"""Writing and reading tuned models."""

from __future__ import annotations

import logging
from pathlib import Path

from onnx import ModelProto

from inc_autotune.core.arguments import check_file, check_path, takes_foreign_names
from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.core.result import Recipe
from inc_autotune.graphs import reading_model
from inc_autotune.ort_ext.graph import GraphModel, embedded, embedded_bytes, split
from inc_autotune.ort_ext.model import LARGEST_EMBEDDED, read_proto, write_model
from inc_autotune.ort_ext.target import QDQ
from inc_autotune.ort_ext.tuned_model import FORM_KEY, RECIPE_KEY, TunedModel, warn_where_too_wide

logger = logging.getLogger(__name__)


def convert(tuned: TunedModel, form: str = "qdq") -> ModelProto:
    """The quantized model as a `ModelProto` that holds its weights.

    Args:
        tuned: what `autotune`, `apply_recipe` or `load` returned.
        form: "qdq", standard operators that onnxruntime and other runtimes fuse by themselves; or "cpu",
            onnxruntime's fused operators. The numbers are the same up to rounding.

    Raises:
        ArgumentError: `tuned` is no tuned model, or there is no such form of it: "cpu" is for the CPU alone.
        ModelError: it would exceed 2 GB, which no proto can hold.
    """
    model = _model(tuned, form)
    if embedded_bytes(model) > LARGEST_EMBEDDED:
        raise ModelError(
            f"tuned: the model takes {embedded_bytes(model) / 2**30:.1f} GiB, and a ModelProto holds 2. "
            "Write it with save(tuned, path), which puts the weights beside it."
        )
    return embedded(model)


@takes_foreign_names({"folder": "path", "directory": "path"})
def save(tuned: TunedModel, path: str | Path, form: str | None = None) -> None:
    """Write a tuned model, and its recipe as YAML beside it: `model.onnx` and `model.recipe.yaml`.

    Existing files are replaced in one step: a crash leaves the old model with its recipe or the new one with its own.
    Above 2 GB the weights go to a file of their own. The recipe is in the model's `metadata_props` too.

    Args:
        tuned: what `autotune`, `apply_recipe` or `load` returned.
        path: the ONNX file; its folder must exist.
        form: see `convert`. None: "qdq", or the form of a loaded model.

    Raises:
        ArgumentError: `tuned` is no tuned model, there is no such form, the folder does not exist, or nothing can be
            written there.
    """
    _check_tuned(tuned)
    path = check_file(path)
    if form is None:
        form = tuned.saved_form or QDQ.name
    model = _model(tuned, form)
    if form == QDQ.name and any(node.op_type == "MatMulNBits" for node in model.proto.graph.node):
        logger.warning("the weight-only operators are MatMulNBits, which only onnxruntime knows")
    text = tuned.recipe.to_yaml().encode()
    write_model(model.proto, model.weights, path, beside={path.with_suffix(".recipe.yaml"): text})


def load(path: str | Path) -> TunedModel:
    """Read a model that `save` wrote.

    Where it was tuned on a processor with VNNI and this one has none, a warning in the log says what that means.

    Args:
        path: the ONNX file; the YAML beside it is not needed.

    Raises:
        ArgumentError: it is no path, or there is no such file.
        ModelError: it is no ONNX model, or was not written by `save`.
    """
    path = check_path(path)
    with reading_model("Was it changed since save() wrote it? Save it again."):
        return _load(path)


def _load(path: Path) -> TunedModel:
    file = read_proto(path, argument="path")
    metadata = {each.key: each.value for each in file.proto.metadata_props}
    if RECIPE_KEY not in metadata or FORM_KEY not in metadata:
        raise ModelError(
            f"path={str(path)!r}: the model carries no recipe, so it was not written by ort_ext.save(). Allowed: a "
            "file that save() wrote; to tune a model call autotune()."
        )
    recipe = Recipe.from_yaml(metadata[RECIPE_KEY], f"{path}, {RECIPE_KEY}")
    form = metadata[FORM_KEY]
    tuned = TunedModel.loaded(recipe, form, GraphModel(*split(file.proto, file.folder)))
    warn_where_too_wide(tuned, form)
    return tuned


def _check_tuned(tuned: object) -> None:
    if not isinstance(tuned, TunedModel):
        raise ArgumentError(
            f"tuned: a {type(tuned).__name__}. Allowed: what autotune(), apply_recipe() or load() returned."
        )


def _model(tuned: TunedModel, form: str) -> GraphModel:
    _check_tuned(tuned)
    return tuned.model(form)
