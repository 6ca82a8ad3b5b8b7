"""Folders whose weights lie in several files, read so that no more than the integers is in memory."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from inc_autotune.core.errors import ModelError, RecipeError
from inc_autotune.core.files import read_bytes, settled
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.result import OperatorRecipe, Recipe
from inc_autotune.torch_ext.calibration import OperatorCalibration
from inc_autotune.torch_ext.model import replace_modules, shared_copy
from inc_autotune.torch_ext.modules import WeightOnlyEmbedding, WeightOnlyLinear, convert_module, prepare_module
from inc_autotune.torch_ext.operators import operator_type

WEIGHTS = "model.safetensors"
"""The weights, where they lie in one file."""

INDEX = "model.safetensors.index.json"
"""Which tensor lies in which file, as the libraries of Hugging Face write it."""

LAYER_DTYPES = "layer_dtypes"
"""In the index, under `metadata`: of the layers that operators in integers stand for."""

SHARED = "shared"
"""In the index, under `metadata`: tensors that are not written, with those that are in their place."""

_LARGEST_INDEX = 2**28


def read_index(folder: Path) -> dict[str, str]:
    """File names by tensor name.

    Raises:
        ModelError: it is no index, or names a file of another folder.
    """
    found = _read(folder)["weight_map"]
    outside = [name for name in found.values() if not isinstance(name, str) or Path(name).name != name]
    if outside:
        raise ModelError(f"{folder / INDEX}: names {outside[0]!r}, which is no file beside it. Save the model again.")
    return dict(found)


def _read(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(settled(folder / INDEX), _LARGEST_INDEX))
        if not (isinstance(content["weight_map"], dict) and content["weight_map"]):
            raise TypeError("an empty 'weight_map'")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / INDEX}: cannot be read: {error!r}. Save the model again.") from error
    return dict(content)


def described(folder: Path) -> Mapping[str, Any]:
    """What the index says of the model, beside where its tensors lie.

    Raises:
        ModelError: it is no index.
    """
    metadata = _read(folder).get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def load_shards(folder: Path, recipe: Recipe, model: nn.Module) -> nn.Module:
    """Give a model the values in a folder, file by file.

    Args:
        folder: whose index has been checked.
        recipe: says which operators are integers there.
        model: of parameters without values; changed in place.

    Raises:
        RecipeError: a file is missing, or does not fit the model.
    """
    about = described(folder)
    dtypes, shared = about.get(LAYER_DTYPES) or {}, about.get(SHARED) or {}
    operators = {name: each for name, each in recipe.operators.items() if each.config.dtype != "fp32"}
    twins: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        twins.setdefault(id(tensor), []).append(name)
    tied = {name: names for names in twins.values() for name in names}
    by_file: dict[str, list[str]] = {}
    for name, file in read_index(folder).items():
        by_file.setdefault(file, []).append(name)
    templates: dict[Any, nn.Module] = {}
    # Making an operator takes several times its memory, so tables and heads, large and few, come before the blocks.
    for file, names in sorted(by_file.items(), key=lambda each: (len(each[1]), each[0])):
        inside = _tensors(folder / file, names)
        inside |= {name: inside[kept] for name, kept in shared.items() if kept in inside}
        of_operators: dict[str, dict[str, Tensor]] = {}
        for name, tensor in inside.items():
            path, _, own = name.rpartition(".")
            if path in operators:
                of_operators.setdefault(path, {})[own] = tensor
            else:
                _place(model, tied.get(name, [name]), tensor)
        made: dict[str, nn.Module] = {}
        for path, state in of_operators.items():
            dtype = getattr(torch, str(dtypes.get(path, "float32")), torch.float32)
            made[path] = _integer_module(_submodule(model, path), operators[path], state, dtype, templates)
        replace_modules(model, made)
    lacking = [name for name, each in (*model.named_parameters(), *model.named_buffers()) if each.is_meta]
    if lacking:
        raise RecipeError(f"{folder / INDEX}: the files lack {lacking[0]!r} and {len(lacking) - 1} other tensors.")
    return model


def _tensors(file: Path, names: list[str]) -> dict[str, Tensor]:
    try:
        with safe_open(str(file), framework="pt") as opened:
            return {name: opened.get_tensor(name).clone() for name in names}  # else the file's pages stay in memory
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"{file}: cannot be read: {error}. Copy it again, or save the model again.") from error


def _submodule(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise RecipeError(f"recipe: {path!r} is not in the model. Is it the same model?") from error


def _place(model: nn.Module, names: list[str], tensor: Tensor) -> None:
    """Put a tensor in the place of one, or of several that are tied."""
    value: Tensor | nn.Parameter | None = None
    for name in names:
        path, _, own = name.rpartition(".")
        module = _submodule(model, path)
        table: dict[str, Any] = module._parameters if own in module._parameters else module._buffers
        old = table.get(own)
        if old is None or old.shape != tensor.shape:
            raise RecipeError(f"{name!r}: is {tuple(tensor.shape)} in the files, and not in the model. Is it the same?")
        if not old.is_meta and isinstance(old, nn.Parameter):
            continue  # an operator of its own already
        if value is None:
            value = nn.Parameter(tensor, requires_grad=False) if isinstance(old, nn.Parameter) else tensor
        table[own] = value


@torch.no_grad()
def _integer_module(
    source: nn.Module,
    entry: OperatorRecipe,
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    templates: dict[Any, nn.Module],
) -> nn.Module:
    """The integer form of an operator with these tensors.

    Made of random weights, but once only for all operators of one shape: what is made has no values then, and each gets
    a copy with its own.
    """
    # Whether there are zero points, a bias or a scale is told by the tensors.
    plain = entry.config.with_corrections(())
    shapes = tuple(sorted((name, tuple(each.shape), each.dtype) for name, each in state.items()))
    key = (type(source), str(plain), dtype, shapes)
    if key not in templates:
        if operator_type(source) != entry.type:
            raise RecipeError(
                f"recipe: a {entry.type} is a {type(source).__name__} in the model. Is it the same model?"
            )
        templates[key] = _made(source, plain, state, dtype)
    module: Any = copy.deepcopy(templates[key])
    module.config = entry.config
    try:
        module.load_state_dict(dict(state), assign=True)
    except RuntimeError as error:
        raise RecipeError(f"recipe: the files do not fit its operators: {error}") from error
    return module  # type: ignore[no-any-return]


def _made(source: nn.Module, config: OpConfig, state: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    layer = shared_copy(source)
    random = torch.Generator().manual_seed(0)
    for name, parameter in layer._parameters.items():
        if parameter is not None:
            values = torch.empty(parameter.shape).normal_(generator=random).to(dtype)
            layer._parameters[name] = nn.Parameter(values, requires_grad=False)
    smoothing, shift = (
        torch.ones_like(state[name]) if name in state else None for name in ("smoothing", "input_shift")
    )
    calibration = OperatorCalibration(smoothing=smoothing, shift=shift)
    made: Any = convert_module(prepare_module(layer, config, calibration)).to("meta")
    if isinstance(made, WeightOnlyLinear | WeightOnlyEmbedding):
        for name in ("zero_points", "bias"):
            if name in state or name == "zero_points":
                made.keep(name, state[name].to("meta") if name in state else None)
    return made.eval()  # type: ignore[no-any-return]
