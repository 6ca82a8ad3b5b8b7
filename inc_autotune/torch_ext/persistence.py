"""Saving and loading tuned and converted models, without pickle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from inc_autotune.core.errors import ArgumentError, ModelError, RecipeError
from inc_autotune.core.optional import require
from inc_autotune.core.recipe import Recipe
from inc_autotune.torch_ext.api import _attach, build_from_recipe, convert
from inc_autotune.torch_ext.ipex.models import is_prepared_by_ipex
from inc_autotune.torch_ext.model_check import check_architecture
from inc_autotune.torch_ext.modules import is_prepared, is_quantized

WEIGHTS = "model.safetensors"
RECIPE = "recipe.yaml"
CONFIG = "config.json"


def save(model: nn.Module, path: str | Path) -> None:
    """Write a tuned or converted model to a folder: weights as safetensors, the recipe as YAML.

    A model of the transformers library also gets its `config.json`, so that `load` can build it by itself.

    Args:
        model: what `autotune`, `convert`, `apply_recipe` or `load` returned.
        path: a folder; made where it does not exist, files of an earlier `save` in it are replaced.

    Raises:
        ArgumentError: the model is neither tuned nor converted, or `path` is a file.
    """
    if is_prepared_by_ipex(model):
        raise ArgumentError(
            "model: is tuned for backend='ipex'. Save what the extension needs with model.save_qconf_summary(path), or "
            "trace and freeze the converted model and save that."
        )
    recipe = getattr(model, "tuning_recipe", None)
    converted = any(is_quantized(module) for module in model.modules())
    if recipe is None or not (converted or any(is_prepared(module) for module in model.modules())):
        raise ArgumentError(
            f"model: a {type(model).__name__} that is neither tuned nor converted. Allowed: what autotune(), "
            "convert(), apply_recipe() or load() returned."
        )
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"path={str(path)!r}: is a file. Give the name of a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / WEIGHTS))
    replace(recipe, metadata={**recipe.metadata, "converted": converted}).save(folder / RECIPE)
    if _is_transformers(model):
        config: Any = model.config
        description = {**json.loads(config.to_json_string(use_diff=False)), "architectures": [type(model).__name__]}
        (folder / CONFIG).write_text(json.dumps(description, indent=2), encoding="utf-8")


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Read a model written by `save`; its outputs are bit-identical to those of the saved one.

    No code is loaded and nothing is unpickled, so the architecture must come from somewhere: from `model`, or, for
    a model of the transformers library, from the saved `config.json`.

    Args:
        path: the folder.
        model: an fp32 model of the same architecture; its weights are not used and it is not changed.

    Raises:
        ArgumentError: `model` is needed, or is not a model.
        ModelError: `model` is quantized or has no values.
        RecipeError: a file is missing, or the model does not fit.
    """
    folder = Path(path)
    recipe = Recipe.load(folder / RECIPE)
    source = _transformers_model(folder) if model is None else check_architecture(model)
    prepared = build_from_recipe(source, recipe)
    result = _attach(prepared, None, recipe)
    if recipe.metadata.get("converted"):
        result = convert(result)
    try:
        load_model(result, str(folder / WEIGHTS))
    except (RuntimeError, OSError, SafetensorError) as error:
        raise RecipeError(f"{folder / WEIGHTS}: does not fit the model: {error}") from error
    return result.eval()


def _is_transformers(model: nn.Module) -> bool:
    return type(model).__module__.startswith("transformers.") and hasattr(model, "config")


def _transformers_model(folder: Path) -> nn.Module:
    if not (folder / CONFIG).exists():
        raise ArgumentError(
            f"model=None: {folder} holds no {CONFIG} of a transformers model, and loading runs no code, so the "
            "architecture is unknown. Pass an fp32 model of the same architecture: load(path, MyModel())."
        )
    require("transformers", extra="test")
    import transformers

    description = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    name = description["architectures"][0]
    architecture = getattr(transformers, name, None)
    if not (isinstance(architecture, type) and issubclass(architecture, transformers.PreTrainedModel)):
        raise ModelError(f"{folder / CONFIG}: {name!r} is not a model class of the installed transformers library.")
    config_class: Any = architecture.config_class
    with torch.random.fork_rng(devices=[]):  # building a model draws its initial weights
        model = architecture(config_class.from_dict(description))
    assert isinstance(model, nn.Module)
    return model
