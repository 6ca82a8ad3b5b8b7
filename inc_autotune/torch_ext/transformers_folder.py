"""Models of the transformers library in folders: their configurations, and the class that one describes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from inc_autotune.core.errors import ArgumentError, ModelError, RecipeError, foreign_errors_as
from inc_autotune.core.files import read_bytes, settled
from inc_autotune.core.optional import require
from inc_autotune.core.result.model_folder import CONFIGURATION, QUANTIZATION
from inc_autotune.torch_ext.model.untouched import generator_kept
from inc_autotune.torch_ext.shards import INDEX, WEIGHTS, read_index

CONFIG, GENERATION_CONFIG = CONFIGURATION

MOST_ELEMENTS_OF_A_BYTE = 8
"""Weights that a byte of a file may hold."""

LARGEST_CONFIG = 2**26
"""Bytes that a configuration of transformers may have."""


def is_transformers(model: object) -> bool:
    """Whether a model is one of the transformers library."""
    return type(model).__module__.startswith("transformers.") and hasattr(model, "config")


def transformers_configs(model: Any) -> dict[str, bytes]:
    """The configurations of a transformers model by the names of their files."""
    description = {
        **json.loads(model.config.to_json_string(use_diff=False)),
        "architectures": [type(model).__name__],
        # Without a method there, `AutoModel.from_pretrained`, which knows nothing of integer weights, raises an error
        # and does not draw random ones.
        QUANTIZATION: {"library": "inc_autotune"},
    }
    found = {CONFIG: json.dumps(description, indent=2).encode()}
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        found[GENERATION_CONFIG] = generation.to_json_string().encode()
    return found


def load_generation_config(model: Any, path: Path) -> None:
    import transformers

    with _configuring(path):
        model.generation_config = transformers.GenerationConfig.from_dict(_read_json(path))


def transformers_model(folder: Path) -> nn.Module:
    config = settled(folder / CONFIG)
    if not config.exists():
        raise ArgumentError(
            f"model=None: {folder} holds no {CONFIG} of a transformers model, and loading runs no code, so the "
            "architecture is unknown. Pass an fp32 model of the same architecture: load(path, MyModel())."
        )
    require("transformers", extra="huggingface")
    with _configuring(folder / CONFIG), generator_kept():  # building a model draws its initial weights
        return _build_transformers_model(_read_json(config), _weights_files(folder), folder / CONFIG)


def _weights_files(folder: Path) -> list[Path]:
    """The file with the weights, or those of an index."""
    if not settled(folder / INDEX).exists():
        return [settled(folder / WEIGHTS)]
    files = [folder / name for name in sorted(set(read_index(folder).values()))]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise RecipeError(f"{missing[0]}: is missing, and {INDEX} names it. Copy it again, or save the model again.")
    return files


def _build_transformers_model(description: dict[str, Any], weights: Sequence[Path], config: Path) -> nn.Module:
    architecture: Any = check_description(description, weights, config)
    model = architecture(architecture.config_class.from_dict(own_settings(description)))
    assert isinstance(model, nn.Module)
    return model


def check_description(description: dict[str, Any], weights: Sequence[Path], config: Path) -> Any:
    """The class that a configuration is of.

    Args:
        description: the configuration.
        weights: the files that the model's weights are read from.
        config: the file of the configuration, for messages.

    Raises:
        ModelError: transformers has no such class, or the model is larger than its weights.
    """
    architecture = model_class(description, config)
    config_class: Any = architecture.config_class
    settings = config_class.from_dict(own_settings(description))
    most_layers, size = 0, sum(file.stat().st_size for file in weights)
    for file in weights:
        with safe_open(str(file), framework="pt") as opened:
            most_layers += len(opened.keys())
    if getattr(settings, "num_hidden_layers", 0) > most_layers:
        raise ModelError(
            f"{config}: has {settings.num_hidden_layers} layers, and {weights[0].name} {most_layers} tensors."
        )
    with torch.device("meta"):  # takes no memory, whatever sizes the file names
        elements = sum(each.numel() for each in architecture(settings).parameters())
    if elements > MOST_ELEMENTS_OF_A_BYTE * size:
        raise ModelError(
            f"{config}: describes a model of {elements} weights, more than the {size} bytes of {weights[0].name} hold. "
            "Save the model again."
        )
    return architecture


def model_class(description: Mapping[str, Any], config: Path) -> Any:
    """The class that a configuration names first.

    Raises:
        ModelError: transformers has no such class.
    """
    import transformers

    name = description["architectures"][0]
    architecture = getattr(transformers, name, None)
    if not (isinstance(architecture, type) and issubclass(architecture, transformers.PreTrainedModel)):
        raise ModelError(f"{config}: {name!r} is not a model class of the installed transformers library.")
    return architecture


def own_settings(description: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what is not the model's own: names of kernels, which would be fetched from elsewhere."""
    return {
        key: value
        for key, value in description.items()
        if key != QUANTIZATION and not key.removeprefix("_").startswith("attn_")
    }


def checked_description(folder: Path) -> dict[str, Any]:
    """The configuration in a folder.

    Raises:
        ModelError: it is none.
        OSError: it cannot be read.
    """
    config = settled(folder / CONFIG)
    with _configuring(folder / CONFIG):
        description = _read_json(config)
        if not isinstance(description, dict):
            raise TypeError(f"a {type(description).__name__}")
        return description


def _read_json(path: Path) -> Any:
    return json.loads(read_bytes(path, LARGEST_CONFIG))


def _configuring(path: Path) -> AbstractContextManager[None]:
    """Turn what a damaged configuration makes fail inside into an error that says so."""
    return foreign_errors_as(
        lambda error: ModelError(
            f"{path}: describes no model that transformers can make: {type(error).__name__}: {error}. Save the model "
            "again, or pass one of the same architecture: load(path, MyModel())."
        )
    )
