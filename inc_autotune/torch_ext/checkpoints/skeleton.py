"""A model without values, of which one part at a time gets those it has in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from inc_autotune.core.arguments import shown
from inc_autotune.core.errors import ArgumentError, ModelError, foreign_errors_as
from inc_autotune.core.optional import require
from inc_autotune.torch_ext.checkpoints.stored import Checkpoint
from inc_autotune.torch_ext.model.empty import parameters_without_values
from inc_autotune.torch_ext.model.untouched import generator_kept
from inc_autotune.torch_ext.transformers_folder import CONFIG, model_class, own_settings


@dataclass(frozen=True)
class Skeleton:
    """A model whose parameters have no values, while its buffers, such as tables of rotations, have.

    Args:
        model: in evaluation mode.
        blocks: name of the list of its repeated blocks.
        stored: names in the checkpoint by names of parameters and persistent buffers.
    """

    model: Any
    blocks: str
    stored: Mapping[str, str]

    @property
    def block_names(self) -> list[str]:
        """Of every block, in order."""
        return [f"{self.blocks}.{key}" for key in self.model.get_submodule(self.blocks)._modules]

    def names_in(self, module: str) -> list[str]:
        """Parameters and persistent buffers of a module."""
        return [name for name in self.stored if name.startswith(f"{module}.")]

    def names_outside(self) -> list[str]:
        """Parameters and persistent buffers of no block."""
        return [name for name in self.stored if not name.startswith(f"{self.blocks}.")]

    @contextmanager
    def filled(self, checkpoint: Checkpoint, names: list[str], *, ties: bool = True) -> Iterator[None]:
        """Let some parameters have the values of the checkpoint inside.

        Args:
            checkpoint: where the values are.
            names: of the parameters.
            ties: whether those that are stored once are one parameter.
        """
        before = {name: _owner(self.model, name) for name in names}
        tied = {name: self.stored[name] for name in names}
        read = checkpoint.read(dict.fromkeys(tied.values()))
        shared: dict[str, nn.Parameter] = {}
        empty: list[tuple[dict[str, Any], str, Any]] = []
        try:
            for name in names:
                module, own = before[name]
                table: dict[str, Any] = module._parameters if own in module._parameters else module._buffers
                empty.append((table, own, table[own]))
                value: Tensor = read[tied[name]]
                if isinstance(table[own], nn.Parameter):
                    key = tied[name] if ties else name
                    value = shared.setdefault(key, nn.Parameter(value, requires_grad=False))
                table[own] = value
            del read, shared
            yield
        finally:
            for table, own, nothing in empty:
                table[own] = nothing


def build_skeleton(checkpoint: Checkpoint, blocks: str | None) -> Skeleton:
    """The model that a checkpoint is of.

    Args:
        checkpoint: whose files are all there.
        blocks: name of the list of repeated blocks; None: it is found.

    Raises:
        ArgumentError: there is no such list.
        MissingDependencyError: transformers is not installed.
        ModelError: the configuration describes no model, or the checkpoint lacks tensors of it, or has no list of equal
            blocks.
    """
    require("transformers", extra="huggingface")
    model = _without_values(checkpoint)
    found = _checked_list(model, blocks) if blocks is not None else _found_list(model)
    return Skeleton(model, found, _stored_names(model, checkpoint))


def _without_values(checkpoint: Checkpoint) -> nn.Module:
    config_file = checkpoint.folder / CONFIG
    made = model_class(checkpoint.description, config_file)
    describing = foreign_errors_as(
        lambda error: ModelError(
            f"{config_file}: describes no model that transformers can make: {type(error).__name__}: {error}."
        )
    )
    with describing, generator_kept(), parameters_without_values():
        model: Any = made(made.config_class.from_dict(own_settings(checkpoint.description)))
    assert isinstance(model, nn.Module)
    return model.eval().requires_grad_(False)


def _found_list(model: nn.Module) -> str:
    """The outermost list of equal modules with the most parameters."""
    sizes: dict[str, int] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in sizes)
        if name and not inside and _is_list_of_blocks(module):
            sizes[name] = sum(parameter.numel() for parameter in module.parameters())
    if not sizes:
        raise ModelError(
            f"checkpoint: {type(model).__name__} has no list of equal blocks, so it cannot be quantized block by "
            "block. Give its name with blocks=, such as 'model.layers', or load the model and call autotune."
        )
    return max(sizes, key=lambda name: sizes[name])


def _checked_list(model: nn.Module, blocks: Any) -> str:
    lists = [name for name, module in model.named_modules() if name and _is_list_of_blocks(module)]
    if blocks not in lists:
        raise ArgumentError(
            f"blocks={shown(blocks)}: no list of equal blocks of {type(model).__name__}. Allowed: "
            f"{', '.join(map(repr, lists)) or 'nothing, since it has none'}."
        )
    return str(blocks)


def _is_list_of_blocks(module: nn.Module) -> bool:
    members = list(module._modules.values())
    return (
        isinstance(module, nn.ModuleList)
        and len({type(member) for member in members}) == 1
        and any(True for _ in module.parameters())
    )


def _stored_names(model: Any, checkpoint: Checkpoint) -> dict[str, str]:
    """Names in the checkpoint of all that a model saves; tied tensors are stored under one of their names."""
    saved = {**model.state_dict(keep_vars=True)}
    twins: dict[int, list[str]] = {}
    for name, tensor in saved.items():
        twins.setdefault(id(tensor), []).append(name)
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    found: dict[str, str] = {}
    lacking: list[str] = []
    for names in twins.values():
        candidates = [each for name in names for each in (name, name.removeprefix(prefix))]
        stored = next((each for each in candidates if each in checkpoint.tensors), None)
        if stored is None:
            written = (_written_name(model, name, saved[name]) for name in names)
            stored = next((each for each in written if each in checkpoint.tensors), None)
        if stored is None:
            lacking += names
            continue
        shape = tuple(saved[names[0]].shape)
        if checkpoint.tensors[stored].shape != shape:
            raise ModelError(
                f"checkpoint: {stored!r} has the shape {checkpoint.tensors[stored].shape}, and in the model that "
                f"{CONFIG} describes {shape}. Is it the configuration of these weights?"
            )
        found |= dict.fromkeys(names, stored)
    if lacking:
        raise ModelError(
            f"checkpoint={str(checkpoint.folder)!r}: lacks {len(lacking)} of {len(saved)} tensors of "
            f"{type(model).__name__}, the first is {lacking[0]!r}. Is {CONFIG} of these weights, and are all shards "
            "there?"
        )
    return found


def _written_name(model: Any, name: str, tensor: Tensor) -> str | None:
    """What transformers 5 calls a tensor in files, where that is another name than in the model."""
    if find_spec("transformers.core_model_loading") is None:
        return None
    loading: Any = import_module("transformers.core_model_loading")
    revert = getattr(loading, "revert_weight_conversion", None)
    if revert is None:
        return None
    failing = foreign_errors_as(
        lambda error: ModelError(f"checkpoint: lacks {name!r}, which transformers makes of other tensors: {error}.")
    )
    with failing:
        found = list(revert(model, {name: tensor}))
    return str(found[0]) if len(found) == 1 else None


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, own = name.rpartition(".")
    return model.get_submodule(path), own
