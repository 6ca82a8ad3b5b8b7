"""What is kept on disk while a checkpoint is quantized, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from inc_autotune.core.errors import ArgumentError
from inc_autotune.core.files import read_bytes, settled, write_file, writing
from inc_autotune.core.result import Recipe
from inc_autotune.torch_ext.persistence import RECIPE
from inc_autotune.torch_ext.transformers_folder import CONFIG

FOLDER = "unfinished"
"""Of the output, until it is complete."""

_STATE = "state.json"
_LARGEST_STATE = 2**26


@dataclass
class Unfinished:
    """The parts that are done.

    Args:
        output: the folder that will have the model.
        arguments: what the run was asked for, by name, as text: another call has to ask for the same.
        parts: names of all parts, in order.
        records: what is known of every part that is done.
    """

    output: Path
    arguments: Mapping[str, str]
    parts: Sequence[str]
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """What is removed in the end."""
        return self.output / FOLDER

    def shard(self, index: int) -> str:
        """The name of the file of a part."""
        return f"model-{index + 1:05d}-of-{len(self.parts):05d}.safetensors"

    def keep(
        self, tensors: Mapping[str, Tensor], recipe: Recipe, record: dict[str, Any], left: Sequence[Tensor]
    ) -> None:
        """Write down a part that is done.

        Args:
            tensors: what the model saves of it.
            recipe: of its operators.
            record: plain values.
            left: inputs of the parts behind it; empty: none needs any.

        Raises:
            ArgumentError: nothing can be written. The parts before it are as they were.
        """
        index = len(self.records)
        if tensors:
            write_file(self.output / self.shard(index), partial(_write, tensors, {"format": "pt"}), "output")
        write_file(self.folder / f"{index}.yaml", recipe.to_yaml().encode(), "output")
        hidden = {f"{number:06d}": tensor for number, tensor in enumerate(left)}
        write_file(self.folder / f"{index}.safetensors", partial(_write, hidden, None), "output")
        record = {**record, "tensors": sorted(tensors), "bytes": sum(each.nbytes for each in tensors.values())}
        self._write_state([*self.records, record])
        self.records.append(record)
        (self.folder / f"{index - 1}.safetensors").unlink(missing_ok=True)

    def left(self) -> list[Tensor]:
        """The inputs of the next part.

        Raises:
            ArgumentError: the file is gone.
        """
        file = self.folder / f"{len(self.records) - 1}.safetensors"
        with writing(file, "output"):
            found = safetensors.torch.load_file(str(file))
        return [found[name] for name in sorted(found)]

    def recipes(self) -> list[Recipe]:
        """Of all parts that are done."""
        return [Recipe.load(self.folder / f"{index}.yaml") for index in range(len(self.records))]

    def begin(self) -> None:
        """Make the folders.

        Raises:
            ArgumentError: nothing can be written.
        """
        with writing(self.output, "output"):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._write_state(self.records)

    def remove(self) -> None:
        """Leave the finished model alone."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_state(self, records: Sequence[Mapping[str, Any]]) -> None:
        state = {"arguments": dict(self.arguments), "parts": list(self.parts), "records": list(records)}
        write_file(self.folder / _STATE, json.dumps(state, indent=1).encode(), "output")


def open_unfinished(output: Path, arguments: Mapping[str, str], parts: Sequence[str]) -> Unfinished:
    """What an earlier call of the same arguments left, or the beginning. Nothing is written.

    Raises:
        ArgumentError: the folder holds something else.
    """
    if output.exists() and not output.is_dir():
        raise ArgumentError(f"output={str(output)!r}: is a file. Give the name of a folder.")
    if not (output / FOLDER / _STATE).is_file():
        taken = _holds_model(output)
        if taken:
            raise ArgumentError(
                f"output={str(output)!r}: holds a model already ({taken}). It stays as it is: give another folder."
            )
        return Unfinished(output, arguments, parts)
    try:
        state = json.loads(read_bytes(output / FOLDER / _STATE, _LARGEST_STATE))
        earlier, records = dict(state["arguments"]), list(state["records"])
        known = list(state["parts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArgumentError(
            f"output={str(output)!r}: {FOLDER}/{_STATE} cannot be read: {error}. Remove the folder, or give another."
        ) from error
    others = [name for name in {**earlier, **arguments} if earlier.get(name) != arguments.get(name)]
    if others or known != list(parts):
        raise ArgumentError(
            f"output={str(output)!r}: holds {len(records)} of {len(known)} parts of another run: "
            f"{', '.join(sorted(others)) or 'its parts'} differ{'s' if len(others) == 1 else ''}. Make the same call "
            "to go on with it, or remove the folder, or give another."
        )
    return Unfinished(output, arguments, parts, records)


def _holds_model(output: Path) -> str | None:
    """What in a folder says that it is a model's."""
    if not output.is_dir():
        return None
    names = [name for name in (RECIPE, CONFIG) if settled(output / name).exists()]
    names += sorted(path.name for path in output.glob("*.safetensors"))
    return names[0] if names else None


def _write(tensors: Mapping[str, Tensor], about: dict[str, str] | None, file: BinaryIO) -> None:
    own: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, tensor in tensors.items():
        # Tensors that share memory would be refused.
        shares = tensor.data_ptr() in addresses or not tensor.is_contiguous()
        own[name] = tensor.detach().clone(memory_format=torch.contiguous_format) if shares else tensor.detach()
        addresses.add(tensor.data_ptr())
    safetensors.torch.save_file(own, file.name, metadata=about)
