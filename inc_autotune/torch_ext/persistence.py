"""Saving and loading tuned and converted models, without pickle."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from inc_autotune.core.arguments import check_path, takes_foreign_names
from inc_autotune.core.errors import ArgumentError, RecipeError
from inc_autotune.core.files import Content, digest_of, locked, settled, write_file, write_files, writing
from inc_autotune.core.result import Recipe, applying
from inc_autotune.core.result.model_folder import check_replaceable
from inc_autotune.torch_ext.api import attach, build_from_recipe, convert
from inc_autotune.torch_ext.calibration import without_steps
from inc_autotune.torch_ext.ipex.models import is_prepared_by_ipex
from inc_autotune.torch_ext.model import shared_copy
from inc_autotune.torch_ext.model.empty import empty_parameters, parameters_without_values
from inc_autotune.torch_ext.model_check import check_architecture
from inc_autotune.torch_ext.modules import (
    PreparedInteger,
    QuantizedConvolution,
    QuantizedLinear,
    is_prepared,
    is_quantized,
    is_student,
    multiplies_integers,
    share_as_saved,
    unwrapped,
)
from inc_autotune.torch_ext.operators import CAPTURED, CAPTURED_REASON
from inc_autotune.torch_ext.shards import INDEX, WEIGHTS, described, load_shards
from inc_autotune.torch_ext.target import SAFE_WEIGHT_MAGNITUDE, is_within_7_bits
from inc_autotune.torch_ext.training import settled_student
from inc_autotune.torch_ext.transformers_folder import (
    CONFIG,
    GENERATION_CONFIG,
    is_transformers,
    load_generation_config,
    transformers_configs,
    transformers_model,
)

RECIPE = "recipe.yaml"

CONFIGS = "transformers_configs"
"""In the recipe: names of the files of a transformers model beside it."""

WEIGHT_BITS = "weight_bits"
"""What both files say of the weights that integer kernels multiply: 8, or 7 for processors on which these saturate."""


@takes_foreign_names({"folder": "path", "directory": "path"})
def save(model: nn.Module, path: str | Path) -> None:
    """Write a tuned or converted model to a folder: weights as safetensors, the recipe as YAML.

    A model of the transformers library also gets its `config.json`, so that `load` can build it by itself, and its
    `generation_config.json`, if it generates. Both files say how many bits the integer weights have: 7 where the
    processor that made them, or the one the recipe came from, saturates with 8.

    Args:
        model: what `autotune`, `convert`, `apply_recipe` or `load` returned.
        path: a folder; made where it does not exist. Files of an earlier `save` in it are replaced all at once: a crash
            leaves the old model or the new one, and files of other names stay.

    Raises:
        ArgumentError: the model is neither tuned nor converted, or holds on to the model it was made from, or has state
            that is no tensor; or `path` is no folder that can be written to, or holds weights of another model.
    """
    write_model(model, path, {})


def write_model(model: nn.Module, path: str | Path, files: Mapping[str, bytes]) -> None:
    """What `save` does, with more files.

    Args:
        model: see `save`.
        path: see `save`.
        files: contents by path in the folder. Those in folders of it are written first, since they say nothing of the
            weights; the others are replaced together with them.

    Raises:
        ArgumentError: see `save`.
    """
    folder = check_model_folder(path)
    if is_prepared_by_ipex(model):
        raise ArgumentError(
            "model: is tuned for backend='ipex'. Save what the extension needs with model.save_qconf_summary(path), or "
            "trace and freeze the converted model and save that."
        )
    if isinstance(model, nn.Module):
        model = unwrapped(model)
        model = settled_student(model) if is_student(model) else model
    recipe = getattr(model, "tuning_recipe", None)
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    converted = any(map(is_quantized, modules))
    if recipe is None or not (converted or any(map(is_prepared, modules))):
        raise ArgumentError(
            f"model: a {type(model).__name__} that is neither tuned nor converted. Allowed: what autotune(), "
            "convert(), apply_recipe() or load() returned."
        )
    captured = [name for name, each in recipe.operators.items() if each.calibration.get(CAPTURED)]
    if captured:
        raise ArgumentError(
            f"model: cannot be saved, since {captured[0]!r} still belongs to the model it was made from: "
            f"{CAPTURED_REASON}. What load() builds would run without its weights. Call it as an attribute of the "
            "module that owns it, or trace the converted model and save that."
        )
    _check_state(model)
    bits = _weight_bits(modules)
    configs = transformers_configs(model) if is_transformers(model) else {}
    metadata = {**recipe.metadata, "converted": converted, WEIGHT_BITS: bits, CONFIGS: sorted(configs)}
    text = replace(recipe, metadata=metadata).to_yaml().encode()
    about = {WEIGHT_BITS: ", ".join(map(str, bits)), RECIPE: digest_of(text)}
    nested = {folder / name: content for name, content in files.items() if len(Path(name).parts) > 1}
    for place in {folder, *(path.parent for path in nested)}:
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
    for place, content in nested.items():
        write_file(place, content)
    beside: dict[Path, Content | None] = {folder / WEIGHTS: partial(_write_weights, model, about)}
    beside |= {folder / name: configs.get(name) for name in (CONFIG, GENERATION_CONFIG, INDEX)}
    beside |= {folder / name: content for name, content in files.items() if folder / name not in nested}
    write_files(folder / RECIPE, text, beside)


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Read a model written by `save`; its outputs are bit-identical to those of the saved one on the same processor.

    Weights are never changed. Where the integer kernels of this processor would saturate with 8-bit weights that were
    made on another, the converted model computes the same integers in float32, and a warning says so.

    No code is loaded and nothing is unpickled, so the architecture must come from somewhere: from `model`, or, for
    a model of the transformers library, from the saved `config.json`.

    Args:
        path: the folder.
        model: an fp32 model of the same architecture; its weights are not used and it is not changed.

    Raises:
        ArgumentError: `model` is needed, or is not a model.
        ModelError: `model` is quantized or has no values.
        RecipeError: a file is missing or comes from another `save`, or the model does not fit.
    """
    folder = _folder(path, "path")
    with _reading(folder):
        return _load(folder, model)


def _load(folder: Path, model: nn.Module | None) -> nn.Module:
    recipe = Recipe.load(folder / RECIPE)
    if settled(folder / INDEX).exists():
        return _load_sharded(folder, recipe, model)
    source = transformers_model(folder) if model is None else check_architecture(model)
    with applying(recipe):
        prepared = build_from_recipe(source, without_steps(recipe))  # the weights to come are rounded already
        result = attach(prepared, None, recipe)
        if recipe.metadata.get("converted"):
            result = convert(result)
    weights = settled(folder / WEIGHTS)
    try:
        with safe_open(str(weights), framework="pt") as opened:
            share_as_saved(result, opened.metadata() or {})
        _check_together(weights, folder / RECIPE)
        load_model(result, str(weights))
    except (RuntimeError, OSError, SafetensorError) as error:
        raise RecipeError(f"{folder / WEIGHTS}: does not fit the model: {error}") from error
    if is_transformers(result) and GENERATION_CONFIG in _written_configs(recipe, folder):
        load_generation_config(result, settled(folder / GENERATION_CONFIG))
    return result.eval()


def _load_sharded(folder: Path, recipe: Recipe, model: nn.Module | None) -> nn.Module:
    """A converted model whose weights lie in several files; the fp32 model is never in memory."""
    if described(folder).get(RECIPE) != digest_of(folder / RECIPE):
        raise _not_together(folder / RECIPE, INDEX)
    if model is None:
        with parameters_without_values():
            source = transformers_model(folder)
    else:
        source = empty_parameters(shared_copy(check_architecture(model)))
    with applying(recipe):
        result = attach(load_shards(folder, recipe, source), None, recipe)
    if is_transformers(result) and settled(folder / GENERATION_CONFIG).exists():
        load_generation_config(result, settled(folder / GENERATION_CONFIG))
    return result.eval()


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Let no `save` of another process come between the files."""
    if not folder.is_dir():
        yield  # and the first file that is missing tells
        return
    with locked(folder, shared=True):
        yield


def _check_together(weights: Path, recipe: Path) -> None:
    """Refuse weights and a recipe that were not saved together; folders of older versions do not tell.

    Raises:
        RecipeError: one of them comes from elsewhere.
        OSError: one cannot be read.
        SafetensorError: the weights are no safetensors file.
    """
    with safe_open(str(weights), framework="pt") as opened:
        expected = (opened.metadata() or {}).get(RECIPE)
    if expected is not None and expected != digest_of(recipe):
        raise _not_together(recipe, weights.name)


def _not_together(recipe: Path, weights: str) -> RecipeError:
    return RecipeError(
        f"{recipe}: was not saved together with {weights}, or was edited. Save the model again, or pass an edited "
        "recipe to apply_recipe(model, recipe)."
    )


def _write_weights(model: nn.Module, about: dict[str, str], file: BinaryIO) -> None:
    save_model(model, file.name, metadata=about)


def _written_configs(recipe: Recipe, folder: Path) -> Collection[str]:
    """Names of the configurations that belong to a model; of what older versions saved, those that are there."""
    there = [name for name in (CONFIG, GENERATION_CONFIG) if settled(folder / name).exists()]
    listed = recipe.metadata.get(CONFIGS)
    return [name for name in there if name in listed] if isinstance(listed, list) else there


def _check_state(model: nn.Module) -> None:
    """Refuse state that safetensors cannot hold."""
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ArgumentError(
                f"model: its state_dict holds {name!r}, a {type(value).__name__}. Allowed: tensors, since nothing is "
                "pickled. Let get_extra_state return a tensor, such as "
                "torch.tensor(list(json.dumps(state).encode())), and set_extra_state read that; or leave it out of "
                "the state_dict."
            )


def _weight_bits(modules: Iterable[nn.Module]) -> list[int]:
    """The widths that occur among weights that integer kernels multiply."""
    bits = set()
    for module in modules:
        if isinstance(module, (QuantizedLinear, QuantizedConvolution)):
            bits.add(7 if is_within_7_bits(module.integer_weight) else 8)
        elif isinstance(module, PreparedInteger) and multiplies_integers(module.operator_name, module.config):
            bits.add(7 if module.weight_maximum <= SAFE_WEIGHT_MAGNITUDE else 8)
    return sorted(bits)


def check_model_folder(path: str | Path, argument: str = "path") -> Path:
    """An argument as the name of a folder that `save` may write to.

    Args:
        path: the argument.
        argument: its name, for messages.

    Raises:
        ArgumentError: it is no path, is a file, or holds weights that `save` did not write.
    """
    folder = _folder(path, argument)
    check_replaceable(folder, argument, ours=(folder / RECIPE).is_file())
    return folder


def _folder(path: str | Path, argument: str) -> Path:
    folder = check_path(path, argument, allowed="the name of a folder")
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"{argument}={str(path)!r}: is a file. Give the name of a folder.")
    return folder
